"""natsel prune --blockwise: the same command for a folder that is larger than memory."""

from __future__ import annotations

import json

import pytest
import torch

import natsel as library

transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """A folder with a tiny model and its tokenizer, and a text."""
    found = tmp_path_factory.mktemp("blockwise")
    config = transformers.LlamaConfig(
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        vocab_size=12,
        max_position_embeddings=32,
    )
    torch.manual_seed(0)
    transformers.LlamaForCausalLM(config).save_pretrained(found / "dense")
    words = {word: number for number, word in enumerate(["<end>", *"abcdefghijk"])}
    plain = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<end>"))
    plain.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=plain, eos_token="<end>")
    fast.save_pretrained(found / "dense")
    draw = torch.randint(0, 11, (200,), generator=torch.Generator().manual_seed(0)).tolist()
    (found / "calibration.txt").write_text(" ".join("abcdefghijk"[i] for i in draw))
    return found


def test_a_text_prunes_a_folder_block_by_block(natsel, here, tmp_path):
    said = natsel(
        *("prune", here / "dense", "--blockwise", "--data", here / "calibration.txt"),
        *("--length", "8", "--samples", "4", "--scorer", "wanda", "--sparsity", "0.5"),
        *("--out", tmp_path / "small", "--cache", tmp_path / "cache", "--json"),
    )
    assert said.exit_code == 0, said.output
    result = json.loads(said.stdout)
    assert result["kind"] == "prune"
    assert [c["kept"] / c["size"] for c in result["communities"]] == [0.5] * 4
    assert result["verification"]["passed"]
    assert len(result["blocks"]) == 2
    assert result["compensation"]["consumers"]
    assert result["peak_memory"] > 0
    assert json.loads((tmp_path / "small" / "result.json").read_text()) == result
    assert (tmp_path / "small" / "tokenizer.json").is_file()
    small = library.open_model(tmp_path / "small").model
    assert sum(p.numel() for p in small.parameters()) == result["parameters"][1]
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (("--blockwise", "--residual"), "need the whole model"),
        (("--blockwise", "--held-out", "HERE/calibration.txt"), "need the whole model"),
        (("--blockwise", "--uniform"), "uniform=True"),
        (("--cache", "cache"), "--blockwise beside it"),
        (("--blockwise", "--budget", "latency=0.5"), "nothing is timed"),
    ],
)
def test_what_does_not_go_together_is_one_line(natsel, here, tmp_path, more, told):
    given = [part.replace("HERE", str(here)) for part in more]
    said = natsel("prune", here / "dense", "--out", tmp_path / "small", *given)
    assert said.exit_code == 2
    assert told in said.stderr
    assert len(said.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "small").exists()
