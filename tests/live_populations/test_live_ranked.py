"""Functions of the rank of a score: the plateau is exact, the others keep somebody else."""

from __future__ import annotations

import pytest
import torch
from decoders import decoder, padded

import natsel
from natsel.features import CLASSES, FEATURES, Feature, ranks
from natsel.live_populations import METHODS, Entries, get
from natsel.live_populations.ranked import through

RISING = [n for n, f in FEATURES.items() if f.kappa == 0 and n != "minimum-smooth"]


@pytest.fixture(scope="module")
def model():
    return decoder("llama")


def kept(model, method, share, **options):
    ids, mask = padded(tokens=40, padding=9)
    with natsel.live(model, method, natsel.Sparsity(share), **options) as live, torch.no_grad():
        model(ids, attention_mask=mask)
        return torch.cat([live.positions(layer) for layer in (0, 1)])


def entries_of(scores, window=0):
    """Return entries whose values are their scores."""
    num = len(scores)
    values = torch.tensor(scores).reshape(1, 1, num, 1)
    at = torch.arange(num).reshape(1, 1, num)
    asked = torch.zeros(1, 1, 1, 1), torch.tensor([[num - 1]])
    return Entries(torch.zeros_like(values), values, at, *asked, 1, 1.0, window=window)


def size(entries):
    return entries.values[..., 0]


@pytest.mark.parametrize("share", [0.5, 0.9])
@pytest.mark.parametrize("feature", [*RISING, "-minimum-smooth", "V1a", "V1d"])
def test_what_rises_with_the_rank_keeps_the_very_survivors(model, feature, share):
    plain = kept(model, "snapkv", share)
    assert torch.equal(kept(model, "snapkv", share, feature=feature), plain)


@pytest.mark.parametrize("method", METHODS)
def test_the_lemma_holds_for_every_method_of_caches(model, method):
    plain = kept(model, method, 0.6, scope="head")
    assert torch.equal(kept(model, method, 0.6, scope="head", feature="log"), plain)


def test_what_falls_or_turns_keeps_others(model):
    plain = kept(model, "snapkv", 0.5)
    for feature in ("minimum-smooth", "-identity", "bump", "sine-3", "lyapunov-raw"):
        assert not torch.equal(kept(model, "snapkv", 0.5, feature=feature), plain)


def test_a_feature_reads_the_rank_and_the_newest_do_not_count():
    given = entries_of([3.0, 9.0, 1.0, 3.0, 7.0], window=1)
    found = through(size, feature="identity")(given)[0, 0]
    assert found[:4].tolist() == pytest.approx([2 / 3, 1, 0, 1 / 3])  # equal: the lower is fitter
    bump = FEATURES["bump"].function(ranks(torch.tensor([3.0, 9.0, 1.0, 3.0])))
    assert through(size, feature="bump")(given)[0, 0, :4].tolist() == pytest.approx(bump.tolist())
    own = Feature("own", lambda u: (u - 0.5).abs(), 1)
    assert through(size, feature=own)(given)[0, 0, :4].tolist() == pytest.approx(
        [1 / 6, 0.5, 0.5, 1 / 6]
    )


def test_a_class_is_its_features_with_equal_weights():
    given = entries_of([float(n) for n in range(9)])
    members = [f.function(torch.linspace(0, 1, 9)).double() for f in CLASSES["NL_sin"].features]
    expected = sum((m - m.mean()) / m.std(correction=0) for m in members) / len(members)
    assert through(size, feature="NL_sin")(given)[0, 0].tolist() == pytest.approx(expected.tolist())


def test_options_of_the_method_go_with_it_and_a_wrong_feature_is_named():
    bound = get("snapkv").bound({"feature": "bump", "kernel": 3})
    assert (bound.window, bound.queries) == (32, True)
    for wrong, told in (("bumb", "did you mean 'bump'"), (3, "a name, or a Feature")):
        with pytest.raises(ValueError, match=told):
            get("snapkv").bound({"feature": wrong})
    with pytest.raises(ValueError, match="kernel, feature"):
        get("snapkv").bound({"colour": 1})
