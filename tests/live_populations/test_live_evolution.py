"""Masses of entries under natsel's laws, extinction, and merging."""

from __future__ import annotations

import pytest
import torch
from decoders import decoder, prompts

import natsel
from natsel.dynamics import DYNAMICS, logistic
from natsel.live_populations import METHODS, Entries, prove
from natsel.live_populations.allowances import Bytes, Held
from natsel.live_populations.merging import merged
from natsel.live_populations.methods import evolution, extinct

LOG = torch.tensor([1.0, 2.0, 5.0]).log()


def entries(**given):
    keys = torch.stack([LOG, torch.zeros(3)], -1).reshape(1, 1, 3, 2)
    options = {
        "keys": keys,
        "values": keys,
        "positions": torch.tensor([[[0, 1, 2]]]),
        "queries": torch.tensor([[[[1.0, 0.0]]]]),
        "query_positions": torch.tensor([[2]]),
        "num_new": 1,
        "scaling": 1.0,
    }
    return Entries(**{**options, **given})


def test_a_step_is_a_step_of_the_law_under_the_attention_received():
    given = entries()
    mass = evolution(given, rate=2.0, pressure=0.8, kernel=1)
    fitness = torch.tensor([3 / 8, 6 / 8, 15 / 8])
    expected = logistic(torch.full((3,), 0.999), fitness, 2.0, pressure=0.8)
    torch.testing.assert_close(mass.flatten(), expected)
    again = evolution(entries(memory=given.memory), rate=2.0, pressure=0.8, kernel=1).flatten()
    torch.testing.assert_close(
        again, logistic(expected.clamp(max=0.999), fitness, 2.0, pressure=0.8)
    )


def test_mass_decays_unless_attended_until_nobody_is_there():
    given = entries()
    for _ in range(16):
        mass = evolution(given, rate=2.0, pressure=0.8, kernel=1).flatten().tolist()
    assert mass[0] == 0  # three eighths of the mean
    assert 0 < mass[1] < 1
    assert mass[2] > 0.99
    assert extinct(given).flatten().tolist() == [True, False, False]
    evolution(given, rate=2.0, pressure=0.0)
    assert extinct(given).flatten().tolist() == [True, False, False]  # for good


def test_who_is_not_born_yet_is_left_alone():
    given = entries(query_positions=torch.tensor([[1]]))
    mass = evolution(given, rate=2.0).flatten().tolist()
    assert mass[2] == 1
    assert mass[0] < 1


@pytest.mark.parametrize("law", DYNAMICS)
def test_every_law_runs_and_is_bounded_by_the_capacity(law):
    model, ids = decoder("llama"), prompts(1, 24)
    options = {"dynamics": law, "rate": 0.05, "every": 4}

    def run():
        with natsel.live(model, "evolution", Held(10), **options) as handle:
            model.generate(ids, max_new_tokens=3, do_sample=False)
        return handle

    handle = run()
    assert 1 <= int(handle.held(1).min()) <= int(handle.held(1).max()) <= 10
    assert torch.equal(handle.positions(1), run().positions(1))


def test_extinction_needs_no_budget_and_bytes_bound_it():
    model, ids = decoder("llama"), prompts(1, 40)
    options = {"rate": 1.0, "pressure": 1.0, "window": 2}
    with natsel.live(model, "evolution", **options) as free:
        model.generate(ids, max_new_tokens=8, do_sample=False)
    assert 2 <= int(free.held(1).min()) < 47
    each = 2 * 2 * 2 * 8 * 4
    with natsel.live(model, "evolution", Bytes(9 * each), **options) as bounded:
        model.generate(ids, max_new_tokens=8, do_sample=False)
    assert bounded.num_bytes <= 9 * each
    verdict = prove(model, "evolution", None, ids, **options)
    assert verdict.passed
    assert verdict.effect > 0


def test_a_law_of_ones_own():
    def fade(mass, fitness, dt, *, pressure=1.0, competition=None, generator=None):
        return mass * torch.exp(-dt * pressure * (fitness < 1))

    given = entries()
    evolution(given, dynamics=fade, rate=1.0, pressure=1.0, kernel=1)
    kept = given.memory["mass"].flatten()
    e = torch.tensor(0.999) * torch.exp(torch.tensor(-1.0))
    torch.testing.assert_close(kept, torch.stack([e, e, torch.tensor(0.999)]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dynamics": "logistik"}, "did you mean 'logistic'"),
        ({"rate": 0}, "rate=0 .*a number > 0"),
        ({"pressure": -1}, "pressure=-1"),
        ({"level": 1}, r"level=1 .*\[0, 1\)"),
        ({"every": 0}, "every=0"),
    ],
)
def test_options_of_evolution(options, message):
    with pytest.raises(ValueError, match=message):
        METHODS["evolution"].score(entries(), **options)


def test_merging_conserves_mass_and_means():
    generator = torch.Generator().manual_seed(0)
    keys, values = torch.randn(2, 2, 3, 9, 4, generator=generator).double()
    mass = torch.rand(2, 3, 9, generator=generator).double() + 0.5
    keep = torch.rand(2, 3, 9, generator=generator) < 0.5
    keep[..., 0] = True
    new_keys, new_values, new_mass = merged(keys, values, mass, keep, ~keep)

    def total(x, m, who):
        return (x * (m * who)[..., None]).sum(2)

    yes = torch.ones_like(keep)
    torch.testing.assert_close((new_mass * keep).sum(-1), mass.sum(-1))
    torch.testing.assert_close(total(new_keys, new_mass, keep), total(keys, mass, yes))
    torch.testing.assert_close(total(new_values, new_mass, keep), total(values, mass, yes))


def test_equal_entries_merge_without_a_trace():
    """A decoder without positions cannot tell equal tokens apart: merging them changes nothing."""
    model = decoder("gpt2", num_layers=1).double().requires_grad_(False)
    torch.nn.init.zeros_(model.transformer.wpe.weight)
    ids = torch.tensor([[7, 7, 9, 7, 9, 7, 11, 9]])
    after = torch.tensor([[5]])
    whole = model(after, past_key_values=model(ids).past_key_values).logits

    def first_of_a_kind(given):
        same = (given.keys.unsqueeze(-2) - given.keys.unsqueeze(-3)).abs().amax(-1) < 1e-9
        return -same.tril(-1).any(-1).double()

    with natsel.live(model, first_of_a_kind, Held(3), merge=True, decoding=False) as handle:
        cache = model(ids).past_key_values
        assert handle.positions(0)[0, 0].tolist() == [0, 2, 6]
        assert cache.layers[0].mass[0, 0].tolist() == [4, 3, 1]
        merged_logits = model(after, past_key_values=cache).logits
    torch.testing.assert_close(merged_logits, whole, rtol=1e-9, atol=1e-9)
    with natsel.live(model, first_of_a_kind, Held(3), decoding=False):
        cache = model(ids).past_key_values
        dropped = model(after, past_key_values=cache).logits
    assert float((dropped - whole).abs().max()) > 1e-4


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_merged_mass_counts_every_token_while_it_grows(implementation):
    model, ids = decoder("llama", attn_implementation=implementation), prompts(2, 20)
    with natsel.live(model, "snapkv", natsel.Sparsity(0.5), merge=True):
        cache = model(ids).past_key_values
        for _ in range(3):
            cache = model(prompts(2, 1), past_key_values=cache).past_key_values
    for layer in cache.layers:
        assert layer.keys.shape[2] == 23 - natsel.Sparsity(0.5).count(23)
        torch.testing.assert_close(layer.mass.sum(-1), torch.full((2, 2), 23.0))
