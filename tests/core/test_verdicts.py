"""What the ledger's own errors say: subject, cause, values, next step."""

import signal

import pytest

from mpengine.core import verdicts
from mpengine.errors import MemoryLimitExceeded
from tests.core.makers import make_record, make_span


def test_the_subject_names_job_function_and_attempt() -> None:
    record = make_record(id="photo-17", retries=2)
    assert verdicts.describe(record, 2) == "job 'photo-17' (`resize`, attempt 2 of 3)"


def test_the_subject_of_a_mapped_call_is_its_place_in_the_input() -> None:
    assert verdicts.span_subject(make_span(4, position=40), 1) == "call 41 of map(`resize`)"


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (8 << 20, "8.0 MiB"), (3 << 30, "3.0 GiB"), (5 << 40, "5.0 TiB")],
)
def test_sizes_are_for_people(size: int, text: str) -> None:
    assert verdicts.human_bytes(size) == text


def test_an_exit_code_is_the_jobs_own_doing() -> None:
    text, hint = verdicts.exit_text(3)
    assert text == "exited with code 3"
    assert "os._exit" in hint


@pytest.mark.parametrize(
    ("signum", "word"),
    [
        (signal.SIGKILL, "OOM"), (signal.SIGSEGV, "native code"), (signal.SIGABRT, "native code"),
        (signal.SIGBUS, "memory"), (signal.SIGILL, "processor"), (signal.SIGFPE, "arithmetic"),
        (signal.SIGTERM, "SIGTERM"), (signal.SIGXCPU, "CPU"), (signal.SIGUSR1, "sends"),
    ],
)  # fmt: skip
def test_a_signal_has_its_name_and_a_likely_cause(signum: signal.Signals, word: str) -> None:
    text, hint = verdicts.exit_text(-signum)
    assert text == f"was killed by {signum.name}"
    assert word in hint


@pytest.mark.parametrize("exitcode", [-200, None])
def test_what_has_no_name_is_described(exitcode: int | None) -> None:
    text, hint = verdicts.exit_text(exitcode)
    assert ("signal 200" in text) == (exitcode is not None)
    assert hint


def test_a_lost_job_knows_all_about_it() -> None:
    error = verdicts.lost_error("job 'a'", 4182, -9, peak_memory=1536 << 20, stack="line 3")
    text = str(error)
    assert text.startswith("job 'a' was lost: worker pid 4182 was killed by SIGKILL; peak memory 1.5 GiB")
    assert "OOM killer" in text
    assert text.endswith(".")
    assert (error.exitcode, error.worker_pid, error.peak_memory, error.stack) == (-9, 4182, 1536 << 20, "line 3")


def test_a_known_problem_takes_the_place_of_the_guess() -> None:
    text = str(verdicts.lost_error("job 'a'", 1, -9, problem="it wrote rubbish into its log"))
    assert "it wrote rubbish into its log" in text
    assert "OOM" not in text


def test_an_unknown_peak_is_not_told() -> None:
    assert "peak" not in str(verdicts.lost_error("job 'a'", 1, 0))


def test_a_timeout_says_how_long_and_what_to_do() -> None:
    text = str(verdicts.timeout_error(make_record(id="a", retries=1), 1, 2.5))
    assert "job 'a' (`resize`, attempt 1 of 2) ran past its timeout of 2.5 s" in text
    assert "`timeout`" in text


@pytest.mark.parametrize(("started", "words"), [(True, "while it ran"), (False, "before it was started")])
def test_a_passed_deadline_says_whether_the_job_had_started(started: bool, words: str) -> None:
    text = str(verdicts.deadline_error(make_record(id="a"), int(started), started=started))
    assert words in text
    assert "attempt 1 of 1" in text
    assert "context" in text


def test_a_cancellation_carries_its_reason() -> None:
    for error in (
        verdicts.cancelled_error(make_record(id="a"), "the night is over"),
        verdicts.span_cancelled_error(make_span(3), "the night is over"),
    ):
        assert error.reason == "the night is over"
        assert str(error).endswith("was cancelled: the night is over")
        assert "`resize`" in str(error)


def test_a_job_that_was_killed_for_its_memory_says_so() -> None:
    problem = "and its memory_limit is 1.0 GiB"
    error = verdicts.lost_error("job 'a'", 4182, -9, peak_memory=5 << 20, problem=problem, memory=3 << 29)
    assert isinstance(error, MemoryLimitExceeded)
    assert isinstance(error, MemoryError)
    assert error.peak_memory == 3 << 29
    assert str(error) == (
        "job 'a' was lost: worker pid 4182 held 1.5 GiB, and its memory_limit is 1.0 GiB. "
        "Raise `memory_limit`, or give the job less at once."
    )
