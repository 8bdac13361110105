"""Tokenizer, processors and chat template go along with the model of a folder, nothing else."""

from __future__ import annotations

import json

import pytest
import transformers
from io_helpers import survivors_of
from tokenizers import Tokenizer, models

import natsel
from natsel.cli.main import main
from natsel_bench.zoo import build_architecture

TEMPLATE = "{% for m in messages %}{{ m.content }}{% endfor %}"
BESIDE = {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    """A folder as people have it: model, tokenizer, template, and what is none of these."""
    folder = tmp_path_factory.mktemp("dense")
    model, _ = build_architecture("hf-llama")
    model.generation_config.max_new_tokens = 5
    model.save_pretrained(folder)
    words = {f"w{i}": i for i in range(100)}
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="w0")),
        chat_template=TEMPLATE,
    )
    tokenizer.save_pretrained(folder)
    (folder / "modeling_evil.py").write_text("raise SystemExit")
    (folder / "training_args.bin").write_bytes(b"pickle")
    (folder / ".env").write_text("TOKEN=secret")
    return folder


def small_of(folder):
    opened = natsel.open_model(folder)
    communities = natsel.discover(opened.model, opened.example_inputs)
    return natsel.extract(opened.model, survivors_of(communities, "even"))


def names(folder):
    return {p.name for p in folder.iterdir()}


def test_the_command_takes_them_along(dense, tmp_path, monkeypatch):
    out = tmp_path / "small"
    command = ["prune", str(dense), "--budget", "macs=0.5", "--out", str(out), "--no-measure"]
    monkeypatch.setattr("sys.argv", ["natsel", *command, "--quiet"])
    try:
        main()
    except SystemExit as told:
        assert not told.code  # noqa: PT017
    assert names(out) >= BESIDE | {"generation_config.json", "config.json", "plan.json"}
    assert not names(out) & {"modeling_evil.py", "training_args.bin", ".env"}
    tokenizer = transformers.AutoTokenizer.from_pretrained(out)
    messages = [{"role": "user", "content": "w3"}]
    assert tokenizer.apply_chat_template(messages, tokenize=False) == "w3"
    again = natsel.save(natsel.load(out), tmp_path / "again")
    assert names(again) >= BESIDE


def test_what_the_model_writes_is_its_own(dense, tmp_path):
    small = small_of(dense)
    small.generation_config.max_new_tokens = 7
    natsel.save(small, tmp_path)
    assert json.loads((tmp_path / "generation_config.json").read_text())["max_new_tokens"] == 7


def test_what_somebody_else_put_there_stays(dense, tmp_path):
    (tmp_path / "tokenizer.json").write_text("mine")
    small = small_of(dense)
    natsel.save(small, tmp_path)
    assert (tmp_path / "tokenizer.json").read_text() == "mine"
    (tmp_path / "tokenizer_config.json").write_text('{"changed": 1}')
    natsel.save(small, tmp_path)
    assert json.loads((tmp_path / "tokenizer_config.json").read_text()) == {"changed": 1}
    natsel.load(tmp_path)


def test_what_an_earlier_save_copied_is_replaced(dense, tmp_path):
    natsel.save(small_of(dense), tmp_path / "small")
    assert names(tmp_path / "small") >= BESIDE
    model, _ = build_architecture("hf-bert")
    model.save_pretrained(tmp_path / "bert")
    (tmp_path / "bert" / "vocab.txt").write_text("a\nb\n")
    (tmp_path / "bert" / "tokenizer_config.json").write_text("{}")
    natsel.save(small_of(tmp_path / "bert"), tmp_path / "small")
    found = names(tmp_path / "small")
    assert found & (BESIDE | {"vocab.txt"}) == {"vocab.txt", "tokenizer_config.json"}
    assert (tmp_path / "small" / "tokenizer_config.json").read_text() == "{}"


def test_links_and_folders_of_the_same_name_are_not_followed(dense, tmp_path, monkeypatch):
    model, inputs = build_architecture("hf-bert")
    model.save_pretrained(tmp_path / "bert")
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "bert" / "vocab.txt").symlink_to(tmp_path / "secret")
    (tmp_path / "bert" / "merges.txt").mkdir()
    natsel.save(small_of(tmp_path / "bert"), tmp_path / "small")
    assert not names(tmp_path / "small") & {"vocab.txt", "merges.txt"}
    # A name on the Hub that a folder here happens to have, with another model in it.
    (tmp_path / "name").mkdir()
    (tmp_path / "name" / "vocab.txt").write_text("a")
    (tmp_path / "name" / "config.json").write_text('{"model_type": "llama"}')
    monkeypatch.chdir(tmp_path)
    model.name_or_path = "name"
    communities = natsel.discover(model, inputs)
    natsel.save(natsel.extract(model, survivors_of(communities, "even")), tmp_path / "another")
    assert "vocab.txt" not in names(tmp_path / "another")


def test_the_cache_of_the_hub_keeps_its_files_elsewhere(dense, tmp_path):
    snapshot, blobs = tmp_path / "models--a--b" / "snapshots" / "1", tmp_path / "models--a--b"
    snapshot.mkdir(parents=True)
    (blobs / "blobs").mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (blobs / "blobs" / name[:4]).write_bytes((dense / name).read_bytes())
        (snapshot / name).symlink_to(f"../../blobs/{name[:4]}")
    natsel.save(small_of(snapshot), tmp_path / "small")
    copied = tmp_path / "small" / "tokenizer.json"
    assert copied.read_bytes() == (dense / "tokenizer.json").read_bytes()
    assert not copied.is_symlink()


def test_images_too(tmp_path):
    model, _ = build_architecture("hf-vit")
    model.save_pretrained(tmp_path / "vit")
    processor = transformers.ViTImageProcessor(size={"height": 32, "width": 32})
    processor.save_pretrained(tmp_path / "vit")
    natsel.save(small_of(tmp_path / "vit"), tmp_path / "small")
    read = transformers.AutoImageProcessor.from_pretrained(tmp_path / "small")
    assert read.size["height"] == 32
