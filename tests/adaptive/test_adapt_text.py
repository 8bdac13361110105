"""The adaptive scorer over a text, from the command line to the saved model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from natsel.cli.app import app

LETTERS = "abcdefgh ."


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama that reads letters, with its tokenizer, and a text."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = {letter: i for i, letter in enumerate(("<unk>", *LETTERS))}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(words), hidden_size=16, intermediate_size=12, num_hidden_layers=1,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=32,
        pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    there = tmp_path_factory.mktemp("text")
    LlamaForCausalLM(config).save_pretrained(there / "llama")
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>").save_pretrained(
        there / "llama"
    )
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(len(LETTERS), (2000,), generator=generator)
    (there / "text.txt").write_text("".join(LETTERS[i] for i in drawn.tolist()))
    return there


def test_adaptive_chooses_over_a_text_from_the_command_line(folder: Path) -> None:
    arguments = ["prune", str(folder / "llama"), "--budget", "sparsity=0.5"]
    arguments += ["--scorer", "adaptive", "--data", str(folder / "text.txt"), "--length", "16"]
    arguments += ["--samples", "24", "--include", "*mlp*", "--out", str(folder / "small")]
    printed = CliRunner().invoke(app, [*arguments, "--json"])
    assert printed.exit_code == 0, printed.output
    found = json.loads(printed.stdout)
    adaptive = found["adaptive"]
    assert adaptive["test"]["name"].startswith("sign flips")
    assert adaptive["test"]["n"] == 12
    assert all(c["loss"] > 0 for c in adaptive["contenders"])
    assert "it won the race" not in adaptive["sentence"]
    assert any(c["name"].startswith("taylor") for c in adaptive["contenders"])
