"""The plot stands alone, shows what was measured, and nothing in it lies on top of something else."""

from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mpengine.report.speedup import LOOP, Curve, amdahl, curve
from mpengine.report.speedup_plot import HEIGHT, WIDTH, plot
from tests.report.browser import CHROMIUM, Browser

SVG = "{http://www.w3.org/2000/svg}"


def elements(svg: str, tag: str, kind: str | None = None) -> list[ElementTree.Element]:
    return [one for one in ElementTree.fromstring(svg).iter(SVG + tag) if kind is None or one.get("class") == kind]


def texts(svg: str) -> list[str]:
    return [one.text or "" for one in elements(svg, "text")]


def by_law(serial: float, *counts: int, cpus: int = 1000, loop: float | None = None) -> Curve:
    one = {n: 1 / amdahl(serial, min(n, cpus)) for n in counts}
    rounds = [{n: seconds * pace**n for n, seconds in one.items()} for pace in (1, 1.003, 1.01)]
    return curve([each | ({} if loop is None else {LOOP: loop}) for each in rounds], jobs=10, cpus=cpus)


CURVES = {
    "two": by_law(0.03, 1, 2, loop=0.97),
    "eight": by_law(0.02, *range(1, 9), loop=0.97),
    "sixteen, and fewer CPUs": by_law(0.2, *range(1, 17), cpus=12, loop=1.1),
    "powers": by_law(0.05, 1, 2, 4, 8, 16, 32, 64, 128, loop=0.5),
    "crowded": by_law(0.05, 1, 2, 4, 60, 61, 62, 63, 64),
    "no loop": by_law(0.5, 1, 2, 3),
    "one": by_law(0.0, 1, loop=2.0),
    "slower": curve([{1: 1.0, 2: 1.5, 64: 4.0}], jobs=1, cpus=64),
    "more than all CPUs": by_law(0.0, 1, 2, 4, 8, cpus=2),
}


def test_a_point_for_each_row_where_it_belongs() -> None:
    found = CURVES["eight"]
    svg = plot(found, "title", "subtitle")
    points = [(float(one.get("cx", 0)), float(one.get("cy", 0))) for one in elements(svg, "circle")][:8]
    steps = [there[0] - here[0] for here, there in pairwise(points)]
    assert steps == pytest.approx([steps[0]] * 7, abs=0.2)
    (ideal,) = [one.get("d", "") for one in elements(svg, "path", "ideal") if "L" in one.get("d", "")]
    x1, y1 = map(float, ideal.split("L")[0].removeprefix("M").split())
    x8, y8 = map(float, ideal.split("L")[1].split("H")[0].split())
    assert (x1, x8) == pytest.approx((points[0][0], points[-1][0]), abs=0.2)
    for row, (_, y) in zip(found.rows, points, strict=True):
        assert y == pytest.approx(y1 + (y8 - y1) * (row.speedup.median - 1) / 7, abs=0.2)
    assert {f"{row.speedup.median:.2f}" for row in found.rows} <= set(texts(svg))
    assert {str(row.workers) for row in found.rows} <= set(texts(svg))


def test_the_legend_names_what_there_is() -> None:
    law, loop = "Amdahl's law, serial part 2.4 %", "plain loop, without the engine"
    shown = texts(plot(CURVES["eight"], "", ""))
    assert any(one.startswith("Amdahl's law, serial part ") for one in shown)
    assert loop in shown
    alone = plot(curve([{1: 1.0}], jobs=1, cpus=4), "", "")
    assert not {law, loop} & set(texts(alone))
    assert not elements(alone, "path", "law")
    assert not elements(alone, "path", "loop")


def test_more_workers_than_cpus_are_marked_and_the_law_ends_there() -> None:
    svg = plot(CURVES["more than all CPUs"], "", "")
    (mark,) = elements(svg, "path", "cpus")
    law = max(elements(svg, "path", "law"), key=lambda one: len(one.get("d", "")))
    assert law.get("d", "").rpartition("L")[2].split()[0] == mark.get("d", "").removeprefix("M").split()[0]
    ideal = max(elements(svg, "path", "ideal"), key=lambda one: len(one.get("d", "")))
    assert ideal.get("d", "").rpartition("L")[2].split()[0] == mark.get("d", "").removeprefix("M").split()[0]
    assert "2 CPUs" in texts(svg)
    assert not elements(plot(CURVES["two"], "", ""), "path", "cpus")


@given(st.text(), st.text())
@example("a\ufffe\uffff\0\x0b", "<&>\"'\ud800")
def test_any_title_is_text(title: str, subtitle: str) -> None:
    svg = plot(CURVES["two"], title, subtitle)
    kinds = {one.tag.removeprefix(SVG) for one in ElementTree.fromstring(svg.encode("utf-8", "replace")).iter()}
    assert kinds == {"svg", "style", "rect", "text", "path", "circle", "title"}


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium: apt-get install chromium")
def test_nothing_lies_on_top_of_a_label_and_nothing_is_asked_for(tmp_path: Path) -> None:
    boxes = """Array.from(document.querySelectorAll('text'), e => {
        const b = e.getBoundingClientRect(); return [e.textContent, b.left, b.top, b.right, b.bottom] })"""
    with Browser(tmp_path / "profile") as browser:
        for name, found in CURVES.items():
            path = tmp_path / f"{name}.svg"
            path.write_text(plot(found, "mpengine bench path/to/thumbnails.py:resize", "10 jobs; " + "Xeon " * 20))
            seen = browser.open(path.as_uri())
            assert seen.requests == [path.as_uri()]
            assert seen.complaints == []
            labels = browser.evaluate(boxes)
            assert len(labels) > 8
            for number, (text, left, top, right, bottom) in enumerate(labels):
                assert 0 <= left < right <= WIDTH, (name, text)
                assert 0 <= top < bottom <= HEIGHT, (name, text)
                for other, its_left, its_top, its_right, its_bottom in labels[:number]:
                    apart = left >= its_right or its_left >= right or top >= its_bottom or its_top >= bottom
                    assert apart, (name, text, other)
