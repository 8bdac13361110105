"""A real browser draws the pages without an error, offline."""

from __future__ import annotations

import json
import re
import shutil
import subprocess

import plotly.graph_objects as go
import pytest
import torch

from natsel.report import write_audit_report, write_run_report
from natsel_papers.report_reproduction import write_reproduction_report

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="no chromium or google-chrome on PATH: pages are not drawn"
)

SCORES = {"a": torch.arange(4.0), "b": torch.tensor([3.0, 1, 0, 2]), "<flat>": torch.zeros(4)}


def browse(path, tmp_path, *options):
    done = subprocess.run(
        [
            CHROMIUM,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            f"--user-data-dir={tmp_path / 'profile'}",
            "--host-resolver-rules=MAP * ~NOTFOUND",
            "--enable-logging=stderr",
            "--virtual-time-budget=10000",
            "--window-size=1200,1600",
            *options,
            path.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert not [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return done.stdout


@needs_chromium
def test_the_run_report_draws_and_agrees_with_its_file(
    run_folder, tmp_path_factory, parse_page, assert_numbers_agree
):
    def change(result):
        result["communities"][0]["name"] = "</script><script>alert(1)</script>"

    folder = run_folder(change, sizes={"<script>alert(1)</script>": 300, "layers.2": 64})
    profile = tmp_path_factory.mktemp("browser")
    page = parse_page(browse(write_run_report(folder), profile, "--dump-dom"))
    drawn = [value for _, name, value in page.attributes if name == "class"]
    assert drawn.count("main-svg") >= 8
    assert ("html", "data-drawn", "8") in page.attributes
    assert_numbers_agree(page, json.loads((folder / "result.json").read_text()))


@needs_chromium
def test_the_reproduction_report_draws(reproduction_folder, tmp_path_factory, parse_page):
    path = write_reproduction_report(reproduction_folder())
    page = parse_page(browse(path, tmp_path_factory.mktemp("browser"), "--dump-dom"))
    assert ("html", "data-drawn", "4") in page.attributes


@needs_chromium
def test_the_audit_report_draws(audit_folder, tmp_path_factory, parse_page, assert_numbers_agree):
    folder = audit_folder(SCORES)
    path = write_audit_report(folder)
    page = parse_page(browse(path, tmp_path_factory.mktemp("browser"), "--dump-dom"))
    assert ("html", "data-drawn", "15") in page.attributes
    assert_numbers_agree(page, json.loads((folder / "result.json").read_text()))


POINT = """
<script>
const svg = document.querySelector(".plot svg");
const box = svg.getBoundingClientRect();
const where = { clientX: box.left + FRACTION * box.width, clientY: box.top + box.height / 2 };
svg.dispatchEvent(new PointerEvent("pointermove", where));
</script>
"""


@needs_chromium
def test_what_is_near_the_pointer_is_told(run_folder, tmp_path_factory, parse_page):
    path = write_run_report(run_folder(sizes={"a": 40}))
    text = path.read_text().replace("</body>", POINT.replace("FRACTION", "0.25") + "</body>")
    path.write_text(text)
    page = parse_page(browse(path, tmp_path_factory.mktemp("browser"), "--dump-dom"))
    assert re.search(r"population \d+ step [\d,]+ mass 0?\.?\d+", page.text)


@needs_chromium
@pytest.mark.parametrize("scheme", ["0", "1"])
def test_the_page_paints_in_both_schemes(run_folder, tmp_path_factory, scheme):
    profile = tmp_path_factory.mktemp("browser")
    picture = profile / "page.png"
    options = (f"--blink-settings=preferredColorScheme={scheme}", f"--screenshot={picture}")
    browse(write_run_report(run_folder()), profile, *options)
    assert picture.stat().st_size > 50_000


def paint(value):
    """Put a colour where the page's script would."""
    if isinstance(value, str):
        return "#123456" if value.startswith("@") else value
    if isinstance(value, list):
        return [paint(item) for item in value]
    return {k: paint(v) for k, v in value.items()} if isinstance(value, dict) else value


def test_plotly_accepts_every_figure(run_folder, reproduction_folder, audit_folder, read_page):
    pages = [write_run_report(run_folder())]
    figures = read_page(pages[0]).figures
    figures += read_page(write_reproduction_report(reproduction_folder())).figures
    figures += read_page(write_audit_report(audit_folder(SCORES))).figures
    assert len(figures) == 12 + 15
    for figure in figures:
        go.Figure(paint(figure))
