"""What is added to a stream makes up for what the stream lacks, not for its own inputs alone."""

from __future__ import annotations

import warnings

import pytest
import torch
from chained import batches, gpt2, llama, mixtral, pruned, vit
from torch import nn

import natsel
from natsel.blockwise import chains_of, walk
from natsel.extraction.sums import Sum, sums_of


def sums_in_first(model, x, paths):
    return sums_of(next(walk(model, chains_of(model, x)[0], [x])), paths)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (llama, {"self_attn.o_proj": "post_attention_layernorm", "mlp.down_proj": None}),
        (gpt2, {"attn.c_proj": "ln_2", "mlp.c_proj": None}),
        (vit, {"attention.o_proj": "layernorm_after", "mlp.fc2": None}),
        (mixtral, {"self_attn.o_proj": "post_attention_layernorm"}),
    ],
)
def test_the_sum_is_what_the_next_layer_or_block_reads(make, expected):
    torch.manual_seed(0)
    model = make().eval()
    x = batches(model)[0]
    first = chains_of(model, x)[0].paths[0]
    linear = [f"{first}.{n}" for n, m in model.get_submodule(first).named_modules() if n]
    found = {p.removeprefix(f"{first}."): s for p, s in sums_in_first(model, x, linear).items()}
    for path, reader in expected.items():
        assert found[path] == Sum(reader and f"{first}.{reader}")
    assert not [path for path in found if path.endswith(("up_proj", "q_proj", "c_fc", "fc1"))]


class Block(nn.Module):
    """A layer whose output takes a way of its own to the stream."""

    def __init__(self, way):
        super().__init__()
        self.up, self.down, self.way = nn.Linear(4, 8), nn.Linear(8, 4), way

    def forward(self, x):
        return self.way(x, self.down(self.up(x).relu()))


@pytest.mark.parametrize(
    ("way", "there"),
    [
        (lambda x, y: x + y, True),
        (lambda x, y: x * x - 3 + y, True),
        (lambda x, y: y, True),
        (lambda x, y: x + 0.9 * y, False),
        (lambda x, y: x - y, False),
        (lambda x, y: x + y.relu(), False),
        (lambda x, y: x + y + y, False),
        (lambda x, y: x + y.flip(-1), False),
        (lambda x, y: x, False),
    ],
)
def test_only_what_is_added_as_it_is_counts(way, there):
    torch.manual_seed(0)
    model = nn.Sequential(Block(way), Block(way))
    found = sums_in_first(model, (torch.randn(5, 4),), ["0.up", "0.down"])
    assert found == ({"0.down": Sum(None)} if there else {})


RIDGE = 1e-2


def test_a_llama_of_three_blocks_is_what_plain_least_squares_gives():
    model, survivors, data = pruned(llama, kinds=("neuron",))
    data = [data[0], data[2]]  # without padding
    small = natsel.extract(model, survivors, verify=False)
    by_hand = natsel.extract(model, survivors, verify=False)
    natsel.compensate(model, small, survivors, data, ridge=RIDGE)
    tokens = torch.cat([batch["input_ids"] for batch in data])
    with torch.no_grad():
        for number, block in enumerate(by_hand.model.layers):
            down, entered, states = block.mlp.down_proj, [], []
            hooks = [
                down.register_forward_pre_hook(lambda _, a, to=entered: to.append(a[0])),
                block.register_forward_hook(lambda _, __, out, to=states: to.append(out)),
                model.model.layers[number].register_forward_hook(
                    lambda _, __, out, to=states: to.append(out)
                ),
            ]
            by_hand(tokens), model(tokens)
            for hook in hooks:
                hook.remove()
            k = entered[0].reshape(-1, down.in_features).double()
            lacking = (states[1] - states[0]).reshape(-1, 16).double()
            inner = k.T @ k
            inner += RIDGE * inner.diagonal().mean() * torch.eye(len(inner))
            down.weight += torch.linalg.solve(inner, k.T @ lacking).T
            found = small.model.layers[number].mlp.down_proj.weight
            torch.testing.assert_close(found, down.weight, rtol=1e-3, atol=1e-4)


def last_state(model, batch):
    """What leaves the last block."""
    states = []
    handle = model.model.layers[-1].register_forward_hook(lambda _, __, x: states.append(x))
    with torch.no_grad():
        model(batch["input_ids"])
    handle.remove()
    return states[0]


@pytest.mark.parametrize("kinds", [("neuron",), ("neuron", "head")])
def test_the_stream_comes_out_nearer_to_the_dense_one(kinds):
    model, survivors, data = pruned(llama, kinds)
    data = [data[0], data[2]]
    errors = {}
    for stream in (False, True):
        small = natsel.extract(model, survivors, verify=False)
        natsel.compensate(model, small, survivors, data, ridge=RIDGE, stream=stream)
        apart = [last_state(model, batch) - last_state(small, batch) for batch in data]
        errors[stream] = float(torch.stack(apart).square().sum())
    assert errors[True] < 0.8 * errors[False]


def test_what_does_not_hold_on_samples_held_out_is_left_alone():
    model, survivors, _ = pruned(llama)
    few = [{"input_ids": torch.tensor([[3, 17]])}, {"input_ids": torch.tensor([[40, 8]])}]
    small = natsel.extract(model, survivors, verify=False)
    before = {name: tensor.clone() for name, tensor in small.state_dict().items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        told = natsel.compensate(model, small, survivors, few)
    left = [line for line in told.consumers if line.reason]
    assert left
    for line in left:
        assert "held-out error would not fall" in line.reason
        assert torch.equal(small.state_dict()[line.consumer], before[line.consumer])


def test_a_stream_whose_width_was_cut_is_made_up_for_at_the_places_that_are_left():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.up, self.down = nn.Linear(6, 12), nn.Linear(12, 6)

        def forward(self, h):
            return h + self.down(torch.relu(self.up(h)))

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), Block(), Block(), nn.Linear(6, 3)).eval()
    generator = torch.Generator().manual_seed(0)
    data = [(torch.randn(64, 4, generator=generator),) for _ in range(4)]
    communities = natsel.discover(model, data[0][0][:2])
    width = next(n for n, c in communities.items() if c.size == 6)
    masks = {n: torch.arange(c.size) < c.size * 2 // 3 for n, c in communities.items()}
    survivors = natsel.Survivors(masks, communities)
    small = natsel.extract(model, survivors)
    assert small[1].down.out_features == int(masks[width].sum()) == 4
    done = natsel.compensate(model, small, survivors, data, ridge=1e-3)
    assert all(not c.reason for c in done.consumers)
    plain = natsel.extract(model, survivors)
    with torch.no_grad():
        wanted, before, after = (m(data[0][0]) for m in (model, plain, small))
    assert float((after - wanted).square().mean()) < float((before - wanted).square().mean())
