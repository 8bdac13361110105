"""``natsel prune --weights``: single weights of a language model, from the command line."""

from __future__ import annotations

import json

import pytest
import torch

import natsel as library
from language import folder, text

pytest.importorskip("tokenizers")


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    found = tmp_path_factory.mktemp("weights")
    folder(found / "dense")
    (found / "calibration.txt").write_text(text(1, 400))
    (found / "evaluation.txt").write_text(text(2, 400))
    return found


def prune(natsel, here, out, *more):
    return natsel(
        *("prune", here / "dense", "--data", here / "calibration.txt"),
        *("--held-out", here / "evaluation.txt", "--length", "16", "--samples", "6"),
        *("--out", out, *more),
    )


@pytest.mark.parametrize("scorer", [None, "admm", "wanda", "magnitude"])
def test_two_of_four_saved_loaded_and_verified(natsel, here, tmp_path, scorer):
    more = () if scorer is None else ("--scorer", scorer)
    said = prune(natsel, here, tmp_path / "sparse", "--weights", "2:4", "--json", *more)
    assert said.exit_code == 0, said.output
    result = json.loads(said.stdout)
    assert result["kind"] == "prune"
    assert result["config"]["scorer"] == (scorer or "admm")
    assert result["weights"]["sparsity"] == 0.5
    assert result["quality"]["measure"] == "perplexity"
    assert result["peak_memory"] > 0
    small = library.load(tmp_path / "sparse")
    for name, mask in library.masks_of(small).items():
        assert (mask.view(len(mask), -1, 4).sum(2) == 2).all(), name
        assert not small.get_parameter(name)[~mask].any()
    said = natsel("verify", here / "dense", tmp_path / "sparse", "--json")
    assert said.exit_code == 0, said.output
    size = sum(layer["size"] for layer in result["weights"]["layers"])
    assert json.loads(said.stdout)["weights"]["size"] == size


def test_a_sparse_model_that_was_changed_is_not_what_it_says(natsel, here, tmp_path):
    said = prune(natsel, here, tmp_path / "sparse", "--weights", "0.5")
    assert said.exit_code == 0, said.output
    assert "are 0 (50.0%)" in said.stdout
    assert "peak memory " in said.stdout
    small = library.load(tmp_path / "sparse")
    with torch.no_grad():
        small.get_parameter("model.layers.0.mlp.up_proj.weight").fill_(1.0)
    library.save(small, tmp_path / "sparse")
    said = natsel("verify", here / "dense", tmp_path / "sparse")
    assert said.exit_code == 1
    assert "natsel.hold" in said.output


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (("--weights", "half"), "weights="),
        (("--weights", "4:2"), "weights='4:2'"),
        (("--weights", "1.5"), "weights="),
        (("--weights", "0.5", "--scorer", "taylor"), "scorer="),
        (("--weights", "0.5", "--budget", "macs=0.5"), "budget="),
        (("--weights", "2:5"), "num_all=5"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(natsel, here, tmp_path, more, told):
    said = prune(natsel, here, tmp_path / "sparse", *more)
    assert said.exit_code == 2
    assert told in said.stderr
    assert not (tmp_path / "sparse" / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (("--uniform",), "uniform=True"),
        (("--blockwise",), "blockwise=True"),
        (("--cache", "cache"), "cache="),
        (("--multiple-of", "32"), "multiple_of='32'"),
        (("--budget", "parameters=0.8"), "budget='parameters=0.8'"),
        (("--rival", "adaptive"), "rival='adaptive'"),
    ],
)
def test_what_says_nothing_of_single_weights_is_refused(natsel, here, tmp_path, more, told):
    said = prune(natsel, here, tmp_path / "sparse", "--weights", "0.5", *more)
    assert said.exit_code == 2
    assert told in said.stderr
    assert len(said.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "sparse").exists()


def test_shares_by_layer_are_searched(natsel, here, tmp_path):
    more = ("--weights", "0.5", "--search", "6", "--scorer", "obs", "--json")
    said = prune(natsel, here, tmp_path / "sparse", *more)
    assert said.exit_code == 0, said.output
    found = json.loads(said.stdout)
    assert found["weights"]["sparsity"] >= 0.5
    assert found["shares"]["kept"] in ("searched", "uniform")
    assert len(found["shares"]["shares"]) == len(found["weights"]["layers"])
    again = prune(natsel, here, tmp_path / "sparse", "--weights", "2:4", "--search", "6")
    assert again.exit_code == 2
    assert "search=6, weights='2:4'" in again.stderr


@pytest.mark.parametrize("weights", ["4:2", "0:4", "1.5", "half", "2:4:8"])
def test_a_pattern_that_is_none_is_named_as_it_was_given(natsel, here, tmp_path, weights):
    said = prune(natsel, here, tmp_path / "sparse", "--weights", weights)
    assert said.exit_code == 2
    assert f"weights={weights!r}" in said.stderr


def test_the_card_says_what_became_zero_and_that_it_is_no_faster(natsel, here, tmp_path):
    said = prune(natsel, here, tmp_path / "sparse", "--weights", "2:4", "--json")
    summary = json.loads(said.stdout)["weights"]["summary"]
    card = (tmp_path / "sparse" / "README.md").read_text()
    assert "A sparse model, made from a LlamaForCausalLM" in card
    assert summary.partition(";")[0] in card
    assert "nothing is faster" in card
    assert "natsel prune dense --weights 2:4 --scorer admm" in card
    assert "| before |" in card
    assert "| after |" in card


def test_a_tokenizer_from_elsewhere_lies_beside_the_sparse_model(natsel, here, tmp_path):
    bare = tmp_path / "bare"
    bare.mkdir()
    for file in ("config.json", "model.safetensors"):
        (bare / file).write_bytes((here / "dense" / file).read_bytes())
    said = natsel(
        *("prune", bare, "--data", here / "calibration.txt", "--tokenizer", here / "dense"),
        *("--length", "16", "--samples", "6", "--weights", "0.5", "--out", tmp_path / "sparse"),
    )
    assert said.exit_code == 0, said.output
    again = natsel(
        *("evaluate", tmp_path / "sparse", "--data", here / "evaluation.txt"),
        *("--length", "16", "--samples", "6"),
    )
    assert again.exit_code == 0, again.output
