"""Tensor files are checked by their header alone; what does not fit is never allocated."""

from __future__ import annotations

import json

import pytest
import torch

from natsel.common.tensorfiles import described, read_tensors, write_tensors


def raw(path, entries, num_bytes, length=None):
    header = json.dumps(entries).encode()
    size = len(header) if length is None else length
    path.write_bytes(size.to_bytes(8, "little") + header + bytes(num_bytes))


def entry(shape, start, end, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def test_any_layout_comes_back(tmp_path):
    path = tmp_path / "t"
    tensors = {
        "transposed": torch.arange(6.0).reshape(2, 3).T,
        "expanded": torch.ones(1).expand(4),
        "part": torch.arange(10)[3:7],
        "scalar": torch.tensor(3, dtype=torch.int64),
        "empty": torch.zeros(0, 3),
        "bits": torch.tensor([True, False]),
        "half": torch.tensor([0.5], dtype=torch.bfloat16),
    }
    write_tensors(path, tensors)
    found = read_tensors(path)
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)
    assert len({t.untyped_storage().data_ptr() for t in found.values() if t.numel()}) == 6


@pytest.mark.parametrize(
    ("entries", "num_bytes", "length"),
    [
        ({"w": entry([10**9, 10**9], 0, 4 * 10**18)}, 8, None),
        ({"w": entry([2], 0, 8)}, 4, None),
        ({"w": entry([2], 0, 8)}, 12, None),
        ({"w": entry([3], 0, 8)}, 8, None),
        ({"w": entry([-2], 0, -8)}, 0, None),
        ({"w": entry([2], 4, 12)}, 12, None),
        ({"w": entry([2], 0, 8), "v": entry([2], 0, 8)}, 8, None),
        ({"w": entry([2], 0, 8, "P32")}, 8, None),
        ({"w": {"shape": [2]}}, 8, None),
        ([1], 8, None),
        ({"w": entry([2], 0, 8)}, 8, 2**62),
        ({"w": entry([2], 0, 8)}, 8, 0),
        ({"w": entry([2], 0, 8)}, 8, 5),
    ],
)
def test_sizes_that_do_not_fit_are_refused(tmp_path, entries, num_bytes, length):
    raw(tmp_path / "t", entries, num_bytes, length)
    for reader in (described, read_tensors):
        with pytest.raises(ValueError, match=r"not a safetensors file|damaged"):
            reader(tmp_path / "t")


def test_what_has_no_data_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"weight=.*a dense tensor with data"):
        write_tensors(tmp_path / "t", {"weight": torch.empty(2, device="meta")})
