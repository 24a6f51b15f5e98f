"""A run as a person watches it in a terminal: rows that are right in 80 columns, and lines of jobs that are whole."""

import re
from pathlib import Path

from tests.cli.support import mpengine
from tests.runtime.gates import Gate
from tests.terminal import terminal

NOISY = "tests.cli.noisy"
ROWS = re.compile(r"━| so far| left$| MiB$|✗ ")


def write_numbers(path: Path, count: int) -> None:
    path.write_text("".join(f"{number}\n" for number in range(count)))


def chattered(name: str, numbers: range) -> list[str]:
    """The lines that `noisy.chatter` prints for a line of this file."""
    lines = []
    for number in numbers:
        tag = f"[{name}:{number + 1}]"
        for part in range(5):
            lines.append(f"{tag} out {number} {part} {'.' * (number * part % 40)}".rstrip())
            lines.append(f"{tag} err {number} {part}")
        lines += [f"{tag} coloured {number}", f"{tag} [{name}:{number + 1}] logged {number}"[len(tag) + 1 :]]
    return lines


def test_no_line_is_torn_by_noisy_jobs(tmp_path: Path) -> None:
    write_numbers(tmp_path / "in.txt", 300)
    arguments = ["run", f"{NOISY}:chatter", "in.txt", "-o", "out.txt", "--workers", "4"]
    with terminal("-m", "mpengine", *arguments, cwd=tmp_path) as screen:
        assert screen.code() == 1
        lines = screen.transcript()
    end = next(at for at, line in enumerate(lines) if line.startswith("300 jobs in "))
    body, summary = lines[:end], lines[end:]
    raw = [line for line in body if re.fullmatch(r"\[(in\.txt:|worker )\d+\] raw \d+", line)]
    assert sorted(line for line in body if line not in raw) == sorted(chattered("in.txt", range(300)))
    assert sorted(line.split()[-1] for line in raw) == sorted(map(str, range(300)))
    assert not any(ROWS.search(line) for line in summary if "bad " not in line)
    assert "━".encode() in screen.raw, "no rows were drawn: this shows nothing"


def test_what_is_seen_while_it_runs(tmp_path: Path, gate: Gate) -> None:
    (tmp_path / "in.txt").write_text("".join(f"{gate.door.path} {number}\n" for number in range(1, 7)))
    arguments = ["run", f"{NOISY}:wait_at", "in.txt", "-o", "out.txt", "--workers", "2"]
    with terminal("-m", "mpengine", *arguments, cwd=tmp_path) as screen:
        gate.arrivals(2)
        screen.wait_for(lambda lines: sum("at the door" in line for line in lines) == 2)
        screen.wait_for(lambda lines: sum("MiB" in line for line in lines) == 2)
        gate.release(2)
        gate.arrivals(2)
        lines = screen.wait_for(
            lambda lines: any(line.startswith("3 of 6 jobs") for line in lines) and any("✗" in line for line in lines)
        )
        at = next(at for at, line in enumerate(lines) if line.startswith("3 of 6 jobs"))
        bar, counts, first, second, failure = lines[at:]
        assert re.fullmatch(r"3 of 6 jobs +[━╸╺]+ +50 % +[\d.]+/s +[\d.:]+( s)? left", bar)
        assert counts == "  1 failed"
        for row in (first, second):
            assert re.fullmatch(r" *\d+ in\.txt:\d +[━╸╺]{10} +[\d.]+ s +\d+ MiB", row)
            assert len(row) in (79, 80)
        assert failure.startswith("  ✗ in.txt:3  ValueError: bad 3 (")
        gate.open()
        assert screen.code() == 1
        assert not any(ROWS.search(line) for line in screen.transcript() if "bad 3" not in line)


def test_no_progress_means_silence(tmp_path: Path) -> None:
    write_numbers(tmp_path / "in.txt", 60)
    arguments = ["run", f"{NOISY}:chatter", "in.txt", "-o", "out.txt", "--no-progress"]
    with terminal("-m", "mpengine", *arguments, cwd=tmp_path) as screen:
        assert screen.code() == 1
    assert "━".encode() not in screen.raw
    assert b"\x1b[?25" not in screen.raw
    assert b" of 60 jobs" not in screen.raw


def test_a_terminal_that_cannot_move_its_cursor_gets_lines(tmp_path: Path) -> None:
    write_numbers(tmp_path / "in.txt", 60)
    arguments = ["run", f"{NOISY}:chatter", "in.txt", "-o", "out.txt"]
    with terminal("-m", "mpengine", *arguments, cwd=tmp_path, term="dumb") as screen:
        assert screen.code() == 1
    assert "━".encode() not in screen.raw


def test_where_the_results_are_shown_there_are_no_rows(tmp_path: Path) -> None:
    write_numbers(tmp_path / "in.txt", 3)
    with terminal("-m", "mpengine", "run", "builtins:str.upper", "in.txt", "--progress", cwd=tmp_path) as screen:
        assert screen.code() == 0
    assert "━".encode() not in screen.raw


def test_where_it_is_no_terminal_each_line_of_a_job_is_whole_too(tmp_path: Path) -> None:
    write_numbers(tmp_path / "in.txt", 100)
    run = mpengine("run", f"{NOISY}:chatter", "in.txt", "-o", "out.txt", "--workers", "4", cwd=tmp_path)
    body = [line for line in run.err.splitlines() if line.startswith("[")]
    assert "━" not in run.err
    expected = [line.replace("coloured", "\x1b[31mcoloured\x1b[0m") + " \x1b[2A\x1b[5D" if "coloured" in line else line
                for line in chattered("in.txt", range(100))]  # fmt: skip
    assert sorted(line.rstrip() for line in body if " raw " not in line) == sorted(expected)


def test_what_child_processes_print_is_told_with_the_job(tmp_path: Path) -> None:
    write_numbers(tmp_path / "in.txt", 3)
    run = mpengine("run", f"{NOISY}:child", "in.txt", "-o", "out.txt", "--workers", "1", cwd=tmp_path)
    for number in range(3):
        assert re.search(rf"^\[.*\] child {number}$", run.err, re.MULTILINE)
        assert re.search(rf"^\[.*\] of {number}$", run.err, re.MULTILINE)


def test_a_signal_is_answered_above_the_rows(tmp_path: Path, gate: Gate) -> None:
    (tmp_path / "in.txt").write_text("".join(f"{gate.door.path} {number}\n" for number in (1, 2, 4, 5)))
    arguments = ["run", f"{NOISY}:wait_at", "in.txt", "-o", "out.txt", "--workers", "2"]
    with terminal("-m", "mpengine", *arguments, cwd=tmp_path) as screen:
        gate.arrivals(2)
        screen.wait_for(lambda lines: any("of 4 jobs" in line for line in lines))
        screen.type("\x03")
        screen.wait_for(lambda lines: any(line.startswith("mpengine: SIGINT: no more jobs") for line in lines))
        gate.open()
        assert screen.code() == 130
        lines = screen.transcript()
    assert " ".join(lines[-2:]).count("mpengine: interrupted (SIGINT); 2 jobs have ended; to go on,") == 1
    assert [line for line in lines if ROWS.search(line)] == []
