"""Language models: built from a configuration, by seed, and back from JSON."""

import copy
import json
import sys

import pytest
import torch

from natsel import models
from natsel.common.calls import logits_of
from natsel.common.extras import MissingExtraError

SMALL = {
    "llama": {"dim": 16, "depth": 1, "heads": 4, "key_value_heads": 2, "hidden": 24},
    "bert": {"dim": 16, "depth": 1, "heads": 4, "hidden": 24},
}
each_model = pytest.mark.parametrize("name", SMALL)


def build(name, **more):
    return models.build(name, in_shape=(12,), num_classes=10, **(SMALL[name] | more))


def same_weights(a, b):
    pairs = zip(a.state_dict().items(), b.state_dict().items(), strict=True)
    return all(k == m and torch.equal(v, w) for (k, v), (m, w) in pairs)


@each_model
def test_windows_become_logits_of_every_place(name):
    model = build(name)
    logits = logits_of(model(torch.arange(24).reshape(2, 12) % 10))
    assert logits.shape == (2, 12, {"llama": 10, "bert": 11}[name])
    logits.square().sum().backward()
    grads = {n: p.grad for n, p in model.named_parameters()}
    assert [n for n, g in grads.items() if g is None] == []


def test_llama_keeps_no_cache_and_sees_no_future():
    model = build("llama").eval()
    x = torch.arange(12).reshape(1, 12) % 10
    out = model(x)
    assert out.past_key_values is None
    changed = x.clone()
    changed[0, 7] = 9
    differ = (model(changed).logits != out.logits).any(-1)[0].tolist()
    assert differ == [False] * 7 + [True] * 5


@each_model
def test_a_seed_gives_the_weights_and_json_gives_the_model(name):
    state = torch.get_rng_state()
    first = build(name, seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(5)
    assert same_weights(first, build(name, seed=3))
    assert not same_weights(first, build(name, seed=4))
    constructor = json.loads(json.dumps(copy.deepcopy(first).constructor))
    rebuilt = models.rebuild(constructor)
    assert same_weights(first, rebuilt)
    assert rebuilt.constructor == constructor


@each_model
def test_training_draws_no_random_numbers(name):
    model = build(name).train()
    x = torch.arange(24).reshape(2, 12) % 10
    assert torch.equal(logits_of(model(x)), logits_of(model(x)))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("llama", {"heads": 3}, "^heads=3 .*a divisor of dim, 16"),
        ("llama", {"key_value_heads": 3}, "^key_value_heads=3 .*a divisor of heads, 4"),
        ("llama", {"heads": 16, "key_value_heads": 4}, "^dim=16 .*an even width"),
        ("llama", {"hidden": 0}, "^hidden=0"),
        ("llama", {"in_shape": (1, 8, 8)}, r"^in_shape=\(1, 8, 8\) .*\(T,\)"),
        ("bert", {"depth": 0}, "^depth=0"),
        ("bert", {"key_value_heads": 2}, "^option='key_value_heads'"),
    ],
)
def test_what_is_not_allowed_is_named(name, options, message):
    with pytest.raises(ValueError, match=message):
        models.build(name, **({"in_shape": (12,), "num_classes": 10} | SMALL[name] | options))


def test_the_missing_library_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingExtraError) as caught:
        models.build("llama", in_shape=(8,), num_classes=4)
    told = "transformers is not installed: pip install 'natsel[transformers]'"
    assert str(caught.value) == told
