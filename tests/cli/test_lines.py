"""Where output is no terminal, long work tells in lines how far it is; quick work tells nothing."""

import json
import logging

import pytest

from natsel.cli.console import Voice
from natsel.cli.lines import Lines


class Clock:
    """A clock that somebody moves."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def steps(progress, clock, what, total, seconds, start=0):
    for done in range(start, total + 1):
        progress(what, done, total)
        if done < total:
            clock.now += seconds


@pytest.fixture
def told():
    """Lines with the second at which each was told."""
    return []


@pytest.fixture
def progress(told):
    clock = Clock()
    return Lines(lambda line: told.append((clock.now, line)), clock=clock), clock


def test_a_line_every_thirty_seconds_and_one_at_the_end(progress, told):
    lines, clock = progress
    steps(lines, clock, "train", 100, 1.0)
    assert told == [
        (30.0, "train: 30 of 100, 0:30, about 1:10 left"),
        (60.0, "train: 60 of 100, 1:00, about 0:40 left"),
        (90.0, "train: 90 of 100, 1:30, about 0:10 left"),
        (100.0, "train: done, 1:40"),
    ]


def test_what_is_quick_tells_nothing(progress, told):
    lines, clock = progress
    for stage in "abc":
        steps(lines, clock, stage, 10, 0.9)
    assert told == []


def test_many_quick_stages_tell_now_and_then(progress, told):
    lines, clock = progress
    for number in range(60):
        steps(lines, clock, f"cell {number}", 2, 1.0)
    assert [when for when, _ in told] == [30.0, 60.0, 90.0]
    assert told[0][1] == "cell 15: 0 of 2, 0:00"


def test_a_resumed_stage_foretells_by_its_own_pace(progress, told):
    lines, clock = progress
    steps(lines, clock, "train", 100, 10.0, start=90)
    assert told[0] == (30.0, "train: 93 of 100, 0:30, about 1:10 left")


def test_hours_are_told(progress, told):
    lines, clock = progress
    steps(lines, clock, "train", 2, 3700.0)
    assert [line for _, line in told] == [
        "train: 1 of 2, 1:01:40, about 1:01:40 left",
        "train: done, 2:03:20",
    ]


def test_a_stage_without_steps_tells_its_end(progress, told):
    lines, clock = progress
    lines("load cifar10", 0, 1)
    clock.now = 12.0
    lines("load cifar10", 1, 1)
    lines("load cifar10", 1, 1)
    assert told == [(12.0, "load cifar10: done, 0:12")]


def long_work(voice, clock):
    with voice.progress() as progress:
        steps(progress, clock, "train", 10, 5.0)


def test_lines_go_to_standard_error(capsys, clock, monkeypatch):
    monkeypatch.setattr(Lines.__init__, "__kwdefaults__", {"clock": clock})
    long_work(Voice(), clock)
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == (
        "natsel: train: 6 of 10, 0:30, about 0:20 left\nnatsel: train: done, 0:50\n"
    )


@pytest.mark.parametrize("voice", [Voice(quiet=True), Voice(as_json=True)])
def test_who_asks_for_silence_gets_it(capsys, clock, monkeypatch, voice):
    monkeypatch.setattr(Lines.__init__, "__kwdefaults__", {"clock": clock})
    long_work(voice, clock)
    assert capsys.readouterr() == ("", "")


def test_verbose_tells_stages_and_leaves_no_handler(natsel):
    logger = logging.getLogger("natsel")
    before = (list(logger.handlers), logger.level)
    told = natsel("audit", "mlp", "--scorers", "l1,l2", "-v")
    assert told.exit_code == 0
    assert told.stderr == (
        "natsel: found in MLP: Communities(layers.0: 512 neurons, layers.2: 256 neurons)\n"
    )
    assert (list(logger.handlers), logger.level) == before
    assert natsel("audit", "mlp", "--scorers", "l1,l2").stderr == ""


def test_twice_verbose_tells_details_also_beside_json(natsel):
    told = natsel("audit", "mlp", "--scorers", "l1,l2", "-vv", "--json")
    assert json.loads(told.stdout)["scorers"] == ["l1", "l2"]
    assert "natsel: left whole: layers.4: it is an output of the model\n" in told.stderr


def test_quiet_wins_over_verbose(natsel):
    told = natsel("audit", "mlp", "--scorers", "l1,l2", "-vv", "-q")
    assert (told.exit_code, told.stdout, told.stderr) == (0, "", "")
