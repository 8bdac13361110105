"""Discovery as a whole: reference networks, costs, inputs of every kind, taught operators."""

# ruff: noqa: E501 - one network a line reads best

import copy
import logging
import re
import sys
import threading
from collections import namedtuple

import pytest
import torch
import torch.nn.functional as F
from exactness import (
    Net,
    apart,
    assert_exact,
    found,
    offered,
    owned,
    parameter,
    reasons,
    selections,
)
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import natsel
from natsel import models
from natsel.communities import discover
from natsel.communities.labels.propagation import RULES
from natsel.communities.programs.quiet import without_words

L = nn.Linear
VEC = torch.randn(2, 5, generator=torch.Generator().manual_seed(0))
MNIST = torch.randn(2, 1, 28, 28)
NETWORKS = {
    "mlp": {"hidden": [12, 7]},
    "cnn": {"widths": [4, 6, 8]},
    "resnet20": {"width": 4, "num_blocks": 2},
    "resnet20-conv": {"width": 4, "num_blocks": 2, "shortcut": "conv"},
    "vit-cls": {"dim": 12, "depth": 2, "heads": 3, "patch": 7},
    "vit-mean": {"dim": 12, "depth": 2, "heads": 3, "patch": 7, "pool": "mean"},
    "vit-square": {"dim": 9, "depth": 1, "heads": 3, "patch": 7},
}
EXPECTED = {
    "mlp": {"layers.0": 12, "layers.2": 7},
    "cnn": {"features.0": 4, "features.4": 6, "features.8": 8},
    "resnet20": {
        "conv": 4, "blocks.0.conv1": 4, "blocks.1.conv1": 4,
        "blocks.2.conv1": 8, "blocks.2.conv2": 4, "blocks.3.conv1": 8,
        "blocks.4.conv1": 16, "blocks.4.conv2": 8, "blocks.5.conv1": 16,
    },
    "resnet20-conv": {
        "conv": 4, "blocks.0.conv1": 4, "blocks.1.conv1": 4,
        "blocks.2.conv1": 8, "blocks.2.conv2": 8, "blocks.3.conv1": 8,
        "blocks.4.conv1": 16, "blocks.4.conv2": 16, "blocks.5.conv1": 16,
    },
    "vit-cls": {
        f"blocks.{i}.{part}": size for i in range(2) for part, size in (("attention", 3), ("mlp.0", 48))
    },
    "vit-mean": {
        f"blocks.{i}.{part}": size for i in range(2) for part, size in (("attention", 3), ("mlp.0", 48))
    },
    "vit-square": {"blocks.0.attention": 3, "blocks.0.mlp.0": 36},
}  # fmt: skip


def build(name):
    return models.build(
        name.split("-")[0], in_shape=(1, 28, 28), num_classes=10, seed=0, **NETWORKS[name]
    )


@pytest.mark.parametrize("name", NETWORKS)
def test_reference_networks_are_exact_in_float64(name):
    communities = found(build(name), MNIST)
    assert {c.name: c.size for c in communities.values()} == EXPECTED[name], reasons(communities)
    for survivors in selections(communities, 4)[-4:]:
        assert apart(communities, survivors, torch.randn_like(MNIST).double()) < 1e-10


@pytest.mark.parametrize("name", ["vit-cls", "vit-square"])
def test_the_head_count_follows_the_heads(name):
    for community in discover(build(name), MNIST).values():
        bound = [(b.module, b.attribute, b.per_population) for b in community.rebindings]
        assert bound == ([(community.name, "heads", 1)] if community.kind == "head" else [])


@pytest.mark.parametrize("name", NETWORKS)
def test_macs_equal_those_of_the_flop_counter(name):
    model = build(name).eval()
    # The fused kernel of the CPU is not counted.
    math = sdpa_kernel(SDPBackend.MATH)
    with FlopCounterMode(display=False) as counter, torch.no_grad(), math:
        model(MNIST[:1])
    assert discover(model, MNIST, proof=False).macs == counter.get_total_flops() / 2


