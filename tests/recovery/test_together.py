"""With accelerate: one process gives the bits that none gives, two share each step."""

from __future__ import annotations

import socket

import pytest
import torch
import torch.multiprocessing as mp
from recovery_helpers import batches, pair, same_bits

import natsel

OPTIONS = {"tokens": 220, "batch": 5, "rows": 2, "learning_rate": 0.01}


def test_one_process_is_bit_for_bit_the_same():
    accelerate = pytest.importorskip("accelerate")
    accelerate.state.AcceleratorState._reset_state(True)
    teacher, small, tokens = pair()
    options = {"data": batches(tokens), **OPTIONS}
    alone = natsel.recover(small, teacher, **options)
    beside = natsel.recover(small, teacher, accelerator=accelerate.Accelerator(cpu=True), **options)
    assert same_bits(alone.model, beside.model)
    assert alone.curve == beside.curve


def test_its_precision_is_taken():
    accelerate = pytest.importorskip("accelerate")
    accelerate.state.AcceleratorState._reset_state(True)
    teacher, small, tokens = pair()
    found = accelerate.Accelerator(cpu=True, mixed_precision="bf16")
    options = {"data": batches(tokens), "steps": 1, "batch": 2}
    done = natsel.recover(small, teacher, accelerator=found, **options)
    assert done.settings.autocast == "bfloat16"
    accelerate.state.AcceleratorState._reset_state(True)


def test_what_is_no_accelerator_is_refused():
    teacher, small, tokens = pair()
    with pytest.raises(ValueError, match=r"^accelerator='str' is not allowed: expected an acc"):
        natsel.recover(small, teacher, data=batches(tokens), steps=1, accelerator="gpu")


def _shared(rank, port, folder):
    import os

    import accelerate

    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    teacher, small, tokens = pair()
    found = accelerate.Accelerator(cpu=True)
    assert found.num_processes == 2
    done = natsel.recover(
        small,
        teacher,
        data=batches(tokens),
        accelerator=found,
        checkpoint=folder / "checkpoint",
        **OPTIONS,
    )
    torch.save((done.model.state_dict(), done.curve), folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_share_each_step(tmp_path):
    pytest.importorskip("accelerate")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(_shared, (port, tmp_path), nprocs=2)
    teacher, small, tokens = pair()
    alone = natsel.recover(small, teacher, data=batches(tokens), **OPTIONS)
    both = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    for model, curve in both:
        assert [row["places"] for row in curve] == [row["places"] for row in alone.curve]
        for row, wanted in zip(curve, alone.curve, strict=True):
            assert row["loss"] == pytest.approx(wanted["loss"], rel=1e-3)
        for name, value in alone.model.state_dict().items():
            torch.testing.assert_close(model[name], value, rtol=1e-2, atol=2e-3)
    assert all(torch.equal(value, both[1][0][name]) for name, value in both[0][0].items())
