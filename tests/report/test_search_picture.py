"""A search in one picture: every level of every generation, and nothing that a name could break."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from natsel.report.search import rows_of, search_picture

SVG = "{http://www.w3.org/2000/svg}"


def generation(number: int, best: float, *vector: object) -> dict[str, object]:
    return {
        "number": number,
        "evaluations": 4 * number,
        "tokens": 100 * number,
        "best": best,
        "vector": list(vector),
    }


def test_a_row_a_community_and_a_row_a_branch() -> None:
    history = [generation(0, 1.0, 8, [], 2), generation(1, 0.5, 4, [1], 2)]
    levels = {"h.0.mlp": [4, 8], "h:branches": [1, 2], "h.1.mlp": [2, 2]}
    rows = list(rows_of(history, levels))
    assert [row.name for row in rows] == ["h.0", "0", "1", "h.1"]
    assert [row.gone for row in rows] == [(0.0, 0.5), (0.0, 0.0), (0.0, 1.0), (0.0, 0.0)]
    root = ElementTree.fromstring(search_picture({"history": history, "levels": levels}))
    told = [e.text for e in root.iter(f"{SVG}title")]
    assert "h.0, mlp: 50% gone in generations 1 to 1" in told
    assert "1, h:branches: 100% gone in generations 1 to 1" in told
    assert "h.1, mlp: 0% gone in generations 0 to 1" in told
    assert sum(str(t).startswith("generation ") for t in told) == 2


def test_one_generation_and_names_of_any_letters() -> None:
    found = {"history": [generation(0, 1.0, 1)], "levels": {"<script>.&": [1, 2]}}
    picture = search_picture(found)
    assert "<script>" not in picture
    ElementTree.fromstring(picture)


@pytest.mark.parametrize("found", [{}, {"history": [], "levels": {"a": [1, 2]}}])
def test_no_search(found) -> None:
    with pytest.raises(ValueError, match="no history"):
        search_picture(found)