@pytest.mark.parametrize("name", NETWORKS)
def test_costs_are_what_removal_saves(name):
    communities = discover(build(name), MNIST, proof=name.startswith(("resnet", "vit")))
    total = sum(p.numel() for p in communities.model.parameters())
    for community in communities.values():
        alive = torch.arange(community.size) > 0
        small = natsel.communities.surgery.surgery.remove(
            communities.model, communities.values(), {community.name: alive}
        )
        assert total - sum(p.numel() for p in small.parameters()) == community.cost.parameters
        left = discover(small, MNIST, proof=False).macs
        assert communities.macs - left == pytest.approx(community.cost.macs)


def test_costs_by_hand():
    model = Net(lambda m, x: m.b(m.a(x).relu()), a=L(5, 4), b=L(4, 3))
    communities = discover(model, VEC)
    assert communities["a"].cost == natsel.Cost(parameters=5 + 1 + 3, macs=5 + 3)
    assert communities.macs == 5 * 4 + 4 * 3
    model = Net(lambda m, x: m.b(m.a(x)), a=nn.Conv2d(3, 4, 3, padding=1), b=nn.Conv2d(4, 2, 1))
    communities = discover(model, torch.randn(2, 3, 8, 8))
    assert communities["a"].cost == natsel.Cost(27 + 1 + 2, 64 * (27 + 2))
    model = Net(
        lambda m, x: m.b(m.d(m.a(x))),
        a=nn.Conv2d(3, 4, 1),
        d=nn.Conv2d(4, 4, 3, groups=4),
        b=nn.ConvTranspose2d(4, 2, 2, 2),
    )
    communities = discover(model, torch.randn(1, 3, 6, 6))
    assert communities["a"].cost == natsel.Cost(3 + 1 + 9 + 1 + 8, 36 * 3 + 16 * 9 + 16 * 8)


def test_a_weight_that_is_read_both_ways_is_charged_for_each_use():
    model = Net(lambda m, x: F.linear(m.a(x).tanh(), m.a.weight.t()), a=L(5, 6))
    communities = discover(model, VEC)
    assert communities.macs == 2 * 5 * 6
    assert communities["a"].cost == natsel.Cost(parameters=6, macs=10)


def test_the_model_is_left_as_it_was():
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 3))
    model[1].eval()
    modes = [m.training for m in model.modules()]
    before = copy.deepcopy(model.state_dict())
    ids = [id(p) for p in model.parameters()]
    assert offered(discover(model, MNIST)) == {"0": ("filter", 4)}
    assert [m.training for m in model.modules()] == modes
    assert ids == [id(p) for p in model.parameters()]
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_a_buffer_that_forward_writes_is_left_as_it_was():
    def forward(m, x):
        m.calls.add_(1)
        return m.b(m.a(x))

    model = Net(forward, a=L(5, 4), b=L(4, 3))
    model.register_buffer("calls", torch.zeros(()))
    assert offered(discover(model, VEC)) == {"a": ("neuron", 4)}
    assert model.calls.item() == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_precisions(dtype):
    model = models.build("mlp", in_shape=(1, 4, 4), num_classes=3, hidden=[6]).to(dtype)
    communities = discover(model, torch.randn(2, 1, 4, 4, dtype=dtype))
    assert offered(communities) == {"layers.0": ("neuron", 6)}
    assert {p.dtype for p in model.parameters()} == {dtype}


def test_a_wrong_network_in_bfloat16_is_refused_too():
    model = Net(lambda m, x: m.b(m.a(x)) + m.a(x).size(1) * 1e-3, a=L(5, 64), b=L(64, 3))
    model.to(torch.bfloat16)
    assert offered(discover(model, VEC.bfloat16())) == {}


@pytest.mark.parametrize("last", [torch.zeros(3, 6), torch.full((3, 6), 1e-6)])
def test_a_branch_that_ends_in_zeros_hides_nothing(last):
    model = Net(lambda m, x: m.b(m.a(x) / m.a(x).size(1)) + m.c(x), a=L(5, 6), b=L(6, 3), c=L(5, 3))
    with torch.no_grad():
        model.b.weight.copy_(last)
        model.a.bias.zero_()
    communities = discover(model, VEC)
    assert offered(communities) == {}
    assert "removing is not masking" in reasons(communities)


