"""Saved and loaded without pickle; a damaged file is one clear ValueError."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys

import pytest
import torch
from torch import nn

import natsel
from natsel.extraction import plan_of

LOADER = """
import sys, torch, natsel
from safetensors.torch import load_file, save_file
small = natsel.load(sys.argv[1])
x = load_file(sys.argv[2])["x"]
with torch.no_grad():
    save_file({"y": small(x)}, sys.argv[3])
"""


@pytest.fixture
def saved(net, draw, tmp_path):
    model, communities, _ = net("vit")
    small = natsel.extract(model, draw(communities, 0.5, 0)).eval()
    return small, natsel.save(small, tmp_path / "small")


@pytest.mark.parametrize("name", ["cnn", "vit"])
def test_a_new_process_loads_the_same_function(net, draw, tmp_path, name):
    from safetensors.torch import load_file, save_file

    model, communities, _ = net(name)
    small = natsel.extract(model, draw(communities, 0.5, 0)).eval()
    folder = natsel.save(small, tmp_path / "small")
    x = torch.randn(4, 1, 8, 8)
    save_file({"x": x}, tmp_path / "x")
    arguments = [str(folder), str(tmp_path / "x"), str(tmp_path / "y")]
    subprocess.run([sys.executable, "-c", LOADER, *arguments], check=True, env=dict(os.environ))
    with torch.no_grad():
        assert torch.equal(load_file(tmp_path / "y")["y"], small(x))


def test_the_files_hold_no_pickle(saved):
    _, folder = saved
    assert sorted(p.name for p in folder.iterdir()) == ["model.safetensors", "plan.json"]
    json.loads((folder / "plan.json").read_text())
    content = (folder / "model.safetensors").read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    assert not content.startswith((b"PK", b"\x80"))
    for tensor in header.values():
        assert set(tensor) == {"dtype", "shape", "data_offsets"}
    assert max(t["data_offsets"][1] for t in header.values()) == len(content) - 8 - length


def edited(folder, **changes):
    data = json.loads((folder / "plan.json").read_text())
    data.update(changes)
    (folder / "plan.json").write_text(json.dumps(data))


def flip(folder):
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))


def cut(folder, name):
    path = folder / name
    path.write_bytes(path.read_bytes()[:-7])


@pytest.mark.parametrize(
    "damage",
    [
        flip,
        lambda f: cut(f, "model.safetensors"),
        lambda f: cut(f, "plan.json"),
        lambda f: (f / "plan.json").unlink(),
        lambda f: (f / "model.safetensors").unlink(),
        lambda f: (f / "plan.json").write_text("[]"),
        lambda f: (f / "plan.json").write_text("{}"),
        lambda f: (f / "model.safetensors").write_bytes(b""),
        lambda f: edited(f, schema=2),
        lambda f: edited(f, schema=None),
        lambda f: edited(f, unknown=1),
        lambda f: edited(f, attributes=[1]),
        lambda f: edited(f, attributes={"blocks.0.attention.forward": 1}),
        lambda f: edited(f, tensors=None),
        lambda f: edited(f, constructor={"name": "mlp"}),
        lambda f: edited(f, sizes={}),
        lambda f: edited(f, sha256=None),
    ],
)
def test_a_damaged_folder_is_one_clear_error(saved, damage):
    _, folder = saved
    natsel.load(folder)
    damage(folder)
    with pytest.raises(ValueError, match=r"plan|folder|model\.safetensors"):
        natsel.load(folder)


@pytest.mark.parametrize("path", ["blocks.0.attention.forward", "nowhere.heads", "head.weight"])
def test_a_plan_sets_only_numbers_that_are_there(saved, path):
    from natsel.extraction.plan import _checksum

    _, folder = saved
    data = json.loads((folder / "plan.json").read_text())
    data.pop("sha256")
    data["attributes"] = {path: 1}
    checksum = _checksum(data, (folder / "model.safetensors").read_bytes())
    (folder / "plan.json").write_text(json.dumps({**data, "sha256": checksum}))
    with pytest.raises(ValueError, match="a whole number at"):
        natsel.load(folder)


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(ValueError, match="a folder with"):
        natsel.load(tmp_path / "nothing")


class Own(nn.Module):
    def __init__(self, width=8):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, 3))

    def forward(self, x):
        return self.body(x)


def test_a_module_of_the_users_own_is_given_when_loading(tmp_path):
    model = Own()
    communities = natsel.discover(model, (torch.randn(2, 4),))
    scores = natsel.score(communities, "magnitude")
    small = natsel.extract(model, natsel.select(scores, natsel.Sparsity(0.5))).eval()
    folder = natsel.save(small, tmp_path)
    with pytest.raises(ValueError, match="Own"):
        natsel.load(folder)
    dense = Own()
    before = copy.deepcopy(dense.state_dict())
    loaded = natsel.load(folder, model=dense)
    x = torch.randn(5, 4)
    assert torch.equal(loaded(x), small(x))
    assert loaded.body[0].out_features == 4
    assert all(torch.equal(t, before[n]) for n, t in dense.state_dict().items())
    for other in (Own(width=3), nn.Linear(4, 3)):
        with pytest.raises(ValueError, match="model"):
            natsel.load(folder, model=other)


def test_a_model_that_was_trained_on_in_another_precision(saved, tmp_path):
    small, _ = saved
    half = copy.deepcopy(small).to(torch.bfloat16)
    loaded = natsel.load(natsel.save(half, tmp_path / "half"))
    x = torch.randn(2, 1, 8, 8).to(torch.bfloat16)
    assert torch.equal(loaded(x), half(x))


def test_a_model_that_was_cut_twice_loads(net, draw, tmp_path):
    model, communities, inputs = net("vit")
    heads = next(n for n, c in communities.items() if c.kind == "head")
    one = natsel.Survivors({heads: torch.arange(4) == 2}, communities)
    first = natsel.extract(model, one)
    again = natsel.discover(first, inputs)
    assert heads not in again
    second = natsel.extract(first, draw(again, 0.5, 0)).eval()
    loaded = natsel.load(natsel.save(second, tmp_path))
    x = torch.randn(2, 1, 8, 8)
    assert torch.equal(loaded(x), second(x))


def test_the_plan_says_what_is_left(saved):
    small, _ = saved
    plan = plan_of(small)
    assert plan.parameters_after == sum(p.numel() for p in small.parameters())
    assert plan.parameters_before > plan.parameters_after
    totals = f"parameters: {plan.parameters_before:,} -> {plan.parameters_after:,}"
    assert totals in plan.summary()


def test_only_extracted_models_are_saved(tmp_path):
    with pytest.raises(ValueError, match=r"natsel\.extract"):
        natsel.save(nn.Linear(2, 2), tmp_path)
