"""Wrong input ends in one line that names it, and leaves nothing behind."""

import io
import os
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from natsel.common.files import load_tree
from natsel.fitness import FITNESS, Fitness


def line(result, code):
    """Return the one line that a failed command says."""
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    assert result.stderr.startswith("natsel: ")
    assert result.stderr.count("\n") == 1
    assert result.stderr.endswith("\n")
    assert "Traceback" not in result.stderr
    return result.stderr.removeprefix("natsel: ").strip()


@pytest.fixture
def refused(natsel, fast, tmp_path):
    """Call ``natsel evolve`` with something wrong and return the line it says."""

    def call(*arguments, code=2):
        out = tmp_path / "run"
        told = line(natsel("evolve", "--out", out, *fast, *arguments), code)
        if code == 2:
            assert not out.exists()
        return told

    return call


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--dataset", "digitz"), ("dataset='digitz'", "cifar10, digits, mnist", "'digits'?")),
        (("--dynamics", "logistik"), ("dynamics='logistik'", "replicator", "'logistic'?")),
        (("--fitness", "tailor"), ("fitness='tailor'", "magnitude", "'taylor'?")),
        (("--model", "mpl"), ("model='mpl'", "bert, cnn, llama, mlp, resnet20, vit", "'mlp'?")),
        (("--sparsity", "1"), ("sparsity=1.0", "[0, 1)")),
        (("--sparsity", "0.5,-0.1"), ("sparsity=-0.1", "[0, 1)")),
        (("--sparsity", "nan"), ("sparsity=nan", "[0, 1)")),
        (("--sparsity", "0.9,0.5"), ("sparsities=[0.9, 0.5]", "ascending")),
        (("--sparsity", "0.5,0.5"), ("sparsities=[0.5, 0.5]", "each once")),
        (("--sparsity", "half"), ("sparsity='half'", "numbers separated by commas")),
        (("--sparsity", "0.5,,0.9"), ("sparsity='0.5,,0.9'", "numbers separated by commas")),
        (("--capacity", "0"), ("capacity=0.0", "(0, 1]")),
        (("--capacity", "2"), ("capacity=2.0", "(0, 1]")),
        (("--capacity", "nan"), ("capacity=nan", "(0, 1]")),
        (("--hidden", "0"), ("hidden='0'", "whole numbers >= 1")),
        (("--hidden", "a,b"), ("hidden='a,b'", "whole numbers >= 1")),
        (("--hidden", "16,-8"), ("hidden='16,-8'", "whole numbers >= 1")),
        (("--hidden", "16.7"), ("hidden='16.7'", "whole numbers >= 1")),
        (("--hidden", "inf"), ("hidden='inf'", "whole numbers >= 1")),
        (("--hidden", ""), ("hidden=''", "whole numbers >= 1")),
        (("--hidden", "1"), ("communities='none'", "at least one community", "layers.0")),
        (("--model", "cnn"), ("hidden='16,8'", "--model mlp")),
        (("--set", "presure=2"), ("presure=2", "'pressure'?")),
        (("--set", "rate=fast"), ("set='rate=fast'", "name=number")),
        (("--set", "rate"), ("set='rate'", "name=number")),
        (("--set", "rate=inf"), ("rate=inf", "finite number")),
        (("--set", "patience=1.5"), ("patience=1.5", "whole number >= 1")),
        (("--set", "level=0.95"), ("level=0.95", "(0, initial=0.9)")),
        (("--epochs", "0"), ("epochs=0", "whole number >= 1")),
        (("--batch-size", "-3"), ("batch_size=-3", "whole number >= 1")),
        (("--learning-rate", "0"), ("learning_rate=0.0", "finite number > 0")),
        (("--learning-rate", "nan"), ("learning_rate=nan", "finite number > 0")),
        (("--seed", "-1"), ("seed=-1", "from 0")),
        (("--seed", "one"), ("'--seed'", "integer")),
        (("--sed", "1"), ("--sed", "evolve --help")),
    ],
)
def test_evolve(refused, arguments, told):
    message = refused(*arguments)
    for part in told:
        assert part in message


def test_missing_option(natsel):
    assert "'--out'" in line(natsel("evolve"), 2)


