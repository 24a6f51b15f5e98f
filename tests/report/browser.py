"""A headless Chromium, spoken to by its DevTools protocol over two pipes: what a page shows, says and asks for."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

from tests.support import WAIT_S

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
_FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-breakpad", "--no-first-run", "--hide-scrollbars",
    "--remote-debugging-pipe",
)  # fmt: skip


@dataclass
class Seen:
    """What came of one page.

    Attributes:
        requests: Addresses it asked for, its own first.
        complaints: Errors and warnings on the console, uncaught exceptions, and what its policy has blocked.
    """

    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)


class Browser:
    """One browser with one page; a context manager. Every wait is bounded."""

    def __init__(self, folder: Path) -> None:
        assert CHROMIUM is not None
        to_it, mine_out = os.pipe()
        mine_in, from_it = os.pipe()
        command = [CHROMIUM, *_FLAGS, f"--user-data-dir={folder}", "about:blank"]
        # It reads from descriptor 3 and writes to 4. Quiet: it tells of the machine's D-Bus and the like.
        shell = f'exec "$@" 3<&{to_it} 4>&{from_it} {to_it}<&- {from_it}>&-'
        self._process = subprocess.Popen(
            ["bash", "-c", shell, "bash", *command], pass_fds=(to_it, from_it), stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        os.close(to_it)
        os.close(from_it)
        self._out, self._in = mine_out, mine_in
        self._buffer = b""
        self._number = 0
        self._session: str | None = None
        self._seen = Seen()
        self._loaded = False

    def __enter__(self) -> Browser:
        try:
            target = self.call("Target.createTarget", url="about:blank")["targetId"]
            self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
            for domain in ("Page", "Network", "Log", "Runtime"):
                self.call(f"{domain}.enable")
        except BaseException:
            self._end()  # one that cannot be spoken to is not left running
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._end()

    def _end(self) -> None:
        family: list[psutil.Process] = []
        with contextlib.suppress(psutil.NoSuchProcess):  # it has ended by itself
            family.append(psutil.Process(self._process.pid))
            family += family[0].children(recursive=True)
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.wait(WAIT_S)
        psutil.wait_procs(family, timeout=WAIT_S)
        os.close(self._out)
        os.close(self._in)

    def open(self, url: str, *, scripts: bool = True) -> Seen:
        """Load a page, and wait until it has been painted."""
        self._seen, self._loaded = Seen(), False
        self.call("Emulation.setScriptExecutionDisabled", value=not scripts)
        self.call("Page.navigate", url=url)
        deadline = time.monotonic() + WAIT_S
        while not self._loaded:
            self._take(self._receive(deadline))
        self.call("Page.captureScreenshot")  # waits for the painting: nothing is asked for after that
        return self._seen

    def evaluate(self, expression: str) -> Any:
        """The value of an expression in the page; it must be JSON."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def call(self, method: str, **parameters: Any) -> Any:
        """One command and its answer."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + WAIT_S
        while True:
            answer = self._receive(deadline)
            if answer.get("id") == self._number:
                assert "error" not in answer, (method, answer)
                return answer["result"]
            self._take(answer)

    def _receive(self, deadline: float) -> Any:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._in], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, f"chromium has not answered in {WAIT_S:g} s"
            data = os.read(self._in, 1 << 16)
            assert data, f"chromium has ended with exit code {self._process.poll()}"
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(line)

    def _take(self, message: Any) -> None:
        told = message.get("params", {})
        match message.get("method"):
            case "Page.loadEventFired":
                self._loaded = True
            case "Network.requestWillBeSent":
                self._seen.requests.append(told["request"]["url"])
            case "Log.entryAdded" if told["entry"]["level"] in ("error", "warning"):
                self._seen.complaints.append(told["entry"]["text"])
            case "Runtime.consoleAPICalled" if told["type"] in ("error", "warning", "assert"):
                self._seen.complaints.append(str(told["args"]))
            case "Runtime.exceptionThrown":
                self._seen.complaints.append(told["exceptionDetails"]["text"])
