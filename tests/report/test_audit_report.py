"""The page of an audit: its words, its heat maps, its tables, and names of others' making."""

from __future__ import annotations

import pytest
import torch

from natsel.common.files import write_json
from natsel.report import write_audit_report

A = torch.tensor([4.0, 3.0, 2.0, 1.0])
SCORES = {"a": A, "b": torch.tensor([4.0, 1, 3, 2]), "exp": A.exp(), "flat": A * 0}


def test_words_maps_and_tables(audit_folder, read_page):
    page = read_page(write_audit_report(audit_folder(SCORES)))
    assert "4 scorers give 3 orders." in page.text
    assert "exp is a: one order, ties included" in page.text
    assert "2 communities, 8 populations" in page.text
    assert "2 · 4 neurons" in page.text
    assert len(page.figures) == 3 * 5
    correlations, survivors, removed = (figure["data"][0] for figure in page.figures[:3])
    assert correlations["text"][0] == ["1.00", "0.40", "1.00", "–"]
    assert survivors["z"][0] == [1, 0.5, 1, pytest.approx(5 / 7)]
    assert removed["z"][0] == [1, 0, 1, pytest.approx(1 / 3)]
    assert correlations["zmin"] == -1
    assert page.figures[1]["layout"]["yaxis"]["ticktext"] == ["a", "b", "exp", "flat"]
    numbers = dict(page.numbers)
    assert float(numbers["overall.spearman.0.1"]) == pytest.approx(0.4)
    assert float(numbers["communities.1.at.1.agreement.0.1"]) == 0.5


def test_names_are_escaped(audit_folder, read_page):
    evil = "</script><script>alert(1)</script>"
    page = read_page(write_audit_report(audit_folder({"a": A, evil: -A})))
    assert page.tags.count("script") == 2 + len(page.figures)
    assert evil in page.text


def test_what_is_no_audit_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        write_audit_report(tmp_path)
    write_json(tmp_path / "result.json", {"kind": "prune"})
    with pytest.raises(ValueError, match="is not an audit"):
        write_audit_report(tmp_path)
    assert not (tmp_path / "report.html").exists()
