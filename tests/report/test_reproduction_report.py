"""The reproduction report, and its table in markdown."""

from __future__ import annotations

import json

import pytest

from natsel.report import to_markdown
from natsel.report.accuracy import accuracy_figures, method_colours
from natsel_papers.report_reproduction import write_reproduction_report


def cut(family, method, sparsity, mean, half=None, **more):
    ends = {} if half is None else {"low": mean - half, "high": mean + half}
    return {"family": family, "method": method, "sparsity": sparsity, "mean": mean, **ends, **more}


def test_every_number_of_the_files_is_on_the_page(
    reproduction_folder, read_page, assert_numbers_agree, num_numbers
):
    folder = reproduction_folder()
    root = {
        "table": json.loads((folder / "table.json").read_text()),
        "summary": json.loads((folder / "summary.json").read_text()),
    }
    keys = assert_numbers_agree(read_page(write_reproduction_report(folder)), root)
    assert len(keys) == num_numbers(root)


def test_the_page_leads_with_the_sentences_and_names_the_test(reproduction_folder, read_page):
    text = read_page(write_reproduction_report(reproduction_folder())).text
    assert "Half of the neurons go at no measured cost; the paper loses ten points." in text
    assert "paired t-test over seeds, Holm-corrected" in text
    assert "98.36 % ± 0.05▲" in text
    assert "97.90 % ± 0.05n.s." in text
    assert "The definition of fitness is ours." in text


def test_without_a_summary_the_rows_speak(reproduction_folder, read_page):
    page = read_page(write_reproduction_report(reproduction_folder(summary=False)))
    assert "logistic keeps 98.38 % at 50 % removed; the paper reports 88.50 %." in page.text
    assert "the files do not name it" in page.text
    assert len(page.figures) == 4


def test_an_empty_table_gives_a_page(tmp_path, read_page):
    (tmp_path / "table.json").write_text("[]")
    assert read_page(write_reproduction_report(tmp_path)).figures == []


def test_names_are_escaped(tmp_path, read_page):
    evil = "</script><script>alert(1)</script>"
    rows = [cut("dynamic", evil, 0.5, 0.9, 0.01, protocol=evil, compared_with=evil, better=True)]
    (tmp_path / "table.json").write_text(json.dumps(rows))
    summary = {"title": evil, "sentences": [evil], "notes": [evil], "claims": [{"claim": evil}]}
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    page = read_page(write_reproduction_report(tmp_path))
    assert page.tags.count("script") == 2 + len(page.figures)
    assert evil in page.text


@pytest.mark.parametrize("text", ["{}", "[1]", "nonsense"])
def test_a_broken_table_is_refused(tmp_path, text):
    (tmp_path / "table.json").write_text(text)
    with pytest.raises(ValueError, match=r"table\.json is not"):
        write_reproduction_report(tmp_path)


def test_a_method_keeps_its_colour_in_every_picture():
    rows = [cut("dynamic", "a", 0.5, 0.9), cut("dynamic", "b", 0.5, 0.9)]
    colours = method_colours(rows)
    ((_, figure),) = accuracy_figures(rows[1:], colours)
    assert [t["line"]["color"] for t in figure["data"]] == [colours["dynamic", "b"]]


def test_markdown_groups_families_and_keeps_the_paper_apart():
    rows = [
        cut("paper", "stated", 0.5, 0.885),
        cut("one-shot", "magnitude", 0.5, 0.9012, 0.004),
        cut("dynamic", "logistic", 0.35, 0.9841, 0.0005, uncut=0.9843),
        cut("dynamic", "logistic", 0.5, 0.9838, 0.0005, uncut=0.9843),
        cut("dynamic", "replicator", 0.5, 0.98, 0.001, uncut=0.9829),
    ]
    assert to_markdown(rows).splitlines()[:6] == [
        "| family | method | uncut | 35 % | 50 % |",
        "| --- | --- | ---: | ---: | ---: |",
        "| evolved during training | logistic | 98.43 | 98.41 ± 0.05 | 98.38 ± 0.05 |",
        "|  | replicator | 98.29 |  | 98.00 ± 0.10 |",
        "| selected once, after training | magnitude | – |  | 90.12 ± 0.40 |",
        "| the paper's figures | stated | – |  | 88.50 |",
    ]


def test_markdown_tables_per_protocol_share_the_rows_of_none():
    rows = [
        cut("dynamic", "logistic", 0.5, 0.97, 0.01, protocol="paper"),
        cut("dynamic", "logistic", 0.5, 0.98, 0.01, protocol="matched"),
        cut("paper", "stated", 0.5, 0.885),
    ]
    text = to_markdown(rows)
    assert text.count("### ") == 2
    assert text.count("88.50") == 2
    assert text.index("97.00 ± 1.00") < text.index("### Matched") < text.index("98.00 ± 1.00")


def test_markdown_keeps_rows_that_share_a_cell_and_names_that_look_like_markup():
    rows = [cut("dynamic", "a|<b>*", 0.5, 0.97), cut("dynamic", "a|<b>*", 0.5, 0.98)]
    assert "| evolved during training | a\\|&lt;b>\\* | 97.00; 98.00 |" in to_markdown(rows)


def test_markdown_of_nothing():
    assert to_markdown([]) == "No results.\n"
