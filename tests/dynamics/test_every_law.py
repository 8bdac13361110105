"""What every law in the table must do; a law that is registered tomorrow is covered too."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import solve_ivp

from natsel.dynamics import DYNAMICS, Dynamic, competition, get

REPLICAS = 50_000


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def ecosystem(*shape, dtype=torch.float64, seed=0):
    """Masses well inside the box, fitness of mean 1, and who competes with whom."""
    mass = 0.3 + 0.3 * torch.rand(shape, dtype=dtype, generator=seeded(seed))
    fitness = 0.5 + torch.rand(shape, dtype=dtype, generator=seeded(seed + 1))
    features = torch.randn(*shape, 3, dtype=dtype, generator=seeded(seed + 2))
    return mass, fitness / fitness.mean(-1, keepdim=True), competition(features)


def assert_in_space(law, before, after, tolerance=1e-6):
    assert torch.isfinite(after).all()
    assert (after >= 0).all()
    if law.space == "box":
        assert (after <= 1).all()
    else:
        old, new = before.double().sum(-1), after.double().sum(-1)
        torch.testing.assert_close(new, old, rtol=tolerance, atol=0.0)


def stays_in_its_space(law: Dynamic):
    for dtype in (torch.float32, torch.float64):
        mass, fitness, matrix = ecosystem(3, 64, dtype=dtype)
        mass[0, :8], mass[1, :8], fitness[2, :8] = 0.0, 1.0, 0.0
        generator = seeded()
        for dt in (1e-3, 0.1, 10.0):
            for pressure in (0.0, 1.0, 5.0):
                for strength in (1.0, 100.0):
                    after = law.step(
                        mass,
                        strength * fitness,
                        dt,
                        pressure=pressure,
                        competition=matrix,
                        generator=generator,
                    )
                    assert_in_space(law, mass, after)


def survives_extreme_fitness(law: Dynamic):
    mass = torch.tensor([0.5, 0.5, 0.0, 1e-30])
    for fitness in ([1e4, 0.0, 0.0, 0.0], [0.0, 0.0, 1e6, 0.0], [0.0] * 4, [1e4] * 4):
        after = law.step(mass, torch.tensor(fitness), 1.0, generator=seeded())
        assert_in_space(law, mass, after)


def stays_in_its_space_when_rounding(law: Dynamic):
    # A few roundings below 1, where an inexact quotient could pass it.
    mass = 1 - torch.arange(4.0).repeat(500) * 2**-24
    fitness = 10 * torch.rand(2000, generator=seeded())
    for pressure in (0.0, 1e-3, 1.0):
        after = law.step(mass, fitness, 1.0, pressure=pressure, generator=seeded())
        assert_in_space(law, mass, after)


def keeps_the_extinct_extinct(law: Dynamic):
    mass, fitness, matrix = ecosystem(5)
    mass[1] = mass[3] = 0.0
    fitness[1] = 3.0
    generator = seeded()
    for _ in range(50):
        mass = law.step(mass, fitness, 0.1, competition=matrix, generator=generator)
        assert mass[1] == 0.0
        assert mass[3] == 0.0


def rests_where_nothing_lives(law: Dynamic):
    nobody = torch.zeros(2, 4)
    after = law.step(nobody, torch.ones(2, 4), 0.1, generator=seeded())
    assert torch.equal(after, nobody)
    if law.velocity is not None:
        assert torch.equal(law.velocity(nobody, torch.ones(2, 4)), nobody)


def rests_when_one_is_left(law: Dynamic):
    # Alone, of mass 1, with the mean fitness of its community: itself.
    alone = torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64)
    after = law.step(alone, torch.ones(3, dtype=torch.float64), 0.1, generator=seeded())
    torch.testing.assert_close(after, alone, rtol=1e-12, atol=0.0)
    if law.velocity is not None:
        torch.testing.assert_close(
            law.velocity(alone, torch.ones(3, dtype=torch.float64)), torch.zeros_like(alone)
        )


def favours_the_fitter_of_two(law: Dynamic):
    mass = torch.full((REPLICAS if law.stochastic else 1, 2), 0.5, dtype=torch.float64)
    fitness = torch.tensor([1.5, 0.5], dtype=torch.float64).expand_as(mass)
    generator = seeded()
    for _ in range(10):
        mass = law.step(mass, fitness, 0.05, generator=generator)
        fitter, other = mass.mean(0)
        assert fitter > other
        assert fitter / (fitter + other) > 0.5


def nobody_dies_without_pressure(law: Dynamic):
    mass, fitness, matrix = ecosystem(6)
    if law.stochastic:
        mass, fitness = mass.expand(REPLICAS, 6), fitness.expand(REPLICAS, 6)
    after = law.step(
        mass, fitness, 0.05, pressure=0.0, competition=matrix, generator=seeded()
    ).view(-1, 6)
    error = after.std(0) / REPLICAS**0.5 if law.stochastic else torch.zeros(())
    assert (after.mean(0) >= mass.view(-1, 6)[0] - 5 * error - 1e-12).all()


def follows_its_equation(law: Dynamic):
    if law.velocity is None:
        pytest.skip("no equation is written down for this law")
    for seed in (0, 10):
        for matrix_is_given in (True, False):
            start, fitness, matrix = ecosystem(4, seed=seed)
            pair = matrix if matrix_is_given else None
            if law.stochastic:
                assert_mean_step_follows(law, start, fitness, pair)
            else:
                assert_path_follows(law, start, fitness, pair)


def assert_mean_step_follows(law, start, fitness, matrix, dt=0.01):
    after = law.step(
        start.expand(REPLICAS, -1),
        fitness.expand(REPLICAS, -1),
        dt,
        pressure=1.3,
        competition=matrix,
        generator=seeded(),
    )
    expected = start + dt * law.velocity(start, fitness, pressure=1.3, competition=matrix)
    standard_error = after.std(0) / REPLICAS**0.5
    assert ((after.mean(0) - expected).abs() < 5 * standard_error + dt**2).all()


def assert_path_follows(law, start, fitness, matrix, duration=0.5):
    def right_hand_side(_, mass):
        change = law.velocity(
            torch.from_numpy(mass.copy()), fitness, pressure=1.3, competition=matrix
        )
        return change.numpy()

    exact = solve_ivp(right_hand_side, (0, duration), start.numpy(), rtol=1e-10, atol=1e-12)
    moved = np.abs(exact.y[:, -1] - start.numpy()).max()
    assert moved > 1e-2, "the path must move for the comparison to mean anything"
    errors = []
    for num_steps in (100, 200, 400):
        mass = start
        for _ in range(num_steps):
            mass = law.step(mass, fitness, duration / num_steps, pressure=1.3, competition=matrix)
        errors.append(np.abs(mass.numpy() - exact.y[:, -1]).max())
    assert errors[-1] < 2e-3 * moved
    if errors[-1] > 1e-8:  # else the step is exact, and what is left is the solver's error
        # Order one: half the step, half the error.
        assert 1.8 < errors[0] / errors[1] < 2.2
        assert 1.8 < errors[1] / errors[2] < 2.2


def treats_communities_apart(law: Dynamic):
    mass, fitness, matrix = ecosystem(2, 3, 5)
    fitness = fitness * torch.linspace(0.5, 2.0, 6, dtype=torch.float64).view(2, 3, 1)
    pressure = torch.tensor([[0.5, 1.0, 2.0]], dtype=torch.float64).expand(2, 3).unsqueeze(-1)
    together = law.step(
        mass, fitness, 0.1, pressure=pressure, competition=matrix, generator=seeded()
    )
    assert together.shape == mass.shape
    assert_in_space(law, mass, together)
    if law.stochastic:
        return
    for i in range(2):
        for j in range(3):
            apart = law.step(
                mass[i, j], fitness[i, j], 0.1, pressure=pressure[i, j], competition=matrix[i, j]
            )
            torch.testing.assert_close(together[i, j], apart, rtol=1e-13, atol=0.0)


def accepts_pressure_as_a_scalar_tensor(law: Dynamic):
    mass, fitness, matrix = ecosystem(5, dtype=torch.float32)
    number, tensor = (
        law.step(mass, fitness, 0.1, pressure=p, competition=matrix, generator=seeded())
        for p in (1.7, torch.tensor(1.7))
    )
    assert tensor.dtype == torch.float32
    torch.testing.assert_close(tensor, number)


def is_repeatable(law: Dynamic):
    mass, fitness, matrix = ecosystem(32)

    def run(generator):
        return law.step(mass, fitness, 0.1, competition=matrix, generator=generator)

    assert torch.equal(run(seeded(1)), run(seeded(1)))
    assert torch.equal(run(seeded(1)), run(seeded(2))) != law.stochastic
    generator = seeded(3)
    run(generator)
    assert torch.equal(generator.get_state(), seeded(3).get_state()) != law.stochastic


def leaves_its_arguments_alone(law: Dynamic):
    mass, fitness, matrix = ecosystem(6)
    mass[2] = 0.0
    pressure = torch.tensor(1.2, dtype=torch.float64)
    arguments = [mass, fitness, pressure, matrix]
    copies = [argument.clone() for argument in arguments]
    after = law.step(mass, fitness, 0.1, pressure=pressure, competition=matrix, generator=seeded())
    for argument, copy in zip(arguments, copies, strict=True):
        assert torch.equal(argument, copy)
        assert after.data_ptr() != argument.data_ptr()


def keeps_the_dtype(law: Dynamic):
    mass, fitness, matrix = ecosystem(16)
    wide = law.step(mass, fitness, 0.1, competition=matrix, generator=seeded())
    narrow = law.step(
        mass.float(), fitness.float(), 0.1, competition=matrix.float(), generator=seeded()
    )
    assert (wide.dtype, narrow.dtype) == (torch.float64, torch.float32)
    if not law.stochastic:
        torch.testing.assert_close(narrow.double(), wide, rtol=1e-5, atol=1e-6)


CHECKS = {
    check.__name__: check
    for check in (
        stays_in_its_space,
        stays_in_its_space_when_rounding,
        survives_extreme_fitness,
        keeps_the_extinct_extinct,
        rests_where_nothing_lives,
        rests_when_one_is_left,
        favours_the_fitter_of_two,
        nobody_dies_without_pressure,
        follows_its_equation,
        treats_communities_apart,
        accepts_pressure_as_a_scalar_tensor,
        is_repeatable,
        leaves_its_arguments_alone,
        keeps_the_dtype,
    )
}


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("name", sorted(DYNAMICS))
def test_law(name, check):
    CHECKS[check](DYNAMICS[name])


@pytest.mark.parametrize("name", sorted(DYNAMICS))
@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    populations=st.lists(
        st.tuples(st.just(0.0) | st.just(1.0) | st.floats(1e-30, 1.0), st.floats(0.0, 50.0)),
        min_size=1,
        max_size=6,
    ),
    dt=st.floats(1e-4, 10.0),
    pressure=st.floats(0.0, 10.0),
    seed=st.integers(0, 100),
)
def test_any_community_stays_in_its_space(name, populations, dt, pressure, seed):
    law = DYNAMICS[name]
    mass, fitness = torch.tensor(populations, dtype=torch.float64).T
    after = law.step(mass, fitness, dt, pressure=pressure, generator=seeded(seed))
    assert_in_space(law, mass, after)
    assert (after[mass == 0] == 0).all()


# The checks must be able to fail: each of these laws is wrong in one way.


def euler_without_projection(mass, fitness, dt, *, pressure=1.0, competition=None, generator=None):
    return mass + dt * mass * (fitness - 5 * pressure)


def with_spontaneous_birth(mass, fitness, dt, *, pressure=1.0, competition=None, generator=None):
    return (mass + dt * fitness).clamp(0, 1)


def in_place(mass, fitness, dt, *, pressure=1.0, competition=None, generator=None):
    return mass.mul_(torch.exp(dt * (fitness - pressure))).clamp_(0, 1)


def of_the_weakest(mass, fitness, dt, *, pressure=1.0, competition=None, generator=None):
    return torch.sigmoid(torch.logit(mass) - dt * (fitness - pressure))


def too_fast(mass, fitness, dt, **keywords):
    return DYNAMICS["logistic"].step(mass, fitness, 1.01 * dt, **keywords)


def across_communities(mass, fitness, dt, *, pressure=1.0, competition=None, generator=None):
    return torch.sigmoid(torch.logit(mass) + dt * (fitness / fitness.mean() - pressure))


def by_hidden_chance(mass, fitness, dt, *, pressure=1.0, competition=None, generator=None):
    return mass * torch.rand_like(mass)


def leaky(mass, fitness, dt, **keywords):
    return 0.99 * DYNAMICS["replicator"].step(mass, fitness, dt, **keywords)


@pytest.mark.parametrize(
    ("broken", "check"),
    [
        (euler_without_projection, stays_in_its_space),
        (with_spontaneous_birth, keeps_the_extinct_extinct),
        (with_spontaneous_birth, rests_where_nothing_lives),
        (in_place, leaves_its_arguments_alone),
        (of_the_weakest, favours_the_fitter_of_two),
        (of_the_weakest, nobody_dies_without_pressure),
        (across_communities, treats_communities_apart),
        (by_hidden_chance, is_repeatable),
        (by_hidden_chance, rests_when_one_is_left),
    ],
)
def test_a_broken_law_fails(broken, check):
    with pytest.raises(AssertionError):
        check(get(broken))


def test_a_law_off_its_equation_fails():
    with pytest.raises(AssertionError):
        follows_its_equation(get("logistic")._replace(step=too_fast))


def test_a_simplex_that_leaks_fails():
    with pytest.raises(AssertionError):
        stays_in_its_space(get("replicator")._replace(step=leaky))
