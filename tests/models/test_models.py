"""Every reference network: shapes, seeds, JSON, export and compilation."""

import copy
import json

import pytest
import torch
from torch import nn

from natsel import models

CASES = [
    ("mlp", {}),
    ("mlp", {"hidden": (7,)}),
    ("cnn", {}),
    ("resnet20", {}),
    ("resnet20", {"shortcut": "conv"}),
    ("vit", {"dim": 24, "depth": 2}),
    ("vit", {"dim": 24, "depth": 2, "pool": "mean", "mlp_ratio": 1.5}),
]
each_model = pytest.mark.parametrize(("name", "options"), CASES)


def build(name, options, in_shape=(3, 32, 32), **more):
    return models.build(name, in_shape=in_shape, num_classes=10, **options, **more)


def same_weights(a, b):
    pairs = zip(a.state_dict().items(), b.state_dict().items(), strict=True)
    return all(k == m and torch.equal(v, w) for (k, v), (m, w) in pairs)


@each_model
@pytest.mark.parametrize("in_shape", [(3, 32, 32), (1, 28, 28), (1, 8, 8)])
def test_images_become_logits_and_every_parameter_learns(name, options, in_shape):
    model = build(name, options, in_shape)
    logits = model(torch.randn(4, *in_shape))
    assert logits.shape == (4, 10)
    nn.functional.cross_entropy(logits, torch.arange(4)).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@each_model
def test_a_seed_gives_the_weights_and_leaves_the_global_state_alone(name, options):
    state = torch.get_rng_state()
    first = build(name, options, seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(5)
    assert same_weights(first, build(name, options, seed=3))
    assert not same_weights(first, build(name, options, seed=4))


@each_model
def test_a_model_is_rebuilt_from_json(name, options):
    generator = torch.Generator().manual_seed(0)
    model = build(name, options, generator=generator)
    constructor = json.loads(json.dumps(copy.deepcopy(model).constructor))
    rebuilt = models.rebuild(constructor)
    assert same_weights(model, rebuilt)
    assert rebuilt.constructor == model.constructor == constructor
    assert not same_weights(model, build(name, options, generator=generator))


@each_model
def test_export_gives_the_same_function_for_any_batch(name, options):
    model = build(name, options).eval()
    x = torch.randn(3, 3, 32, 32)
    exported = torch.export.export(model, (x,), strict=False)
    torch.testing.assert_close(exported.module()(x), model(x))
    batch = {0: torch.export.Dim("batch")}
    dynamic = torch.export.export(model, (x,), dynamic_shapes=(batch,), strict=False)
    torch.testing.assert_close(dynamic.module()(x[:2]), model(x[:2]))


@pytest.mark.parametrize("name", [n for n in models.MODELS if n not in models.TASKS])
def test_compilation_finds_no_graph_break(name):
    model = build(name, {})
    x = torch.randn(2, 3, 32, 32)
    compiled = torch.compile(copy.deepcopy(model), backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), model(x))


def test_sizes_are_the_known_ones():
    def count(model):
        return sum(p.numel() for p in model.parameters())

    assert count(build("mlp", {}, (1, 28, 28))) == 535_818
    assert count(build("resnet20", {})) == 269_722
    hidden = [m.out_features for m in build("mlp", {}).layers if isinstance(m, nn.Linear)]
    assert hidden == [512, 256, 10]


def test_attention_equals_its_formula():
    attention = build("vit", {"dim": 6, "depth": 1, "heads": 2}).blocks[0].attention
    x = torch.randn(1, 5, 6)
    q, k, v = attention.qkv(x)[0].split(6, dim=1)
    heads = [
        torch.softmax(q[:, s] @ k[:, s].T / 3**0.5, dim=1) @ v[:, s]
        for s in (slice(0, 3), slice(3, 6))
    ]
    torch.testing.assert_close(attention(x)[0], attention.proj(torch.cat(heads, 1)))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("mpl", {}, "did you mean 'mlp'"),
        ("mlp", {"hiden": (3,)}, "did you mean 'hidden'"),
        ("mlp", {"hidden": (3, 0)}, "hidden=0"),
        ("mlp", {"hidden": 3}, "hidden=3 is not allowed: expected a list"),
        ("cnn", {"widths": (1,) * 6}, "in_shape"),
        ("resnet20", {"shortcut": "A"}, "pad"),
        ("resnet20", {"width": 1.5}, "width=1.5"),
        ("vit", {"heads": 5}, "a divisor of dim=192"),
        ("vit", {"patch": 5}, "patch=5"),
        ("vit", {"pool": "max"}, "pool='max'"),
        ("mlp", {"seed": "x"}, "seed='x'"),
    ],
)
def test_what_is_not_allowed_is_named(name, options, message):
    with pytest.raises(ValueError, match=message):
        build(name, options)


@pytest.mark.parametrize(
    "constructor", [{}, {"name": "mlp"}, {"name": "mlp", "arguments": {"num_classes": 3}}]
)
def test_a_constructor_that_lacks_something_is_refused(constructor):
    with pytest.raises(ValueError, match="constructor"):
        models.rebuild(constructor)
