"""natsel prune --blockwise: the same command for a folder that is larger than memory."""

from __future__ import annotations

import errno
import json

import pytest
import torch
from typer.testing import CliRunner

import natsel as library
from natsel.cli.main import app
from natsel.common.shards import ShardWriter
from natsel.integrations.model_card import is_own
from natsel.runs import prune_blockwise

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
    others = torch.randint(0, 11, (200,), generator=torch.Generator().manual_seed(1)).tolist()
    (found / "held.txt").write_text(" ".join("abcdefghijk"[i] for i in others))
    return found


@pytest.fixture(scope="module")
def texts(here):
    """Options of the data."""
    data = ("--data", here / "calibration.txt", "--held-out", here / "held.txt")
    return (*data, "--length", "8", "--samples", "4", "--scorer", "wanda", "--sparsity", "0.5")


@pytest.fixture(scope="module")
def blocks(here, texts):
    """A folder pruned block by block, and what was said of it."""
    command = ("prune", here / "dense", "--blockwise", *texts, "--out", here / "blocks", "--json")
    said = CliRunner().invoke(app, [*map(str, command), "--cache", str(here / "cache")])
    assert said.exit_code == 0, said.output
    return here / "blocks", json.loads(said.stdout)


def test_a_text_prunes_a_folder_block_by_block(here, blocks):
    out, result = blocks
    assert result["kind"] == "prune"
    assert [c["kept"] / c["size"] for c in result["communities"]] == [0.5] * 4
    assert result["verification"]["passed"]
    assert len(result["blocks"]) == 2
    assert result["compensation"]["consumers"]
    assert result["peak_memory"] > 0
    assert json.loads((out / "result.json").read_text()) == result
    assert (out / "tokenizer.json").is_file()
    assert (out / "generation_config.json").is_file()
    card = (out / "README.md").read_text()
    assert is_own(card)
    assert "natsel prune dense" in card
    assert "--blockwise" in card
    small = library.load(out)
    assert library.compensation_of(small).tensors
    assert sum(p.numel() for p in small.parameters()) == result["parameters"][1]
    assert not (here / "cache").exists()
    read = transformers.AutoModelForCausalLM.from_pretrained(out)
    tokens = torch.arange(8)[None]
    assert torch.equal(read(tokens).logits, small(tokens).logits)


def test_the_folder_is_that_of_the_ordinary_prune(natsel, here, texts, blocks, tmp_path):
    """The same quality, measured block by block; evaluate and verify read it."""
    out, ours = blocks
    said = natsel("prune", here / "dense", *texts, "--out", tmp_path / "whole", "--json")
    assert said.exit_code == 0, said.output
    theirs = json.loads(said.stdout)
    for when in ("before", "after", "paired"):
        for key, value in theirs["quality"][when].items():
            expected = value if isinstance(value, str) else pytest.approx(value, rel=1e-5)
            assert ours["quality"][when][key] == expected
    assert ours["text"] == theirs["text"]
    assert not ours["notes"]
    folders = (out, tmp_path / "whole")
    assert len({frozenset(p.name for p in folder.iterdir()) for folder in folders}) == 1
    plans = [json.loads((folder / "plan.json").read_text()) for folder in folders]
    for key in ("survivors", "sizes", "attributes", "tensors", "tied", "prediction", "constructor"):
        assert plans[0][key] == plans[1][key], key
    said = natsel("verify", here / "dense", out, "--json")
    assert json.loads(said.stdout)["passed"], said.output
    said = natsel(
        *("evaluate", out, "--against", here / "dense", "--json"),
        *("--data", here / "held.txt", "--length", "8", "--samples", "4"),
    )
    found = json.loads(said.stdout)["quality"]
    assert found["ratio"] == pytest.approx(ours["quality"]["ratio"], rel=1e-5)


def test_a_full_disk_is_one_line_and_the_same_command_goes_on(
    natsel, here, texts, tmp_path, monkeypatch
):
    """Also between the folder, which is complete then, and its result."""
    command = (
        *("prune", here / "dense", "--blockwise", *texts),
        *("--out", tmp_path / "small", "--cache", tmp_path / "cache"),
    )

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(ShardWriter, "sync", staticmethod(full))
        said = natsel(*command)
    assert said.exit_code == 1
    assert "no space left on the device" in said.stderr
    assert len(said.stderr.strip().splitlines()) == 1
    with monkeypatch.context() as patch:
        patch.setattr(prune_blockwise, "write_json", full)
        said = natsel(*command)
    assert said.exit_code == 1
    assert len(said.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "small" / "result.json").exists()
    said = natsel(*command, "--json")
    assert said.exit_code == 0, said.output
    assert json.loads((tmp_path / "small" / "result.json").read_text()) == json.loads(said.stdout)
    assert not (tmp_path / "cache").exists()
    assert library.load(tmp_path / "small") is not None


def test_what_is_said_names_the_perplexity(natsel, here, blocks, tmp_path):
    """Also where the configuration comes from the result of another run."""
    out, _ = blocks
    said = natsel("prune", "--config", out / "result.json", here / "dense", "--out", tmp_path / "x")
    assert said.exit_code == 0, said.output
    assert "2 blocks cut" in said.stdout
    assert "perplexity" in said.stdout
    assert "paired t-test over windows, 4 windows" in " ".join(said.stdout.split())


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (("--blockwise", "--residual"), "need the whole model"),
        (
            (
                *("--blockwise", "--data", "HERE/calibration.txt", "--length", "8"),
                *("--held-out", "HERE/calibration.txt"),
            ),
            "another text than data",
        ),
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
