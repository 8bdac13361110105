"""What natsel writes of a language model is what a server reads: tokenizer, card, configuration."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest
import torch
import transformers
from language_helpers import dense_model, ids, tokenizer_of, write_dense

import natsel
from natsel.cli.main import main
from natsel.integrations.model_card import is_own
from natsel.integrations.transformers import beside

TOKENIZER = {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}
CODE = "raise SystemExit('this is never run')"


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    folder = write_dense(tmp_path_factory.mktemp("somewhere") / "dense")
    (folder / "README.md").write_text("---\nlicense: apache-2.0\nlanguage: en\n---\n# Theirs\n")
    (folder / "tokenization_evil.py").write_text(CODE)
    return folder


def small_of(model):
    communities = natsel.discover(model, {"input_ids": ids()})
    scores = natsel.score(communities, "magnitude")
    return natsel.extract(model, natsel.select(scores, natsel.Sparsity(0.25), uniform=True))


@pytest.fixture(scope="module")
def small(dense):
    return small_of(natsel.open_model(dense).model)


@pytest.fixture(scope="module")
def homeless():
    """A model that was never read from a folder."""
    return small_of(dense_model())


def names(folder):
    return {p.name for p in folder.iterdir()}


def run(*words):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["natsel", *(str(w) for w in words)])
        try:
            main()
        except SystemExit as told:
            return told.code or 0
    return 0


def front_matter(folder):
    from huggingface_hub import ModelCard

    return ModelCard.load(folder / "README.md").data


@pytest.fixture(scope="module")
def command(dense, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "small"
    words = ["--budget", "parameters=0.8", "--uniform", "--multiple-of", "8", "--out", out]
    assert run("prune", dense, *words, "--no-measure", "--quiet") == 0
    return out


def test_the_command_hands_over_a_plain_folder(command, dense):
    assert names(command) >= TOKENIZER | {"README.md", "generation_config.json", "config.json"}
    assert not list(command.glob("*.py"))
    for name in TOKENIZER:
        assert (command / name).read_bytes() == (dense / name).read_bytes()
    config = json.loads((command / "config.json").read_text())
    assert config["intermediate_size"] % 8 == 0
    assert not {"auto_map", "natsel"} & set(config)
    generation = transformers.GenerationConfig.from_pretrained(command)
    assert generation.max_new_tokens == 9
    tokenizer = transformers.AutoTokenizer.from_pretrained(command)
    assert tokenizer("w7 w9")["input_ids"] == [7, 9]
    assert tokenizer.apply_chat_template([{"content": "w8"}], tokenize=False) == "w8 "
    result = json.loads((command / "result.json").read_text())
    assert result["config"]["uniform"] is True
    assert result["parameters"][1] <= 0.8 * result["parameters"][0]


def test_the_card_of_the_command(command, dense):
    text = (command / "README.md").read_text()
    result = json.loads((command / "result.json").read_text())
    assert is_own(text)
    data = front_matter(command)
    assert data.license == "apache-2.0"
    assert data.library_name == "transformers"
    assert data.pipeline_tag == "text-generation"
    assert set(data.tags) == {"natsel", "pruned"}
    assert f"{result['parameters'][0]:,}" in text
    assert f"{result['verification']['error']:.1e}" in text
    assert "| neuron | 3 |" in text
    assert "natsel prune dense --budget parameters=0.8" in text
    assert "--uniform" in text
    assert str(dense.parent) not in text
    assert str(command.parent) not in text


def test_a_measured_prune_tells_its_times(homeless, tmp_path):
    assert run("prune", "mlp", "--budget", "macs=0.5", "--out", tmp_path / "mlp", "--quiet") == 0
    text = (tmp_path / "mlp" / "README.md").read_text()
    assert "milliseconds at batch" in text
    assert front_matter(tmp_path / "mlp").library_name == "natsel"
    # What is read back from the file tells the same.
    result = json.loads((tmp_path / "mlp" / "result.json").read_text())
    saved = natsel.save(homeless, tmp_path / "again", card=result)
    times = [line for line in text.splitlines() if "milliseconds" in line]
    assert set(times) <= set((saved / "README.md").read_text().splitlines())


def test_a_tokenizer_of_ones_own(homeless, tmp_path):
    assert not names(natsel.save(homeless, tmp_path / "none")) & (TOKENIZER | {"README.md"})
    folder = natsel.save(homeless, tmp_path / "one", tokenizer=tokenizer_of())
    assert names(folder) >= TOKENIZER
    again = natsel.save(natsel.load(folder), tmp_path / "two")
    for name in TOKENIZER:
        assert (again / name).read_bytes() == (folder / name).read_bytes()
    # Another one takes its place, and one that somebody changed is not written over.
    natsel.save(homeless, folder, tokenizer=tokenizer_of(20))
    assert len(transformers.AutoTokenizer.from_pretrained(folder)) == 20
    (folder / "tokenizer_config.json").write_text("{}")
    before = {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}
    with pytest.raises(ValueError, match=r"a folder whose tokenizer_config.json was saved"):
        natsel.save(homeless, folder, tokenizer=tokenizer_of())
    assert {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()} == before


@pytest.mark.parametrize(
    ("tokenizer", "told"),
    [
        (lambda: tokenizer_of(41), r"tokenizer='a tokenizer of 41 tokens' .* at most 40"),
        (lambda: "gpt2", "tokenizer='gpt2' is not allowed"),
        (lambda: 3, "tokenizer='int' is not allowed"),
    ],
)
def test_a_tokenizer_that_does_not_fit(homeless, tmp_path, tokenizer, told):
    with pytest.raises(ValueError, match=told):
        natsel.save(homeless, tmp_path / "small", tokenizer=tokenizer())
    assert not (tmp_path / "small").exists()


def test_fewer_tokens_than_embeddings_are_usual(homeless, tmp_path):
    natsel.save(homeless, tmp_path, tokenizer=tokenizer_of(30))
    assert len(transformers.AutoTokenizer.from_pretrained(tmp_path)) == 30


@pytest.mark.parametrize("failing", ["tokenizer.json", "README.md", "model.safetensors"])
def test_whole_or_not_at_all(small, homeless, tmp_path, monkeypatch, failing):
    folder = natsel.save(homeless, tmp_path, tokenizer=tokenizer_of(20), card=True)
    before = {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}
    for method in ("write_bytes", "write_text"):
        write = getattr(Path, method)

        def full(self, content, *args, write=write, **options):
            if failing in self.name:
                raise OSError(errno.ENOSPC, "No space left on device")
            return write(self, content, *args, **options)

        monkeypatch.setattr(Path, method, full)
    if failing == "model.safetensors":

        def none_left(*args, **options):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr("natsel.extraction.store.write_tensors", none_left)
    with pytest.raises(OSError, match=r"(?i)no space left"):
        natsel.save(small, folder, tokenizer=tokenizer_of(), card=True)
    assert {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()} == before
    with pytest.raises(OSError, match=r"(?i)no space left"):
        natsel.save(small, tmp_path / "new" / "folder", tokenizer=tokenizer_of(), card=True)
    assert not (tmp_path / "new").exists()


def test_a_folder_that_cannot_be_written(dense, tmp_path, capsys):
    (tmp_path / "file").write_text("x")
    out = tmp_path / "file" / "small"
    assert run("prune", dense, "--budget", "macs=0.5", "--out", out, "--no-measure") == 2
    assert "Traceback" not in capsys.readouterr().err
    with pytest.raises(ValueError, match="a folder, but"):
        natsel.save(natsel.open_model(dense).model, out, card=True)


def test_a_card_of_somebody_elses_stays(homeless, tmp_path):
    (tmp_path / "README.md").write_text("# Mine\n")
    with pytest.warns(UserWarning, match=r"README.md was not written by natsel"):
        natsel.save(homeless, tmp_path, card=True)
    assert (tmp_path / "README.md").read_text() == "# Mine\n"
    (tmp_path / "README.md").unlink()
    natsel.save(homeless, tmp_path, card=True)
    edited = (tmp_path / "README.md").read_text().replace("pruned", "cut by me")
    (tmp_path / "README.md").write_text(edited)
    with pytest.warns(UserWarning, match="or was changed since"):
        natsel.save(homeless, tmp_path, card=True)
    assert (tmp_path / "README.md").read_text() == edited


def test_the_card_goes_along_while_the_weights_are_the_same(homeless, tmp_path):
    result = {"quality": {"measure": "perplexity", "after": {"mean": 12.5, "low": 12, "high": 13}}}
    result["quality"]["after"]["n"] = 7
    folder = natsel.save(homeless, tmp_path / "one", card=result)
    loaded = natsel.load(folder)
    assert "12.5" in (natsel.save(loaded, tmp_path / "two") / "README.md").read_text()
    loaded.save_pretrained(tmp_path / "three")
    assert "12.5" in (tmp_path / "three" / "README.md").read_text()
    with torch.no_grad():
        next(loaded.parameters()).add_(1)  # as training does: the figure is another model's
    assert "README.md" not in names(natsel.save(loaded, tmp_path / "four"))
    natsel.save(loaded, tmp_path / "two")
    assert "README.md" not in names(tmp_path / "two")


def test_of_the_hub_the_cache_tells(dense, tmp_path, monkeypatch):
    from huggingface_hub import constants

    commit = "0" * 40
    snapshot = tmp_path / "models--somebody--small" / "snapshots" / commit
    blobs = tmp_path / "models--somebody--small" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for i, path in enumerate(sorted(dense.iterdir())):
        (blobs / str(i)).write_bytes(path.read_bytes())
        (snapshot / path.name).symlink_to(f"../../blobs/{i}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    model = natsel.open_model(dense).model
    model.name_or_path = model.config._name_or_path = "somebody/small"
    model.config._commit_hash = commit
    folder = natsel.save(model, tmp_path / "saved", card=True)
    assert names(folder) >= TOKENIZER
    assert "tokenization_evil.py" not in names(folder)
    assert front_matter(folder).base_model == "somebody/small"
    assert "SHA-256 of its weights" not in (folder / "README.md").read_text()


class Hub:
    """The methods of the Hub's client, at the boundary: what would be sent is kept."""

    def __init__(self, monkeypatch, card=None, folder=None):
        from huggingface_hub import HfApi

        self.sent, self.made = {}, []
        self.card = card

        def create_repo(api, repo_id, **options):
            self.made.append(repo_id)
            return type("Repo", (), {"repo_id": repo_id})()

        def upload_folder(api, *, folder_path, **options):
            root = Path(folder_path)
            self.sent = {
                str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()
            }
            self.options = options
            return "done"

        def hf_hub_download(api, repo_id, filename, **options):
            path = folder / "there.md"
            path.write_text(self.card)
            return str(path)

        monkeypatch.setattr(HfApi, "create_repo", create_repo)
        monkeypatch.setattr(HfApi, "upload_folder", upload_folder)
        monkeypatch.setattr(HfApi, "file_exists", lambda *a, **k: self.card is not None)
        monkeypatch.setattr(HfApi, "hf_hub_download", hf_hub_download)

    def write(self, folder):
        folder.mkdir()
        for name, content in self.sent.items():
            (folder / name).write_bytes(content)
        return folder


