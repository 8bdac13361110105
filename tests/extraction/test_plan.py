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
from natsel.extraction.plan import _checksum

LOADER = """
import sys, torch, natsel
from safetensors.torch import load_file, save_file
for folder in sys.argv[1:]:
    small = natsel.load(folder)
    x = load_file(folder + ".x")["x"]
    with torch.no_grad():
        save_file({"y": small(x)}, folder + ".y")
"""


@pytest.fixture
def saved(net, draw, tmp_path):
    model, communities, _ = net("vit")
    small = natsel.extract(model, draw(communities, 0.5, 0)).eval()
    return small, natsel.save(small, tmp_path / "small")


def test_a_new_process_loads_the_same_function(net, draw, tmp_path):
    from safetensors.torch import load_file, save_file

    small = {}
    x = torch.randn(4, 1, 8, 8)
    for name in ("cnn", "vit"):
        model, communities, _ = net(name)
        small[name] = natsel.extract(model, draw(communities, 0.5, 0)).eval()
        natsel.save(small[name], tmp_path / name)
        save_file({"x": x}, tmp_path / f"{name}.x")
    folders = [str(tmp_path / name) for name in small]
    subprocess.run([sys.executable, "-c", LOADER, *folders], check=True, env=dict(os.environ))
    with torch.no_grad():
        for name, model in small.items():
            assert torch.equal(load_file(tmp_path / f"{name}.y")["y"], model(x))


def test_the_files_hold_no_pickle(saved):
    _, folder = saved
    assert sorted(p.name for p in folder.iterdir()) == ["model.safetensors", "plan.json"]
    json.loads((folder / "plan.json").read_text())
    content = (folder / "model.safetensors").read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    assert header.pop("__metadata__") == {"format": "pt"}
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
        lambda f: edited(f, schema=1),
        lambda f: edited(f, schema=3),
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


def sealed_with(folder, **changes):
    """Change a plan as one would who knows how its checksum is made."""
    data = json.loads((folder / "plan.json").read_text())
    data.pop("sha256")
    data.update(changes)
    text = json.dumps({**data, "sha256": _checksum(data)})
    (folder / "plan.json").write_text(text)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("blocks.0.attention.forward", 1),
        ("blocks.0.attention.training", 1),
        ("nowhere.heads", 1),
        ("head.weight", 1),
        ("blocks.0.attention.__class__", 1),
        ("blocks.0.attention.heads", 10**12),
        ("blocks.0.attention.heads", -1),
        ("blocks.0.attention.heads", "os.system"),
        ("blocks.0.attention.heads", True),
    ],
)
def test_a_plan_sets_only_numbers_that_are_there_and_never_larger_ones(saved, path, value):
    _, folder = saved
    sealed_with(folder, attributes={path: value})
    with pytest.raises(ValueError, match=r"a whole number at|a number from 0 to|not a plan"):
        natsel.load(folder)


@pytest.mark.parametrize(
    "changes",
    [
        {"files": {}},
        {"files": {"../plan.json": {"bytes": 1, "sha256": ""}}},
        {"files": {"model.safetensors": {"bytes": 1}}},
        {"files": {"model.safetensors": {"bytes": 1, "sha256": 1}}},
        {"tensors": {}},
        {"tensors": {"head.weight": {"shape": [10**9, 10**9], "dtype": "float32"}}},
        {"tensors": {"head.weight": 1}},
        {"tied": {"head.weight": "nowhere"}},
        {"tied": {"nowhere": "head.weight"}},
        {"tied": {"head.weight": 1}},
        {"frozen": [1]},
        {"survivors": {"a": 1}},
        {"model": 1},
        {"constructor": {"name": "mlp", "arguments": {}}},
        {"constructor": {"name": "os.system", "arguments": {"in_shape": [1], "num_classes": 1}}},
        {"constructor": {"class": "os.system"}},
        {"constructor": {"class": "PreTrainedModel"}},
        {"constructor": {"class": "LlamaForCausalLM"}},
        {"constructor": {"class": 3}},
        {"constructor": None},
        {"constructor": [1]},
        {"schema": "2"},
    ],
)
def test_a_plan_that_was_made_up_is_one_clear_error(saved, changes):
    _, folder = saved
    sealed_with(folder, **changes)
    with pytest.raises(ValueError, match=r"plan|folder|model|name|constructor") as told:
        natsel.load(folder)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("name", ["plan.json", "model.safetensors"])
def test_a_link_is_never_followed(saved, tmp_path, name):
    _, folder = saved
    (folder / name).rename(tmp_path / "elsewhere")
    (folder / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="folder"):
        natsel.load(folder)


def test_a_pickle_is_never_read(saved):
    _, folder = saved
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"a folder with model\.safetensors"):
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


def test_what_a_folder_held_before_is_not_overwritten(saved, tmp_path):
    small, _ = saved
    (tmp_path / "model.safetensors").write_bytes(b"precious")
    with pytest.raises(ValueError, match="saved by natsel"):
        natsel.save(small, tmp_path)
    assert [p.name for p in tmp_path.iterdir() if p.is_file()] == ["model.safetensors"]
    assert (tmp_path / "model.safetensors").read_bytes() == b"precious"


def test_a_reader_that_is_overtaken_by_a_writer_reads_the_new_one(saved, net, draw, monkeypatch):
    from natsel.extraction import store

    _, folder = saved
    model, communities, _ = net("vit")
    other = natsel.extract(model, draw(communities, 0.2, 7)).eval()
    real, written = store.locate, []

    def locate(*arguments):
        if not written:
            written.append(natsel.save(other, folder))
        return real(*arguments)

    monkeypatch.setattr(store, "locate", locate)
    x = torch.randn(2, 1, 8, 8)
    assert torch.equal(natsel.load(folder)(x), other(x))


@pytest.mark.parametrize("later", [("branches",), ("branches", "sparse")])
def test_a_plan_from_before_a_field_was_there_is_read(saved, later):
    small, folder = saved
    data = json.loads((folder / "plan.json").read_text())
    del data["sha256"]
    for name in later:
        assert data.pop(name) is None
    (folder / "plan.json").write_text(json.dumps({**data, "sha256": _checksum(data)}))
    x = torch.randn(2, 1, 8, 8)
    with torch.no_grad():
        assert torch.equal(natsel.load(folder)(x), small(x))
