"""Saved and loaded in a new process: every architecture, cut evenly and unevenly, bit for bit."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch
from io_helpers import result
from safetensors.torch import load_file, save_file

import natsel
from natsel.communities.tensors import tensors_of
from natsel_bench.zoo import ARCHITECTURES

LOADER = """
import json, sys, torch, natsel
from safetensors.torch import load_file, save_file
from natsel_bench.zoo import text, vision
torch.set_num_threads(int(sys.argv[2]))
own = {
    "mobile-unet": vision.MobileUNet, "convnext": vision.ConvNeXt,
    "transformer-encoder": text.Encoder, "lstm": text.RecurrentClassifier,
}
for name, folder in json.loads(sys.argv[1]):
    small = natsel.load(folder, constructor=own.get(name))
    inputs = load_file(folder + ".inputs")
    with torch.no_grad():
        output = small(*(inputs[str(i)] for i in range(len(inputs))))
    save_file({"y": getattr(output, "logits", output)}, folder + ".output")
"""


@pytest.fixture(scope="module")
def outputs(cases):
    for case in cases.values():
        inputs = {str(i): x.contiguous() for i, x in enumerate(case.inputs)}
        save_file(inputs, f"{case.folder}.inputs")
    folders = json.dumps([(name, str(case.folder)) for (name, _), case in cases.items()])
    arguments = [sys.executable, "-c", LOADER, folders, str(torch.get_num_threads())]
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    subprocess.run(arguments, check=True, env=environment)
    return {key: load_file(f"{case.folder}.output")["y"] for key, case in cases.items()}


def test_the_architectures_that_pruning_is_for_are_here(cases):
    assert {name for name, _ in cases} >= {"mlp", "resnet20", "hf-vit", "hf-bert", "hf-llama"}


@pytest.mark.parametrize("cut", ["even", "uneven"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_new_process_loads_the_same_function(cases, outputs, name, cut):
    if (name, cut) not in cases:
        pytest.skip("nothing in it can be removed")
    case = cases[name, cut]
    assert torch.equal(outputs[name, cut], result(case.small, case.inputs))
    dense, small = (sum(p.numel() for p in m.parameters()) for m in (case.dense, case.small))
    assert small < dense


def test_everything_but_values_is_the_same_too(cases):
    for (name, cut), case in cases.items():
        if name.startswith("hf-"):
            loaded = natsel.load(case.folder)
            mine, theirs = tensors_of(case.small), tensors_of(loaded)
            assert {n: (t.shape, t.dtype) for n, t in mine.items()} == {
                n: (t.shape, t.dtype) for n, t in theirs.items()
            }, (name, cut)
            assert all(torch.equal(t, theirs[n]) for n, t in mine.items())
            assert type(loaded) is type(case.small)
            assert not any(module.training for module in loaded.modules())
