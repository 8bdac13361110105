"""Any model in float64: whatever its precision and whatever casts its forward names."""

import copy

import pytest
import torch
import torch.nn.functional as F
from exactness import Net, parameter
from torch import nn

from natsel.common.calls import call, in_double, outputs_of, without_cache
from natsel.communities import as_program
from natsel.communities.proof.doubled import MAX_CHUNK, in_float64
from natsel_bench.zoo import ARCHITECTURES, build_architecture

CASTS = {
    "float": lambda x: x.float(),
    "half": lambda x: x.half(),
    "bfloat16": lambda x: x.bfloat16(),
    "to": lambda x: x.to(torch.float32),
    "to a keyword": lambda x: x.to(dtype=torch.float16),
    "to another tensor": lambda x: x.to(torch.zeros(1, dtype=torch.float32)),
    "type": lambda x: x.type(torch.float32),
    "type by name": lambda x: x.type("torch.FloatTensor"),
    "type as": lambda x: x.type_as(torch.zeros(1, dtype=torch.bfloat16)),
    "softmax": lambda x: x.softmax(-1, dtype=torch.float32),
    "functional softmax": lambda x: F.softmax(x, -1, dtype=torch.float32),
    "sum": lambda x: x.sum(-1, dtype=torch.float32),
    "factory": lambda x: x + torch.zeros(3, dtype=torch.float32),
    "new": lambda x: x + x.new_zeros(3, dtype=torch.float16),
    "its own type": lambda x: x.float().to(x.dtype),
    "autocast": lambda x: autocast(x),
    "an operator": lambda x: torch.ops.aten._to_copy.default(x, dtype=torch.float32),
}


def autocast(x):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return x @ torch.ones(3, 3)


@pytest.mark.parametrize("cast", CASTS.values(), ids=CASTS)
def test_no_cast_leaves_float64(cast):
    x = torch.tensor([[1 / 3, 2 / 3, 1e-9]], dtype=torch.float64)
    with in_float64():
        found = cast(x)
    lifted = {"softmax": x.softmax(-1), "sum": x.sum(-1)}
    assert found.dtype == torch.float64
    name = next(n for n, c in CASTS.items() if c is cast)
    expected = lifted.get(name.removeprefix("functional "), x @ torch.ones(3, 3).double())
    if name in ("softmax", "functional softmax", "sum", "autocast"):
        assert torch.equal(found, expected)
    else:
        assert torch.equal(found, x)


def test_whole_numbers_become_float64_where_forward_asks_for_a_float():
    with in_float64():
        assert torch.arange(3).float().dtype == torch.float64
        assert torch.arange(3).long().dtype == torch.int64
        assert torch.rand(2).dtype == torch.tensor(0.5).dtype == torch.float64
    assert torch.rand(2).dtype == torch.float32


def test_a_parameter_says_float64_and_stays_as_it_is():
    layer = nn.Linear(2, 3, dtype=torch.bfloat16)
    before = layer.weight
    with in_float64():
        assert layer.weight.dtype == torch.float64
        assert layer(torch.ones(1, 2)).dtype == torch.float64
    assert layer.weight is before
    assert layer.weight.dtype == torch.bfloat16


def test_forward_may_not_replace_parameters():
    model = Net(lambda m, x: m.a.float()(x), a=nn.Linear(2, 2, dtype=torch.bfloat16))
    with in_float64(), pytest.raises(RuntimeError, match="replaces the data"):
        model(torch.ones(1, 2))
    assert model.a.weight.dtype == torch.bfloat16


def test_the_rows_of_a_wide_map_take_turns():
    layer = nn.Linear(64, MAX_CHUNK // 64 + 5, dtype=torch.bfloat16)
    x = torch.randn(2, 64)
    with in_float64():
        found = layer(x)
    expected = F.linear(x.double(), layer.weight.detach().double(), layer.bias.detach().double())
    torch.testing.assert_close(found, expected, rtol=1e-14, atol=1e-14)


def test_writing_in_place_keeps_the_tensor():
    def forward(model, x):
        y = torch.zeros(2, 3)
        y[:, 0] = x[:, 0]
        y.add_(x)
        return y.index_fill_(1, torch.tensor([2]), 0)

    with in_float64():
        found = Net(forward)(torch.tensor([[1.0, 2.0, 3.0]] * 2))
    assert found.tolist() == [[2.0, 2.0, 0.0]] * 2
    assert found.dtype == torch.float64


@pytest.mark.parametrize("name", [n for n in ARCHITECTURES if n != "hf-mixtral"])
def test_it_equals_a_copy_in_float64(name):
    """But for casts: rotary embeddings and relative positions are computed in float32 there."""
    model, inputs = build_architecture(name)
    model.eval()
    double = copy.deepcopy(model).double()
    with torch.no_grad(), without_cache(model), without_cache(double):
        expected = outputs_of(call(double, in_double(inputs)))
        with in_float64():
            found = outputs_of(call(model, inputs))
    precise = name not in ("hf-llama", "hf-t5")
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == torch.float64
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-14 if precise else 1e-6)


def test_the_product_of_experts_equals_one_product_each():
    x, weights = torch.randn(5, 8).bfloat16(), torch.randn(3, 8, 16).bfloat16()
    ends = torch.tensor([2, 2, 5], dtype=torch.int32)
    with in_float64():
        found = F.grouped_mm(x, weights, offs=ends)
    x, weights = x.double(), weights.double()
    assert torch.equal(found, torch.cat([x[:2] @ weights[0], x[2:] @ weights[2]]))


def test_a_program_names_its_casts_as_operators():
    model = Net(lambda m, x: (x.float() @ m.w.float().T).to(x.dtype), w=parameter(3, 2))
    program = as_program(model, torch.randn(2, 2))
    x = torch.randn(2, 2).double()
    with in_float64():
        assert torch.equal(program(x.float()), model(x.float()))
