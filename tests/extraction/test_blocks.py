"""Block by block gives what one consumer after the other gives, in two or three runs of a block."""

from __future__ import annotations

import copy

import pytest
import torch
from chained import compensated, gpt2, llama, mixtral, pruned, vit
from torch import nn

import natsel
import natsel.extraction.in_turn as in_turn


@pytest.mark.parametrize("ridge", [1e-2, None])
@pytest.mark.parametrize("make", [llama, gpt2, vit, mixtral])
def test_block_by_block_is_one_consumer_after_the_other(make, ridge, monkeypatch):
    model, survivors, data = pruned(make)
    walked, told = compensated(model, survivors, data, ridge=ridge, stream=False)
    monkeypatch.setattr(in_turn, "shared_chains", lambda *_: [])
    monkeypatch.setattr(in_turn, "compensate_block", None)
    small, expected = compensated(model, survivors, data, ridge=ridge)
    assert [c.consumer for c in told.consumers] == [c.consumer for c in expected.consumers]
    assert [c.reason[:9] for c in told.consumers] == [c.reason[:9] for c in expected.consumers]
    assert [c.ridge for c in told.consumers] == [c.ridge for c in expected.consumers]
    assert told.num_compensated > 0
    for name, tensor in walked.state_dict().items():
        torch.testing.assert_close(tensor, small.state_dict()[name], rtol=2e-3, atol=2e-4)


def test_attention_outputs_are_compensated_where_key_value_groups_went():
    model, survivors, data = pruned(llama, kinds=("head",))
    _, told = compensated(model, survivors, data, ridge=1e-1)
    assert [c.consumer for c in told.consumers] == [
        f"model.layers.{i}.self_attn.o_proj.weight" for i in range(3)
    ]
    for line in told.consumers:
        assert (line.kept, line.removed, line.reason) == (8, 8, "")
        assert line.rows == 6 * 12 - 3  # padding does not count
        assert line.error_fitted < line.error_before


def count_runs(blocks):
    counts = [0] * len(blocks)

    def counting(number):
        def hook(*_):
            counts[number] += 1

        return hook

    for number, block in enumerate(blocks):
        block.register_forward_pre_hook(counting(number))
    return counts


def test_a_block_runs_once_in_the_dense_model_and_three_times_in_the_small_one():
    model, survivors, data = pruned(llama)
    small = natsel.extract(model, survivors, verify=False)
    dense_counts = []
    folded = in_turn.along

    def along(dense, ours, *rest, **options):
        counts = count_runs(dense.model.layers), count_runs(ours.model.layers)
        dense_counts.append(counts)
        return folded(dense, ours, *rest, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(in_turn, "along", along)
        natsel.compensate(model, small, survivors, data, ridge=1e-2)
    ((dense, ours),) = dense_counts
    # Three batches; the first of them once more as it is and once for each of two consumers.
    assert dense == [6, 6, 6]
    # Two consumers, and once to be left; nobody leaves the last one.
    assert ours == [9, 9, 6]


@pytest.mark.parametrize(("stream", "pairing"), [(False, "_paired"), (True, "_summed")])
def test_a_router_that_sends_other_rows_is_read_in_the_dense_block_alone(
    stream, pairing, monkeypatch
):
    import natsel.extraction.block as block

    model, survivors, data = pruned(llama)
    monkeypatch.setattr(block, pairing, lambda *_: None)
    small, told = compensated(model, survivors, data, ridge=1e-2, stream=stream)
    expected, _ = compensated(model, survivors, data, ridge=1e-2, sequential=False)
    assert told.num_compensated == 6
    for name, tensor in small.state_dict().items():
        torch.testing.assert_close(tensor, expected.state_dict()[name], rtol=1e-3, atol=1e-4)


def test_a_loader_that_shuffles_gives_both_models_the_same_batches():
    model, survivors, data = pruned(llama)
    torch.manual_seed(1)
    shuffled = torch.utils.data.DataLoader(data, batch_size=None, shuffle=True)
    small, _ = compensated(model, survivors, shuffled, ridge=1e-2)
    expected, _ = compensated(model, survivors, data, ridge=1e-2)
    for name, tensor in small.state_dict().items():
        torch.testing.assert_close(tensor, expected.state_dict()[name], rtol=2e-3, atol=2e-4)


def test_a_later_batch_that_the_model_does_not_run_on_changes_nothing():
    model, survivors, data = pruned(llama)
    small = natsel.extract(model, survivors, verify=False)
    before = copy.deepcopy(small.state_dict())
    bad = [*data, {"input_ids": torch.full((1, 4), 999)}]
    with pytest.raises(ValueError, match="input_ids=999 is not allowed"):
        natsel.compensate(model, small, survivors, bad)
    assert all(torch.equal(t, before[n]) for n, t in small.state_dict().items())
    assert not any(m._forward_pre_hooks for m in small.modules() if isinstance(m, nn.Linear))
