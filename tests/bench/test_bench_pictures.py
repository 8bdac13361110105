"""The page of benchmarks is what the results give, and its pictures show their numbers."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from natsel_bench.pictures import page, pictures, write
from natsel_bench.svg import Dot, Line, dots, lines

ROOT = Path(__file__).parents[2]
SUMMARY = json.loads((ROOT / "results" / "bench" / "bench.json").read_text())
SVG = "{http://www.w3.org/2000/svg}"


def test_the_page_and_its_pictures_are_those_of_the_results(tmp_path):
    for path in write(ROOT / "results" / "bench" / "bench.json", tmp_path):
        checked_in = ROOT / "docs" / path.relative_to(tmp_path)
        assert path.read_text() == checked_in.read_text(), (
            f"{checked_in} is not what results/bench/bench.json gives: run "
            "`python -m natsel_bench.pictures results/bench/bench.json docs`"
        )


def test_a_dot_lies_where_its_number_says():
    rows = [Dot("a", "x", 1.0, 0.5, 1.5), Dot("a", "y", 2.0, 2.0, 2.0), Dot("b", "<z>", 1.5, 1, 2)]
    root = ElementTree.fromstring(dots(rows, title="t", marked=1.0, least=0.0))
    first, second, third = (float(c.get("cx")) for c in root.iter(f"{SVG}circle"))
    assert third == pytest.approx((first + second) / 2, abs=0.11)
    bars = [
        (float(b.get("x1")), float(b.get("x2")))
        for b in root.iter(f"{SVG}line")
        if b.get("class") == "bar"
    ]
    assert (bars[0][0] + bars[0][1]) / 2 == pytest.approx(first, abs=0.11)
    assert [t.text for t in root.iter(f"{SVG}text") if t.get("class") == "group"] == ["a", "b"]
    assert "<z>: 1.500 (1.000 to 2.000)" in [t.text for t in root.iter(f"{SVG}title")]


def test_a_power_is_a_straight_line():
    row = Line("squares", [(10, 1), (100, 100), (1000, 10000)])
    root = ElementTree.fromstring(lines([row], across="x", up="y"))
    places = [(float(c.get("cx")), float(c.get("cy"))) for c in root.iter(f"{SVG}circle")]
    (x0, y0), (x1, y1), (x2, y2) = places
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.11)
    assert y0 - y1 == pytest.approx(y1 - y2, abs=0.11)
    assert y0 > y1


def test_every_row_of_the_results_is_in_a_picture():
    drawn = pictures(SUMMARY["results"])
    for name, part in (("step", "step"), ("score", "score")):
        num_dots = drawn[f"{name}.svg"].count('class="dot"')
        assert num_dots == len(SUMMARY["results"][part]["rows"])
    assert drawn["extract.svg"].count('class="dot"') == len(
        SUMMARY["results"]["extract"]["latency"]
    )


def test_the_page_asks_one_question_a_table():
    sections = re.split(r"(?m)^## ", page(SUMMARY))[1:]
    for section in sections:
        assert section.splitlines()[0].endswith("?")
        assert len(re.findall(r"(?m)^\| --- ", section)) == 1
