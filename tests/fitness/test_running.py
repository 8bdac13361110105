"""Streamed statistics: equal to those of everything at once, with nothing of a batch kept."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import natsel
import natsel.fitness.running as room
from natsel import models
from natsel.fitness.running import PIECE, WAITING, Products, Running, merged, moments, pieces

STATISTICS = ("square", "variance", "products")


def observer(axis, statistic):
    return Products(axis) if statistic == "products" else Running(axis, statistic)


def at_once(batches, axis, statistic):
    rows = torch.cat([x.double().movedim(axis, -1).reshape(-1, x.shape[axis]) for x in batches])
    if statistic == "variance":
        return rows.var(0, correction=0)
    return rows.T @ rows / len(rows) if statistic == "products" else rows.square().mean(0)


def streamed(batches, axis, statistic):
    found = observer(axis, statistic)
    for x in batches:
        found(nn.Identity(), (x,))
    return found.value()


@given(
    sizes=st.lists(st.integers(1, 7), min_size=1, max_size=5),
    shape=st.sampled_from(
        [((3,), -1), ((2, 3), -1), ((3, 2, 2), -3), ((2, 4, 5), -3), ((3, 4), -2), ((1,), -1)]
    ),
    statistic=st.sampled_from(STATISTICS),
    piece=st.sampled_from([1, 5, 16, PIECE]),
    waiting=st.sampled_from([1, 2, WAITING]),
    shift=st.sampled_from([0.0, 100.0]),
    transposed=st.booleans(),
    seed=st.integers(0, 99),
)
@settings(deadline=None, max_examples=60)
def test_a_stream_equals_everything_at_once(
    sizes, shape, statistic, piece, waiting, shift, transposed, seed
):
    rest, axis = shape
    generator = torch.Generator().manual_seed(seed)
    batches = [
        shift + torch.randn(size, *rest, generator=generator, dtype=torch.float64) for size in sizes
    ]
    if transposed:  # the same numbers, not contiguous in memory
        batches = [x.transpose(0, -1).contiguous().transpose(0, -1) for x in batches]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(room, "PIECE", piece)
        patch.setattr(room, "WAITING", waiting)
        found = streamed(batches, axis, statistic)
    torch.testing.assert_close(found, at_once(batches, axis, statistic), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("statistic", STATISTICS)
@pytest.mark.parametrize(("shape", "axis"), [((900, 6), -1), ((90, 6, 3, 3), -3)])
def test_single_precision_loses_nothing_over_many_batches(shape, axis, statistic):
    torch.manual_seed(0)
    batches = [torch.randn(shape) for _ in range(100)]
    found = streamed(batches, axis, statistic)
    assert found.dtype == torch.float32
    expected = at_once(batches, axis, statistic)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("statistic", STATISTICS)
def test_half_precision_is_read_in_single(half, statistic):
    x = (torch.arange(12.0).reshape(4, 3) / 8).to(half)
    found = streamed([x], -1, statistic)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), at_once([x], -1, statistic), rtol=1e-6, atol=1e-6)


def test_a_constant_has_no_variance_whatever_its_size():
    for shape, axis in (((64, 2), -1), ((64, 2, 5), -2)):
        found = streamed([torch.full(shape, 1000.1)] * 3, axis, "variance")
        assert (found < 1e-6).all()
        assert (found >= 0).all()


def test_an_empty_batch_says_nothing_and_a_reset_forgets():
    running = Running(-1, "square")
    running(nn.Identity(), (torch.zeros(0, 2),))
    assert not running.seen
    running(nn.Identity(), (torch.full((1, 2), 3.0),))
    running.reset()
    running(nn.Identity(), (torch.full((1, 2), 2.0),))
    assert running.value().tolist() == [4.0, 4.0]


def test_pieces_are_views_in_order():
    x = torch.arange(24.0).reshape(4, 3, 2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(room, "PIECE", 12)
        assert [tuple(p.shape) for p in pieces(x, -2)] == [(2, 3, 2), (2, 3, 2)]
        assert [tuple(p.shape) for p in pieces(x, -1)] == [(6, 2), (6, 2)]
        # One image without a batch axis: its channels stay together.
        assert [tuple(p.shape) for p in pieces(x, -3)] == [(4, 3, 2)]
        for axis in (-1, -2, -3):
            parts = pieces(x, axis)
            assert torch.equal(torch.cat([p.reshape(-1) for p in parts]), x.reshape(-1))
            assert all(p.untyped_storage().data_ptr() == x.data_ptr() for p in parts)


def test_moments_about_zero_hold_the_mean_square():
    x = torch.tensor([[[1.0, 3.0]], [[1.0, 1.0]]])
    for axis in (-1, -2, -3):
        part = moments(x, axis, about_zero=True)
        others = [i for i in range(3) if i != 3 + axis]
        assert torch.equal(part.variance + part.mean.square(), x.square().mean(others))


@pytest.mark.parametrize("statistic", ["square", "variance"])
@pytest.mark.parametrize("mean", [0.0, 1.0, 30.0, 3000.0])
def test_images_lose_nothing_to_a_large_mean(statistic, mean):
    torch.manual_seed(0)
    batches = [torch.randn(8, 3, 7, 5) + mean * torch.tensor([0.0, 1, -1])[:, None, None]] * 3
    found = streamed(batches, -3, statistic)
    expected = at_once(batches, -3, statistic).float()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)


def test_merging_counts_samples_not_parts():
    many, one = moments(torch.zeros(9, 1), -1), moments(torch.full((1, 1), 10.0), -1)
    total = merged([many, one])
    assert (total.count, total.mean.tolist(), total.variance.tolist()) == (10, [1.0], [9.0])


# Nothing of the size samples x hidden stays.


@pytest.fixture
def _only_what_is_new():
    """Let the collector see what is made from now on, not what other tests left."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def num_bytes_alive():
    """Return the bytes of all tensors that anything new refers to."""
    gc.collect()
    seen = {}
    for item in gc.get_objects():
        # Of other layouts, left by other tests, there is no storage to count.
        if type(item) in (torch.Tensor, nn.Parameter) and item.layout == torch.strided:
            storage = item.untyped_storage()
            seen[storage.data_ptr()] = storage.nbytes()
    return sum(seen.values())


@pytest.mark.usefixtures("_only_what_is_new")
@pytest.mark.parametrize("scorer", ["wanda", "variance", "contribution", "joint", "taylor"])
def test_between_two_batches_no_activation_is_alive(scorer):
    model = models.build("mlp", in_shape=(1, 4, 4), num_classes=3, hidden=(8, 6))
    communities = natsel.discover(model, (torch.randn(2, 1, 4, 4),))
    entered, alive, sizes = [], [], []
    for module in model.modules():
        if isinstance(module, nn.Linear):
            module.register_forward_pre_hook(lambda _, x: entered.append(weakref.ref(x[0])))

    def batches():
        for number in range(WAITING + 8):
            yield torch.randn(5000, 1, 4, 4), torch.randint(3, (5000,))
            # The batch itself is held by the caller of this generator; what it became is gone.
            alive.append(sum(x().shape[1] != 16 for x in entered if x() is not None))
            if number in (0, WAITING + 7):
                sizes.append(num_bytes_alive())

    natsel.score(communities, scorer, data=batches())
    assert alive == [0] * (WAITING + 8)
    one_activation = 5000 * 6 * 4
    assert sizes[1] - sizes[0] < one_activation / 2
