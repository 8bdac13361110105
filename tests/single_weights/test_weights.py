"""Single weights: the exact count, whatever the type, layout, engine, ties or budget."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import natsel
from natsel.common.errors import NonFiniteError
from natsel.selection import NM, Blocks, PackedSurvivors, Sparsity, Weights, select, unstructured
from natsel.selection.budget import nearest_count
from natsel.single_weights.streaming import blocks, engines, n_of_m
from natsel.single_weights.streaming import threshold as room
from natsel.single_weights.streaming.engines import NumpyEngine, TorchEngine
from natsel.single_weights.streaming.keys import KEY_TYPES, ordered
from natsel.single_weights.streaming.masks import BitMasks, BoolMasks
from natsel.single_weights.streaming.source import Source, cut, magnitude, parts

ENGINES = ["numpy", "torch"] + (["numba"] if importlib.util.find_spec("numba") else [])
TYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]


def by_sorting(scores: Mapping[str, Tensor], share: float, *, together: bool) -> dict[str, Tensor]:
    """Keep the largest by a stable sort: the definition, with no regard to cost."""
    groups = [list(scores)] if together else [[name] for name in scores]
    masks = {}
    for group in groups:
        flat = torch.cat([scores[n].double().reshape(-1) for n in group])
        kept = flat.argsort(descending=True, stable=True)[
            : len(flat) - nearest_count(share, len(flat))
        ]
        mask = torch.zeros(len(flat), dtype=torch.bool)
        mask[kept] = True
        for n, part in zip(group, mask.split([scores[n].numel() for n in group]), strict=True):
            masks[n] = part.view(scores[n].shape)
    return masks


def some_tensors(dtype: torch.dtype) -> dict[str, Tensor]:
    """Rows and columns, a window, many zeros, two scales, one that is not contiguous."""
    generator = torch.Generator().manual_seed(0)
    zeros = torch.randn(30_000, generator=generator)
    return {
        "wide": torch.randn(150, 300, generator=generator).to(dtype),
        "turned": (3 * torch.randn(70, 33, generator=generator)).to(dtype).t(),
        "window": torch.randn(8, 4, 3, 3, generator=generator).to(dtype),
        "zeros": zeros.where(zeros > 0.6, torch.zeros(())).to(dtype),
    }


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("few", [0, 10**9])
def test_the_fittest_weights_stay_exactly_as_a_stable_sort_says(
    engine: str, dtype: torch.dtype, together: bool, few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "FEW", few)
    tensors = some_tensors(dtype)
    options = {"scope": "global", "normalize": None} if together else {}
    for share in (0.0, 0.3, 0.7, 0.97):
        expected = by_sorting({n: t.abs() for n, t in tensors.items()}, share, together=together)
        found = select(Weights(tensors, engine=engine), Sparsity(share), **options)  # type: ignore[arg-type]
        packed = select(Weights(tensors, engine=engine), Sparsity(share), packed=True, **options)  # type: ignore[arg-type]
        assert isinstance(packed, PackedSurvivors)
        for name in tensors:
            assert torch.equal(found[name], expected[name])
            assert torch.equal(packed[name], expected[name])
        assert packed.num_removed == found.num_removed
        assert {n: len(b) for n, b in packed.bits.items()} == {
            n: -(-t.numel() // 8) for n, t in tensors.items()
        }


@settings(max_examples=80, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=4),
    share=st.floats(0, 0.99),
    levels=st.integers(1, 4),
    dtype=st.sampled_from(TYPES),
    engine=st.sampled_from(ENGINES),
    together=st.booleans(),
    few=st.sampled_from([0, 10**9]),
    seed=st.integers(0, 99),
)
def test_any_ties_in_any_tensors_leave_the_exact_count(
    sizes: list[int],
    share: float,
    levels: int,
    dtype: torch.dtype,
    engine: str,
    together: bool,
    few: int,
    seed: int,
) -> None:
    generator = torch.Generator().manual_seed(seed)
    tensors = {
        str(i): torch.randint(-levels, levels + 1, (n,), generator=generator).to(dtype)
        for i, n in enumerate(sizes)
    }
    options = {"scope": "global", "normalize": None} if together else {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(room, "FEW", few)
        found = select(Weights(tensors, engine=engine), Sparsity(share), floor=0, **options)  # type: ignore[arg-type]
    expected = by_sorting({n: t.abs() for n, t in tensors.items()}, share, together=together)
    assert all(torch.equal(found[n], expected[n]) for n in tensors)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_sample_that_misleads_costs_passes_and_never_exactness(
    engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors = some_tensors(torch.float32)
    expected = by_sorting({n: t.abs() for n, t in tensors.items()}, 0.5, together=True)
    monkeypatch.setattr(room, "FEW", 0)
    everywhere = [(0, 0), (2**30, 2**30 + 5), (-(2**31) + 1, 2**31 - 1), (0, 2**30)]
    for low, high in everywhere:
        monkeypatch.setattr(room, "bracket", lambda *_, ends=(low, high): ends)
        monkeypatch.setattr(room, "ROOM", (16, 10**9))
        found = select(
            Weights(tensors, engine=engine), Sparsity(0.5), scope="global", normalize=None
        )
        assert all(torch.equal(found[n], expected[n]) for n in tensors)


@settings(max_examples=60, deadline=None)
@given(
    values=st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=1, max_size=30),
    dtype=st.sampled_from(TYPES),
)
def test_keys_order_scores_as_their_values_do(values: list[float], dtype: torch.dtype) -> None:
    scores = torch.tensor(values, dtype=torch.float64).to(dtype)
    scores = scores[scores.isfinite()]
    keys = ordered(scores, KEY_TYPES[dtype]).long()
    wide = scores.double()
    assert torch.equal(keys[:, None] < keys, wide[:, None] < wide)
    assert torch.equal(keys[:, None] == keys, wide[:, None] == wide)


@given(shape=st.lists(st.integers(1, 7), min_size=1, max_size=4), limit=st.integers(1, 50))
def test_parts_cover_every_element_once_and_in_order(shape: list[int], limit: int) -> None:
    whole = torch.arange(int(np.prod(shape))).view(shape)
    seen = []
    for where, start, count in parts(tuple(shape), limit):
        part = whole[where].reshape(-1)
        assert len(part) == count <= max(limit, 1)
        assert int(part[0]) == start
        seen.append(part)
    assert torch.equal(torch.cat(seen), whole.view(-1))


@pytest.mark.parametrize("engine", ENGINES)
def test_wanda_and_taylor_multiply_by_a_second_tensor(engine: str) -> None:
    weight = torch.tensor([[1.0, -2.0, 3.0], [-4.0, 5.0, 0.1]])
    norms = torch.tensor([[1.0, 10.0, 0.0]])
    # |w| n: [[1, 20, 0], [4, 50, 0]]
    found = select(
        Weights({"w": weight}, scorer="wanda", second={"w": norms}, engine=engine), Sparsity(0.5)
    )
    assert found["w"].tolist() == [[False, True, False], [True, True, False]]
    gradient = torch.tensor([[0.0, 1.0, -1.0], [0.5, 0.1, 90.0]])
    # |w g|: [[0, 2, 3], [2, 0.5, 9]]; of the two 2 the first stays.
    found = select(
        Weights({"w": weight}, scorer="taylor", second={"w": gradient}, engine=engine),
        Sparsity(0.5),
    )
    assert found["w"].tolist() == [[False, True, True], [False, False, True]]


def test_a_scorer_of_ones_own_may_be_negative_and_16_bit_products_do_not_round_to_ties() -> None:
    weight = torch.tensor([0.5, -3.0, 2.0, -1.0])
    found = select(Weights({"w": weight}, scorer=lambda w, _: w), Sparsity(0.5))
    assert found["w"].tolist() == [True, False, True, False]
    weight = torch.tensor([1.0, 1.0078125], dtype=torch.bfloat16)
    second = torch.tensor([1.0079, 1.0])
    found = select(Weights({"w": weight}, scorer="wanda", second={"w": second}), Sparsity(0.5))
    assert found["w"].tolist() == [True, False]


@pytest.mark.parametrize("engine", ENGINES)
def test_n_of_m_keeps_the_largest_of_each_group_along_the_inputs(engine: str) -> None:
    weight = torch.tensor([[1.0, -4.0, 3.0, 2.0, 0.0, 0.0, 0.0, 5.0]])
    found = select(Weights({"w": weight}, engine=engine), NM(2, 4))
    assert found["w"].tolist() == [[False, True, True, False, True, False, False, True]]
    window = torch.arange(16.0).view(1, 4, 2, 2)  # the inputs are the second dimension
    found = select(Weights({"w": window}, engine=engine), NM(1, 4))
    assert found["w"].view(4, 4).tolist() == [[False] * 4] * 3 + [[True] * 4]
    alone = select(Weights({"b": torch.tensor([1.0, 2.0, 4.0, 3.0])}, engine=engine), NM(1, 2))
    assert alone["b"].tolist() == [False, True, True, False]


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 5),
    groups=st.integers(1, 4),
    num_all=st.integers(2, 19),
    window=st.sampled_from([(), (1,), (2, 2)]),
    data=st.data(),
    engine=st.sampled_from(ENGINES),
)
def test_n_of_any_m_against_a_sort_of_each_group(
    rows: int,
    groups: int,
    num_all: int,
    window: tuple[int, ...],
    data: st.DataObject,
    engine: str,
) -> None:
    num_kept = data.draw(st.integers(1, num_all - 1))
    seed = data.draw(st.integers(0, 99))
    weight = torch.randint(
        -3, 4, (rows, groups * num_all, *window), generator=torch.Generator().manual_seed(seed)
    ).float()
    found = select(Weights({"w": weight}, engine=engine), NM(num_kept, num_all))["w"]
    grouped = weight.abs().view(rows, groups, num_all, -1)
    order = grouped.argsort(dim=2, descending=True, stable=True)[:, :, :num_kept]
    expected = torch.zeros_like(grouped, dtype=torch.bool).scatter_(2, order, True)
    assert torch.equal(found, expected.view_as(weight))


@pytest.mark.parametrize("engine", ENGINES)
def test_blocks_stay_or_go_as_a_whole_by_their_mean(engine: str) -> None:
    weight = torch.tensor(
        [[1.0, 1.0, 0.0, 9.0], [1.0, -1.0, 0.0, 0.0], [5.0, 5.0, 2.0, 2.0], [5.0, 5.0, 2.0, 2.0]]
    )
    # Means: [[1, 2.25], [5, 2]]
    found = select(Weights({"w": weight}, engine=engine), Blocks(0.5, shape=(2, 2)))["w"]
    assert found.int().tolist() == [[0, 0, 1, 1], [0, 0, 1, 1], [1, 1, 0, 0], [1, 1, 0, 0]]
    filters = torch.ones(2, 2, 3, 3) * torch.tensor([1.0, 4.0, 3.0, 2.0]).view(2, 2, 1, 1)
    found = select(Weights({"w": filters}, engine=engine), Blocks(0.5, shape=(1, 1)))["w"]
    assert found[:, :, 0, 0].tolist() == [[False, True], [True, False]]
    assert found.sum() == 18
    generator = torch.Generator().manual_seed(0)
    two = {n: torch.randn(8, 12, generator=generator) for n in "ab"}
    masks = select(
        Weights(two, engine=engine), Blocks(0.25, (4, 3)), scope="global", normalize=None
    )
    means = {n: t.abs().view(2, 4, 4, 3).mean((1, 3)) for n, t in two.items()}
    kept = by_sorting(means, 0.25, together=True)
    for name, mask in masks.items():
        assert torch.equal(mask, kept[name].repeat_interleave(4, 0).repeat_interleave(3, 1))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("budget", [Sparsity(0.6), NM(1, 4), Blocks(0.5, (2, 2))])
def test_weights_that_go_are_zeroed_in_place_on_request(engine: str, budget: object) -> None:
    base = torch.randn(12, 16, generator=torch.Generator().manual_seed(0))
    for dtype in TYPES:
        for weight in (base.clone().to(dtype), base.to(dtype).t().contiguous().t()):
            before = weight.clone()
            found = select(Weights({"w": weight}, engine=engine), budget, zero=True)  # type: ignore[arg-type]
            assert torch.equal(weight, torch.where(found["w"], before, torch.zeros_like(before)))
            assert not bool(torch.signbit(weight[~found["w"]]).any())


def test_tied_tensors_count_once_and_share_their_mask() -> None:
    shared = torch.arange(1.0, 5.0)
    weights = Weights({"in": shared, "out": shared, "other": torch.arange(5.0, 9.0)})
    assert weights.size == 8
    found = select(weights, Sparsity(0.5), scope="global", normalize=None, floor=0)
    assert found["in"].tolist() == found["out"].tolist() == [False] * 4
    assert found["other"].all()


def test_weights_of_a_model_read_what_its_layers_read() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, groups=2), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3, bias=False)
    )
    x, y = torch.randn(10, 2, 4, 4), torch.arange(10) % 3
    halves = [(x[:4], y[:4]), (x[4:], y[4:])]
    weights = natsel.weights(model, scorer="wanda", data=halves)
    assert list(weights) == ["0.weight", "3.weight"]
    rms = x.square().mean((0, 2, 3)).sqrt()
    second = weights.second["0.weight"]
    assert second is not None
    torch.testing.assert_close(second[:, 0, 0, 0], rms[torch.tensor([0, 0, 1, 1])])
    hidden = model[:3](x).detach()
    torch.testing.assert_close(weights.second["3.weight"][0], hidden.square().mean(0).sqrt())
    taylor = natsel.weights(model, scorer="taylor", data=halves, include="3.*")
    losses = [nn.functional.cross_entropy(model(a), b) for a, b in halves]
    (gradient,) = torch.autograd.grad(sum(losses) / 2, model[3].weight)
    torch.testing.assert_close(taylor.second["3.weight"], gradient)
    assert all(p.grad is None for p in model.parameters())
    kept = natsel.select(weights, natsel.Sparsity(0.5))
    assert kept.num_removed == 18 + 24


def test_many_plain_scores_are_streamed_with_the_result_of_the_sort(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import sys

    generator = torch.Generator().manual_seed(0)
    scores = {n: torch.randn(40, 30, generator=generator) for n in "ab"}
    scores["b"][3:] = 0
    options = {"scope": "global", "normalize": None}
    expected = [select(scores, Sparsity(0.4)), select(scores, Sparsity(0.4), **options)]  # type: ignore[arg-type]
    monkeypatch.setattr(sys.modules["natsel.selection.select"], "MANY", 1)
    found = [select(scores, Sparsity(0.4)), select(scores, Sparsity(0.4), **options)]  # type: ignore[arg-type]
    for one, two in zip(found, expected, strict=True):
        assert all(torch.equal(one[n], two[n]) for n in scores)
    # A floor of 1 protects what streaming refuses to empty: the sort decides.
    poor = {"a": torch.arange(10.0) + 10, "b": torch.arange(10.0)}
    assert int(select(poor, Sparsity(0.5), **options)["b"].sum()) == 1  # type: ignore[arg-type]


BAD = {
    "an empty mapping": (lambda: Weights({}), "at least one tensor"),
    "an empty tensor": (lambda: Weights({"w": torch.zeros(0)}), "an empty tensor"),
    "whole numbers": (lambda: Weights({"w": torch.ones(3, dtype=torch.int8)}), "torch.int8"),
    "quantised": (
        lambda: Weights({"w": torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8)}),
        "floating-point",
    ),
    "complex": (lambda: Weights({"w": torch.ones(3, dtype=torch.complex64)}), "complex"),
    "sparse": (lambda: Weights({"w": torch.eye(3).to_sparse()}), "a dense tensor"),
    "meta": (lambda: Weights({"w": torch.ones(3, device="meta")}), "without data"),
    "two devices": (
        lambda: Weights({"a": torch.ones(3), "b": torch.ones(3, device="meta")}),
        "without data",
    ),
    "expanded": (lambda: Weights({"w": torch.ones(1, 3).expand(4, 3)}), "an expanded tensor"),
    "no tensor": (lambda: Weights({"w": [1.0]}), "list"),
    "scorer": (lambda: Weights({"w": torch.ones(3)}, scorer="best"), "scorer='best'"),
    "engine": (lambda: Weights({"w": torch.ones(3)}, engine="c"), "engine='c'"),
    "no second": (lambda: Weights({"w": torch.ones(3)}, scorer="wanda"), "second=None"),
    "second of magnitude": (
        lambda: Weights({"w": torch.ones(3)}, second={"w": torch.ones(3)}),
        "reads none",
    ),
    "shape of second": (
        lambda: Weights({"w": torch.ones(3)}, scorer="taylor", second={"w": torch.ones(4)}),
        "broadcasts",
    ),
    "name of second": (
        lambda: Weights({"w": torch.ones(3)}, scorer="taylor", second={"v": torch.ones(3)}),
        "'w' as well",
    ),
    "budget": (lambda: select(Weights({"w": torch.ones(3)}), natsel.Parameters(0.5)), "budget"),
    "normalize": (
        lambda: select(Weights({"w": torch.ones(3)}), Sparsity(0.5), scope="global"),
        "normalize='rank'",
    ),
    "option": (
        lambda: select(Weights({"w": torch.ones(9)}), Sparsity(0.5), multiple_of=8),
        "multiple_of=8",
    ),
    "floor": (lambda: select(Weights({"w": torch.ones(9)}), Sparsity(0.5), floor=3), "floor=3"),
    "packed scores": (lambda: select({"w": torch.ones(9)}, Sparsity(0.5), packed=True), "packed"),
    "pattern of scores": (lambda: select({"w": torch.ones(8)}, NM(2, 4)), "natsel.Weights"),
    "M": (lambda: select(Weights({"w": torch.ones(2, 6)}), NM(2, 4)), "num_all=4"),
    "N": (lambda: NM(4, 4), "num_kept=4"),
    "N of bool": (lambda: NM(True, 4), "num_kept=True"),
    "block": (lambda: Blocks(0.5, (0, 2)), "shape"),
    "block share": (lambda: Blocks(1.5), "sparsity=1.5"),
    "block of a vector": (
        lambda: select(Weights({"w": torch.ones(8)}), Blocks(0.5)),
        "dimensions",
    ),
    "block that does not divide": (
        lambda: select(Weights({"w": torch.ones(8, 6)}), Blocks(0.5, (4, 4))),
        "divides the 8 x 6",
    ),
    "data": (lambda: natsel.weights(nn.Linear(2, 2), scorer="wanda"), "data=None"),
    "model": (lambda: natsel.weights(nn.ReLU()), "Linear or convolution"),
    "a computed weight": (
        lambda: natsel.weights(nn.utils.parametrizations.weight_norm(nn.Linear(2, 2))),
        "a parameter of its layer",
    ),
    "no labels": (
        lambda: natsel.weights(nn.Linear(2, 2), scorer="taylor", data=[(torch.ones(1, 2),)]),
        "labels",
    ),
    "no batches": (
        lambda: natsel.weights(nn.Linear(2, 2), scorer="wanda", data=[]),
        "data",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_clear_line(case: str) -> None:
    call, words = BAD[case]
    with pytest.raises(ValueError) as error:  # noqa: PT011
        call()
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_parts_of_one_memory_are_refused() -> None:
    memory = torch.ones(10)
    with pytest.raises(ValueError, match="share all of their memory or none"):
        Weights({"a": memory[:6], "b": memory[4:]})
    assert len(Weights({"a": memory[:5], "b": memory[5:]})) == 2


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("budget", [Sparsity(0.5), NM(2, 4), Blocks(0.5, (2, 2))])
@pytest.mark.parametrize("few", [0, 10**9])
def test_nan_and_infinity_are_refused_and_nothing_has_changed(
    engine: str, bad: float, budget: object, few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "FEW", few)
    weight = torch.randn(40, 8, generator=torch.Generator().manual_seed(0))
    weight[39, 7] = bad
    for dtype in TYPES:
        given = {"good": torch.ones(4, 8, dtype=dtype), "bad": weight.to(dtype)}
        before = {n: t.clone() for n, t in given.items()}
        with pytest.raises(NonFiniteError, match="'bad' hold NaN or infinity"):
            select(Weights(given, engine=engine), budget, zero=True)  # type: ignore[arg-type]
        assert all(torch.equal(given[n].nan_to_num(7), before[n].nan_to_num(7)) for n in given)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_share_that_empties_a_tensor_is_refused_or_asked_for(engine: str) -> None:
    given = {"poor": torch.full((4,), 0.1), "rich": torch.arange(1.0, 9.0)}
    options = {"scope": "global", "normalize": None}
    with pytest.raises(ValueError, match="leaves something of 'poor'"):
        select(Weights(given, engine=engine), Sparsity(0.5), zero=True, **options)  # type: ignore[arg-type]
    assert given["poor"].all()
    found = select(Weights(given, engine=engine), Sparsity(0.5), floor=0, **options)  # type: ignore[arg-type]
    assert not found["poor"].any()
    assert found.num_removed == 6
    # Equal scores at the edge: the first ones stay, so that the second tensor is emptied.
    equal = {"first": torch.ones(4), "second": torch.ones(4)}
    with pytest.raises(ValueError, match="leaves something of 'second'"):
        select(Weights(equal, engine=engine), Sparsity(0.5), **options)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="1 of 1 in 'w'"):
        select(Weights({"w": torch.ones(1)}, engine=engine), Sparsity(0.9))
    alone = select(Weights({"w": torch.ones(1)}, engine=engine), Sparsity(0.9), floor=0)
    assert not alone["w"].any()


def test_streaming_needs_no_copy_of_the_weights() -> None:
    """What is allocated on top stays under 1.2 bytes a weight, the masks included."""
    import tracemalloc

    size = 4_000_000
    tensors = {
        str(i): torch.randn(2000, size // 4000, generator=torch.Generator().manual_seed(i))
        for i in range(2)
    }
    select(Weights(tensors), Sparsity(0.7))
    tracemalloc.start()
    found = select(Weights(tensors), Sparsity(0.7), scope="global", normalize=None)
    peak = tracemalloc.get_traced_memory()[1]  # numpy's arrays, the masks among them
    tracemalloc.stop()
    assert sum(m.numel() for m in found.values()) == size
    buffers = 131072 * (4 + 1) + 65536 * (8 + 4)  # keys and a mask of a part; held places and keys
    assert peak <= 1.2 * size + buffers


def test_masks_are_written_for_some_of_many_sources() -> None:
    weights = torch.tensor([[3.0, 1.0, 2.0], [0.5, 4.0, 2.0]])
    kind = KEY_TYPES[torch.float32]
    sources = [Source("a", weights[0], magnitude, kind)]
    sources.append(Source("b", weights[1], magnitude, kind, start=3))
    for engine in (NumpyEngine(kind, False), TorchEngine(kind, False)):
        for masks in (BoolMasks(sources, engine), BitMasks(sources, engine)):
            for source in sources:
                room.keep_fittest([source], 2, engine, masks)
            room.keep_fittest(sources[1:], 1, engine, masks)
            (a, b), _ = *cut(sources, 8), None
            assert [bool(x) for x in (*masks.read(a), *masks.read(b))] == [1, 0, 1, 0, 1, 0]
            room.keep_fittest(sources[:1], 0, engine, masks)
            assert masks.is_empty(sources[0])
            assert not masks.is_empty(sources[1])


@given(
    sizes=st.lists(st.lists(st.integers(1, 6), max_size=3), min_size=1, max_size=5),
    limit=st.integers(1, 30),
)
def test_stretches_cover_the_weights_of_all_sources_once_and_in_order(
    sizes: list[list[int]], limit: int
) -> None:
    sources, start = [], 0
    for size in sizes:
        weight = torch.zeros(size)
        kind = KEY_TYPES[torch.float32]
        sources.append(Source("w", weight, magnitude, kind, start=start))
        start += weight.numel()
    done = 0
    for pieces in cut(sources, limit):
        assert sum(p.size for p in pieces) <= limit
        for piece in pieces:
            assert piece.start == done
            done += piece.size
    assert done == start


def test_masks_of_weights_stay_where_the_weights_are() -> None:
    masks = {"w": torch.ones(3, dtype=torch.bool, device="meta")}
    assert natsel.Survivors(masks, device=None)["w"].device.type == "meta"
    found = select(Weights({"w": torch.arange(4.0)}), Sparsity(0.5))
    assert natsel.Survivors(dict(found))["w"].device.type == "cpu"


@settings(max_examples=60, deadline=None)
@given(
    shapes=st.lists(
        st.sampled_from([(3,), (16, 8), (40, 24), (8, 4, 3, 3), (300,), (8, 64)]),
        min_size=1,
        max_size=5,
    ),
    turned=st.booleans(),
    chunk=st.sampled_from([8, 24, 100, 1000]),
    joined=st.sampled_from([8, 100]),
    few=st.sampled_from([0, 200]),
    engine=st.sampled_from(ENGINES),
    dtype=st.sampled_from(TYPES),
    together=st.booleans(),
    seed=st.integers(0, 99),
)
def test_parts_of_any_size_give_the_same_masks(
    shapes: list[tuple[int, ...]],
    turned: bool,
    chunk: int,
    joined: int,
    few: int,
    engine: str,
    dtype: torch.dtype,
    together: bool,
    seed: int,
) -> None:
    """Where weights are cut into many parts, and where small tensors share one."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for number, shape in enumerate(shapes):
        weight = torch.randn(shape, generator=generator).mul_(4).round_().to(dtype)
        if turned and len(shape) > 1:
            weight = weight.transpose(0, 1).contiguous().transpose(0, 1)
        tensors[str(number)] = weight
    options = {"scope": "global", "normalize": None} if together else {}
    expected = by_sorting({n: t.abs() for n, t in tensors.items()}, 0.6, together=together)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(room, "FEW", few)
        patch.setattr(engines, "DEVICE_CHUNK", chunk)
        kinds = [engines.NumpyEngine]
        if engine == "numba":
            from natsel.single_weights.streaming.compiled import NumbaEngine

            kinds.append(NumbaEngine)
        for kind in kinds:
            patch.setattr(kind, "chunk", chunk)
            patch.setattr(kind, "joined", joined)
        for module in (n_of_m, blocks):
            patch.setattr(module, "AT_ONCE", chunk)
        patch.setattr(unstructured, "ZEROED", chunk)
        weights = Weights(tensors, engine=engine)
        found = select(weights, Sparsity(0.6), floor=0, **options)  # type: ignore[arg-type]
        packed = select(weights, Sparsity(0.6), floor=0, packed=True, **options)  # type: ignore[arg-type]
        for name in tensors:
            assert torch.equal(found[name], expected[name])
            assert torch.equal(packed[name], expected[name])
        wide = {n: t for n, t in tensors.items() if t.dim() > 1}
        if wide:
            patterns = (NM(1, 4), Blocks(0.5, (2, 4)))
            cut = [select(Weights(wide, engine=engine), p) for p in patterns]
        copies = {n: t.clone() for n, t in tensors.items()}
        select(Weights(copies, engine=engine), Sparsity(0.6), floor=0, zero=True, **options)  # type: ignore[arg-type]
    for name, weight in copies.items():
        assert torch.equal(
            weight, tensors[name].where(expected[name], torch.zeros((), dtype=dtype))
        )
    if wide:
        whole = [select(Weights(wide, engine=engine), p) for p in patterns]
        for one, other in zip(cut, whole, strict=True):
            assert all(torch.equal(one[n], other[n]) for n in wide)


def test_wanda_of_a_population_is_the_sum_over_the_weights_that_read_it():
    model = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3))
    data = [(torch.randn(16, 5), torch.randint(3, (16,))) for _ in range(3)]
    (community,) = natsel.discover(model, data[0][0]).values()
    found = natsel.score(natsel.discover(model, data[0][0]), "wanda", data=data)[community.name]
    single = natsel.weights(model, scorer="wanda", data=data, include="2.*")
    each = single.scorer(single["2.weight"].detach().clone(), single.second["2.weight"])
    torch.testing.assert_close(found, each.abs().sum(0).to(found.dtype), rtol=1e-5, atol=0)
