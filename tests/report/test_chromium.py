"""The page in a real browser: the right numbers, no complaint on the console, no request but for the page itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from mpengine import Report
from tests.report.browser import CHROMIUM, Browser
from tests.report.runs import EXPECTED, NASTY, mixed_run
from tests.runtime.fixtures import MakeEngine
from tests.runtime.gates import Gate

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium: apt-get install chromium")


@pytest.fixture
def browser_folder(tmp_path: Path) -> Path:
    return tmp_path / "profile"


@pytest.mark.parametrize("scripts", [True, False])
def test_the_page_of_a_run(
    make_engine: MakeEngine, gate: Gate, tmp_path: Path, browser_folder: Path, scripts: bool
) -> None:  # fmt: skip
    path = tmp_path / "a report #1.html"
    mixed_run(make_engine, gate, Report(path, title=f"Run {NASTY}"))
    with Browser(browser_folder) as browser:
        seen = browser.open(path.as_uri(), scripts=scripts)
        assert seen.requests == [path.as_uri()]
        assert seen.complaints == []
        counts = browser.evaluate(
            "Object.fromEntries(Array.from("
            "document.querySelectorAll('.counts dd'), shown => [shown.id.slice('count-'.length), +shown.innerText]))"
        )
        assert counts == EXPECTED
        assert browser.evaluate("document.querySelectorAll('script, img, iframe, object').length") == 0
        assert browser.evaluate("document.querySelectorAll('#timeline .bad').length") == 5 + 4 + 1 + 1 + 1
        assert browser.evaluate("document.querySelectorAll('#timeline .died').length") >= 1
        causes = browser.evaluate("Array.from(document.querySelectorAll('.cause summary b'), e => e.innerText)")
        assert sorted(causes) == ["JobExpired", "JobLost", "LookupError", "ValueError"]
        assert browser.evaluate("document.querySelector('.cause pre').textContent").startswith("Traceback (most recent")
        assert browser.evaluate("document.title").startswith("Run <script>alert(1)</script><img src=http")
        slowest = browser.evaluate("document.querySelector('#slowest tbody td').innerText")
        assert slowest in ("late", "straggler", "cancelled while it ran")
        # Nothing sticks out to the right, so that nobody has to scroll.
        assert browser.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_a_browser_that_sees_nothing_proves_nothing(tmp_path: Path, browser_folder: Path) -> None:
    """The means of the other tests see what they are there to see."""
    path = tmp_path / "bad.html"
    path.write_text(
        "<script>console.error('said'); throw new Error('thrown')</script><img src='http://127.0.0.1:9/x.png'>"
    )
    with Browser(browser_folder) as browser:
        seen = browser.open(path.as_uri())
        assert seen.requests == [path.as_uri(), "http://127.0.0.1:9/x.png"]
        assert len(seen.complaints) == 3
