"""A recovery that was stopped ends in the same bits as one that was not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from recovery_helpers import batches, pair, same_bits
from torch import nn

import natsel


class StopError(Exception):
    """Raised in place of a kill."""


def stopping(at, raised=StopError):
    """Return a progress that ends the run after a step."""

    def progress(what, done, total):
        if done == at:
            raise raised

    return progress


@pytest.mark.parametrize("lora", [None, 3])
@pytest.mark.parametrize(("at", "every"), [(5, 2), (1, 1), (7, 3)])
def test_killed_after_some_steps(tmp_path, at, every, lora):
    if lora:
        pytest.importorskip("peft")
    teacher, small, tokens = pair()
    data = batches(tokens)
    options = {
        **{"data": data, "held_out": data, "steps": 8, "batch": 5, "rows": 2, "lora": lora},
        **{"blocks": 0.3, "cross_entropy": 0.2, "look_every": 3},
    }
    whole = natsel.recover(small, teacher, **options)
    kept = {"checkpoint": tmp_path / "kept", "save_every": every}
    with pytest.raises(StopError):
        natsel.recover(small, teacher, **options, **kept, progress=stopping(at))
    steps = []
    resumed = natsel.recover(
        small, teacher, **options, **kept, progress=lambda _, done, __: steps.append(done)
    )
    assert steps[0] == at // every * every
    assert same_bits(resumed.model, whole.model)
    assert resumed.curve == whole.curve


class Noisy(nn.Module):
    """Has dropout, and statistics that change with every sample seen."""

    def __init__(self, width):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, width), nn.BatchNorm1d(width), nn.Dropout(0.5))
        self.head = nn.Linear(width, 4)

    def forward(self, x):
        return self.head(self.body(x))


def noisy():
    torch.manual_seed(0)
    return Noisy(6), Noisy(4), [(torch.randn(20, 3),)]


def test_dropout_and_running_statistics_go_on_where_they_were(tmp_path):
    teacher, small, data = noisy()
    options = {"data": data, "steps": 9, "batch": 6}
    whole = natsel.recover(small, teacher, **options)
    torch.manual_seed(99)
    kept = {"checkpoint": tmp_path, "save_every": 2}
    with pytest.raises(StopError):
        natsel.recover(small, teacher, **options, **kept, progress=stopping(5))
    torch.rand(7)
    assert same_bits(natsel.recover(small, teacher, **options, **kept).model, whole.model)


def test_it_neither_reads_nor_moves_the_random_numbers_of_others():
    teacher, small, data = noisy()
    torch.manual_seed(1)
    before = torch.get_rng_state()
    natsel.recover(small, teacher, data=data, steps=2, batch=6, control=True)
    assert torch.equal(torch.get_rng_state(), before)


def test_an_interrupt_in_the_middle_of_a_step_keeps_the_one_before(tmp_path):
    teacher, small, data = noisy()
    options = {"data": data, "steps": 6, "batch": 6}
    whole = natsel.recover(small, teacher, **options)
    passes = []

    def interrupted(module, args):
        # Two run to find out how the models are compared, one of them is not in training.
        if module.training and len(passes) == 4:
            raise KeyboardInterrupt
        passes.append(1) if module.training else None

    def in_head(model):
        return model.head.register_forward_pre_hook(interrupted)

    handle = in_head(small)
    with pytest.raises(KeyboardInterrupt):
        natsel.recover(small, teacher, **options, checkpoint=tmp_path)
    handle.remove()
    steps = []
    resumed = natsel.recover(
        small, teacher, **options, checkpoint=tmp_path, progress=lambda _, d, __: steps.append(d)
    )
    assert steps == [4, 5, 6]
    assert same_bits(resumed.model, whole.model)


PROGRAM = """
import sys, torch, natsel
from test_resuming import noisy
torch.set_num_threads(int(sys.argv[3]))
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # wherever this was started from
teacher, small, data = noisy()
def progress(what, done, total):
    print(done, flush=True)
