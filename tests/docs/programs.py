"""The code of the documentation, as programs to be run: nothing on a page is left out but what `NOT_YET` says.

- A block of ```python is a program of its own, unless its page is one of `GOES_ON`: there all blocks are one program,
  in the order of the page, as the cells of a notebook are.
- A block of ```sh is run by bash, in the same folder, with this checkout's `mpengine`.
- A ```text block right after it is what it prints. `...` in it stands for anything; in ```text about, numbers may be
  others. stderr is shown nowhere, and must be empty but for what is asked for: see `SAID`.
- In a table with the column "Now write", the code of that column runs, each row by itself: after the first block.

The lines of a program are those of its page, so that a traceback tells where on the page it went wrong.
"""

import dataclasses
import doctest
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.support import ROOT, run_python

# Code that contains one of these is not run yet.
NOT_YET: tuple[str, ...] = ()

# Pages whose blocks go on from one to the next.
GOES_ON = ("docs/tutorial.md", "docs/moving.md", "docs/command-line.md", "docs/how-to/resuming.md")

# What may be on stderr: the last line of a progress display; tqdm's bar.
SAID = re.compile(r"mpengine: [\d,]+ jobs in .*|.*it/s\]\r?|\s*0%\|.*|.*\| *\d+/\d+ \[.*\]")

PAGES = ("README.md", *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md")))
END = "\x1e"  # printed where a block ends
PROGRAM_S = 50.0
# Enough of a benchmark to see that it runs.
SHORTER = {"MPENGINE_BENCH_ROUNDS": "1", "MPENGINE_BENCH_LIMIT": "20"}


@dataclasses.dataclass(frozen=True)
class Block:
    """Code on a page. `first` and `end`: its lines, counted from 0; where it ends is its fence, or its only line."""

    first: int
    end: int
    kind: str
    code: str
    prints: str | None = None
    about: bool = False

    def lines(self) -> Iterator[tuple[int, str]]:
        """Of the program, with their places."""
        mark = f"__name__ == '__main__' and print({END!r}, flush=True)"  # and not where Dask imports it once more
        if self.kind == "python":
            yield from enumerate(self.code.splitlines(), self.first)
            yield self.end, mark
        elif self.kind == "row":
            yield (
                self.end,
                f"exec(compile(FIRST + {self.code!r}, 'line {self.end + 1}', 'exec'), {{'__name__': '__main__'}})",
            )
        else:
            command = ["bash", "-euo", "pipefail", "-c", self.code]
            yield self.end, f"__import__('subprocess').run({command!r}, check=True); {mark}"


@dataclasses.dataclass(frozen=True)
class Program:
    """Blocks of a page that run as one."""

    page: str
    blocks: tuple[Block, ...]

    def __str__(self) -> str:
        return self.page if self.page in GOES_ON else f"{self.page}:{self.blocks[0].first + 1}"

    @property
    def text(self) -> str:
        lines = [""] * (self.blocks[-1].end + 1)
        for block in self.blocks:
            for place, line in block.lines():
                lines[place] = line
        if any(block.kind == "row" for block in self.blocks):
            lines[0] = f"FIRST = {self.blocks[0].code!r}"
        return "\n".join(lines) + "\n"

    def run(self, folder: Path) -> str:
        """Run it there, and hold what it prints against the page. Returns what it printed."""
        script = folder / f"my_{Path(self.page).stem}.py"  # not a name that its own imports would find
        script.write_text(self.text)
        path = os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])
        done = run_python(str(script), cwd=folder, timeout=PROGRAM_S, env={"PATH": path, **SHORTER})
        assert done.returncode == 0, f"{self}\n{done.stdout}\n{done.stderr}"
        if all(block.kind != "sh" for block in self.blocks):
            loud = [line for line in re.split("[\n\r]", done.stderr) if line and not SAID.fullmatch(line)]
            assert not loud, f"{self} wrote to stderr:\n{done.stderr}"
        printed = done.stdout.split(END + "\n")
        for block, text in zip((block for block in self.blocks if block.kind != "row"), printed, strict=False):
            assert block.prints is None or same(block.prints, text, about=block.about), (
                f"{self.page}:{block.first + 1} prints\n{text}\nand the page says\n{block.prints}"
            )
        return done.stdout.replace(END + "\n", "")


def same(page: str, printed: str, *, about: bool) -> bool:
    """Whether a program printed what its page says."""
    if about:
        page, printed = (re.sub(r"\d[\d,.]*", "N", re.sub(r" +", " ", text)) for text in (page, printed))
    return doctest.OutputChecker().check_output(page, printed, doctest.ELLIPSIS)


def blocks_of(page: str) -> Iterator[Block]:
    """The code of a page."""
    lines = (ROOT / page).read_text().splitlines()
    found: list[Block] = []
    place = 0
    column: int | None = None  # of the table we are in: where its code is
    while place < len(lines):
        line = lines[place]
        if fence := re.fullmatch(r"(`{3,})(\S*)(?: (.*))?", line):
            end = lines.index(fence[1], place + 1)
            code = "".join(f"{one}\n" for one in lines[place + 1 : end])
            if fence[2] in ("python", "sh"):
                found.append(Block(place + 1, end, fence[2], code))
            elif fence[2] == "text" and found and found[-1].kind != "row" and found[-1].prints is None:
                if not "".join(lines[found[-1].end + 1 : place]).strip():
                    found[-1] = dataclasses.replace(found[-1], prints=code, about=fence[3] == "about")
            place = end
        elif line.startswith("|"):
            cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            if "Now write" in cells:
                column = cells.index("Now write")
            elif column is not None and (code := "; ".join(re.findall(r"`([^`]+)`", cells[column]))):
                found.append(Block(place, place, "row", code.replace(r"\|", "|")))
        else:
            column = None
        place += 1
    return iter(found)


def programs() -> Iterator[Program]:
    """Of all pages."""
    for page in PAGES:
        blocks = tuple(blocks_of(page))
        if page in GOES_ON:
            yield Program(page, blocks)
        else:
            yield from (Program(page, (block,)) for block in blocks)


def missing_in(program: Program) -> str | None:
    """Why it cannot run yet."""
    return next((word for word in NOT_YET if word in program.text), None)
