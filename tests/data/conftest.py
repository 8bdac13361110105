import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("NATSEL_CACHE", str(tmp_path / "cache"))


def encode(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": None}


@pytest.fixture
def mnist_root(tmp_path):
    """A folder with a data set of 6 + 3 images: image i is filled with the value i."""

    def make(train_labels=(0, 1, 2, 3, 4, 9), images=None, **columns):
        folder = tmp_path / "root" / "mnist"
        folder.mkdir(parents=True, exist_ok=True)
        for split, labels in (("train", train_labels), ("test", (7, 8, 9))):
            filled = [np.full((28, 28), i, np.uint8) for i in range(len(labels))]
            pixels = images if images is not None and split == "train" else filled
            table = {
                "image": [encode(p) if isinstance(p, np.ndarray) else p for p in pixels],
                "label": pa.array(labels, pa.int64()),
            } | columns
            pq.write_table(pa.table(table), folder / f"{split}-00000-of-00001.parquet")
        return tmp_path / "root"

    return make
