"""A child that begins where it differs from its parent comes to the very numbers of a plain run."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
from torch import nn

import natsel
from natsel.blockwise import OnDisk
from natsel.communities.surgery.surgery import silence
from natsel.levels.judge import Judge, sampled
from natsel.levels.masking import Masking
from natsel.levels.prefix import Prefix

TOKENS = torch.randint(3, 50, (4, 12), generator=torch.Generator().manual_seed(7))


def out(llama, *branches):
    (name,) = llama.only("branch")
    alive = torch.ones(8, dtype=torch.bool)
    alive[list(branches)] = False
    return {**llama.full(), name: alive}


def calls_of(block):
    seen = []
    block.register_forward_hook(lambda *_: seen.append(1))
    return seen


@pytest.mark.parametrize("room", [2**30, 1])
@pytest.mark.parametrize("disk", [False, True])
def test_each_child_of_each_parent_comes_to_the_numbers_of_a_plain_run(llama, tmp_path, room, disk):
    data = {"input_ids": TOKENS}
    store = OnDisk(tmp_path) if disk else None
    shared = Judge(llama, data, at_once=2, room=room, store=store)
    for parent in ((), (2, 6), (0, 5), (7,)):
        shared.stand_on(out(llama, *parent))
        for gone in combinations(range(8), 2):
            plain = Judge.__new__(Judge)
            plain.__dict__ |= shared.__dict__ | {"_known": {}, "prefix": NOTHING}
            child = out(llama, *gone)
            windows = [3, 0, 2, 1]
            assert torch.equal(shared.totals(child, windows), plain.totals(child, windows))


class _Nothing(Prefix):
    """Shares nothing."""

    def __init__(self) -> None:
        self.chain = self._base = None


NOTHING = _Nothing()


def test_widths_too_begin_where_they_differ(llama):
    data = {"input_ids": TOKENS[:2]}
    shared, plain = Judge(llama, data), Judge(llama, data)
    mlp = "model.layers.2.mlp.gate_proj"
    (head,) = [n for n in llama if n.startswith("model.layers.3") and llama[n].kind == "head"]
    parent = llama.full()
    child = {**parent, mlp: torch.arange(24) < 9}
    grandchild = {**child, head: torch.tensor([True, False])}
    blocks = [calls_of(block.mlp) for block in llama.model.model.layers]
    shared.stand_on(parent)
    shared.totals(parent)
    shared.totals(child)
    assert [len(calls) for calls in blocks] == [2, 2, 4, 4]
    shared.stand_on(child)
    shared.totals(grandchild)
    assert [len(calls) for calls in blocks] == [2, 2, 6, 6]  # of the child nothing was held
    assert torch.equal(shared.totals(child), plain.totals(child))
    assert torch.equal(shared.totals(grandchild), plain.totals(grandchild))


def test_states_in_files_change_nothing_and_go_with_the_search(llama, windows, others, tmp_path):
    def found(**more):
        levels = natsel.evolve_levels(
            *(llama, natsel.Sparsity(0.5), windows),
            held_out=others,
            kinds=["branch"],
            evaluations=8,
            offspring=4,
            **more,
        )
        return levels.plain()

    written = []
    put = OnDisk.put

    def noting(self, number, tensor):
        written.append(number)
        put(self, number, tensor)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OnDisk, "put", noting)
        there = found(offload=tmp_path / "states")
    assert written
    assert not any((tmp_path / "states").iterdir())
    assert there == found()


class Listening(nn.Module):
    """A chain of blocks of which the last layer hears all: none can be left out."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(3))
        self.last = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        total = x
        for block in self.blocks:
            x = block(x)
            total = total + x
        return self.last(total)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 6), nn.Linear(6, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.second(torch.relu(self.first(x)))


def test_where_more_than_the_next_block_reads_one_nothing_is_shared():
    torch.manual_seed(0)
    model = Listening().eval()
    x = torch.randn(4, 8)
    communities = natsel.discover(model, x[:1])
    prefix = Prefix(model, Masking(communities).owned, (x,), num_windows=1, at_once=1)
    assert prefix.chain is None
    free = nn.Sequential(*(Block() for _ in range(3))).eval()
    there = Masking(natsel.discover(free, x[:1])).owned
    found = Prefix(free, there, (x,), num_windows=1, at_once=1).chain
    assert found is not None
    assert len(found) == 3


def test_judged_places_are_an_exact_mean_over_some(llama):
    data = {"input_ids": TOKENS}
    some, whole = Judge(llama, data, places=5), Judge(llama, data)
    assert some.places.tolist() == [5.0] * 4
    assert whole.places.tolist() == [12.0] * 4
    child = out(llama, 1, 4)
    masked = silence(llama.model, llama.values(), child)
    with torch.no_grad():
        p, q = (m(TOKENS).logits.double().log_softmax(-1) for m in (llama.model, masked))
    each = (p.exp() * (p - q)).sum(-1)
    rows = [sampled(torch.ones(12, dtype=torch.bool), 5, seed=n) for n in range(4)]
    expected = torch.stack([each[n, r].sum() for n, r in enumerate(rows)])
    assert torch.allclose(some.totals(child), expected, rtol=1e-3)
    assert torch.allclose(whole.totals(child), each.sum(1), rtol=1e-3)
    assert some.num_tokens == 20
    assert len({tuple(r.tolist()) for r in rows}) > 1
    assert some.digest() != whole.digest()
