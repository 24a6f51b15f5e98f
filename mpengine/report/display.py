"""Shows how things stand while jobs run, and what they print, so that neither tears the other.

    a terminal      a few rows below all other lines, drawn anew some times a second (rich)
    a notebook      the same rows, in the cell in which the display began
    anything else   a line now and then

It looks by itself, in a thread of its own: no job pays for it. The thread takes at most a twentieth of a CPU: where a
look takes long, as with many workers, it looks less often. Lines that jobs print are written in one piece; in a
terminal all that have come since the last time, before the rows are drawn again.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import re
import sys
import threading
from collections.abc import Callable, Iterable
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.live import Live
from rich.segment import Segment

from mpengine.report import live
from mpengine.report.live import Standing

if TYPE_CHECKING:
    from mpengine import JobOutput

_PERIOD_S = 0.1
_SHARE = 0.05  # of the time, at most, for looking and drawing
_FIRST_LINE_S, _LONGEST_PAUSE_S = 10.0, 60.0  # between lines, where it is no terminal
_MOST_HELD = 1 << 20  # characters that wait to be drawn; a job that prints more waits for that
_WAIT_S = 5.0
_ESCAPES = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_TAKEN_BACK = re.compile(r"[^\n]*\r(?!\n|$)")  # what a progress bar has written over


class _Surface(Protocol):
    """Where it is shown. One thread at a time."""

    held: bool  # whether lines wait for the next `draw`

    def draw(self, standing: Standing, text: str) -> None: ...

    def say(self, text: str) -> None:
        """Lines, at once."""

    def end(self, text: str) -> None:
        """No more rows."""

    def close(self, last: str) -> None:
        """Say how it ended."""


class Display:
    """See the module's text. Before `begin` and after `close` it shows what jobs print, and nothing else."""

    def __init__(self) -> None:
        self._text: list[str] = []
        self._size = 0
        self._drawn = threading.Condition()
        self._surface: _Surface | None = None
        self._has_rows = False  # now, or before the end
        self._thread: threading.Thread | None = None

    def begin(
        self,
        look: Callable[[], Standing],
        over: threading.Event,
        *,
        last: Callable[[], str] = str,
        live: bool = True,
    ) -> None:
        """Show how things stand, until `over` is set.

        Args:
            look: How things stand; called in the display's thread.
            over: Nothing more will happen.
            last: What stays there at the end, a line; "": nothing.
            live: Draw rows if stderr is a terminal. Not where others write to it as well.
        """
        if sys.stderr is None:
            return
        self._surface = self._make_surface(live=live)
        self._has_rows = isinstance(self._surface, _Terminal)
        # Not a daemon: at the interpreter's exit, what is on the terminal is to be put in order. It ends with the
        # engine, which ends before that.
        self._thread = threading.Thread(target=self._run, args=(look, over, last), name="mpengine-display")
        self._thread.start()

    def output(self, output: JobOutput) -> None:
        """Show lines that a job has printed. Blocks while there are too many. Any thread."""
        self.add("".join(f"{output.tag} {line}\n" for line in output.text.split("\n")))

    def add(self, text: str) -> None:
        """Show whole lines, whoever has them. Blocks while there are too many. Any thread."""
        if self._has_rows:
            text = clean(text)
        with self._drawn:
            surface = self._surface
            if surface is None or not surface.held:
                (_write if surface is None else surface.say)(text)
                return
            self._drawn.wait_for(lambda: self._size < _MOST_HELD or self._surface is None, _WAIT_S)
            self._text.append(text)
            self._size += len(text)

    def close(self) -> None:
        """Wait until it has ended, once it is `over`."""
        if self._thread is not None and threading.current_thread() is not self._thread:
            self._thread.join()

    # ---- the thread --------------------------------------------------------------------------------------------------

    def _run(self, look: Callable[[], Standing], over: threading.Event, last: Callable[[], str]) -> None:
        assert self._surface is not None
        pause = _PERIOD_S
        try:
            while not over.wait(pause):
                begun = monotonic()
                standing = look()
                looked = monotonic()
                text = self._take()
                self._surface.draw(standing, text)
                # Lines take as long as they take: who prints them waits for that.
                pause = max(_PERIOD_S, ((looked if text else monotonic()) - begun) / _SHARE)
        except Exception:
            logging.getLogger("mpengine").exception("the display failed; the jobs go on")
        finally:
            with self._drawn:  # whoever has a line waits: the rows that go would take it along
                surface = self._surface
                try:
                    with contextlib.suppress(OSError, ValueError):
                        surface.end(self._take())
                    _write(self._take())
                    with contextlib.suppress(OSError, ValueError):
                        surface.close(last())
                finally:  # or lines would be kept that nobody draws any more
                    self._surface = None
                    self._drawn.notify_all()

    def _make_surface(self, *, live: bool) -> _Surface:
        if _in_notebook():
            return _Notebook()
        if live and sys.stderr.isatty() and Console(file=sys.stderr).is_interactive:  # not a dumb one
            return _Terminal(self.add)
        return _Lines()

    def _take(self) -> str:
        with self._drawn:
            text = "".join(self._text)
            self._text.clear()
            self._size = 0
            self._drawn.notify_all()
        return text


