"""Data sets are read whole and checked; what is wrong is told in one line."""

import os
import time

import datasets
import numpy as np
import pytest
import torch

from natsel import data
from natsel.data import parquet

TRAIN = "train-00000-of-00001.parquet"


def one_line(caught):
    return "\n" not in str(caught.value)


def test_digits_are_split_in_equal_shares_and_always_alike():
    digits = data.load("digits")
    assert digits.train_inputs.shape == (1437, 1, 8, 8)
    assert digits.test_inputs.shape == (360, 1, 8, 8)
    assert digits.train_inputs.dtype == torch.uint8
    assert digits.test_labels.bincount().tolist() == [36, 36, 35, 37, 36, 37, 36, 36, 35, 36]
    assert digits.test_labels[:5].tolist() == data.load("digits").test_labels[:5].tolist()
    z = digits.normalized(digits.train_inputs)
    assert z.dtype == torch.float32
    assert abs(z.mean()) < 1e-3
    assert abs(z.std() - 1) < 1e-3


def test_images_and_labels_come_from_parquet_files(mnist_root, capfd):
    mnist = data.load("mnist", root=mnist_root())
    assert mnist.train_inputs.shape == (6, 1, 28, 28)
    assert mnist.train_inputs.dtype == torch.uint8
    assert mnist.train_inputs[:, 0, 3, 5].tolist() == [0, 1, 2, 3, 4, 5]
    assert mnist.train_labels.tolist() == [0, 1, 2, 3, 4, 9]
    assert mnist.test_labels.tolist() == [7, 8, 9]
    assert mnist.classes == tuple("0123456789")
    assert capfd.readouterr() == ("", "")
    assert not datasets.utils.are_progress_bars_disabled()


def test_the_environment_names_the_folder(mnist_root, monkeypatch):
    monkeypatch.setenv("NATSEL_DATA", str(mnist_root()))
    assert len(data.load("mnist").train_labels) == 6


def test_the_cache_follows_the_content_of_the_files(mnist_root, tmp_path, monkeypatch):
    root = mnist_root()
    first = data.load("mnist", root=root)
    with monkeypatch.context() as patch:
        patch.setattr(parquet, "from_files", None)  # a second decoding would fail
        assert torch.equal(data.load("mnist", root=root).train_inputs, first.train_inputs)
    mnist_root(train_labels=(5, 5, 5, 5, 5, 5))
    assert data.load("mnist", root=root).train_labels.tolist() == [5] * 6
    assert len(os.listdir(tmp_path / "cache")) == 2


def test_a_damaged_cache_is_harmless(mnist_root, tmp_path):
    root = mnist_root()
    first = data.load("mnist", root=root)
    (path,) = (tmp_path / "cache").iterdir()
    whole = path.read_bytes()
    path.write_bytes(whole[:-7])
    assert torch.equal(data.load("mnist", root=root).train_inputs, first.train_inputs)
    assert path.read_bytes() == whole


def test_a_cache_that_cannot_be_written_is_harmless(mnist_root, tmp_path):
    (tmp_path / "cache").write_text("a file where the folder should be")
    assert len(data.load("mnist", root=mnist_root()).train_labels) == 6


def test_an_unknown_name_is_refused_with_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'mnist'"):
        data.load("mnits")


def test_a_missing_split_is_named(mnist_root):
    root = mnist_root()
    (root / "mnist" / TRAIN).unlink()
    with pytest.raises(ValueError, match=f"{TRAIN} is missing") as caught:
        data.load("mnist", root=root)
    assert one_line(caught)


@pytest.mark.parametrize("kept", [0, 3, 100, -1])
def test_a_truncated_file_is_named(mnist_root, kept, capfd):
    path = mnist_root() / "mnist" / TRAIN
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ValueError, match=f"{TRAIN} cannot be read: ") as caught:
        data.load("mnist", root=path.parents[1])
    assert one_line(caught)
    assert capfd.readouterr().out == ""


def test_a_file_without_the_columns_is_named(mnist_root):
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = mnist_root() / "mnist" / TRAIN
    pq.write_table(pa.table({"text": ["a"]}), path)
    with pytest.raises(ValueError, match=f"{TRAIN} ") as caught:
        data.load("mnist", root=path.parents[1])
    assert one_line(caught)


