"""The site is built without a warning, and its reference has every public name."""

import re
from pathlib import Path

import pytest

import mpengine
import mpengine.observing
from tests.support import ROOT, run_python


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("sphinx", reason="Sphinx is not installed: the extra `docs`")
    folder = tmp_path_factory.mktemp("site")
    done = run_python(
        "-m", "sphinx", "-W", "--keep-going", "-n", "-q", str(ROOT / "docs"), str(folder), timeout=50, cwd=ROOT
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    return folder


def test_every_public_name_is_in_the_reference(site: Path) -> None:
    page = (site / "reference.html").read_text()
    there = set(re.findall(r'id="mpengine\.(\w+)"', page))
    assert {*mpengine.__all__} - there == set()


def test_every_event_is_in_the_reference(site: Path) -> None:
    page = (site / "reference.html").read_text()
    there = set(re.findall(r'id="mpengine\.observing\.(\w+)"', page))
    assert {event.__name__ for event in mpengine.observing.PublicEvent.__args__} - there == set()


def test_every_page_is_reached(site: Path) -> None:
    """From the first one, by its menu."""
    menu = (site / "index.html").read_text()
    pages = [path.relative_to(ROOT / "docs").with_suffix(".html") for path in (ROOT / "docs").rglob("*.md")]
    assert [str(page) for page in pages if f'href="{page}"' not in menu and page != Path("index.html")] == []


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        loaded = re.findall(r'<(?:script|link|img)[^>]+(?:src|href)="(https?:[^"]+)"', page.read_text())
        assert loaded == [], page
