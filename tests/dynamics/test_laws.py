"""Each law by hand: tiny communities, the expected masses spelled out, and its theory."""

from __future__ import annotations

import math

import pytest
import torch
from test_every_law import assert_path_follows, ecosystem, seeded

from natsel.dynamics import (
    DYNAMICS,
    competition,
    get,
    logistic,
    lotka_volterra,
    participation,
    replicator,
    replicator_mutator,
    wright_fisher,
)


def tensor(*values):
    return torch.tensor(values, dtype=torch.float64)


def close(actual, *expected):
    torch.testing.assert_close(actual, tensor(*expected), rtol=1e-12, atol=1e-15)


LN2 = math.log(2.0)


class TestReplicator:
    def test_doubles_against_standing_still(self):
        # 1 : 1 becomes 2 : 1 and is scaled back to a sum of 2.
        close(replicator(tensor(1, 1), tensor(LN2, 0), 1.0), 4 / 3, 2 / 3)

    def test_pressure_multiplies_time(self):
        close(replicator(tensor(1, 1), tensor(LN2, 0), 0.5, pressure=4.0), 8 / 5, 2 / 5)

    def test_a_mass_may_pass_one(self):
        assert replicator(tensor(1, 1, 1), tensor(3, 0, 0), 1.0)[0] > 1

    @pytest.mark.parametrize("mass", [(0.2, 0.7, 0.1), (1.0, 0.0, 2.0)])
    def test_rests_where_all_the_living_are_equally_fit(self, mass):
        close(replicator(tensor(*mass), tensor(1, 1, 1), 1.0), *mass)

    def test_small_steps_make_a_large_one(self):
        mass, fitness, _ = ecosystem(7)
        small = mass
        for _ in range(10):
            small = replicator(small, fitness, 0.1)
        torch.testing.assert_close(small, replicator(mass, fitness, 1.0))

    def test_fishers_theorem(self):
        # The mean fitness rises at the rate of the variance of fitness.
        mass, fitness, _ = ecosystem(7)
        shares = mass / mass.sum()

        def mean(weights):
            return (weights * fitness).sum() / weights.sum()

        variance = (shares * (fitness - mean(shares)) ** 2).sum()
        dt = 1e-5
        later = mean(replicator(shares, fitness, dt))
        earlier = mean(replicator(shares, fitness, -dt))
        torch.testing.assert_close((later - earlier) / (2 * dt), variance, rtol=1e-6, atol=0.0)


class TestReplicatorMutator:
    def test_scatters_half_of_the_births(self):
        # x = 1/2, 1/2; births 1/2, 0; half of them scattered: 1/2 + 1/4 + 1/8 and 1/2 + 1/8,
        # over a total of 3/2, times the old sum of 2.
        after = replicator_mutator(tensor(1, 1), tensor(LN2, 0), 1.0, mutation=0.5)
        close(after, 7 / 6, 5 / 6)

    def test_without_mutation_it_is_the_replicator(self):
        mass, fitness, _ = ecosystem(7)
        torch.testing.assert_close(
            replicator_mutator(mass, fitness, 0.3, mutation=0.0), replicator(mass, fitness, 0.3)
        )

    def test_mutants_reach_only_the_living(self):
        after = replicator_mutator(tensor(1, 1, 0, 0), tensor(LN2, 0, 5, 0), 1.0, mutation=0.5)
        close(after, 7 / 6, 5 / 6, 0, 0)

    def test_interior_rest(self):
        # Two populations, f = 2 and 0, mu = 1/2: 0 = x + 1/4 (2x) - x (2x), so x = 3/4.
        mass, fitness = tensor(0.75, 0.25), tensor(2, 0)
        close(DYNAMICS["replicator-mutator"].bind(mutation=0.5).velocity(mass, fitness), 0, 0)
        for _ in range(3):
            moved = replicator_mutator(mass, fitness, 1e-4, mutation=0.5)
            torch.testing.assert_close(moved, mass, rtol=0, atol=1e-7)

    def test_the_equation_with_another_mutation(self):
        law = get("replicator-mutator").bind(mutation=0.3)
        assert_path_follows(law, *ecosystem(4))


class TestLogistic:
    def test_odds_double(self):
        # Odds 1 : 1 become 2 : 1 at f - p = ln 2, and 1 : 2 at -ln 2.
        after = logistic(tensor(0.5, 0.5, 0.5), tensor(1 + LN2, 1, 1 - LN2), 1.0)
        close(after, 2 / 3, 1 / 2, 1 / 3)

    def test_it_adds_to_the_log_odds(self):
        generator = torch.Generator().manual_seed(0)
        mass = torch.rand(3, 101, generator=generator).pow(4)
        mass[:, ::7], mass[:, 1::50] = 0, 1
        fitness = 3 * torch.rand(3, 101, generator=generator)
        expected = torch.sigmoid(torch.logit(mass) + 0.3 * (fitness - 0.8))
        found = logistic(mass, fitness, 0.3, pressure=0.8)
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)
        assert torch.equal(found == 0, mass == 0)

    def test_pressure_is_the_fitness_that_survives(self):
        mass, fitness = tensor(0.5, 0.5, 0.5), tensor(1.9, 2.0, 2.1)
        change = logistic(mass, fitness, 0.1, pressure=2.0) - mass
        assert change.sign().tolist() == [-1, 0, 1]

    def test_rests_at_both_ends(self):
        close(logistic(tensor(0, 1), tensor(5, 5), 1.0), 0, 1)
        close(logistic(tensor(0, 1), tensor(0, 0), 1.0), 0, 1)


