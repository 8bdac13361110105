"""The run report says what result.json says, and nothing else."""

from __future__ import annotations

import json

import pytest
from safetensors.torch import load_file, save_file

from natsel.report import write_run_report


def test_headline_names_extinction_accuracy_and_work(run_folder, read_page):
    def change(result):
        result["extinct"] = {"share": 0.5234, "count": 402, "total": 768}

    page = read_page(write_run_report(run_folder(change)))
    assert (
        "52.3 % of the neurons went extinct; accuracy 98.41 % → 98.38 %; "
        "2.2× fewer multiply-accumulates." in page.text
    )


def test_every_number_of_the_file_is_on_the_page(
    run_folder, read_page, assert_numbers_agree, num_numbers
):
    folder = run_folder()
    result = json.loads((folder / "result.json").read_text())
    keys = assert_numbers_agree(read_page(write_run_report(folder)), result)
    assert len(keys) == num_numbers(result) - 1  # the schema's own number is not shown


def test_one_figure_triple_per_community_and_two_of_accuracy(run_folder, read_page):
    page = read_page(write_run_report(run_folder(sizes={"a": 40, "b": 20})))
    assert len(page.figures) == 2 * 3 + 2


def test_many_communities_fold_the_rest(run_folder, read_page):
    page = read_page(write_run_report(run_folder(sizes={f"block.{i}": 8 for i in range(15)})))
    assert "3 more communities" in page.text
    assert len(page.figures) == 15 * 3 + 2
    assert page.tags.count("details") == 3


@pytest.mark.parametrize("num_communities", [2, 60])
def test_a_page_stays_under_two_megabytes(run_folder, num_communities):
    folder = run_folder(sizes={f"block.{i}.linear": 160 for i in range(num_communities)})
    assert write_run_report(folder).stat().st_size < 2_000_000


def test_where_many_communities_share_a_page_each_has_fewer_lines(run_folder, read_page):
    page = read_page(write_run_report(run_folder(sizes={f"b{i}": 160 for i in range(15)})))
    lines = [t for t in page.figures[0]["data"] if t["mode"] == "lines"]
    assert sum(len(t["customdata"]) for t in lines) == 50
    assert "50 of the 160 populations" in page.text


def test_lines_over_the_same_places_say_these_once(run_folder, read_page):
    page = read_page(write_run_report(run_folder(sizes={"a": 40})))
    for trace in page.figures[0]["data"]:
        if trace["mode"] == "lines":
            assert trace["meta"] == {"repeat": "x"}
            assert len(trace["y"]) == (len(trace["x"]) + 1) * len(trace["customdata"])


def test_latency_is_judged_by_its_intervals(run_folder, read_page):
    def change(result):
        slow = {"median_ms": 3.0, "low_ms": 2.9, "high_ms": 3.1}
        result["dense"]["latency"]["256"] = {"median_ms": 1.0, "low_ms": 0.9, "high_ms": 1.1}
        result["extracted"]["latency"]["256"] = slow
        result["dense"]["latency"]["512"] = {"median_ms": 4.0}
        result["extracted"]["latency"]["512"] = {"median_ms": 1.0}

    text = read_page(write_run_report(run_folder(change))).text
    assert "Batch 1: no measurable difference: the intervals overlap." in text
    assert "Batch 64: 1.8× faster" in text
    assert "Batch 256: 3.0× slower" in text
    assert "Batch 512: no interval was recorded, so nothing is said." in text


def test_no_savings_are_not_called_savings(run_folder, read_page):
    def change(result):
        result["extracted"]["macs"] = result["dense"]["macs"]

    text = read_page(write_run_report(run_folder(change))).text
    assert "as many multiply-accumulates as before" in text
    assert "fewer multiply-accumulates" not in text


def test_failed_verification_comes_before_the_figures(run_folder, read_page):
    def change(result):
        result["verification"] |= {"passed": False, "max_abs_difference": 0.31}

    text = read_page(write_run_report(run_folder(change))).text
    assert text.index("Verification failed.") < text.index("of 768 neurons")
    assert "Verified." not in text
    assert "differ by up to 0.31; the tolerance is 1e-05" in text


def test_capacity_that_was_missed_is_said(run_folder, read_page):
    def change(result):
        result["capacity"] = {"asked": 0.9, "reached": 0.71, "landed": False, "message": "Slow."}

    text = read_page(write_run_report(run_folder(change))).text
    assert "The capacity was not reached. Slow. Asked 90.0 %, reached 71.0 %." in text