def test_constant_inputs_hide_nothing():
    model = Net(lambda m, x: m.b(m.a(x) / m.a(x).size(1)), a=L(5, 6), b=L(6, 3))
    assert offered(discover(model, torch.zeros(2, 5))) == {}


def test_the_gate_test_matters():
    model = Net(lambda m, x: m.b(m.a(x) / m.a(x).size(1)), a=L(5, 6), b=L(6, 3))
    unproven = found(model, VEC, proof=False)
    assert offered(unproven) == {"a": ("neuron", 6)}
    half = {"a": torch.arange(6) % 2 == 0}
    assert apart(unproven, half, VEC.double()) > 0.1
    assert offered(found(model, VEC)) == {}


def test_communities_that_are_exact_alone_and_not_together_are_not_both_offered():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.width = 4
            self.a, self.b, self.c, self.d = L(5, 4), L(4, 3), L(5, 4), L(4, 3)

        def forward(self, x):
            left = self.a(x).view(-1, self.width)
            return self.b(left) + self.d(self.c(x).view(-1, self.width))

    communities = found(Shared(), VEC)
    assert offered(communities) == {}
    assert "does not run" in reasons(communities)


def test_several_inputs_and_nested_outputs():
    Pair = namedtuple("Pair", "left right")

    def forward(m, x, y):
        h, g = m.a(x), m.c(y)
        return {"sum": m.b(h + g), "pair": Pair(m.b(h), [m.d(g)])}

    model = Net(forward, a=L(5, 4), b=L(4, 3), c=L(2, 4), d=L(4, 2))
    communities = found(model, torch.randn(2, 5), torch.randn(2, 2))
    assert offered(communities) == {"a": ("neuron", 4)}
    assert_exact(communities)


def test_a_hidden_output_is_refused_as_an_output():
    model = Net(lambda m, x: (m.a(x), m.b(m.a(x))), a=L(5, 4), b=L(4, 3))
    communities = found(model, VEC)
    assert {(r.name, r.reason) for r in communities.refused} == {
        ("a", "it is an output of the model"), ("b", "it is an output of the model")
    }  # fmt: skip


def test_non_contiguous_parameters():
    model = Net(lambda m, x: m.b(m.a(x)), a=L(5, 4), b=L(4, 3))
    model.b.weight = nn.Parameter(torch.randn(4, 3).t())
    communities = discover(model.double(), VEC.double())
    assert_exact(communities)


def test_shared_weights_are_cut_once():
    model = Net(lambda m, x: m.b(m.a(x)) + m.c(m.a(x)), a=L(5, 4), b=L(4, 3), c=L(4, 3))
    model.c.weight = model.b.weight
    communities = found(model, VEC)
    assert set(owned(communities, "a")) == {"a.weight:0", "a.bias:0", "b.weight:1"}
    assert_exact(communities)
    small = natsel.communities.surgery.surgery.remove(
        model, communities.values(), {"a": torch.tensor([True, False, True, False])}
    )
    assert small.c.weight is small.b.weight


def test_parameters_in_lists():
    model = Net(
        lambda m, x: (x @ m.w[0]).relu() @ m.w[1],
        w=nn.ParameterList([parameter(5, 4), parameter(4, 3)]),
    )
    communities = found(model, VEC)
    assert list(offered(communities).values()) == [("neuron", 4)]
    assert_exact(communities)


@pytest.mark.parametrize("model", [nn.ReLU(), L(5, 3), nn.Identity()])
def test_a_model_without_communities(model):
    communities = discover(model, VEC)
    assert len(communities) == 0
    assert communities.num_populations == 0