@pytest.mark.parametrize("bad", [10, -1, None])
def test_the_first_label_out_of_range_is_named(mnist_root, bad):
    root = mnist_root(train_labels=(0, 1, bad, 99, 4, 5))
    with pytest.raises(
        ValueError, match=f"label {bad} at index 2 is out of range: expected 0 to 9"
    ):
        data.load("mnist", root=root)


@pytest.mark.parametrize("shape", [(28, 27), (14, 14), (28, 28, 3)])
def test_an_image_of_another_size_is_named(mnist_root, shape):
    images = [np.zeros((28, 28), np.uint8)] * 5 + [np.zeros(shape, np.uint8)]
    with pytest.raises(ValueError, match=r"image at index 5 is .* expected \(1, 28, 28\)"):
        data.load("mnist", root=mnist_root(images=images))


@pytest.mark.parametrize("content", [b"", b"no image", None])
def test_an_image_that_cannot_be_decoded_is_named(mnist_root, content):
    images = [np.zeros((28, 28), np.uint8)] * 5 + [{"bytes": content, "path": None}]
    with pytest.raises(ValueError, match="image at index 5 cannot be decoded"):
        data.load("mnist", root=mnist_root(images=images))


def test_an_empty_file_is_named(mnist_root):
    with pytest.raises(ValueError, match=f"{TRAIN} cannot be read: .* no data"):
        data.load("mnist", root=mnist_root(train_labels=()))


def test_without_files_the_hub_is_asked(tmp_path, monkeypatch):
    features = datasets.Features(
        {"img": datasets.Image(), "label": datasets.ClassLabel(num_classes=10)}
    )
    pixels = np.arange(32 * 32 * 3, dtype=np.uint8).reshape(32, 32, 3)

    def hub(name):
        assert name == "uoft-cs/cifar10"
        rows = datasets.Dataset.from_dict({"img": [pixels] * 2, "label": [3, 4]}, features=features)
        return datasets.DatasetDict(train=rows, test=rows)

    monkeypatch.setattr(datasets, "load_dataset", hub)
    monkeypatch.delenv("NATSEL_DATA", raising=False)
    cifar10 = data.load("cifar10", root=tmp_path)
    assert torch.equal(cifar10.train_inputs[1], torch.from_numpy(pixels).permute(2, 0, 1))
    assert cifar10.test_labels.tolist() == [3, 4]
    assert cifar10.classes[3] == "cat"


def test_offline_both_ways_to_the_data_are_told_at_once(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    # The libraries read the variable once, when they are imported.
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    monkeypatch.delenv("NATSEL_DATA", raising=False)
    begin = time.monotonic()
    with pytest.raises(
        ValueError, match=rf"set NATSEL_DATA .*mnist/{TRAIN}.* ylecun/mnist"
    ) as error:
        data.load("mnist")
    assert one_line(error)
    assert time.monotonic() - begin < 5


@pytest.mark.skipif("NATSEL_DATA" not in os.environ, reason="NATSEL_DATA names no folder")
def test_the_real_data_sets_are_whole():
    mnist = data.load("mnist")
    assert mnist.train_inputs.shape == (60000, 1, 28, 28)
    assert mnist.test_inputs.shape == (10000, 1, 28, 28)
    assert mnist.train_labels.bincount().tolist() == [
        5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949,
    ]  # fmt: skip
    assert mnist.test_labels.bincount().tolist() == [
        980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009,
    ]  # fmt: skip
    cifar10 = data.load("cifar10")
    assert cifar10.train_inputs.shape == (50000, 3, 32, 32)
    assert cifar10.test_inputs.shape == (10000, 3, 32, 32)
    assert cifar10.train_labels.bincount().tolist() == [5000] * 10
    assert cifar10.test_labels.bincount().tolist() == [1000] * 10
    for dataset in (mnist, cifar10):
        z = dataset.normalized(dataset.train_inputs[:10000])
        assert z.mean((0, 2, 3)).abs().max() < 0.02
        assert (z.std((0, 2, 3)) - 1).abs().max() < 0.02
