"""What can be looked at while a run goes on, and after it."""

import json
import re
import socket
import urllib.request
from pathlib import Path

import pytest

from tests.cli.support import mpengine, started, write_lines
from tests.cli.test_resume import JOBS, run
from tests.support import wait_for


def test_a_report_and_a_trace(tmp_path: Path) -> None:
    write_lines(tmp_path / "in.txt", ["1", "bad", "3"])
    arguments = (f"{JOBS}:refuse", "in.txt", "-o", "out.txt", "--report", "report.html", "--trace", "trace.json")
    assert run(*arguments, cwd=tmp_path).code == 1
    page = re.sub(r"<[^>]*>", " ", (tmp_path / "report.html").read_text())
    assert re.search(r"accepted\s+3\s+succeeded\s+2\s+failed\s+1", page)
    assert "will not take" in page
    assert f"mpengine run {JOBS}:refuse" in page
    events = json.loads((tmp_path / "trace.json").read_text())
    jobs = [event for event in events if event["ph"] == "X" and "in.txt:" in json.dumps(event)]
    assert len(jobs) == 3


def test_metrics(tmp_path: Path) -> None:
    pytest.importorskip("prometheus_client")
    write_lines(tmp_path / "in.txt", ["1", "2"])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    arguments = ("run", f"{JOBS}:wait_for_leave", "in.txt", "--workers", "2", "--metrics-port", str(port))
    with started(*arguments, cwd=tmp_path) as process:
        wait_for(lambda: len([*tmp_path.glob("hangs-*")]) == 2, about="two jobs that run")
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        assert "mpengine_jobs_accepted_total 2.0" in text
        (tmp_path / "leave").touch()
        assert process.wait(20) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--report", "no/report.html"), "--report 'no/report.html' is not to be had: Report: there is no folder "),
        (("--trace", "no/trace.json"), "--trace 'no/trace.json' is not to be had: "),
    ],
)
def test_what_cannot_be_written_is_said_before_any_job(options: tuple[str, ...], message: str, tmp_path: Path) -> None:
    write_lines(tmp_path / "in.txt", ["1"])
    wrong = mpengine("run", f"{JOBS}:echo", "in.txt", *options, cwd=tmp_path)
    assert (wrong.code, wrong.out) == (2, "")
    assert wrong.message.startswith(message)