class Cumulative(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = L(5, 4), L(4, 3)

    def forward(self, x):
        y = self.a(x).sort(1)[0]
        return self.b(y)


def test_a_reason_names_the_line_of_the_user():
    communities = discover(nn.Sequential(Cumulative()), VEC)
    (refusal,) = [r for r in communities.refused if r.name == "0.a"]
    line = r"at test_discover.py:\d+ `y = self.a\(x\).sort\(1\)\[0\]`"
    assert re.fullmatch(f"no rule for aten.sort.default {line}", refusal.reason)
    assert refusal.remedy == "teach the operator with @natsel.rule"
    assert re.fullmatch(f"aten.sort.default {line}", communities.barriers[0])


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ((torch.randn(2, 4),), r"example_inputs=.*\(2, 4\).* is not allowed"),
        ((), "at least one tensor"),
        ("text", "expected a tuple of tensors"),
        ((VEC, None), "expected a tuple of tensors"),
        ({"x": VEC}, "shapes the model runs on"),
        ((torch.randn(0, 5),), "at least one element"),
    ],
)
def test_wrong_inputs_are_named(inputs, message):
    with pytest.raises(ValueError, match=message):
        discover(nn.Sequential(L(5, 4), L(4, 3)), inputs)


@pytest.fixture
def logged():
    """Return the messages of the loggers that an export uses."""
    messages = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())
    loggers = [logging.getLogger(f"torch{n}") for n in ("", ".fx.experimental.symbolic_shapes")]
    for log in loggers:
        log.addHandler(handler)
    yield messages
    for log in loggers:
        log.removeHandler(handler)


@pytest.mark.parametrize("read", [discover, natsel.as_program])
def test_control_flow_on_data_is_named_and_nothing_else_is_said(read, capfd, logged):
    model = Net(lambda m, x: m.b(m.a(x)) if x.sum() > 0 else m.a(x), a=L(5, 4), b=L(4, 3))
    level, stream = logging.getLogger("torch").level, sys.stderr
    with pytest.raises(ValueError, match=r"at test_discover.py:\d+ `model = Net\(lambda"):
        read(model, (VEC,))
    assert (capfd.readouterr(), logged) == (("", ""), [])
    assert (logging.getLogger("torch").level, sys.stderr) == (level, stream)


def test_torch_says_what_it_was_asked_to_say(capfd, logged, monkeypatch):
    log = logging.getLogger("torch")
    monkeypatch.setattr(log, "level", logging.INFO)
    with without_words():
        log.info("asked for")
        other = threading.Thread(target=lambda: print("a bar", file=sys.stderr))
        other.start()
        other.join()
        print("a graph", file=sys.stderr)
    assert (capfd.readouterr().err, logged) == ("a bar\n", ["asked for"])


def test_a_taught_operator():
    @torch.library.custom_op("natsel_tests::swish", mutates_args=())
    def swish(x: torch.Tensor, beta: float) -> torch.Tensor:
        return x * torch.sigmoid(beta * x)

    @swish.register_fake
    def _(x, beta):
        return torch.empty_like(x)

    model = Net(lambda m, x: m.b(torch.ops.natsel_tests.swish(m.a(x), 2.0)), a=L(5, 4), b=L(4, 3))
    before = found(model, VEC)
    assert offered(before) == {}
    assert "no rule for natsel_tests.swish.default" in reasons(before)
    try:

        @natsel.rule("natsel_tests.swish.default")
        def same(run, node, x, beta):
            return run.lift(x)

        communities = found(model, VEC)
        assert offered(communities) == {"a": ("neuron", 4)}
        assert_exact(communities)
    finally:
        del RULES["natsel_tests.swish.default"]


def test_a_rule_that_makes_labels_without_end_is_told():
    def endless(run, node, x):
        labels = run.space.fresh(*x.shape)
        run.space.unite(labels, x, "")
        return labels

    model = Net(lambda m, x: m.b(torch.special.erfcx(m.a(x))), a=L(5, 4), b=L(4, 3))
    natsel.rule("aten.special_erfcx.default")(endless)
    try:
        with pytest.raises(ValueError, match="keeps changing labels"):
            discover(model, VEC)
    finally:
        del RULES["aten.special_erfcx.default"]


def test_torch_transformer_layers_offer_heads_and_neurons():
    model = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True)
    communities = found(model, torch.randn(2, 3, 8))
    expected = {"self_attn": ("head", 2), "linear1": ("neuron", 12)}
    assert offered(communities) == expected, reasons(communities)
    assert_exact(communities)
