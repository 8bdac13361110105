"""Numbers that a configuration states layer by layer: used where the class reads them."""

from __future__ import annotations

import json

import pytest
import torch
import transformers
from io_helpers import result

import natsel
from natsel.cli.main import main
from natsel.integrations.transformers.layers import ignored

SIZES = {
    **{"vocab_size": 100, "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4},
    **{"num_key_value_heads": 2, "intermediate_size": 96, "max_position_embeddings": 32},
}
GEMMA = {
    **{**SIZES, "head_dim": 12, "global_head_dim": 12, "hidden_size_per_layer_input": 0},
    **{"num_kv_shared_layers": 0, "pad_token_id": 0},
}


def llama(**options):
    torch.manual_seed(0)
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES, **options)).eval()


@pytest.mark.parametrize(
    ("kind", "sizes", "stated", "left"),
    [
        ("LlamaForCausalLM", SIZES, {0: {"skip": ["mlp"]}}, ["per_layer_config[0].skip"]),
        ("MistralForCausalLM", SIZES, {1: {"skip": ["self_attn"]}}, ["per_layer_config[1].skip"]),
        (
            "Qwen3ForCausalLM",
            {**SIZES, "head_dim": 12},
            {0: {"sliding_window": 4}},
            ["per_layer_config[0].sliding_window"],
        ),
        ("Gemma4ForCausalLM", GEMMA, {0: {"head_dim": 24}}, []),
        (
            "Gemma4ForCausalLM",
            GEMMA,
            {0: {"head_dim": 24}, 1: {"skip": ["mlp"]}},
            ["per_layer_config[1].skip"],
        ),
        (
            "Gemma4ForCausalLM",
            GEMMA,
            {0: {"made_up": 1}, 1: {"made_up": 2}},
            ["per_layer_config[0].made_up", "per_layer_config[1].made_up"],
        ),
    ],
)
def test_what_a_class_ignores_is_found_by_building(kind, sizes, stated, left):
    kind = getattr(transformers, kind)
    config = kind.config_class(**sizes, per_layer_config=stated)
    assert [str(o) for o in ignored(kind, json.loads(config.to_json_string()))] == left


@pytest.mark.parametrize("command", ["inspect", "prune"])
def test_a_folder_that_would_silently_be_another_model(tmp_path, capsys, monkeypatch, command):
    folder, out = tmp_path / "skips", tmp_path / "out"
    llama(per_layer_config={0: {"skip": ["mlp"]}}).save_pretrained(folder)
    told = r"per_layer_config\[0\]\.skip=\['mlp'\] is not allowed.*LlamaForCausalLM ignores it"
    with pytest.raises(ValueError, match=told):
        natsel.open_model(folder)
    options = ["--budget", "macs=0.5", "--out", str(out)] if command == "prune" else []
    monkeypatch.setattr("sys.argv", ["natsel", command, str(folder), *options])
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
    assert not out.exists()


def test_what_was_ignored_is_not_written_on(tmp_path):
    """The model in memory never had it; the folder says what it is."""
    model = llama(per_layer_config={0: {"skip": ["mlp"]}})
    inputs = (torch.randint(4, 100, (2, 7)),)
    communities = natsel.discover(model, inputs)
    survivors = {name: torch.arange(c.size) % 2 == 0 for name, c in communities.items()}
    small = natsel.extract(model, survivors, communities=communities).eval()
    for folder in (natsel.save(small, tmp_path / "natsel"), tmp_path / "library"):
        if folder.name == "library":
            small.save_pretrained(folder)
        assert "per_layer_config" not in json.loads((folder / "config.json").read_text())
        loaded = natsel.open_model(folder).model
        assert torch.equal(result(loaded, inputs), result(small, inputs))
    data = json.loads((tmp_path / "natsel" / "config.json").read_text())
    assert data["intermediate_size"] == 48


