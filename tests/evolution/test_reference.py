"""The step against a loop over one community after another that knows nothing of its layout."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import natsel
from natsel.communities.gates.gates import Gate, Gated
from natsel.communities.gates.modules import weights_of
from natsel.dynamics import DYNAMICS
from natsel.evolution.writing import Writer


class Reference:
    """Masses of communities, each evolved by itself, in the plainest form."""

    def __init__(self, sizes, law, ecology, carried):
        self.law, self.ecology, self.carried = law, ecology, carried
        self.simplex = law.space == "simplex"
        start = 1.0 if self.simplex else ecology.initial
        self.mass = [torch.full((n,), start) for n in sizes]
        self.average = [torch.zeros(n) for n in sizes]
        self.below = [[0] * n for n in sizes]
        self.alive = [[True] * n for n in sizes]
        self.pressure = ecology.pressure
        self.generator = torch.Generator().manual_seed(0)
        self.num_steps = 0

    @property
    def num_alive(self):
        return sum(map(sum, self.alive))

    def is_exposed(self, c):
        return sum(self.alive[c]) > self.ecology.floor

    def relative(self, c):
        alive = torch.tensor(self.alive[c])
        return self.average[c] / self.average[c][alive].mean() * alive

    def influence(self, c):
        if not self.simplex:
            return self.mass[c]
        needed = max(self.pressure, 1e-6) if self.is_exposed(c) else 1e-6
        return (self.mass[c] / needed).clamp(max=1.0)

    def step(self, signals):
        full = self.carried is not None and self.num_alive <= self.carried
        alpha = 1 - math.exp(-1 / self.ecology.horizon)
        for c, signal in enumerate(signals):
            signal = signal * torch.tensor(self.alive[c])
            change = signal - self.average[c]
            self.average[c] = self.average[c] + alpha * change if self.num_steps else signal
            payoff = self.relative(c)
            if self.simplex:
                payoff = (payoff / self.mass[c].clamp(min=1e-6)).clamp(max=50.0)
            felt = 0.0 if full or not self.is_exposed(c) else 1.0 if self.simplex else self.pressure
            mass = self.law.step(
                self.mass[c], payoff, self.ecology.rate, pressure=felt, generator=self.generator
            )
            if not self.simplex:
                mass = mass.clamp(0.1 * self.ecology.level, 0.999)
            self.mass[c] = mass * torch.tensor(self.alive[c])
        self.num_steps += 1
        if not full:
            self.bury()
        if self.carried is not None and self.num_alive > self.carried:
            self.pressure += self.ecology.adaptation

    def bury(self):
        dying = []
        for c, counts in enumerate(self.below):
            influence, relative = self.influence(c).tolist(), self.relative(c).tolist()
            for i, alive in enumerate(self.alive[c]):
                under = alive and influence[i] < self.ecology.level
                counts[i] = counts[i] + 1 if under else 0
                if counts[i] >= self.ecology.patience:
                    dying.append((influence[i], relative[i], c, i))
        allowed = len(dying) if self.carried is None else self.num_alive - self.carried
        chosen = sorted(dying)[:allowed]
        for c in range(len(self.mass)):
            room = sum(self.alive[c]) - self.ecology.floor
            dead = [i for _, _, community, i in chosen if community == c][: max(room, 0)]
            for i in dead:
                self.alive[c][i], self.below[c][i] = False, 0
                self.mass[c][i] = self.average[c][i] = 0.0
            if dead and self.simplex:
                self.mass[c] *= sum(self.alive[c]) / self.mass[c].sum()


@pytest.mark.parametrize("carrying", [False, True])
@pytest.mark.parametrize("name", DYNAMICS)
def test_a_step_is_what_each_community_makes_by_itself(run, harsh, name, carrying):
    law = DYNAMICS[name]._replace(competes=False)
    constants = {**harsh, "floor": 2, **({"capacity": 0.5} if carrying else {})}
    r = run(dynamics=law, **constants)
    evolution = r.evolution
    weights = [m._parameters["weight"] for m in r.model.modules() if is_gated(m)]
    assert [w.shape[1] for w in weights] == [c.size for c in r.communities.values()]
    reference = Reference(
        [c.size for c in r.communities.values()],
        law,
        evolution.ecology,
        evolution.ecology.carried([8, 5]),
    )
    for step in range(80):
        r.backward(step)
        signals = [(w.detach() * w.grad).sum(0).abs() for w in weights]
        reference.step(signals)
        evolution.step()
        r.optimizer.step()
        for c, (found, alive) in enumerate(
            zip(evolution.masses.values(), evolution.alive.values(), strict=True)
        ):
            assert alive.tolist() == reference.alive[c]
            torch.testing.assert_close(found, reference.influence(c), rtol=1e-3, atol=1e-5)
            # It starts anew from the same masses: chance and chaos are not what is compared.
            start = evolution._populations.starts[c]
            flat = slice(start, start + len(found))
            reference.mass[c] = evolution._populations.mass[flat].clone()
            reference.average[c] = evolution._populations.average[flat].clone()
    if name != "replicator-mutator":  # which ranks and does not exterminate
        assert evolution.num_alive < 13


def is_gated(module):
    return bool(weights_of(module))


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_a_gate_gets_the_mass_of_each_place(data):
    total = data.draw(st.integers(1, 12))
    if data.draw(st.booleans()):
        first = data.draw(st.integers(0, total - 1))
        ids = torch.arange(first, data.draw(st.integers(first + 1, total)))
        places = ids.repeat_interleave(data.draw(st.integers(1, 3)))
    else:
        places = torch.tensor(data.draw(st.lists(st.integers(0, total), min_size=1, max_size=12)))
    influence = torch.rand(total + 1)
    shape = data.draw(st.sampled_from([(1, -1), (-1, 1, 1), (1, -1, 1, 1)]))
    dtype = data.draw(st.sampled_from([torch.float32, torch.float64, torch.bfloat16]))
    gate = Gate(torch.ones(len(places), dtype=dtype).view(shape))
    writer = Writer(Gated("weight", 1, gate, places), influence, places)
    for _ in range(2):
        influence.uniform_()
        writer.write()
        assert torch.equal(gate.mass.reshape(-1), influence[places].to(dtype))
        assert gate.mass.dtype == dtype


def test_a_gate_follows_its_model_to_another_type(run):
    r = run()
    r.train(3)
    twin = natsel.Evolution.__deepcopy__(r.evolution, {})
    assert twin._writers[0]._gate is twin._gates[0].gate
    twin.communities.model.double()
    twin._write_gates()
    for gated, mass in zip(twin._gates, twin.masses.values(), strict=True):
        assert torch.equal(gated.gate.mass.reshape(-1), mass.double())
