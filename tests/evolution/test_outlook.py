"""What an evolution says of its end: before the training, and while nobody is extinct."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import nn

import natsel
from natsel.dynamics import DYNAMICS, Dynamic
from natsel.evolution import Ecology

LAWS = sorted(DYNAMICS)


def by_position(parts):
    """The same at every step, from 0 to twice the mean."""
    return torch.linspace(0.0, 2.0, len(parts.mass))


def steady(widths=(8,), **options):
    """An evolution whose fitness never changes, and how to make a step of it."""
    sizes = [4, *widths, 2]
    torch.manual_seed(0)
    layers = []
    for given, made in itertools.pairwise(sizes):
        layers += [nn.Linear(given, made), nn.ReLU()]
    model = nn.Sequential(*layers[:-1])
    communities = natsel.discover(model, (torch.zeros(1, 4),))
    evolution = natsel.Evolution(communities, fitness=by_position, **options)
    model(torch.ones(3, 4)).square().sum().backward()
    return evolution


@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("law", LAWS)
def test_the_next_extinction_comes_when_it_is_said_to(law, every):
    options = {"rate": 0.05, "pressure": 1.0, "patience": 6, "every": every, "seed": 3}
    evolution = steady(dynamics=law, **options)
    for _ in range(12):
        evolution.step()
    outlook = evolution.outlook()
    assert outlook.num_extinct == 0
    assert outlook.steps is not None
    assert f"in about {outlook.steps} more steps" in outlook.message
    for _ in range(outlook.steps - every):
        evolution.step()
        assert evolution.num_alive == 8
    for _ in range(every):
        evolution.step()
    assert evolution.num_alive < 8


def test_looking_ahead_changes_nothing():
    first, second = (steady(dynamics="wright-fisher", rate=0.05, seed=1) for _ in range(2))
    for _ in range(30):
        first.step()
        second.step()
        first.outlook()
    for mine, theirs in zip(first.masses.values(), second.masses.values(), strict=True):
        assert torch.equal(mine, theirs)


def test_who_will_not_die_at_this_pressure_is_told_so():
    evolution = steady(pressure=0.0)
    evolution.step()
    outlook = evolution.outlook()
    assert outlook.steps is None
    assert "at this pressure (0.00) nobody goes under it" in outlook.message
    assert "raise pressure" in outlook.message


def test_before_the_first_step_nothing_is_made_up():
    outlook = steady().outlook()
    assert outlook.steps is None
    assert "nothing was seen of their fitness yet" in outlook.message


def test_a_community_at_its_floor_is_not_said_to_lose_anybody():
    evolution = steady(floor=7, pressure=3.0, rate=0.2, patience=2)
    while evolution.num_alive > 7:
        evolution.step()
    assert evolution.outlook().steps is None


def test_who_has_landed_loses_nobody():
    evolution = steady(capacity=0.5, rate=0.2, pressure=2.0, patience=2)
    while evolution.num_alive > 4:
        evolution.step()
    evolution.step()
    assert evolution.outlook().steps is None
    assert "the environment carries the rest" in evolution.outlook().message


# A scarce environment.


@pytest.mark.parametrize("capacity", [1.0, 0.65, 0.5, 0.2, 0.1])
def test_where_a_tenth_is_carried_the_pressure_rises_evenly(capacity):
    ecology = Ecology(rate=0.1, pressure=0.4, adaptation=7e-4, capacity=capacity, every=3)
    pressure = evenly = 0.4
    for _ in range(1000):
        pressure, evenly = ecology.next_pressure(pressure, crowded=True), evenly + 7e-4 * 3
        assert pressure == evenly
    assert ecology.next_pressure(pressure, crowded=False) == pressure


def test_where_less_is_carried_the_pressure_grows_with_itself_and_falls_again():
    ecology = Ecology(rate=0.1, pressure=0.5, adaptation=0.01, capacity=0.025)
    assert ecology.next_pressure(3.0, crowded=True) == pytest.approx(3.0 + 0.01 * (1 + 2 * 3.0))
    assert ecology.next_pressure(3.0, crowded=False) == pytest.approx(3.0 - 0.01 * (1 + 2 * 3.0))
    assert ecology.next_pressure(0.505, crowded=False) == 0.5
    assert ecology.next_pressure(0.5, crowded=False) == 0.5
    without = Ecology(rate=0.1, pressure=0.5, adaptation=0.01)
    assert without.next_pressure(3.0, crowded=True) == 3.0


@pytest.mark.parametrize("law", LAWS)
def test_every_law_lands_where_little_is_carried(law):
    evolution = steady((96, 64), dynamics=law, capacity=0.025)
    assert evolution.forecast(5000) is None
    for _ in range(5000):
        evolution.step()
        if evolution.num_alive == 4:
            break
    landing = evolution.landing()
    assert landing.landed
    assert landing.reached == pytest.approx(1 - 4 / 160)


@pytest.mark.parametrize("law", LAWS)
def test_a_run_too_short_to_land_is_told_so_before_it_starts(law):
    evolution = steady((96, 64), dynamics=law, capacity=0.025)
    words = evolution.forecast(200)
    assert words is not None
    assert repr(law) in words
    assert "160 populations down to 4 in 200 steps: train longer" in words


def test_a_pressure_that_never_rises_is_told():
    evolution = steady((96, 64), dynamics="participation", capacity=0.025, adaptation=0.0)
    assert "with adaptation=0 the pressure never rises" in evolution.forecast(300)


def test_nothing_is_foretold_without_a_capacity_or_where_deaths_are_quick():
    assert steady().forecast(10) is None
    assert steady(capacity=1.0).forecast(10) is None
    assert steady(capacity=0.5).forecast(2000) is None
    assert "nor let the first one go extinct" in steady(capacity=0.5).forecast(30)


def test_a_law_that_never_lets_die_is_told():
    def still(mass, fitness, dt, **_):
        return mass

    evolution = steady((96, 64), dynamics=Dynamic("still", still, "box"), capacity=0.025)
    assert "'still' will hardly bring" in evolution.forecast(500)
    assert math.isclose(evolution.extinct_share, 0.0)
