"""What a display shows where it is no terminal, and what its end owes to those who still have lines."""

import io
import logging
import sys
import threading
from collections.abc import Callable

import pytest

from mpengine import JobOutput
from mpengine.report import display
from mpengine.report.display import Display
from mpengine.report.live import Standing
from tests.support import WAIT_S, wait_for

Capture = pytest.CaptureFixture[str]


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def standing(finished: int = 1, *, open: bool = True) -> Standing:
    return Standing(finished, 9, 0, 0, open, 5.0, None)


def said(job_id: str | None, text: str) -> JobOutput:
    return JobOutput(job_id, 77, "stdout", text)


def shown(look: Callable[[], Standing], **more: object) -> tuple[Display, threading.Event]:
    over = threading.Event()
    one = Display()
    one.begin(look, over, **more)  # type: ignore[arg-type]
    return one, over


def test_each_line_has_its_jobs_id_before_it(capsys: Capture) -> None:
    one = Display()
    one.output(said("a", "first\nsecond"))
    one.output(said(None, "third"))
    assert capsys.readouterr().err == "[a] first\n[a] second\n[worker 77] third\n"


def test_where_it_is_no_terminal_a_line_comes_now_and_then(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(display, "monotonic", clock)
    lines = display._Lines()
    told = []
    for second in range(200):
        clock.now = 100.0 + second
        lines.draw(standing(second), "")
        if line := capsys.readouterr().err:
            told.append((second, line))
    assert [second for second, _ in told] == [10, 25, 48, 82, 133, 193]
    assert told[0][1] == "mpengine: 10 of 9 jobs, 5.0 s so far\n"


def test_while_there_is_nothing_to_do_no_line_comes(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(display, "monotonic", clock)
    lines = display._Lines()
    for second in range(100):
        clock.now = 100.0 + second
        lines.draw(standing(open=False), "")
    assert capsys.readouterr().err == ""


def test_what_stays_at_the_end_is_said_after_all_else(capsys: Capture) -> None:
    one, over = shown(standing, last=lambda: "that was all")
    one.output(said("a", "line"))
    over.set()
    one.close()
    assert capsys.readouterr().err == "[a] line\nmpengine: that was all\n"


def test_a_look_that_fails_ends_the_display_and_nothing_else(capsys: Capture, caplog: pytest.LogCaptureFixture) -> None:
    looked = threading.Event()

    def look() -> Standing:
        looked.set()
        raise RuntimeError("no sight")

    one, over = shown(look)
    wait_for(looked)
    assert one._thread is not None
    one._thread.join(WAIT_S)
    one.output(said("a", "goes on"))
    over.set()
    one.close()
    assert "the display failed" in caplog.text
    assert capsys.readouterr().err.endswith("[a] goes on\n")


def test_a_stderr_that_cannot_be_written_to_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    full = open("/dev/full", "w")
    monkeypatch.setattr(sys, "stderr", full)
    one, over = shown(standing, last=lambda: "end")
    one.output(said("a", "line"))
    over.set()
    one.close()
    monkeypatch.undo()
    try:
        full.close()
    except OSError:
        pass


def test_without_a_stderr_nothing_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    one, over = shown(standing)
    one.output(said("a", "line"))
    over.set()
    one.close()


def test_of_a_stream_that_stands_in_only_whole_lines_are_shown() -> None:
    added: list[str] = []
    stream = io.StringIO()
    proxy = display._Proxy(stream, added.append)
    for text in ("one", " line\ntwo", "\n", "three\nfour\nfi", "ve"):
        assert proxy.write(text) == len(text)
    proxy.flush()
    assert added == ["one line\n", "two\n", "three\nfour\n"]
    proxy.end()
    assert added[-1] == "five\n"
    assert proxy.getvalue() == ""  # of the stream it stands for


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_end_does_not_wait_for_a_thread_that_logs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which has its handler's lock, and waits for the display."""
    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    handler = logging.StreamHandler(screen)
    logging.root.addHandler(handler)
    logging_now, ending = threading.Event(), threading.Event()

    class Slow(logging.Formatter):
        def format(self, record: logging.LogRecord) -> str:
            logging_now.set()
            wait_for(ending)
            return super().format(record)

    try:
        handler.setFormatter(Slow())
        one, over = shown(standing)
        wait_for(lambda: isinstance(sys.stderr, display._Proxy))
        end = display._Terminal.end

        def note(self: display._Terminal, text: str) -> None:
            ending.set()
            end(self, text)

        monkeypatch.setattr(display._Terminal, "end", note)
        logger = threading.Thread(target=logging.getLogger("tests.display").error, args=("late",))
        logger.start()
        wait_for(logging_now)
        over.set()
        assert one._thread is not None
        one._thread.join(WAIT_S)
        assert not one._thread.is_alive()
        logger.join(WAIT_S)
        assert "late\n" in screen.getvalue()
    finally:
        logging.root.removeHandler(handler)


def test_handlers_that_hold_the_stream_are_led_past_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    handler = logging.StreamHandler(screen)
    logging.root.addHandler(handler)
    try:
        drawn = threading.Event()

        def look() -> Standing:
            if isinstance(sys.stderr, display._Proxy):
                drawn.set()
            return standing()

        one, over = shown(look)
        wait_for(drawn)
        assert handler.stream is sys.stderr is not screen
        logging.getLogger("tests.display").error("logged")
        print("printed", file=sys.stderr)
        over.set()
        one.close()
        assert handler.stream is sys.stderr is screen
        assert "logged\nprinted\n" in screen.getvalue()
    finally:
        logging.root.removeHandler(handler)
