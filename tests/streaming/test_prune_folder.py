"""A folder pruned block by block: what pruning in memory gives, and a run that goes on."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import natsel
from natsel.extraction.verification import VerificationError
from natsel.streaming import block as block_module
from natsel.streaming import prune_folder

transformers = pytest.importorskip("transformers")
GENERATOR = torch.Generator().manual_seed(1)
DATA = [{"input_ids": torch.randint(0, 64, (2, 16), generator=GENERATOR)} for _ in range(2)]
HELD_OUT = torch.randint(0, 64, (2, 2, 16), generator=GENERATOR)
HALF = natsel.Sparsity(0.5)


def in_memory(folder: Path, budget: Any, **options: Any) -> natsel.Pruned:
    opened = natsel.open_model(folder)
    return natsel.prune(opened.model, opened.example_inputs, budget, **options)


def files_of(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir()) if p.is_file()}


class Stopped(BaseException):
    """As if the process were killed."""


def stopping(after: int) -> Any:
    """Return a progress that ends the run at its n-th call."""
    calls = iter(range(after))

    def progress(*_: object) -> None:
        if next(calls, None) is None:
            raise Stopped

    return progress


@pytest.mark.parametrize(
    ("budget", "options", "passes"),
    [
        (HALF, {"scorer": "wanda", "data": DATA}, 1),
        (natsel.Parameters(0.8), {"scorer": "joint", "data": DATA, "scope": "global"}, 2),
        (natsel.Sparsity(0.3), {"scorer": "V1a", "exclude": "*self_attn"}, 2),
    ],
    ids=["one pass, plain", "two passes, uneven", "no data"],
)
def test_what_is_left_is_what_pruning_in_memory_leaves(
    dense: Path, tmp_path: Path, budget: Any, options: dict[str, Any], passes: int
) -> None:
    found = prune_folder(dense, tmp_path / "out", budget, shard_size=10_000, **options)
    other = in_memory(dense, budget, **options)
    assert {n: m.tolist() for n, m in found.survivors.items()} == {
        n: m.tolist() for n, m in other.survivors.items()
    }
    assert found.cost == (other.cost.before, other.cost.after)
    assert found.passes == passes
    read = natsel.open_model(tmp_path / "out").model
    ours, theirs = read.state_dict(), other.small.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert [v["block"] for v in found.verified] == ["model.layers.0", "model.layers.1"]
    assert all(v["error"] <= v["tolerance"] < v["effect"] for v in found.verified)
    assert len(list((tmp_path / "out").glob("model-*.safetensors"))) > 1
    assert not list((tmp_path / "out").glob(".*"))


@pytest.mark.parametrize("budget", [HALF, natsel.Parameters(0.8)], ids=["one pass", "two passes"])
def test_a_killed_run_goes_on_and_writes_the_same_bytes(
    dense: Path, tmp_path: Path, budget: Any
) -> None:
    options: dict[str, Any] = {"scorer": "wanda", "data": DATA, "shard_size": 10_000}
    options["held_out"] = [{"input_ids": x, "labels": x} for x in HELD_OUT]
    whole = prune_folder(dense, tmp_path / "whole", budget, **options)
    out, cache = tmp_path / "out", tmp_path / "cache"
    seen: list[str] = []
    for _ in range(20):
        try:
            # One step further each time.
            found = prune_folder(dense, out, budget, cache=cache, progress=stopping(2), **options)
        except Stopped:
            assert not (out / "config.json").exists()
            seen.append((cache / "progress.json").read_text() if cache.is_dir() else "")
            # A kill in the middle of a write leaves more than what was noted.
            for path in out.glob(".natsel-unfinished/*.growing"):
                with path.open("ab") as file:
                    file.write(b"half a block")
        else:
            break
    assert len(set(seen)) == len(seen) > 1  # each attempt did one block
    assert files_of(out) == files_of(tmp_path / "whole")
    assert found.verified == whole.verified
    assert found.quality == whole.quality is not None
    assert not cache.exists()


def test_another_run_does_not_go_on_from_these_notes(dense: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"scorer": "wanda", "data": DATA, "cache": tmp_path / "cache"}
    with pytest.raises(Stopped):
        prune_folder(dense, tmp_path / "out", HALF, progress=stopping(2), **options)
    with pytest.raises(ValueError, match="very arguments"):
        prune_folder(dense, tmp_path / "out", natsel.Sparsity(0.25), **options)
    other = {**options, "cache": tmp_path / "other"}
    with pytest.raises(ValueError, match="without an unfinished run"):
        prune_folder(dense, tmp_path / "out", HALF, **other)


def test_without_a_cache_nothing_half_written_is_left(dense: Path, tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        prune_folder(dense, tmp_path / "out", HALF, data=DATA, scorer="wanda", progress=stopping(3))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_block_that_was_cut_wrongly_is_not_written(
    dense: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    """One neuron in the place of another; half precision is no excuse."""
    folder, right = tmp_path / "dense", block_module.remove
    model = transformers.AutoModelForCausalLM.from_pretrained(dense).to(dtype)
    model.save_pretrained(folder)

    def wrong(alone: nn.Module, communities: Any, survivors: Any) -> nn.Module:
        others = {}
        for name, mask in survivors.items():
            one = mask.clone()
            if len(mask) == 24:
                one[mask.nonzero()[0]], one[(~mask).nonzero()[0]] = False, True
            others[name] = one
        return right(alone, communities, others)

    monkeypatch.setattr(block_module, "remove", wrong)
    with pytest.raises(VerificationError, match=r"model\.layers\.0, cut, differs"):
        prune_folder(folder, tmp_path / "out", HALF, scorer="wanda", data=DATA)
    assert not (tmp_path / "out").exists()


def test_precision_and_tied_embeddings_are_kept(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = transformers.Qwen3Config(
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        vocab_size=64,
        max_position_embeddings=32,
        tie_word_embeddings=True,
    )
    model = transformers.Qwen3ForCausalLM(config).to(torch.bfloat16)
    model.save_pretrained(tmp_path / "dense")
    prune_folder(tmp_path / "dense", tmp_path / "out", HALF, scorer="wanda", data=DATA)
    other = in_memory(tmp_path / "dense", HALF, scorer="wanda", data=DATA)
    read: Any = natsel.open_model(tmp_path / "out").model
    assert {p.dtype for p in read.parameters()} == {torch.bfloat16}
    assert read.lm_head.weight is read.model.embed_tokens.weight
    theirs = other.small.state_dict()
    assert all(torch.equal(t, theirs[name]) for name, t in read.state_dict().items())


def test_what_cannot_be_done_block_by_block_is_refused_by_name(dense: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for options, told in (
        ({"scorer": "taylor", "data": DATA}, "scorer='taylor'.*no gradients"),
        ({"scorer": "adaptive", "data": DATA}, "needs the whole model"),
        ({"scorer": "wanda"}, "data=None"),
        ({"scorer": "wanda", "data": []}, "data='empty'"),
    ):
        with pytest.raises(ValueError, match=told):
            prune_folder(dense, out, HALF, **options)
    with pytest.raises(ValueError, match="nothing is timed"):
        prune_folder(dense, out, natsel.Latency(0.5))
    with pytest.raises(ValueError, match="only one can be read block by block"):
        prune_folder("hf:somebody/model", out, HALF)
    assert not out.exists()
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="an empty folder"):
        prune_folder(dense, out, HALF)
    assert [p.name for p in out.iterdir()] == ["notes.txt"]


def test_names_that_the_library_merges_while_loading_are_refused(tmp_path: Path) -> None:
    config = transformers.MixtralConfig(
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        num_local_experts=2,
        vocab_size=64,
        max_position_embeddings=32,
    )
    transformers.MixtralForCausalLM(config).save_pretrained(tmp_path / "dense")
    with pytest.raises(ValueError, match="renames or merges while it loads"):
        prune_folder(tmp_path / "dense", tmp_path / "out", HALF)


def test_a_weight_that_is_no_number_is_named_as_in_the_whole_model(
    dense: Path, tmp_path: Path
) -> None:
    files = pytest.importorskip("safetensors.torch")
    broken = tmp_path / "broken"
    shutil.copytree(dense, broken)
    name = "model.layers.1.mlp.down_proj.weight"
    for path in broken.glob("*.safetensors"):
        held = files.load_file(path)
        if name in held:
            held[name][0, 0] = float("nan")
            files.save_file(held, path, metadata={"format": "pt"})
    with pytest.raises(ArithmeticError, match=rf"'model\.layers\.1\..*: {re.escape(name)} of"):
        prune_folder(broken, tmp_path / "out", HALF, scorer="wanda", data=DATA)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("argument", ["data", "held_out"])
def test_tokens_that_the_model_has_not_are_refused(
    dense: Path, tmp_path: Path, argument: str
) -> None:
    batches = {"data": DATA, argument: [*DATA, {"input_ids": torch.full((2, 16), 64)}]}
    with pytest.raises(ValueError, match=rf"{argument}='tokens 64 to 64' is not .* 0 to 63"):
        prune_folder(dense, tmp_path / "out", HALF, scorer="wanda", **batches)
    assert not (tmp_path / "out").exists()
