"""Full disks, missing files and kills: one line, nothing lost, the same bytes in the end."""

from __future__ import annotations

import errno
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import natsel
from natsel.blockwise import store
from natsel.common.shards import ShardWriter
from natsel.streaming import finish, prune_folder

pytest.importorskip("transformers")
GENERATOR = torch.Generator().manual_seed(3)
DATA = [{"input_ids": torch.randint(0, 64, (2, 16), generator=GENERATOR)} for _ in range(2)]
TOKENS = [torch.randint(0, 64, (3, 12), generator=GENERATOR) for _ in range(2)]
HELD_OUT = [{"input_ids": x, "labels": x} for x in TOKENS]
OPTIONS: dict[str, Any] = {
    "data": DATA,
    "held_out": HELD_OUT,
    "scorer": "wanda",
    "shard_size": 10_000,
}
HALF = natsel.Sparsity(0.5)


def files_of(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir()) if p.is_file()}


@pytest.fixture(scope="module")
def whole(dense: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What a run that nothing interrupts gives."""
    return prune_folder(dense, tmp_path_factory.mktemp("whole") / "out", HALF, **OPTIONS)


def test_both_models_are_measured_as_they_are_in_memory(dense: Path, whole: Any) -> None:
    small, model = natsel.load(whole.out), natsel.open_model(dense).model
    found = natsel.evaluate(small, data=HELD_OUT, against=model)
    for ours, theirs in zip(
        (whole.quality.before, whole.quality.after), (found.before, found.after), strict=True
    ):
        assert tuple(ours) == pytest.approx(tuple(theirs), rel=1e-5)
    assert whole.quality.paired.n == 6
    assert whole.quality.paired.difference == pytest.approx(found.paired.difference, rel=1e-3)


def failing(after: int, real: Any) -> Any:
    """Return what writes to a disk that is full from its n-th call on."""
    calls = iter(range(after))

    def write(*args: Any, **named: Any) -> Any:
        if next(calls, None) is None:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*args, **named)

    return staticmethod(write)


def test_it_goes_on_once_there_is_room_again(
    dense: Path, whole: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that is full at one place after the other; in the end nothing tells of it."""
    out, more = tmp_path / "out", {**OPTIONS, "cache": tmp_path / "cache"}
    for owner, name, after, block in (
        (ShardWriter, "sync", 1, 1),  # of the second shard
        (store, "save_file", 3, 1),  # a hidden state
        (finish, "write_atomic", 0, 3),  # the generation configuration
        (finish, "write_atomic", 2, 3),  # the configuration, which is last
    ):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, failing(after, getattr(owner, name)))
            with pytest.raises(OSError, match=r"[Nn]o space left on (the )?device") as error:
                prune_folder(dense, out, HALF, **more)
        assert "\n" not in str(error.value)
        assert not (out / "config.json").exists()
        with pytest.raises(ValueError, match=r"with (plan|config)\.json"):
            natsel.load(out)
        assert json.loads((tmp_path / "cache" / "progress.json").read_text())["block"] == block
        with pytest.raises(ValueError, match="very arguments"):
            prune_folder(dense, out, HALF, **{**more, "held_out": HELD_OUT[:1]})
    found = prune_folder(dense, out, HALF, **more)
    assert files_of(out) == files_of(whole.out)
    assert found.quality == whole.quality
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("what", ["a file", "an entry"])
def test_a_shard_that_is_missing_is_named(dense: Path, tmp_path: Path, what: str) -> None:
    folder = tmp_path / "dense"
    shutil.copytree(dense, folder)
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    gone = index["weight_map"]["model.layers.1.mlp.down_proj.weight"]
    if what == "a file":
        (folder / gone).unlink()
        told = gone
    else:
        kept = {n: f for n, f in index["weight_map"].items() if f != gone}
        path.write_text(json.dumps({**index, "weight_map": kept}))
        told = r"model\.layers\.1\.mlp"
    with pytest.raises(ValueError, match=told) as error:
        prune_folder(folder, tmp_path / "out", HALF, **OPTIONS)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_held_out_batches_without_labels_are_refused(dense: Path, tmp_path: Path) -> None:
    for batches, told in ((DATA, "whole-number labels"), ([], "held_out='empty'")):
        with pytest.raises(ValueError, match=told):
            prune_folder(dense, tmp_path / "out", HALF, **{**OPTIONS, "held_out": batches})
    assert not (tmp_path / "out").exists()


def test_a_file_that_was_written_wrongly_is_no_model(
    dense: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is in no block is compared with the dense model's, byte by byte."""
    finishing = finish.ShardWriter.finish

    def damaged(writer: Any, out: Path) -> dict[str, str]:
        files = finishing(writer, out)
        path = out / files["model.embed_tokens.weight"]
        place = finish.Shards(out).place("model.embed_tokens.weight")
        content = bytearray(path.read_bytes())
        content[place.start] ^= 1
        path.write_bytes(bytes(content))
        return files

    monkeypatch.setattr(finish.ShardWriter, "finish", damaged)
    with pytest.raises(natsel.VerificationError, match="read back"):
        prune_folder(dense, tmp_path / "out", HALF, **OPTIONS)
    assert not (tmp_path / "out").exists()