class TestLotkaVolterra:
    def test_by_hand(self):
        # 1/2 * (1 + 2) / (1 + 2/2 + 1/2) = 3/5 and 1/2 * (1 + 1) / (1 + 1/2 + 1/2) = 1/2.
        close(lotka_volterra(tensor(0.5, 0.5), tensor(2, 1), 1.0), 3 / 5, 1 / 2)

    def test_only_similar_populations_crowd_each_other(self):
        matrix = tensor(0, 1.5, 0, 1.5, 0, 0, 0, 0, 0).view(3, 3)
        after = lotka_volterra(tensor(1, 1, 1), tensor(1, 1, 1), 1.0, competition=matrix)
        # 2 / (2 + 1.5) for the two alike; the third is undisturbed.
        close(after, 4 / 7, 4 / 7, 1)

    def test_uniform_competition_is_the_uniform_matrix(self):
        mass, fitness, _ = ecosystem(5)
        matrix = (torch.ones(5, 5) - torch.eye(5)).double() / 4
        torch.testing.assert_close(
            lotka_volterra(mass, fitness, 0.1, competition=matrix),
            lotka_volterra(mass, fitness, 0.1),
        )

    def test_coexistence(self):
        # f (1 - m) = p m at f = p = 1: m = 1/2, for any number of equals and any dt.
        half = torch.full((6,), 0.5, dtype=torch.float64)
        for dt in (0.01, 1.0, 100.0):
            close(lotka_volterra(half, torch.ones(6).double(), dt), *[0.5] * 6)

    def test_alone_it_grows_to_one(self):
        mass = tensor(0.1)
        for _ in range(200):
            mass = lotka_volterra(mass, tensor(1.0), 0.1)
        torch.testing.assert_close(mass, tensor(1.0), rtol=0, atol=1e-6)


class TestWrightFisher:
    def test_a_certain_outcome(self):
        close(wright_fisher(tensor(0, 3, 0), tensor(1, 1, 1), 0.1, generator=seeded()), 0, 3, 0)

    def test_masses_are_counts(self):
        mass = tensor(0.25, 0.25, 0.25, 0.25)
        after = wright_fisher(mass, torch.ones(4).double(), 1.0, generator=seeded(), individuals=5)
        torch.manual_seed(0)
        counts = torch.poisson(tensor(5, 5, 5, 5), generator=seeded())
        close(after, *(counts / counts.sum()).tolist())

    def test_nobody_drawn_leaves_the_masses_alone(self):
        mass = tensor(0.5, 0.25)
        after = wright_fisher(mass, tensor(1, 1), 1.0, individuals=1e-300, generator=seeded())
        assert torch.equal(after, mass)

    def test_neutral_drift_has_the_variance_of_the_equation(self):
        individuals, dt, num_draws = 25, 0.1, 100_000
        shares = tensor(0.1, 0.2, 0.7)
        after = wright_fisher(
            shares.expand(num_draws, 3),
            torch.ones(num_draws, 3).double(),
            dt,
            pressure=0.0,
            individuals=individuals,
            generator=seeded(),
        )
        expected = shares * (1 - shares) * dt / (3 * individuals)
        # A variance from k draws has the relative standard error sqrt(2 / k); the random Poisson
        # total adds dt / N to the expectation.
        tolerance = 5 * (2 / num_draws) ** 0.5 + 2 * dt / (3 * individuals)
        torch.testing.assert_close(after.var(0), expected, rtol=tolerance, atol=0.0)
        error = (after.var(0) / num_draws).sqrt()
        assert ((after.mean(0) - shares).abs() < 5 * error).all()

    def test_a_huge_population_follows_the_replicator(self):
        step = get("wright-fisher").bind(individuals=1e13).step
        mass, fitness, _ = ecosystem(5)
        exact, generator = replicator(mass, fitness, 1.0), seeded()
        for _ in range(100):
            mass = step(mass, fitness, 0.01, generator=generator)
        torch.testing.assert_close(mass, exact, rtol=1e-5, atol=0.0)

    def test_drift_alone_fixes_one(self):
        mass, generator = torch.ones(4), seeded()
        for _ in range(2000):
            mass = wright_fisher(mass, torch.ones(4), 1.0, individuals=5, generator=generator)
        assert sorted(mass.tolist()) == [0, 0, 0, 4]


class TestParticipation:
    def test_by_hand(self):
        # c = (m_1 + m_2 + m_3 - m_i) / 2 = 1/4, 1/4, 1/2; slopes 1, -1/2, and one has left.
        after = participation(tensor(0.5, 0.5, 0), tensor(1.75, 0.25, 2), 0.25)
        close(after, 0.75, 0.375, 0)

    def test_projection(self):
        close(participation(tensor(0.9, 0.1), tensor(3, 0), 1.0), 1, 0)

    def test_nash_equilibrium(self):
        # Two with the uniform competition: f = p (m + c) = p (m_1 + m_2) for f = 1, p = 1.
        close(participation(tensor(0.7, 0.3), tensor(1, 1), 0.1), 0.7, 0.3)

    def test_the_corner_rests_where_it_pays_to_stay(self):
        close(DYNAMICS["participation"].velocity(tensor(1, 1, 0), tensor(9, 2, 9)), 0, 0, 0)

    def test_redundant_populations_leave_first(self):
        matrix = competition(tensor(1, 0, 1, 0, 0, 1).view(3, 2))
        mass = tensor(0.5, 0.5, 0.5)
        for _ in range(200):
            mass = participation(mass, tensor(0.9, 1.0, 1.1), 0.05, competition=matrix)
        assert mass[0] == 0
        assert mass[1] > 0.9
        assert mass[2] == 1