def test_uneven_heads_are_stated_where_the_class_reads_them(tmp_path):
    kind = transformers.Step3p7TextModel
    torch.manual_seed(0)
    config = kind.config_class(
        **{**SIZES, "num_key_value_heads": 4, "head_dim": 12, "pad_token_id": 0},
        mlp_layer_types=["dense"] * 2,
        layer_types=["full_attention"] * 2,
        sliding_window=16,
    )
    model, inputs = kind(config).eval(), (torch.randint(4, 100, (2, 7)),)
    communities = natsel.discover(model, inputs)
    heads = [name for name, c in communities.items() if c.kind == "head"]
    masks = {n: torch.arange(4) < kept for n, kept in zip(heads, (2, 3), strict=True)}
    small = natsel.extract(model, masks, communities=communities).eval()
    natsel.save(small, tmp_path)
    data = json.loads((tmp_path / "config.json").read_text())
    assert data["per_layer_config"] == {
        "0": {"num_attention_heads": 2, "num_key_value_heads": 2},
        "1": {"num_attention_heads": 3, "num_key_value_heads": 3},
    }
    assert not list(tmp_path.glob("*.py"))
    for loaded in (kind.from_pretrained(tmp_path).eval(), natsel.load(tmp_path)):
        for parameter in loaded.parameters():
            parameter.data = parameter.data.clone()
        assert torch.equal(result(loaded, inputs), result(small, inputs))


@pytest.mark.parametrize(
    "record",
    [
        {"shapes": {"lm_head.weight": [-1, 48]}},
        {"shapes": {"lm_head.weight": "large"}},
        {"numbers": {"model.forward": ["os.system"]}},
        {"numbers": {"model.layers.0.self_attn.head_dim": None}},
        {"compressed": {"lm_head": [10**9]}},
        {"buffers": "all"},
        "no record",
        {"shapes": 1},
    ],
)
def test_a_record_from_anywhere_is_one_clear_error(tmp_path, record):
    llama().save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    if isinstance(record, dict):
        record = {"shapes": {}, "numbers": {}, "buffers": [], **record}
    path.write_text(json.dumps({**json.loads(path.read_text()), "natsel": record}))
    with pytest.raises(ValueError, match=r"config\.json natsel") as told:
        natsel.open_model(tmp_path)
    assert "\n" not in str(told.value)


def test_a_record_sets_numbers_only(tmp_path):
    llama().save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    record = {"shapes": {}, "buffers": [], "numbers": {"model.forward": 1, "model.layers.0.mlp": 2}}
    path.write_text(json.dumps({**json.loads(path.read_text()), "natsel": record}))
    (tmp_path / "modeling_natsel.py").write_text("raise SystemExit('executed')")
    opened = natsel.open_model(tmp_path)
    inputs = (torch.randint(4, 100, (2, 7)),)
    assert torch.equal(result(opened.model, inputs), result(llama(), inputs))


def test_natsel_opens_a_checkpoint_with_recorded_shapes_and_runs_nothing(tmp_path):
    model, inputs = llama(), (torch.randint(4, 100, (2, 7)),)
    communities = natsel.discover(model, inputs)
    names = [n for n, c in communities.items() if c.kind == "neuron"]
    masks = {n: torch.arange(96) < kept for n, kept in zip(names, (40, 56), strict=True)}
    small = natsel.extract(model, masks, communities=communities).eval()
    small.save_pretrained(tmp_path / "one")
    (tmp_path / "one" / "modeling_natsel.py").write_text("raise SystemExit('executed')")
    opened = natsel.open_model(tmp_path / "one")
    assert opened.description.startswith("LlamaForCausalLM from")
    assert torch.equal(result(opened.model, inputs), result(small, inputs))
    opened.model.save_pretrained(tmp_path / "two")
    again = natsel.open_model(natsel.save(opened.model, tmp_path / "three")).model
    for loaded in (natsel.open_model(tmp_path / "two").model, again):
        assert torch.equal(result(loaded, inputs), result(small, inputs))