@pytest.mark.parametrize("which", ["extracted", "loaded"])
def test_a_push_sends_the_folder_that_is_read(small, tmp_path, monkeypatch, which):
    saved = natsel.save(small, tmp_path / "saved", card={"summary": "x"})
    model = natsel.load(saved) if which == "loaded" else small
    hub = Hub(monkeypatch)
    assert model.push_to_hub("me/small", tags=["mine"], private=True) == "done"
    assert hub.made == ["me/small"]
    wanted = {"model.safetensors", "config.json", "generation_config.json", "README.md"}
    assert set(hub.sent) == TOKENIZER | wanted
    read = hub.write(tmp_path / "read")
    loaded = transformers.AutoModelForCausalLM.from_pretrained(read)
    with torch.no_grad():
        difference = loaded(ids()).logits - small(ids()).logits
    assert difference.abs().max() < 1e-5
    assert transformers.AutoTokenizer.from_pretrained(read)("w5")["input_ids"] == [5]
    assert set(front_matter(read).tags) == {"natsel", "pruned", "mine"}
    assert is_own(hub.sent["README.md"].decode())


def test_a_push_of_uneven_widths_sends_the_code(tmp_path, monkeypatch):
    model = dense_model()
    communities = natsel.discover(model, {"input_ids": ids()})
    first = next(iter(communities))
    scores = natsel.score(communities, "magnitude")
    survivors = natsel.select(scores, natsel.Sparsity(0.5), include=first)
    hub = Hub(monkeypatch)
    natsel.extract(model, survivors).push_to_hub("me/small")
    assert "modeling_natsel.py" in hub.sent
    read = hub.write(tmp_path / "read")
    assert "trust_remote_code=True" in (read / "README.md").read_text()
    transformers.AutoModelForCausalLM.from_pretrained(read, trust_remote_code=True)


@pytest.mark.parametrize("theirs", [True, False])
def test_a_card_on_the_hub_stays_if_it_is_theirs(small, tmp_path, monkeypatch, theirs):
    text = "# Theirs" if theirs else natsel_card()
    hub = Hub(monkeypatch, card=text, folder=tmp_path)
    small.push_to_hub("me/small")
    assert ("README.md" in hub.sent) is not theirs


def natsel_card():
    from natsel.integrations.model_card import card

    return card({})


def test_what_goes_along_holds_no_code():
    assert not [name for name in beside.FILES if name.endswith((".py", ".bin", ".pkl", ".pt"))]
