"""Populations that a mean sees, or whose columns no number reads alone: removing is silencing.

The reference silences them by hooks: what they make is zero where it enters the next module.
"""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from exactness import assert_exact, found, offered, reasons
from torch import Tensor, nn

import natsel
from natsel.communities.proof.doubled import in_float64
from natsel.communities.surgery.surgery import remove

IMG = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))


class Response(nn.Module):
    """Global response normalisation, as ConvNeXt V2 writes it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma, self.beta = (nn.Parameter(torch.randn(1, 1, 1, width)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        size = torch.norm(x, p=2, dim=(1, 2), keepdim=True)
        share = size / (size.mean(dim=-1, keepdim=True) + 1e-2)
        return self.gamma * (x * share) + self.beta + x


class Responding(nn.Module):
    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.a, self.act, self.norm = nn.Linear(3, 8), activation, Response(8)
        self.b = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.norm(self.act(self.a(x.permute(0, 2, 3, 1)))))


class Standardised(nn.Conv2d):
    """A convolution of timm's normaliser-free networks."""

    def __init__(self, *sizes: int) -> None:
        super().__init__(*sizes)
        self.gain = nn.Parameter(torch.rand(self.out_channels, 1, 1, 1) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        weight = F.batch_norm(
            self.weight.reshape(1, self.out_channels, -1),
            None,
            None,
            weight=(self.gain * 0.7).view(-1),
            training=True,
            momentum=0.0,
            eps=1e-3,
        ).reshape_as(self.weight)
        return F.conv2d(x, weight, self.bias)


class Free(nn.Module):
    """Standardised weights that read one another, over a shift on the way."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm = Standardised(3, 8, 3), nn.GroupNorm(8, 8)
        self.b, self.c = Standardised(8, 6, 1), nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(F.silu(self.b(F.relu(self.norm(self.a(x))))))


def _without(model: nn.Module, places: dict[str, Tensor], axis: int) -> nn.Module:
    """Return a copy in which some places of what enters modules are zero."""
    model = copy.deepcopy(model)
    for path, dead in places.items():
        model.get_submodule(path).register_forward_pre_hook(
            lambda _, inputs, dead=dead: (inputs[0].index_fill(axis, dead, 0),)
        )
    return model


def _some(size: int, *kept: int) -> Tensor:
    return torch.isin(torch.arange(size), torch.tensor(kept))


def _close(a: nn.Module, b: nn.Module, x: Tensor) -> bool:
    with torch.no_grad():
        return torch.allclose(a(x), b(x), atol=1e-12, rtol=1e-10)


def test_neurons_under_a_response_normalisation_go_and_its_mean_counts_them() -> None:
    communities = found(Responding(nn.GELU()), IMG)
    assert offered(communities) == {"a": ("neuron", 8)}, reasons(communities)
    assert_exact(communities)
    x = torch.randn_like(IMG.double())
    for alive in (_some(8, 5), _some(8, 0, 3, 4, 7)):
        small = remove(communities.model, communities.values(), {"a": alive})
        dead = (~alive).nonzero().reshape(-1)
        assert _close(small, _without(communities.model, {"norm": dead, "b": dead}, -1), x)
        cost = communities.price({"a": alive})
        assert cost.parameters == sum(p.numel() for p in small.parameters())
    # Of those that are left some can go again: as many are counted as there were at first.
    again = natsel.discover(small, (x,))
    less = remove(small, again.values(), {"a": _some(4, 1, 2)})
    dead = (~_some(8, 3, 4)).nonzero().reshape(-1)
    assert _close(less, _without(communities.model, {"norm": dead, "b": dead}, -1), x)


def test_what_is_not_silent_at_zero_stays_whole() -> None:
    communities = found(Responding(nn.Sigmoid()), IMG)
    assert not communities
    assert "removing is not masking" in reasons(communities)


def test_columns_of_standardised_weights_go_and_leave_the_others_what_they_were() -> None:
    communities = found(Free(), IMG)
    assert offered(communities) == {"a": ("filter", 8), "b": ("filter", 6)}, reasons(communities)
    assert_exact(communities)
    x = torch.randn_like(IMG.double())
    alive = {"a": _some(8, 1, 2, 6), "b": _some(6, 0, 5)}
    small = remove(communities.model, communities.values(), alive)
    dead = {path: (~alive[n]).nonzero().reshape(-1) for path, n in (("b", "a"), ("c", "b"))}
    assert _close(small, _without(communities.model, dead, 1), x)
    again = natsel.discover(small, (x,))
    less = remove(small, again.values(), {"a": _some(3, 2)})
    dead["b"] = (~_some(8, 6)).nonzero().reshape(-1)
    assert _close(less, _without(communities.model, dead, 1), x)


@pytest.mark.parametrize("build", [lambda: Responding(nn.ReLU()), Free])
def test_they_are_extracted_saved_copied_and_evolve(build, tmp_path) -> None:
    model = build().eval()
    communities = natsel.discover(model, (IMG,))
    scores = natsel.score(communities, "magnitude")
    small = natsel.extract(model, natsel.select(scores, natsel.Sparsity(0.5)))
    natsel.save(small, tmp_path / "small")
    loaded = natsel.load(tmp_path / "small", model=build())
    with torch.no_grad():
        expected = small(IMG)
        for other in (loaded, copy.deepcopy(small), pickle.loads(pickle.dumps(small))):
            assert torch.equal(other(IMG), expected)
    evolution = natsel.Evolution(communities, dynamics="logistic", fitness="taylor")
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    model(IMG).square().mean().backward()
    optimizer.step()
    evolution.step()
    evolution.close()


class Placed(nn.Module):
    """Heads in the batch that share a table of relative positions, as SAM's encoder has it."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.table = 3, nn.Parameter(torch.randn(7, 2))
        self.qkv, self.out = nn.Linear(5, 18), nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        qkv = self.qkv(x).view(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.reshape(3, b * self.heads, n, -1).unbind(0)
        places = torch.arange(n)
        table = self.table[(places[:, None] - places[None, :] + n - 1).long()]
        bias = torch.einsum("bnc,nkc->bnk", q, table)
        y = (q @ k.transpose(-2, -1) + bias).softmax(-1) @ v
        return self.out(y.view(b, self.heads, n, -1).transpose(1, 2).reshape(b, n, -1))


def test_heads_go_from_a_table_of_places_that_all_share() -> None:
    communities = found(Placed(), torch.randn(2, 4, 5))
    assert {(c.kind, c.size) for c in communities.values()} == {("head", 3)}
    assert all(s.tensor != "table" for c in communities.values() for s in c.slices)
    assert_exact(communities)


@pytest.mark.parametrize(("groups", "size"), [(1, 4), (2, 2)])
def test_heads_of_a_scan_go_with_what_they_alone_write_and_read(groups: int, size: int) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.Mamba2Config(
        vocab_size=32,
        hidden_size=8,
        num_hidden_layers=1,
        state_size=4,
        num_heads=4,
        head_dim=4,
        n_groups=groups,
        chunk_size=4,
    )
    model = transformers.Mamba2ForCausalLM(config).eval()
    tokens = torch.randint(4, 32, (2, 6))
    communities = natsel.discover(model, {"input_ids": tokens})
    name = "backbone.layers.0.mixer"
    assert (communities[name].kind, communities[name].size) == ("head", size)
    alive = _some(size, size - 1)
    small = natsel.extract(model, natsel.Survivors({name: alive}, communities))
    mixer = small.get_submodule(name)
    assert (mixer.num_heads, mixer.n_groups) == ((1, 1) if groups == 1 else (2, 1))
    dead = torch.arange(12 if groups == 1 else 8)
    masked = _without(model, {f"{name}.out_proj": dead}, -1)
    masked.get_submodule(name).in_proj.weight.data[dead] = 0  # the gates of those that go
    longer = torch.randint(4, 32, (2, 9))
    pair = small.double(), masked.double()
    with torch.no_grad(), in_float64():  # also where its code asks for less
        ours, theirs = (m(longer).logits for m in pair)
    assert torch.allclose(ours, theirs, rtol=1e-9, atol=1e-12)