def _in_notebook() -> bool:
    if "IPython" not in sys.modules:
        return False
    return bool(Console(file=io.StringIO()).is_jupyter)


def _write(text: str) -> None:
    if text and sys.stderr is not None:
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.write(text)
            sys.stderr.flush()


class _Terminal:
    """Rows at the lower end of the terminal, while jobs run.

    Meanwhile only the display's thread writes there: what others write to `sys.stdout` and `sys.stderr` waits for it.
    (Rich could redirect these by itself; but where two threads write, its rows and theirs get into each other.)

    Args:
        add: Where whole lines go that are to be seen above the rows.
    """

    held = True

    def __init__(self, add: Callable[[str], None]) -> None:
        self._add = add
        self._console = Console(file=sys.stderr)
        self._live: Live | None = None
        self._rows = _Rows()
        self._handlers: list[tuple[logging.StreamHandler[Any], TextIO]] = []
        self._streams: tuple[TextIO, TextIO] = (sys.stdout, sys.stderr)

    def draw(self, standing: Standing, text: str) -> None:
        if standing.open and self._live is None:
            self._begin()
        elif not standing.open and self._live is not None:
            self._end()
        if self._live is None:
            _write(text)
            return
        # The cursor on a line of its own: where the terminal shows a ^C, that must not make a row longer than it is.
        self._rows.rows = Group(live.rows(standing, height=self._console.height), "")
        if text:
            self._console.print(_AsItIs(text), soft_wrap=True)  # the rows are drawn with it
        else:
            self._live.refresh()

    def say(self, text: str) -> None:
        _write(text)

    def end(self, text: str) -> None:
        self._end()
        _write(text)

    def close(self, last: str) -> None:
        _write(f"{last}\n" if last else "")

    def _begin(self) -> None:
        self._live = Live(
            self._rows, console=self._console, auto_refresh=False, transient=True, vertical_overflow="crop",
            redirect_stdout=False, redirect_stderr=False,
        )  # fmt: skip
        _drawing.add(self)
        self._live.start()
        self._console.show_cursor(True)  # a program that is killed must not leave it hidden
        streams = self._streams = (sys.stdout, sys.stderr)
        sys.stderr = _Proxy(sys.stderr, self._add)
        if sys.stdout is not None and sys.stdout.isatty():
            sys.stdout = _Proxy(sys.stdout, self._add)
        # Which hold the streams as they were. Not by `setStream`, here and below: it waits for a lock that a thread may
        # have which logs, and waits for us.
        for handler in logging.root.handlers:
            if isinstance(handler, logging.StreamHandler) and handler.stream in streams:
                self._handlers.append((handler, handler.stream))
                handler.stream = sys.stdout if handler.stream is streams[0] else sys.stderr

    def _end(self) -> None:
        if self._live is None:
            return
        for handler, stream in self._handlers:
            handler.stream = stream
        self._handlers.clear()
        for name, stream in zip(("stdout", "stderr"), self._streams, strict=True):
            proxy = getattr(sys, name)
            if isinstance(proxy, _Proxy):  # else somebody has put his own there, which is his to take back
                proxy.end()
                setattr(sys, name, stream)
        self._rows.rows = ""
        self._live.stop()
        self._live = None
        _drawing.discard(self)

    def leave(self) -> None:
        """This is a forked copy, without the thread that draws, and perhaps with its lock taken for ever."""
        sys.stdout, sys.stderr = self._streams
        for handler, stream in self._handlers:
            handler.stream = stream


