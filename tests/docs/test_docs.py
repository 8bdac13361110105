"""The pages build, their code runs, and their command lines exist."""

from __future__ import annotations

import dataclasses
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch
import typer
from typer.testing import CliRunner

import natsel
from natsel.cli.main import app
from natsel.evolution import Ecology
from natsel.fitness import FITNESS
from natsel_papers.reproduce_evolution import MATCHED_FOR_ALL, Grid

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
# These have tests of their own, which also check what their code computes.
EXECUTED = [page for page in PAGES if page.name not in ("dynamics.md", "programs.md")]
COMMAND = typer.main.get_command(app)
NO_RUN = r"(?P<no_run><!-- no-run -->\s*\n)?"


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def blocks(page: Path, language: str) -> list[str]:
    """Return the code of a page in one language, without what is marked no-run."""
    found = re.finditer(NO_RUN + rf"```{language}\n(?P<code>.*?)```", text_of(page), re.DOTALL)
    return [match["code"] for match in found if not match["no_run"]]


def command_lines(page: Path) -> list[str]:
    """Return every natsel command line of the blocks of a page."""
    lines = [line for block in blocks(page, "sh") for line in block.splitlines()]
    lines += [line.removeprefix("$ ") for b in blocks(page, "console") for line in b.splitlines()]
    return [line for line in lines if line.startswith("natsel ")]


def parse(arguments: list[str]):
    """Let the command line parse arguments, without running anything."""
    command, words = COMMAND, ["natsel"]
    while hasattr(command, "commands"):
        assert arguments, f"{' '.join(words)} needs a command"
        assert arguments[0] in command.commands, f"{' '.join(words)} has no {arguments[0]}"
        words.append(arguments[0])
        command, arguments = command.commands[arguments[0]], arguments[1:]
    return command.make_context(" ".join(words), list(arguments))


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    pytest.importorskip("material")
    folder = tmp_path_factory.mktemp("site")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


def test_the_site_builds_strictly_and_holds_every_page(site):
    for page in (ROOT / "docs").glob("*.md"):
        assert (site / f"{page.stem}.html").is_file()


def test_a_built_page_fetches_nothing_from_elsewhere(site):
    for page in site.glob("*.html"):
        html = page.read_text(encoding="utf-8")
        fetched = re.findall(r"<(?:script|img|iframe)[^>]*\ssrc=\"?(https?:[^\s\">]+)", html)
        fetched += [
            link
            for tag in re.findall(r"<link[^>]*>", html)
            if re.search(r"rel=\"?(stylesheet|preconnect|icon)", tag)
            for link in re.findall(r"href=\"?(https?:[^\s\">]+)", tag)
        ]
        assert fetched == []


def test_formulas_need_no_script():
    for page in PAGES:
        assert not re.search(r"\$\$|\\\(|\\\[", text_of(page)), page.name


@pytest.mark.parametrize("page", EXECUTED, ids=lambda page: page.stem)
def test_the_code_of_a_page_runs_from_top_to_bottom(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "page"}
    with torch.random.fork_rng(devices=[]):
        for number, code in enumerate(blocks(page, "python"), 1):
            name = f"{page.name}, block {number}"
            exec(compile(code, name, "exec", dont_inherit=True), namespace)


def test_both_ways_of_the_readme_remove_something_as_printed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    pruning, evolving = blocks(ROOT / "README.md", "python")
    namespace = {"__name__": "page"}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        exec(compile(pruning, "README.md, a trained model", "exec"), namespace)
        saved = natsel.load("small", model=namespace["model"])
        assert saved[0].out_features == namespace["small"][0].out_features <= 32
        assert "True" in capsys.readouterr().out.splitlines()  # verified
        exec(compile(evolving, "README.md, its own loop", "exec"), namespace)
    num_left = namespace["small"][0].out_features
    assert 0 < num_left < 64
    assert f"{64 - num_left} of 64 populations are extinct" in capsys.readouterr().out


@pytest.mark.parametrize("line", sorted({line for page in PAGES for line in command_lines(page)}))
def test_a_command_line_parses(line):
    parse(shlex.split(line, comments=True)[1:])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_and_options_in_running_text_exist(page):
    prose = re.sub(r"```.*?```", "", text_of(page), flags=re.DOTALL)
    for line in re.findall(r"`(natsel [^`]+)`", prose):
        words = line.split()[1:]
        command = COMMAND
        while hasattr(command, "commands") and words and not words[0].startswith("-"):
            assert words[0] in command.commands, f"{page.name}: {line}"
            command, words = command.commands[words[0]], words[1:]
        known = {option for p in command.params for option in (*p.opts, *p.secondary_opts)}
        used = {word.split("=")[0] for word in words if word.startswith("--")}
        assert used <= {*known, "--help"}, f"{page.name}: {line}"


