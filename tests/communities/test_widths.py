"""Code that takes the width inside of a module from its input: heads can go all the same."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from exactness import TOLERANCE, found, reasons
from torch import Tensor, nn
from transformers import Phi3Config, Phi3ForCausalLM

import natsel
from natsel.communities.surgery.attention import HeadwiseAttention
from natsel.communities.surgery.own_numbers import OwnNumbers
from natsel.communities.surgery.widths import leave_widths_open

HEADS, WIDTH, TOKENS = 4, 3, 5


def _scores(q: Tensor, k: Tensor, width: float) -> Tensor:
    return torch.softmax(q @ k.transpose(-2, -1) * width**-0.5, dim=-1)


class Plain(nn.Module):
    """As timm writes it (cait, xcit, davit, volo)."""

    def __init__(self) -> None:
        super().__init__()
        self.num_heads = HEADS
        self.qkv = nn.Linear(HEADS * WIDTH, 3 * HEADS * WIDTH)
        self.proj = nn.Linear(HEADS * WIDTH, HEADS * WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        B, N, C = x.shape
        qkv = self.qkv(x).reshape(B, N, 3, self.num_heads, C // self.num_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        y = (_scores(q, k, WIDTH) @ v).transpose(1, 2).reshape(B, N, C)
        return self.proj(y)


class Reduced(Plain):
    """With keys of fewer tokens, whose number is left open already (twins)."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.kv = (nn.Linear(HEADS * WIDTH, n * HEADS * WIDTH) for n in (1, 2))
        del self.qkv

    def forward(self, x: Tensor) -> Tensor:
        B, N, C = x.shape
        q = self.q(x).reshape(B, N, self.num_heads, C // self.num_heads).permute(0, 2, 1, 3)
        few = x.permute(0, 2, 1).reshape(B, C, N)[..., ::2].permute(0, 2, 1)
        kv = self.kv(few).reshape(B, -1, 2, self.num_heads, C // self.num_heads)
        k, v = kv.permute(2, 0, 3, 1, 4).unbind(0)
        y = (_scores(q, k, WIDTH) @ v).transpose(1, 2).reshape(B, N, C)
        return self.proj(y)


def attend(x: Tensor, weight: Tensor, bias: Tensor, last: nn.Module, num_heads: int) -> Tensor:
    """Attend in a function that knows no module (torchvision's swin)."""
    B, N, C = x.shape
    qkv = nn.functional.linear(x, weight, bias)
    qkv = qkv.reshape(x.size(0), x.size(1), 3, num_heads, C // num_heads).permute(2, 0, 3, 1, 4)
    q, k, v = qkv[0], qkv[1], qkv[2]
    q = q * (C // num_heads) ** -0.5
    y = _scores(q, k, 1).matmul(v).transpose(1, 2).reshape(x.size(0), x.size(1), C)
    return last(y).view(B, N, C)


class Called(Plain):
    def forward(self, x: Tensor) -> Tensor:
        return attend(x, self.qkv.weight, self.qkv.bias, self.proj, self.num_heads)


class Cached(Plain):
    """With a table that is computed once and kept (levit)."""

    def __init__(self) -> None:
        super().__init__()
        self.biases = nn.Parameter(torch.randn(HEADS, TOKENS))
        self.bias_cache: dict[str, Tensor] = {}

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.size()
        if "cpu" not in self.bias_cache:
            self.bias_cache["cpu"] = self.biases[:, torch.arange(n)].unsqueeze(1)
        qkv = self.qkv(x).view((b, n, 3, self.num_heads, c // self.num_heads))
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        scores = q @ k.transpose(-2, -1) * WIDTH**-0.5 + self.bias_cache["cpu"]
        y = torch.softmax(scores, dim=-1) @ v
        return self.proj(y.transpose(1, 2).contiguous().view(b, n, c))


class Grown(Plain):
    """With a table of places that is made anew for inputs of another length (ConViT)."""

    places: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("places", torch.zeros(1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.size()
        if self.places.shape[1] != n:
            self.places = torch.eye(n, dtype=x.dtype)
        qkv = self.qkv(x).view((b, n, 3, self.num_heads, c // self.num_heads))
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        y = torch.softmax(q @ k.transpose(-2, -1) * WIDTH**-0.5 + self.places, dim=-1) @ v
        return self.proj(y.transpose(1, 2).contiguous().view(b, n, c))


def _model(kind: type[nn.Module]) -> nn.Module:
    return nn.Sequential(kind(), nn.Linear(HEADS * WIDTH, 2))


def _input(batch: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, TOKENS, HEADS * WIDTH, generator=generator, dtype=torch.float64)


def _masked(model: nn.Module, alive: Tensor) -> nn.Module:
    """Zero what the projection reads of dead heads: written here, it asks natsel nothing."""
    masked = copy.deepcopy(model)
    columns = alive.repeat_interleave(WIDTH)
    masked[0].proj.weight.data[:, ~columns] = 0
    return masked


@pytest.mark.parametrize("kind", [Plain, Reduced, Called])
@pytest.mark.parametrize("alive", [[True, False, True, True], [False, False, True, False]])
def test_heads_go_where_code_writes_the_width_of_its_input(
    kind: type[nn.Module], alive: list[bool]
) -> None:
    model = _model(kind)
    communities = found(model, _input())
    assert communities["0"].kind == "head", reasons(communities)
    keep = torch.tensor(alive)
    small = natsel.extract(model, {"0": keep}, communities=communities)
    for batch in (1, 3):  # of other lengths than the example
        x = _input(batch)[:, : TOKENS - batch + 1]
        torch.testing.assert_close(
            small(x), _masked(model, keep)(x), rtol=TOLERANCE, atol=TOLERANCE
        )
    assert small[0].num_heads == sum(alive)
    assert small[0].proj.in_features == WIDTH * sum(alive)


def test_a_module_that_lost_nothing_stays_of_its_class() -> None:
    model = _model(Plain)
    leave_widths_open(model[0])
    assert type(model[0]) is Plain


def test_the_open_code_computes_the_same_on_the_whole_module() -> None:
    module = Reduced().double()
    before = module(_input())
    module.q.out_features += 1  # as if it had been cut
    leave_widths_open(module)
    assert type(module) is not Reduced
    assert isinstance(module, Reduced)
    assert torch.equal(module(_input()), before)


def test_a_small_model_is_saved_copied_and_pickled(tmp_path: Path) -> None:
    model = _model(Called)
    communities = found(model, _input())
    small = natsel.extract(
        model, {"0": torch.tensor([True, False, True, True])}, communities=communities
    )
    natsel.save(small, tmp_path / "small")
    expected = small(_input())
    for other in (
        natsel.load(tmp_path / "small", model=_model(Called).double()),
        copy.deepcopy(small),
        pickle.loads(pickle.dumps(small)),
    ):
        assert torch.equal(other(_input()), expected)


def test_a_table_that_was_computed_before_is_not_taken_along() -> None:
    model = _model(Cached).double().eval()
    model(_input())
    communities = found(model, _input())
    model(_input())
    keep = torch.tensor([False, True, True, False])
    assert communities["0"].kind == "head", reasons(communities)
    small = natsel.extract(model, {"0": keep}, communities=communities)
    model[0].bias_cache.clear()
    torch.testing.assert_close(small(_input()), _masked(model, keep)(_input()))


@pytest.mark.parametrize("kind", [Cached, Grown])
def test_no_table_in_float64_is_left_behind(kind: type[nn.Module], tmp_path: Path) -> None:
    model, x = _model(kind).eval(), _input().float()
    communities = natsel.discover(model, x)
    keep = torch.tensor([False, True, True, False])
    small = natsel.extract(model, {"0": keep}, communities=communities)
    with torch.no_grad():
        assert model(x).dtype == small(x).dtype == torch.float32
        natsel.save(small, tmp_path / "small")
        loaded = natsel.load(tmp_path / "small", model=_model(kind))
        assert torch.equal(loaded(x), small(x))


def test_phi3_loses_heads_of_each_layer_and_generates(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = Phi3Config(
        vocab_size=32, hidden_size=24, intermediate_size=16, num_hidden_layers=2,
        num_attention_heads=6, num_key_value_heads=3, max_position_embeddings=32,
        pad_token_id=0, bos_token_id=1, eos_token_id=31, original_max_position_embeddings=32,
    )  # fmt: skip
    model = Phi3ForCausalLM(config).double().eval()
    ids = torch.arange(2, 12).reshape(2, 5)
    communities = natsel.discover(model, {"input_ids": ids})
    first, second = "model.layers.0.self_attn", "model.layers.1.self_attn"
    keep = {first: torch.tensor([True, False, True]), second: torch.tensor([False, True, False])}
    small = natsel.extract(model, keep, communities=communities)
    masked = copy.deepcopy(model)
    for name, alive in keep.items():
        columns = alive.repeat_interleave(2 * 4)
        masked.get_submodule(name).o_proj.weight.data[:, ~columns] = 0
    torch.testing.assert_close(small(ids).logits, masked(ids).logits)
    ours, theirs = (
        m.generate(ids, max_new_tokens=6, do_sample=False, use_cache=True) for m in (small, masked)
    )
    assert torch.equal(ours, theirs)
    assert model.config.num_attention_heads == config.num_attention_heads == 6
    natsel.save(small, tmp_path / "small")
    loaded = natsel.load(tmp_path / "small", model=Phi3ForCausalLM(config).double().eval())
    assert torch.equal(loaded(ids).logits, small(ids).logits)


def test_numbers_of_its_own_are_copied_with_what_is_shared() -> None:
    shared = SimpleNamespace(heads=4, attention="eager")
    own = OwnNumbers(OwnNumbers(shared, heads=3), width=2)
    both = copy.deepcopy([shared, own])
    both[1].attention, both[1].heads = "sdpa", 1
    assert both[0] == SimpleNamespace(heads=4, attention="sdpa")
    assert (both[1].heads, both[1].width, own.heads, shared.attention) == (1, 2, 3, "eager")
    assert not hasattr(own, "depth")


def test_attention_of_fewer_heads_follows_also_where_their_number_was_set_before() -> None:
    layer = nn.MultiheadAttention(8, 4, batch_first=True).eval()
    small = copy.deepcopy(layer)
    kept = torch.tensor([2, 3, 6, 7])  # the second and the last head
    rows = torch.cat([kept, kept + 8, kept + 16])
    small.in_proj_weight = nn.Parameter(layer.in_proj_weight[rows])
    small.in_proj_bias = nn.Parameter(layer.in_proj_bias[rows])
    small.out_proj.weight = nn.Parameter(layer.out_proj.weight[:, kept])
    small.num_heads = 2
    HeadwiseAttention.follow(small)
    layer.out_proj.weight.data[:, [0, 1, 4, 5]] = 0
    x = torch.randn(2, 3, 8)
    torch.testing.assert_close(small(x, x, x)[0], layer(x, x, x)[0])
