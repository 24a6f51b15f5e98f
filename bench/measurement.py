"""What one measuring process is asked for."""

from dataclasses import dataclass

from bench import limits
from bench.peers import PEERS, Peer
from bench.work import increment, warm_up

Metrics = dict[str, float]
Answer = tuple[Metrics, str]  # the metrics, and the start method that the peer had


@dataclass(frozen=True)
class Measurement:
    peer: str
    method: str
    n: int
    workers: int
    start_method: str | None
    seconds: float  # of a job, in the CPU-bound cases
    chunk: int | None  # of a contender that is tuned by hand

    def open(self) -> Peer:
        return PEERS[self.peer](self.workers, self.start_method, self.chunk)

    def warm_up(self, peer: Peer) -> None:
        """Some jobs that are long enough for every worker to get one, so that all have been started.

        Not the jobs that are measured: nobody is to know beforehand how long those take.
        """
        if self.peer != "bare":
            jobs = self.workers * 4 * (self.chunk or 1)
            for _ in peer.each(self.method, warm_up if jobs < 100 else increment, range(jobs)):
                pass
        elif self.method == "batches":
            for _ in peer.each(self.method, increment, range(limits.BATCH * self.workers)):
                pass
