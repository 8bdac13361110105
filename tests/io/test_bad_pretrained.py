"""A tampered folder of a transformers model: no code is run, nothing allocated, one line."""

from __future__ import annotations

import hashlib
import json
import shutil

import pytest

import natsel
from natsel.extraction.plan import _checksum


@pytest.fixture
def folder(cases, tmp_path):
    return shutil.copytree(cases["hf-vit", "uneven"].folder, tmp_path / "small")


def tamper(folder, config=None, **plan):
    """Change files as one would who knows how the checksums are made."""
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **(config or {})}))
    data = json.loads((folder / "plan.json").read_text())
    data.pop("sha256")
    data.update(plan)
    content = path.read_bytes()
    sealed = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    data["files"]["config.json"] = sealed
    (folder / "plan.json").write_text(json.dumps({**data, "sha256": _checksum(data)}))


@pytest.mark.parametrize(
    ("config", "plan", "message"),
    [
        ({}, {"constructor": {"class": "os.system"}}, "plan class='os.system'"),
        ({}, {"constructor": {"class": "AutoModel"}}, "plan class='AutoModel'"),
        ({}, {"constructor": {"class": "ViTConfig"}}, "plan class='ViTConfig'"),
        ({}, {"constructor": {"class": "__class__"}}, "plan class='__class__'"),
        ({}, {"constructor": {"class": "BertModel"}}, "config.json model_type='vit'"),
        ({}, {"constructor": {"class": "ViTModel"}}, "the architecture that was saved"),
        ({"model_type": "os"}, {}, "config.json model_type='os'"),
        ({"num_hidden_layers": 10**9}, {}, "config.json num_hidden_layers=1000000000"),
        ({"hidden_size": 4 * 10**6}, {}, "parameters"),
        ({"hidden_size": 10**30}, {}, "config.json hidden_size=1000"),
        ({"hidden_size": 4 * 10**9}, {}, "config.json hidden_size=4000000000"),
        ({"hidden_size": "wide"}, {}, "config.json is none of a ViTForImageClassification"),
        ({"num_attention_heads": 0}, {}, "config.json is none of a ViTForImageClassification"),
        ({"intermediate_size": 3}, {}, "at least the saved"),
        ({"num_hidden_layers": 1}, {}, "the architecture that was saved"),
    ],
)
def test_what_was_made_up_is_one_clear_error(folder, config, plan, message):
    natsel.load(folder)
    tamper(folder, config, **plan)
    with pytest.raises(ValueError, match=message) as told:
        natsel.load(folder)
    assert "\n" not in str(told.value)


def test_a_configuration_cannot_choose_code(folder, monkeypatch):
    natsel.load(folder)
    (folder / "evil.py").write_text("raise SystemExit('executed')")
    tamper(
        folder,
        {
            "auto_map": {"AutoModelForImageClassification": "evil.Evil", "AutoConfig": "evil.Evil"},
            "attn_implementation": "somebody/kernel",
            "_attn_implementation": "somebody/kernel",
            "_attn_implementation_internal": "somebody/kernel",
            "quantization_config": {"quant_method": "somebody"},
        },
        constructor={"class": "ViTForImageClassification", "attention": "somebody/kernel"},
    )
    assert natsel.load(folder).config._attn_implementation in ("eager", "sdpa")


@pytest.mark.parametrize("name", ["config.json", "modeling_natsel.py", "model.safetensors"])
def test_a_file_that_was_changed_or_is_gone(folder, name):
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[:-2] + b"\n\n")
    with pytest.raises(ValueError, match="damaged"):
        natsel.load(folder)
    (folder / name).unlink()
    with pytest.raises(ValueError, match=f"a folder with {name}"):
        natsel.load(folder)


def test_a_folder_without_its_configuration_in_the_plan(folder):
    data = json.loads((folder / "plan.json").read_text())
    data.pop("sha256")
    del data["files"]["config.json"]
    (folder / "plan.json").write_text(json.dumps({**data, "sha256": _checksum(data)}))
    with pytest.raises(ValueError, match=r"a folder with config\.json"):
        natsel.load(folder)


def test_a_run_folder_keeps_its_own_configuration(cases, tmp_path):
    (tmp_path / "config.json").write_text('{"run": 1}')
    with pytest.raises(ValueError, match=r"a folder whose config\.json was saved by natsel"):
        natsel.save(cases["hf-vit", "even"].small, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["config.json"]


def test_a_checkpoint_is_not_overwritten_by_its_small_version(cases, tmp_path):
    case = cases["hf-vit", "even"]
    case.dense.save_pretrained(tmp_path)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    with pytest.raises(ValueError, match="was saved by natsel"):
        natsel.save(case.small, tmp_path)
    assert before == {p.name: p.read_bytes() for p in tmp_path.iterdir()}


def test_files_that_are_not_needed_any_more_go(cases, tmp_path):
    natsel.save(cases["hf-vit", "uneven"].small, tmp_path)
    assert (tmp_path / "modeling_natsel.py").exists()
    (tmp_path / "result.json").write_text("{}")
    natsel.save(cases["hf-vit", "even"].small, tmp_path)
    names = sorted(p.name for p in tmp_path.iterdir())
    assert names == ["config.json", "model.safetensors", "plan.json", "result.json"]