def test_unknown_command(natsel):
    message = line(natsel("evolv"), 2)
    assert "'evolv'" in message
    commands = "evolve, inspect, list, prune, verify, recover, evaluate, audit"
    assert f"{commands}, gather, live, spectrum, bench, reproduce" in message


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("mpl",), ("model='mpl'", "'mlp'?")),
        (("mlp", "--in-shape", "1,x"), ("in-shape='1,x'", "whole numbers >= 1")),
        (("mlp", "--in-shape", "0,8,8"), ("in-shape='0,8,8'", "whole numbers >= 1")),
        (("mlp", "--in-shape", "1.5,8,8"), ("in-shape='1.5,8,8'", "whole numbers >= 1")),
        (("mlp", "--in-shape", ""), ("in-shape=''", "whole numbers >= 1")),
        (("cnn", "--in-shape", "28,28"), ("in_shape=(28, 28)", "(C, H, W)")),
        (("vit", "--in-shape", "3,2,2"), ("=",)),
        (("mlp", "--num-classes", "0"), ("num_classes=0", "at least 1")),
    ],
)
def test_inspect(natsel, arguments, told):
    message = line(natsel("inspect", *arguments), 2)
    for part in told:
        assert part in message


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--seeds", "1"), "seeds=1"),
        (("--dataset", "digitz"), "dataset='digitz'"),
        (("--epochs", "0"), "epochs=0"),
        (("--workers", "0"), "workers=0"),
    ],
)
def test_reproduce(natsel, tmp_path, arguments, told):
    out = tmp_path / "out"
    result = natsel("reproduce", "evolution", "--out", out, "--dataset", "digits", *arguments)
    assert told in line(result, 2)
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--dynamics", "logistik"), "dynamics='logistik'"),
        (("--network", "mpl"), "network='mpl'"),
        (("--batch-size", "0"), "batch_size=0"),
        (("--repeats", "-1"), "repeats=-1"),
        (("--threads", "-1"), "threads=-1"),
    ],
)
def test_bench(natsel, arguments, told):
    assert told in line(natsel("bench", "step", *arguments), 2)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--repeats", "0"), "repeats=0 is not allowed"),
        (("--batches", "-1"), "batches=-1 is not allowed"),
        (("--batches", "some"), "'--batches'"),
    ],
)
def test_bench_score(natsel, arguments, told):
    assert told in line(natsel("bench", "score", *arguments), 2)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--repeats", "0"), "repeats=0 is not allowed"),
        (("--repeats", "few"), "'--repeats'"),
        (("--compiled",), "No such option"),
    ],
)
def test_bench_extract(natsel, arguments, told):
    assert told in line(natsel("bench", "extract", *arguments), 2)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--sizes", "10"), "sizes=10 is not allowed"),
        (("--sizes", "1e6,many"), "sizes='1e6,many' is not allowed"),
        (("--sizes", "100000.5"), "sizes=100000.5 is not allowed"),
        (("--dtypes", "int8"), "dtypes='int8' is not allowed"),
        (("--repeats", "0"), "repeats=0 is not allowed"),
    ],
)
def test_bench_select(natsel, arguments, told):
    assert told in line(natsel("bench", "select", *arguments), 2)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--only", "speed"), "only='speed' is not allowed"),
        (("--model", "mlp"), "expected both or neither of them"),
    ],
)
def test_bench_all(natsel, tmp_path, arguments, told):
    assert told in line(natsel("bench", "all", "--out", tmp_path / "out", *arguments), 2)
    assert not (tmp_path / "out").exists()


def test_reproduce_plateau_with_peers_names_the_extra(natsel, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_pruning", None)
    told = line(natsel("reproduce", "plateau", "--peers", "--out", tmp_path / "out"), 2)
    assert told == "torch_pruning is not installed: pip install 'natsel[bench]'"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--tool", "torch-prunning"), "did you mean 'torch-pruning'"),
        (("--limit", "0"), "limit=0.0 is not allowed"),
    ],
)
def test_bench_peers(natsel, tmp_path, arguments, told):
    assert told in line(natsel("bench", "peers", "--out", tmp_path / "out", *arguments), 2)
    assert not (tmp_path / "out").exists()


def test_bench_peers_names_the_extra(natsel, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_pruning", None)
    told = line(natsel("bench", "peers", "--out", tmp_path / "out", "--tool", "torch-pruning"), 2)
    assert told == "torch_pruning is not installed: pip install 'natsel[bench]'"
    assert not (tmp_path / "out").exists()


# Files of data.


def write_mnist(root, labels=(0, 1, 2, 3)):
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((28, 28), np.uint8)).save(buffer, "PNG")
    images = [{"bytes": buffer.getvalue(), "path": None}] * len(labels)
    (root / "mnist").mkdir(parents=True)
    for split in ("train", "test"):
        path = root / "mnist" / f"{split}-00000-of-00001.parquet"
        pq.write_table(pa.table({"image": images, "label": pa.array(labels, pa.int64())}), path)


