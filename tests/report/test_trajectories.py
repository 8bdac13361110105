"""Who died when, who is drawn, how many live."""

from __future__ import annotations

import numpy as np
import pytest

from natsel.report.figures import histogram_figure, living_figure, trajectory_figure
from natsel.report.trajectories import (
    death_colours,
    read_trajectories,
    sample_lines,
    sample_steps,
    times_of_death,
)

TENSORS = {
    "steps": np.array([0, 10, 20, 30]),
    "mass/a": np.array(
        [
            [0.5, 0.5, 0.5, 0.5],
            [0.9, 0.0, 0.3, 0.0],
            [0.9, 0.0, 0.0, 0.2],
            [1.0, 0.0, 0.0, 0.0],
        ]
    ),
    "alive/a": np.array([True, False, False, False]),
}


def test_a_death_is_the_start_of_the_last_stretch_under_the_level():
    (a,) = read_trajectories(TENSORS, 0.01)
    assert a.deaths.tolist() == [4, 1, 2, 3]
    assert a.living().tolist() == [4, 3, 2, 1]
    assert a.num_extinct == 3


def test_living_ends_at_the_number_alive_whatever_was_recorded():
    masses = np.full((5, 3), 0.5)
    deaths = times_of_death(masses, np.array([True, False, False]), 0.01)
    assert deaths.tolist() == [5, 4, 4]


def test_without_the_alive_tensor_the_level_decides():
    tensors = {k: v for k, v in TENSORS.items() if not k.startswith("alive")}
    (a,) = read_trajectories(tensors, 0.01)
    assert a.alive.tolist() == [True, False, False, False]


@pytest.mark.parametrize(
    "broken", [{"steps": np.arange(3)}, {"mass/a": np.zeros(4)}, {"alive/a": np.ones(3, bool)}]
)
def test_tensors_that_do_not_fit_are_left_out(broken):
    assert read_trajectories(TENSORS | broken, 0.01) == []


def test_drawn_lines_hold_every_fate_within_the_limit():
    num_records, size = 80, 2000
    masses = np.ones((num_records, size))
    for population in range(1, size):
        masses[3 if population > 8 else 9 * population :, population] = 0.0
    tensors = {
        "steps": np.arange(num_records),
        "mass/a": masses,
        "alive/a": np.arange(size) == 0,
    }
    (a,) = read_trajectories(tensors, 0.01)
    lines = sample_lines(a, 50)
    assert len(lines) <= 50
    assert len(set(lines.tolist())) == len(lines)
    assert set(death_colours(a)[lines]) == set(death_colours(a))


def test_few_populations_are_all_drawn():
    (a,) = read_trajectories(TENSORS, 0.01)
    assert sorted(sample_lines(a).tolist()) == [0, 1, 2, 3]


def test_drawn_steps_hold_the_first_and_the_last():
    steps = sample_steps(10_000)
    assert (steps[0], steps[-1], len(steps)) == (0, 9999, 160)
    assert sample_steps(1).tolist() == [0]


def test_survivors_and_the_extinct_have_their_own_colours():
    (a,) = read_trajectories(TENSORS, 0.01)
    figure = trajectory_figure(a)
    lines = {t["line"]["color"]: t for t in figure["data"] if t["mode"] == "lines"}
    survivors = lines["@survivor/0.55"]
    assert survivors["customdata"] == [0, 0, 0, 0, None]
    assert survivors["y"] == [0.5, 0.9, 0.9, 1.0, None]
    assert sorted(lines)[0].startswith("@death-")
    assert len(lines) == 4


def test_pictures_of_the_living_and_of_the_end():
    (a,) = read_trajectories(TENSORS, 0.01)
    assert living_figure(a)["data"][0]["y"] == [4, 3, 2, 1]
    survivors, extinct = histogram_figure(a)["data"]
    assert (survivors["y"][-1], extinct["y"][0]) == (1, 3)
    assert histogram_figure(a)["layout"]["yaxis"]["type"] == "log"
