"""One measurement of one contender, in a process of its own: `python -m bench.measure CASE PEER.METHOD N`.

Prints one line of JSON. The process is fresh, so that no contender inherits the other's heap, threads
or warm workers; what is measured begins when the peer's workers are up, unless start-up is the question.

A worker that is spawned imports this file anew: so it imports nothing at its top.
"""


def main() -> None:
    import argparse
    import json
    import os

    from bench import arrays
    from bench.case import TUNED
    from bench.cases import CASES
    from bench.kinds import KINDS, Measurement

    cases = {case.name: case for case in (*CASES, *arrays.CASES)}
    parser = argparse.ArgumentParser(prog="python -m bench.measure", description=__doc__)
    parser.add_argument("case", choices=cases)
    parser.add_argument("contender", help="PEER.METHOD, as in engine.map, or PEER.METHOD/tuned")
    parser.add_argument("n", type=int, help="how many jobs")
    parser.add_argument("--chunk", type=int, help="chunk size of a tuned contender")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--start-method", help="default: the peer's own")
    parser.add_argument("--seconds", type=float, default=0.001, help="CPU time of a job, where it is CPU-bound")
    parser.add_argument("--nice", type=int, default=0, help="added to the priority; negative needs privilege")
    asked = parser.parse_args()
    peer, _, method = asked.contender.removesuffix(TUNED).partition(".")
    if asked.contender.endswith(TUNED) != (asked.chunk is not None):
        parser.error("a tuned contender has a --chunk, and nobody else has")
    if asked.nice:
        os.nice(asked.nice)
    wanted = Measurement(peer, method, asked.n, asked.workers, asked.start_method, asked.seconds, asked.chunk)
    kinds = KINDS
    if asked.case not in {case.name for case in CASES}:
        from bench import array_kinds  # with numpy, which nobody else is to pay for

        kinds = array_kinds.KINDS
    metrics, start_method = kinds[cases[asked.case].kind](wanted)
    print(json.dumps({"metrics": metrics, "start_method": start_method}))


if __name__ == "__main__":
    main()
