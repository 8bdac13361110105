"""Any model by what the user calls it, with inputs that it runs on."""

from __future__ import annotations

import json

import pytest
import torch
from huggingface_hub.utils import are_progress_bars_disabled
from io_helpers import result, survivors_of

import natsel
from natsel import models
from natsel.common.calls import call
from natsel.integrations.transformers import example_inputs
from natsel_bench.zoo import ARCHITECTURES, build_architecture


@pytest.mark.parametrize("name", ["mlp", "cnn", "resnet20", "vit"])
def test_a_reference_network(name):
    opened = natsel.open_model(name, in_shape=(3, 8, 8), num_classes=7)
    assert opened.kind == "reference"
    assert call(opened.model, opened.example_inputs).shape == (2, 7)
    same = models.build(name, in_shape=(3, 8, 8), num_classes=7, seed=0)
    for mine, theirs in zip(opened.model.parameters(), same.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_a_saved_reference_network(tmp_path):
    model = models.build("mlp", in_shape=(1, 4, 4), num_classes=3, hidden=(8,))
    communities = natsel.discover(model, (torch.randn(2, 1, 4, 4),))
    natsel.save(natsel.extract(model, survivors_of(communities, "even")), tmp_path)
    (tmp_path / "result.json").write_text("{}")
    opened = natsel.open_model(tmp_path)
    assert opened.kind == "saved"
    assert opened.description == f"{tmp_path} (of 163 parameters), 83 parameters"
    assert opened.example_inputs[0].shape == (2, 1, 4, 4)
    assert call(opened.model, opened.example_inputs).shape == (2, 3)


@pytest.mark.parametrize("name", [n for n in ARCHITECTURES if n.startswith("hf-")])
def test_a_folder_of_the_transformers_library(tmp_path, name):
    model, inputs = build_architecture(name)
    model.save_pretrained(tmp_path / "dense")
    for source in (str(tmp_path / "dense"), tmp_path / "dense", f"hf:{tmp_path / 'dense'}"):
        opened = natsel.open_model(source)
        assert opened.kind == "pretrained"
        assert type(opened.model) is type(model)
        assert type(model).__name__ in opened.description
    assert torch.allclose(result(opened.model, inputs), result(model, inputs), atol=1e-6)
    again = natsel.open_model(tmp_path / "dense").example_inputs
    assert all(torch.equal(x, again[n]) for n, x in opened.example_inputs.items())
    assert torch.isfinite(result(opened.model, opened.example_inputs)).all()


@pytest.mark.parametrize("cut", ["even", "uneven"])
@pytest.mark.parametrize("prefix", ["", "hf:"])
def test_a_saved_model_of_the_transformers_library(cases, cut, prefix):
    case = cases["hf-vit", cut]
    opened = natsel.open_model(f"{prefix}{case.folder}")
    assert opened.kind == "saved"
    assert torch.equal(result(opened.model, case.inputs), result(case.small, case.inputs))


def test_a_folder_at_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    build_architecture("hf-llama")[0].save_pretrained(tmp_path / "mine")
    assert natsel.open_model("hf:~/mine").kind == "pretrained"
    with pytest.raises(ValueError, match=f"^model='{tmp_path}/other' .* a folder that is there$"):
        natsel.open_model("hf:~/other")


@pytest.mark.parametrize("shown", [True, False])
def test_reading_a_folder_shows_no_bar(tmp_path, capfd, shown):
    from transformers.utils import logging as bars

    build_architecture("hf-llama")[0].save_pretrained(tmp_path)
    before = bars.is_progress_bar_enabled()
    (bars.enable_progress_bar if shown else bars.disable_progress_bar)()
    try:
        capfd.readouterr()
        natsel.open_model(f"hf:{tmp_path}")
        assert capfd.readouterr() == ("", "")
        assert bars.is_progress_bar_enabled() is shown
        assert are_progress_bars_disabled() is not shown
    finally:
        (bars.enable_progress_bar if before else bars.disable_progress_bar)()


def test_inputs_follow_the_configuration():
    wanted = {
        "hf-vit": {"pixel_values": (2, 3, 32, 32)},
        "hf-bert": {"input_ids": (2, 8)},
        "hf-llama": {"input_ids": (2, 8)},
        "hf-t5": {"input_ids": (2, 8), "decoder_input_ids": (2, 6)},
    }
    for name, shapes in wanted.items():
        found = example_inputs(build_architecture(name)[0])
        assert {n: tuple(x.shape) for n, x in found.items()} == shapes


def test_inputs_have_the_precision_of_the_model(tmp_path):
    model, _ = build_architecture("hf-vit")
    model.to(torch.bfloat16).save_pretrained(tmp_path)
    opened = natsel.open_model(tmp_path)
    assert opened.example_inputs["pixel_values"].dtype == torch.bfloat16
    assert result(opened.model, opened.example_inputs).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("mpl", "model='mpl'.*did you mean 'mlp'"),
        ("no/such/folder", "a folder that is there, or hf:NAME"),
        ("hf:no/such-model", "a folder or a name on the Hub"),
        *(
            (f"hf:{path}", f"^model='{path}' is not allowed: expected a folder that is there$")
            for path in ("/no/such/folder", "./no-such", "../no-such", "~no-such")
        ),
        ("hf:", "model="),
        ("", "model="),
    ],
)
def test_what_is_not_there_is_one_clear_error(source, message):
    with pytest.raises(ValueError, match=message) as told:
        natsel.open_model(source)
    assert "\n" not in str(told.value)


def test_options_are_for_reference_networks(tmp_path):
    with pytest.raises(ValueError, match=r"in_shape.*not a reference network"):
        natsel.open_model(tmp_path, in_shape=(1, 2, 2))
    with pytest.raises(ValueError, match=r"option='widht'.*did you mean"):
        natsel.open_model("resnet20", widht=3)


def edit(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: edit(f, architectures=["os.system"]), "not os.system"),
        (lambda f: edit(f, architectures=None), "not none"),
        (lambda f: edit(f, architectures=["MyOwnModel"]), "not MyOwnModel"),
        (lambda f: edit(f, intermediate_size=48), "safetensors that fit"),
        (lambda f: edit(f, num_hidden_layers=3), r"weights for vit\.layers\.2"),
        (lambda f: edit(f, model_type="nothing"), "a folder or a name on the Hub"),
        (lambda f: (f / "config.json").write_text("{"), "a folder with plan.json"),
        (lambda f: (f / "config.json").write_text('{"model": "mlp"}'), "a folder with plan.json"),
        (lambda f: (f / "config.json").unlink(), "a folder with plan.json"),
        (lambda f: (f / "model.safetensors").write_bytes(b"PK"), "safetensors that fit"),
        (lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"), "safetensors that"),
    ],
)
def test_a_damaged_folder_of_the_library_is_one_clear_error(tmp_path, damage, message):
    build_architecture("hf-vit")[0].save_pretrained(tmp_path)
    damage(tmp_path)
    with pytest.raises(ValueError, match=message) as told:
        natsel.open_model(tmp_path)
    assert "\n" not in str(told.value)