natsel.recover(small, teacher, data=data, steps=5000, batch=5, checkpoint=sys.argv[1],
               save_every=int(sys.argv[2]), progress=progress)
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_process_that_is_ended_leaves_a_checkpoint_that_goes_on(tmp_path, how):
    here = Path(__file__).parent
    paths = os.pathsep.join([str(here), str(Path(natsel.__file__).parents[1])])
    process = subprocess.Popen(
        [
            *(sys.executable, "-c", PROGRAM, str(tmp_path)),
            *("3" if how == signal.SIGKILL else "6000", str(torch.get_num_threads())),
        ],
        env={**os.environ, "PYTHONPATH": paths},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    done = 0
    while done < 7:
        done = int(process.stdout.readline())
    process.send_signal(how)
    process.wait(300)
    from natsel.common.files import load_tree

    held = load_tree(tmp_path / "recovered.safetensors")
    assert held["step"] >= 6
    teacher, small, data = noisy()
    options = {"data": data, "steps": 5000, "batch": 5, "checkpoint": tmp_path}
    end = held["step"] + 2
    with pytest.raises(StopError):
        natsel.recover(small, teacher, **options, save_every=1, progress=stopping(end))
    went_on = load_tree(tmp_path / "recovered.safetensors")
    with pytest.raises(StopError):
        natsel.recover(
            *(small, teacher),
            **{**options, "checkpoint": tmp_path / "other"},
            save_every=1,
            progress=stopping(end),
        )
    straight = load_tree(tmp_path / "other" / "recovered.safetensors")
    assert went_on["step"] == straight["step"] == end
    assert went_on["curve"] == straight["curve"]
    for name, value in straight["tensors"].items():
        assert torch.equal(went_on["tensors"][name], value), name


def test_a_checkpoint_of_another_run_is_refused_with_what_differs(tmp_path):
    teacher, small, tokens = pair()
    options = {"data": batches(tokens), "steps": 2, "batch": 5, "checkpoint": tmp_path}
    natsel.recover(small, teacher, **options)
    path = tmp_path / "recovered.safetensors"
    before = path.read_bytes()
    for other, names in (
        ({"learning_rate": 1e-4}, "learning_rate"),
        ({"steps": 3, "seed": 2}, "seed, steps"),
        ({"data": batches(tokens.flip(0))}, "data"),
        ({"keep_zeros": False}, "keep_zeros"),
        ({"clip": float("inf")}, "clip"),
    ):
        with pytest.raises(ValueError, match=rf"is of another run \(of other {names}\)$"):
            natsel.recover(small, teacher, **{**options, **other})
    with pytest.raises(ValueError, match=r"\(of other small\)$"):
        natsel.recover(teacher, teacher, **options)
    assert path.read_bytes() == before


def test_a_checkpoint_that_was_altered_is_refused(tmp_path):
    teacher, small, tokens = pair()
    options = {"data": batches(tokens), "steps": 2, "batch": 5, "checkpoint": tmp_path}
    natsel.recover(small, teacher, **options)
    path = tmp_path / "recovered.safetensors"
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(ValueError, match=r"recovered.safetensors is damaged"):
        natsel.recover(small, teacher, **options)


def test_a_checkpoint_holds_no_pickle(tmp_path):
    teacher, small, tokens = pair()
    natsel.recover(small, teacher, data=batches(tokens), steps=1, checkpoint=tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["recovered.safetensors"]
    content = (tmp_path / "recovered.safetensors").read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    assert {"optimizer/state/0/exp_avg", "optimizer/state/0/exp_avg_sq"} <= header.keys()


def test_a_nan_leaves_the_last_good_checkpoint(tmp_path):
    teacher, small, tokens = pair()
    options = {"data": batches(tokens), "steps": 6, "batch": 5, "checkpoint": tmp_path}
    with pytest.raises(
        natsel.NonFiniteError, match=r"checkpoint of an earlier step stays at .*safet"
    ):
        natsel.recover(small, teacher, **options, save_every=1, learning_rate=1e30)
    from natsel.common.files import load_tree

    assert load_tree(tmp_path / "recovered.safetensors")["step"] >= 1