def test_options_on_the_quickstart_exist():
    command = COMMAND.commands["evolve"]
    known = {option for p in command.params for option in (*p.opts, *p.secondary_opts)}
    rows = re.findall(r"^\| `(--[a-z-]+)", text_of(ROOT / "docs" / "quickstart.md"), re.MULTILINE)
    assert rows
    assert set(rows) <= known


def test_commands_print_what_the_pages_show(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shown = [block for page in PAGES for block in blocks(page, "console")]
    assert shown
    for block in shown:
        line, _, expected = block.partition("\n")
        result = CliRunner().invoke(app, shlex.split(line.removeprefix("$ "))[1:])
        assert matches(result.output, expected), f"{line}\n{result.output}"


def matches(printed, shown):
    """Compare words; a line of three dots stands for lines left out, numbers of lines may move."""
    printed, shown = (re.sub(r"\.py:\d+", ".py:N", text) for text in (printed, shown))
    words = " ".join(printed.split())
    parts = [" ".join(part.split()) for part in re.split(r"(?m)^\.\.\.$", shown)]
    return re.fullmatch(" .* ".join(map(re.escape, parts)), words) is not None


def test_what_a_page_leaves_out_it_says():
    printed = "a  b\nc d x.py:3\ne f\n"
    assert matches(printed, "a b\nc d\nx.py:4\ne f")
    assert matches(printed, "a b\n...\ne f\n")
    assert not matches(printed, "a b\ne f\n")
    assert not matches(printed, "a b\n...\ne g\n")
    assert not matches(printed, "c d\n...\ne f\n")


def test_the_constants_have_the_defaults_on_the_page():
    page = text_of(ROOT / "docs" / "quickstart.md")
    for field in dataclasses.fields(Ecology):
        default = "of the law" if field.default is dataclasses.MISSING else field.default
        assert f"| `{field.name}` | {default} |" in page


def test_the_versions_on_the_page_are_those_of_the_tests():
    pinned = dict(
        re.findall(r"^([a-z]+)==([\d.]+)$", text_of(ROOT / "constraints.txt"), re.MULTILINE)
    )
    page = " ".join(text_of(ROOT / "README.md").split())
    assert f"torch {pinned['torch']} and transformers {pinned['transformers']}" in page
    needed = tomllib.loads(text_of(ROOT / "pyproject.toml"))["project"]["dependencies"]
    assert f"torch>={pinned['torch'].rpartition('.')[0]}" in needed


def test_every_registered_fitness_is_on_the_quickstart():
    page = text_of(ROOT / "docs" / "quickstart.md")
    listed = re.search(r"Registered scorers: (.*?)\.", page)
    assert set(re.findall(r"`(.*?)`", listed[1])) == set(FITNESS)


def test_the_number_of_trainings_is_the_one_on_the_page():
    grid = Grid()
    laws, cuts = len(grid.dynamics), len(grid.sparsities)
    matched = laws * len(MATCHED_FOR_ALL) + cuts - len(MATCHED_FOR_ALL)
    total = grid.seeds * (1 + cuts + laws + matched)
    assert f"{total} trainings" in text_of(ROOT / "docs" / "reproduction.md")


def test_the_constants_of_the_laws_are_those_of_the_table():
    from natsel.dynamics import DYNAMICS

    page = (ROOT / "docs" / "dynamics.md").read_text()
    for name, law in DYNAMICS.items():
        c = law.constants()
        row = f"| `{name}` | {c['rate']:g} | {c['pressure']:g} | {c['adaptation']:g} |"
        assert row in page


def test_the_page_on_programs_shows_what_its_code_prints(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    page = ROOT / "docs" / "programs.md"
    for code in blocks(page, "python"):
        exec(compile(code, page.name, "exec"), {"__name__": "page"})
    assert capsys.readouterr().out == "".join(blocks(page, "text"))


def test_the_page_on_audits_shows_what_its_code_prints(capsys):
    page = ROOT / "docs" / "audit.md"
    with torch.random.fork_rng(devices=[]):
        exec(compile(blocks(page, "python")[0], page.name, "exec"), {"__name__": "page"})
    assert capsys.readouterr().out == "".join(blocks(page, "text"))
