"""Files are written whole; trees of tensors come back exactly, or a damaged file is named."""

import json
import math
import os
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from natsel.common.files import load_tree, read_json, save_tree, write_atomic, write_json


def same(a, b):
    if isinstance(a, torch.Tensor):
        equal = torch.equal(a.nan_to_num(7), b.nan_to_num(7)) if a.is_floating_point() else None
        return a.dtype == b.dtype and a.shape == b.shape and (equal or torch.equal(a, b))
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return list(map(repr, a)) == list(map(repr, b)) and all(
            same(x, y) for x, y in zip(a.values(), b.values(), strict=True)
        )
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return repr(a) == repr(b)  # tells 0.0 from -0.0, and nan equals nan


def test_write_atomic_replaces_the_file_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "plan"
    write_atomic(path, b"old")
    write_atomic(path, b"new")
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["plan"]


def test_a_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "plan"
    write_atomic(path, b"old")

    def full(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="no space"):
        write_atomic(path, b"new")
    with pytest.raises(OSError, match="no space"):
        save_tree(path, [torch.ones(2)])
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["plan"]


def test_json_keeps_the_order_of_keys(tmp_path):
    write_json(tmp_path / "a.json", {"b": 1, "a": [1.5, None, "é"]})
    assert list(read_json(tmp_path / "a.json").items()) == [("b", 1), ("a", [1.5, None, "é"])]


def test_json_refuses_nan_and_writes_nothing(tmp_path):
    with pytest.raises(ValueError, match=r"a\.json is not written.*nan"):
        write_json(tmp_path / "a.json", {"accuracy": math.nan})
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("content", [b"", b'{"a": 1', b"\xff\xfe\x00"])
def test_damaged_json_is_named_in_one_line(tmp_path, content):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.json is not valid JSON") as caught:
        read_json(tmp_path / "a.json")
    assert "\n" not in str(caught.value)


dtypes = st.sampled_from(
    [torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.uint8, torch.bool]
)
shapes = st.lists(st.integers(0, 3), max_size=3)
tensors = st.builds(
    lambda dtype, shape, seed: torch.randint(
        0, 2, shape, generator=torch.Generator().manual_seed(seed)
    ).to(dtype),
    dtypes,
    shapes,
    st.integers(0, 9),
)
scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
keys = st.text(max_size=4) | st.integers() | st.sampled_from(["__metadata__", "a/b", "a", '"', ""])
trees = st.recursive(
    tensors | scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(keys, inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None)
@given(tree=trees)
def test_any_tree_comes_back_exactly(tmp_path_factory, tree):
    path = tmp_path_factory.getbasetemp() / "tree.safetensors"
    save_tree(path, tree)
    assert same(load_tree(path), tree)


def test_an_optimizer_state_comes_back(tmp_path):
    model = nn.Linear(3, 2)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    save_tree(tmp_path / "state", optimizer.state_dict())
    loaded = load_tree(tmp_path / "state")
    assert same(loaded, optimizer.state_dict())
    torch.optim.Adam(model.parameters()).load_state_dict(loaded)


def test_shared_and_non_contiguous_tensors_become_leaves_of_their_own(tmp_path):
    base = torch.arange(6.0).reshape(2, 3)
    save_tree(tmp_path / "tree", {"base": base, "again": base, "t": base.T, "row": base[1]})
    loaded = load_tree(tmp_path / "tree")
    assert same(loaded, {"base": base, "again": base, "t": base.T, "row": base[1]})
    loaded["base"].zero_()
    assert loaded["again"].sum() == 15
    assert load_tree(tmp_path / "tree")["base"].sum() == 15


def test_keys_that_look_alike_stay_apart(tmp_path):
    tree = {1: torch.tensor(1), "1": torch.tensor(2), "1~": torch.tensor(3), "__metadata__": [base]}
    save_tree(tmp_path / "tree", tree)
    assert same(load_tree(tmp_path / "tree"), tree)


base = torch.zeros(())


def test_equal_trees_give_equal_files(tmp_path):
    for name in ("a", "b"):
        save_tree(tmp_path / name, {"w": torch.ones(3), "b": torch.zeros(2), "step": 1})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_every_altered_or_missing_byte_is_noticed(tmp_path):
    path = tmp_path / "tree"
    save_tree(path, {"w": torch.arange(3), "lr": 0.1})
    content = path.read_bytes()
    for position in range(len(content)):
        altered = bytearray(content)
        altered[position] ^= 1
        for damaged in (bytes(altered), content[:position]):
            path.write_bytes(damaged)
            with pytest.raises(ValueError, match=f"^{path} is ") as caught:
                load_tree(path)
            assert "\n" not in str(caught.value)
    path.write_bytes(content + b"\0")
    with pytest.raises(ValueError, match="damaged"):
        load_tree(path)


@pytest.mark.parametrize(
    ("tree", "place"),
    [
        ({"a": [object()]}, "at a/0"),
        ({"a": {(1, 2): 3}}, "key of a"),
        (torch.eye(2).to_sparse(), "dense"),
        ({"a": torch.empty(2, device="meta")}, "at a"),
        (torch.empty(2, dtype=torch.complex32), "complex32"),
    ],
)
def test_what_cannot_be_saved_is_refused_with_its_place(tmp_path, tree, place):
    with pytest.raises(ValueError, match=place):
        save_tree(tmp_path / "tree", tree)
    assert os.listdir(tmp_path) == []


def test_a_foreign_safetensors_file_is_refused(tmp_path):
    from safetensors.torch import save_file

    save_file({"w": torch.ones(1)}, tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match="not a file that natsel saved"):
        load_tree(tmp_path / "w.safetensors")


def test_other_readers_see_the_tensors(tmp_path):
    from safetensors.torch import load_file

    save_tree(tmp_path / "state", {"state": {0: {"exp_avg": torch.ones(2)}}, "note": "é"})
    assert list(load_file(tmp_path / "state")) == ["state/0/exp_avg"]


def test_a_new_file_has_the_usual_permissions(tmp_path):
    save_tree(tmp_path / "tree", [torch.ones(1)])
    Path(tmp_path / "plain").write_text(json.dumps(1))
    assert (tmp_path / "tree").stat().st_mode == (tmp_path / "plain").stat().st_mode