def test_mixed_kinds_are_populations(run_folder, read_page):
    def change(result):
        result["communities"][1]["kind"] = "head"

    assert "of the populations went extinct" in read_page(write_run_report(run_folder(change))).text


SECTIONS = [
    "config",
    "versions",
    "hardware",
    "git",
    "dense",
    "evolved",
    "extinct",
    "communities",
    "extracted",
    "verification",
    "capacity",
    "table",
    "history",
    "seconds",
]


@pytest.mark.parametrize("section", SECTIONS)
def test_a_missing_section_is_left_out(run_folder, read_page, assert_numbers_agree, section):
    folder = run_folder(lambda result: result.pop(section))
    page = read_page(write_run_report(folder))
    result = json.loads((folder / "result.json").read_text())
    keys = assert_numbers_agree(page, result)
    assert not any(key.split(".")[0] == section for key in keys)


@pytest.mark.parametrize("value", [None, [], {}, "text", 3, [None]])
def test_a_section_of_another_shape_never_fails(run_folder, value):
    def change(result):
        for section in SECTIONS:
            result[section] = value

    assert write_run_report(run_folder(change)).is_file()


def test_an_empty_result_without_masses_still_gives_a_page(run_folder, read_page):
    page = read_page(write_run_report(run_folder(dict.clear, masses=False)))
    assert page.figures == []
    assert "A run of natsel." in page.text


def test_half_precision_masses_are_drawn(run_folder, read_page):
    folder = run_folder(sizes={"a": 12})
    tensors = load_file(folder / "masses.safetensors")
    tensors["mass/a"] = tensors["mass/a"].bfloat16()
    save_file(tensors, folder / "masses.safetensors")
    assert len(read_page(write_run_report(folder)).figures) == 3 + 2


def test_names_with_dots_keep_their_numbers(run_folder, read_page):
    page = read_page(write_run_report(run_folder(lambda r: r["config"].update({"a.b": 7}))))
    assert ("config.a.b", "7") in page.numbers


def test_numbers_that_are_not_finite_are_named(run_folder, read_page):
    def change(result):
        result["history"][0]["loss"] = float("nan")
        result["table"][0]["mean"] = float("inf")

    assert read_page(write_run_report(run_folder(change))).text.count("not finite") == 2


@pytest.mark.parametrize(
    "name", ["<script>alert(1)</script>", "</script><img src=x onerror=alert(1)>", '"><b>&amp;']
)
def test_names_are_escaped_everywhere(run_folder, read_page, name):
    def change(result):
        result["communities"][0]["name"] = name
        result["communities"][0]["kind"] = name
        result["config"]["model"] = name
        result["config"][name] = name
        result["table"][0]["method"] = name
        result["capacity"]["message"] = name
        result["dense"]["latency"][name] = result["dense"]["latency"]["1"]
        result["extracted"]["latency"][name] = result["extracted"]["latency"]["1"]

    clean = read_page(write_run_report(run_folder()))
    page = read_page(write_run_report(run_folder(change, sizes={name: 512, "layers.2": 256})))
    for tag in ("script", "img", "b"):
        assert page.tags.count(tag) == clean.tags.count(tag), tag
    assert name in page.text
    labels = json.dumps([t.get("name", "") for f in page.figures for t in f["data"]])
    assert "<" not in labels


def test_the_page_asks_no_network(run_folder, read_page):
    page = read_page(write_run_report(run_folder()))
    assert "link" not in page.tags
    assert not [a for a in page.attributes if a[1] in ("src", "href", "srcset", "action")]
    policy = [value for _, name, value in page.attributes if name == "content"][-1]
    assert policy.startswith("default-src 'none';")
    assert "http" not in policy


def test_the_page_is_replaced_whole(run_folder):
    folder = run_folder()
    (folder / "report.html").write_text("old")
    before = {p.name for p in folder.iterdir()}
    assert write_run_report(folder) == folder / "report.html"
    assert {p.name for p in folder.iterdir()} == before
    assert (folder / "report.html").read_text().startswith("<!doctype html>")


def test_a_folder_without_a_result_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"result\.json does not exist"):
        write_run_report(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]"])
def test_a_broken_result_is_refused(tmp_path, text):
    (tmp_path / "result.json").write_text(text)
    with pytest.raises(ValueError, match=r"result\.json is not"):
        write_run_report(tmp_path)