@pytest.fixture
def mnist(tmp_path, monkeypatch):
    root = tmp_path / "data"
    monkeypatch.setenv("NATSEL_DATA", str(root))
    return root


def test_a_missing_data_file(refused, mnist):
    write_mnist(mnist)
    (mnist / "mnist" / "test-00000-of-00001.parquet").unlink()
    assert "test-00000-of-00001.parquet is missing" in refused("--dataset", "mnist")


def test_a_truncated_data_file(refused, mnist):
    write_mnist(mnist)
    path = mnist / "mnist" / "train-00000-of-00001.parquet"
    path.write_bytes(path.read_bytes()[:-40])
    assert f"{path} cannot be read" in refused("--dataset", "mnist")


def test_labels_out_of_range(refused, mnist):
    write_mnist(mnist, labels=(0, 1, 10))
    message = refused("--dataset", "mnist")
    assert "label 10 at index 2 is out of range: expected 0 to 9" in message


def test_too_few_samples(refused, mnist):
    write_mnist(mnist)
    assert "validation=5000" in refused("--dataset", "mnist")


# Numbers that stop being numbers.


def test_a_loss_that_is_not_a_number(refused, tmp_path):
    message = refused("--learning-rate", "1e30", "--epochs", "2", code=1)
    assert "the loss became" in message
    assert "at step 2 (epoch 1)" in message
    assert "learning_rate" in message
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == ["config.json"]


def test_a_fitness_that_is_not_a_number(refused, tmp_path, monkeypatch):
    taylor, calls = FITNESS["taylor"], 0

    def spoiled(parts):
        nonlocal calls
        calls += 1
        signal = taylor.signal(parts)
        return signal * float("nan") if calls > 2 * 50 else signal  # two communities a step

    monkeypatch.setitem(FITNESS, "taylor", Fitness("taylor", spoiled, needs_gradient=True))
    message = refused("--epochs", "3", code=1)
    assert "fitness 'taylor' became NaN or infinite at step 51 in community 'layers.0'" in message
    run = tmp_path / "run"
    checkpoint = "checkpoint-evolved.safetensors"
    assert sorted(p.name for p in run.iterdir()) == [checkpoint, "config.json"]
    state = load_tree(run / checkpoint)
    assert len(state["history"]) == 1
    assert all(torch.isfinite(t).all() for t in state["model"].values())


def test_memory_that_runs_out(refused):
    assert "alloc" in refused("--hidden", "99999999999", code=1)


# Folders.


def test_a_folder_that_holds_another_run(natsel, fast, tmp_path):
    out = tmp_path / "run"
    assert natsel("evolve", "--out", out, *fast, "--no-report").exit_code == 0
    before = {p.name: p.read_bytes() for p in out.iterdir()}
    other = natsel("evolve", "--out", out, *fast, "--seed", "5", "--resume")
    assert "another run (of other seed)" in line(other, 2)
    assert "--resume" in line(natsel("evolve", "--out", out, *fast), 2)
    assert before == {p.name: p.read_bytes() for p in out.iterdir()}


def test_a_folder_with_something_else(natsel, fast, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    assert "a new or empty folder" in line(natsel("evolve", "--out", tmp_path, *fast), 2)
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("below", ["", "/run"])
def test_out_is_a_file(natsel, fast, tmp_path, below):
    path = tmp_path / "file"
    path.write_text("mine")
    message = line(natsel("evolve", "--out", f"{path}{below}", *fast), 2)
    assert f"out='{path}{below}'" in message
    assert "a folder" in message
    assert path.read_text() == "mine"


@pytest.mark.parametrize("content", ["{", "[]", '"text"'])
def test_a_damaged_configuration(natsel, fast, tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    message = line(natsel("evolve", "--out", tmp_path, *fast, "--resume"), 2)
    assert "config.json" in message or "another run" in message


def test_a_read_only_folder(natsel, fast, tmp_path):
    # The superuser may write anywhere but where the kernel says no.
    parent = "/proc" if os.geteuid() == 0 else tmp_path / "read-only"
    if os.geteuid() != 0:
        parent.mkdir(mode=0o500)
    message = line(natsel("evolve", "--out", f"{parent}/run", *fast), 2)
    assert f"out='{parent}/run'" in message
    assert "can be written" in message


# Libraries.


def test_a_missing_extra_is_told_before_the_work(refused, monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    assert refused() == "jinja2 is not installed: pip install 'natsel[report]'"


def test_a_missing_extra_that_is_not_needed(natsel, fast, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    result = natsel("evolve", "--out", tmp_path / "run", *fast, "--no-report")
    assert result.exit_code == 0


def test_a_missing_data_library(refused, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    assert "pip install 'natsel[data]'" in refused()