_drawing: set[_Terminal] = set()


def _after_fork_in_child() -> None:
    while _drawing:
        _drawing.pop().leave()


os.register_at_fork(after_in_child=_after_fork_in_child)


class _Rows:
    """What rich is to draw at the moment."""

    rows: RenderableType = ""

    def __rich__(self) -> RenderableType:
        return self.rows


class _Proxy:
    """Stands in for `sys.stdout` or `sys.stderr`: its lines are seen above the rows."""

    def __init__(self, stream: TextIO, add: Callable[[str], None]) -> None:
        self._stream = stream
        self._add = add
        self._begun: dict[int, str] = {}  # lines that have not ended, by thread

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        thread = threading.get_ident()
        lines, end, rest = (self._begun.pop(thread, "") + text).rpartition("\n")
        if rest:
            self._begun[thread] = rest
        if end:
            self._add(f"{lines}\n")
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        self.write("".join(lines))

    def flush(self) -> None:
        """Lines are seen at the next turn; what is not a whole one, when it is."""

    def end(self) -> None:
        """What is left was no whole line."""
        for begun in [*self._begun.values()]:
            self._add(f"{begun}\n")
        self._begun.clear()


class _AsItIs:
    """Text that rich passes on without a look at it."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Segment(self._text)


class _Lines:
    """A line now and then, further apart the longer it takes."""

    held = False

    def __init__(self) -> None:
        self._told_at = monotonic()
        self._pause = _FIRST_LINE_S

    def draw(self, standing: Standing, text: str) -> None:
        now = monotonic()
        if not standing.open:
            self._told_at, self._pause = now, _FIRST_LINE_S
        elif now - self._told_at >= self._pause:
            self._told_at, self._pause = now, min(_LONGEST_PAUSE_S, 1.5 * self._pause)
            _write(f"mpengine: {live.line(standing)}\n")

    def say(self, text: str) -> None:
        _write(text)

    def end(self, text: str) -> None:
        _write(text)

    def close(self, last: str) -> None:
        _write(f"mpengine: {last}\n" if last else "")


class _Notebook:
    """The rows as HTML, in the cell in which the display began; what jobs print is that cell's output."""

    held = False
    _WIDTH, _HEIGHT = 100, 40

    def __init__(self) -> None:
        self._handle: Any = None

    def draw(self, standing: Standing, text: str) -> None:
        if standing.open:
            self._show(live.rows(standing, height=self._HEIGHT))

    def say(self, text: str) -> None:
        sys.stdout.write(text)  # what is on stderr looks like an alarm there

    def end(self, text: str) -> None:
        self.say(text)

    def close(self, last: str) -> None:
        if last:
            self._show(last)

    def _show(self, what: Any) -> None:
        from IPython.display import HTML, display

        console = Console(
            file=io.StringIO(), record=True, width=self._WIDTH, force_terminal=True, force_jupyter=False
        )  # fmt: skip
        console.print(what, highlight=False)
        code = console.export_html(inline_styles=True, code_format="<pre style='line-height:1.3'>{code}</pre>")
        page = HTML(code)  # type: ignore[no-untyped-call]
        if self._handle is None:
            self._handle = display(page, display_id=True)  # type: ignore[no-untyped-call]
        else:
            self._handle.update(page)


def clean(text: str) -> str:
    """Lines without what would move the cursor or change its colour; of a line that was written over, the last."""
    return _ESCAPES.sub("", _TAKEN_BACK.sub("", text))
