"""Real data sets as plain tensors, read whole; batches that can be replayed.

>>> from natsel import data
>>> digits = data.load("digits")
>>> digits.train_inputs.shape, digits.test_inputs.shape
(torch.Size([1437, 1, 8, 8]), torch.Size([360, 1, 8, 8]))
"""

from natsel.common.calls import IGNORED
from natsel.data.augment import crop_and_flip
from natsel.data.batching import Augment, batches, split
from natsel.data.corpus import Corpus, read_corpus, same_text
from natsel.data.loading import Dataset, load, names
from natsel.data.text import (
    TEXTS,
    Text,
    load_text,
    masked_characters,
    next_characters,
)
from natsel.data.windows import shared_run, token_batches, tokens_of, windows

__all__ = [
    "IGNORED",
    "TEXTS",
    "Augment",
    "Corpus",
    "Dataset",
    "Text",
    "batches",
    "crop_and_flip",
    "load",
    "load_text",
    "masked_characters",
    "names",
    "next_characters",
    "read_corpus",
    "same_text",
    "shared_run",
    "split",
    "token_batches",
    "tokens_of",
    "windows",
]
