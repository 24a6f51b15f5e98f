"""From what was seen of a run to its verdict: what a user may expect is decided here alone, without a process."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeVar

from bench.faults.cases import Case

MOST_DRAWN = 100_000  # items of an endless input, for a consumer that has taken a hundred
MOST_AT_ONCE = 10_000  # of them in the call that makes the iterator
MOST_BEGUN = 100  # jobs of 400 whose consumer has dropped the iterator after ten

T = TypeVar("T")
Word = Literal["pass", "wrong", "hang", "-"]


@dataclass(frozen=True)
class Outcome:
    """What a job's owner got: the value that was due, another, or an error."""

    kind: Literal["value", "other value", "error"]
    text: str = ""


@dataclass(frozen=True)
class Observed:
    """One run of a case, seen from outside.

    Attributes:
        stage: What the program was about when it ended, or was ended.
        exit_code: As subprocess has it; None: it had not ended by its bound, and was killed.
        outcomes: By job, as its owner got them; `culprit-…`, `other-…` and `after-…` say what it was.
        began: How often each job began, as the jobs themselves noted; its mates `batch-…` are those of a map.
        ended: The same for those that came to their end.
        counts: What else the program counted.
        left: What was still there two seconds after the program's end.
        said: The last line of its stderr.
    """

    stage: str
    exit_code: int | None
    outcomes: Mapping[str, Outcome] = field(default_factory=dict)
    began: Mapping[str, int] = field(default_factory=dict)
    ended: Mapping[str, int] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)
    left: tuple[str, ...] = ()
    said: str = ""


@dataclass(frozen=True)
class Verdict:
    """One cell of the table, and the reason for it in a few words."""

    word: Word
    reason: str = ""


NO_SUCH_FEATURE = Verdict("-", "it cannot end a job that runs too long")


def judge(case: Case, seen: Observed) -> Verdict:
    """What a careful user would say of it."""
    if most := seen.counts.get("drawn past", 0):  # the program has ended itself, before memory did
        return Verdict("wrong", f"read more than {most:,} items of an endless input")
    of_jobs = [*of_culprits(case, seen), *of_others(seen), *of_later(seen), *of_maps(seen)]
    if seen.exit_code is None:
        return Verdict("hang", "; ".join([seen.stage, *of_jobs]))
    problems = [*of_end(case, seen), *of_jobs, *of_left(seen)]
    return Verdict("wrong", "; ".join(problems)) if problems else Verdict("pass")


def of_end(case: Case, seen: Observed) -> Iterator[str]:
    expected = case.exit_codes is None or seen.exit_code in case.exit_codes
    if seen.stage != case.last or not expected:
        said = f": {seen.said}" if seen.said else ""
        yield f"the program ended with exit code {seen.exit_code}, {seen.stage}{said}"


def of_culprits(case: Case, seen: Observed) -> Iterator[str]:
    for job, outcome in named("culprit", seen.outcomes).items():
        if case.culprit == "fails" and outcome.kind != "error":
            yield f"no error for the {job.replace('-', ' ')}"
        if case.culprit == "succeeds" and outcome.kind != "value":
            yield f"the culprit's own outcome was {outcome.text}"
    if again := sum(number > 1 for number in named("culprit", seen.began).values()):
        yield "the culprit ran twice" if again == 1 else f"{again} culprits ran twice"


def of_others(seen: Observed) -> Iterator[str]:
    outcomes = named("other", seen.outcomes)
    yield from failures("other", outcomes)
    if again := sum(number > 1 for number in named("other", seen.began).values()):
        yield f"{again} other jobs ran twice"
    if never := sum(outcome.kind == "value" and seen.ended.get(job) != 1 for job, outcome in outcomes.items()):
        yield f"{never} other jobs have a value, but did not end exactly once"


def of_later(seen: Observed) -> Iterator[str]:
    later = named("after", seen.outcomes)
    if later and all(outcome.kind != "value" for outcome in later.values()):
        yield "unusable afterwards"
    else:
        yield from failures("later", later)


def of_maps(seen: Observed) -> Iterator[str]:
    if seen.counts.get("drawn when idle", 0):
        yield "went on reading while nobody took results"
    begun = named("batch", seen.began)
    if len(begun) > MOST_BEGUN:
        yield f"ran {len(begun)} jobs that nobody waited for any more"
    if again := sum(number > 1 for number in begun.values()):
        yield f"{again} jobs of the map ran twice"


def of_left(seen: Observed) -> Iterator[str]:
    processes = [one for one in seen.left if not one.startswith("/")]
    files = [one for one in seen.left if one.startswith("/")]
    if processes:
        yield f"left {len(processes)} process{'es' * (len(processes) > 1)} behind"
    if files:
        yield f"left {len(files)} entr{'ies' if len(files) > 1 else 'y'} in /dev/shm"


def failures(what: str, outcomes: Mapping[str, Outcome]) -> Iterator[str]:
    failed = sum(outcome.kind == "error" for outcome in outcomes.values())
    if failed:
        number = f"all {failed}" if failed == len(outcomes) else f"{failed} of {len(outcomes)}"
        yield f"{number} {what} jobs failed"
    if wrong := sum(outcome.kind == "other value" for outcome in outcomes.values()):
        yield f"{wrong} {what} jobs have a wrong value"


def named(what: str, jobs: Mapping[str, T]) -> dict[str, T]:
    """Those of the jobs that are that."""
    return {job: value for job, value in jobs.items() if job.startswith(f"{what}-")}
