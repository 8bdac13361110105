"""Texts as what a model reads: its own tokenizer, windows, and a held-out part that is apart."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from natsel.common.batches import Data, is_causal, read_batch, reread
from natsel.common.errors import refuse
from natsel.common.texts import LENGTH, SAMPLES

if TYPE_CHECKING:
    from natsel.data.corpus import Corpus
    from natsel.data.windows import Place

PLACE: Place = "spread"
"""Calibration and held-out windows are spread evenly over their texts: so they say most of them,
and neighbours, which depend on each other, are far apart."""


@dataclass(frozen=True)
class Cut:
    """What was taken from a text.

    Attributes:
        source: what the user called it.
        windows: how many.
        length: tokens in each.
        place: which windows: "spread" evenly.
    """

    source: str
    windows: int
    length: int
    place: str


@dataclass(frozen=True, eq=False)
class Reading:
    """A text or batches, ready for a model.

    Attributes:
        batches: what the model runs on; can be read more than once.
        corpus: the text they were cut from, if they were.
        cut: what was taken of it.
    """

    batches: Data
    corpus: Corpus | None = None
    cut: Cut | None = None

    def plain(self) -> dict[str, Any] | None:
        """Return what was taken, as plain data."""
        return None if self.cut is None else asdict(self.cut)


def is_text(data: object) -> bool:
    """Tell whether data are a text: the name of one, a path, or strings.

    Example:
        >>> is_text(["one", "two"]), is_text([("inputs", "labels")]), is_text("notes.txt")
        (True, False, True)
    """
    if isinstance(data, str | Path) or hasattr(data, "documents"):
        return True
    return isinstance(data, list | tuple) and bool(data) and isinstance(data[0], str)


def read_text(
    model: nn.Module,
    data: Any,
    tokenizer: Any,
    *,
    argument: str = "data",
    held_out: bool = False,
    length: int = LENGTH,
    samples: int | None = SAMPLES,
) -> Reading:
    """Cut a text into windows that a causal language model reads.

    Args:
        model: that they are for.
        data: strings, a path or a name as :func:`natsel.data.read_corpus` takes it, or a corpus.
        tokenizer: of the model.
        argument: the name the caller used for the text.
        held_out: read the part of a named set that is kept for measuring.
        length: tokens in a window.
        samples: how many windows; None for all.

    Raises:
        ValueError: if the text is too short, or the tokenizer or the length not of this model.
    """
    # Who hands over batches waits for nothing that reads texts.
    from natsel.data.corpus import Corpus, read_corpus
    from natsel.data.windows import token_batches, windows

    if isinstance(data, str | Path):
        data = read_corpus(data, argument=argument, held_out=held_out)
    corpus = data if isinstance(data, Corpus) else Corpus("texts", tuple(data))
    if not corpus.documents:
        return Reading(list(corpus.batches), corpus)
    if is_causal(model) is not True:
        kind = type(model).__name__
        refuse(argument, corpus.source, f"images or batches: {kind} predicts no next token")
    if tokenizer is None:
        refuse("tokenizer", None, f"the tokenizer of the model: {argument} is a text")
    _check_length(model, length)
    options: dict[str, Any] = {"length": length, "samples": samples, "argument": argument}
    rows = windows(corpus.documents, tokenizer, place=PLACE, source=corpus.source, **options)
    _check_tokens(model, rows)
    cut = Cut(corpus.source, len(rows), rows.shape[1], PLACE)
    return Reading(token_batches(rows), corpus, cut)


def reading(model: nn.Module, data: Any, tokenizer: Any, **options: Any) -> Reading | None:
    """Return data ready for a model, texts or batches, that can be read again; None for None."""
    if is_text(data):
        return read_text(model, data, tokenizer, **options)
    return None if data is None else Reading(reread(data, options["argument"]))


def _check_length(model: nn.Module, length: int) -> None:
    config: Any = getattr(model, "config", None)
    config = config.get_text_config() if hasattr(config, "get_text_config") else config
    most = getattr(config, "max_position_embeddings", None)
    if isinstance(most, int) and isinstance(length, int) and length > most > 0:
        refuse("length", length, f"2 to {most}, the positions that the model has")


def _check_tokens(model: nn.Module, rows: Tensor) -> None:
    embed = getattr(model, "get_input_embeddings", lambda: None)()
    size = getattr(embed, "num_embeddings", None)
    if isinstance(size, int) and int(rows.max()) >= size:
        told = f"one of this model, which has {size} tokens: this one gives {int(rows.max())}"
        refuse("tokenizer", "another model's", told)


def check_apart(data: Reading | None, held_out: Reading | None) -> None:
    """Refuse calibration and held-out data that overlap.

    Raises:
        ValueError: if they are one file, a link or a copy, or share a window or a long run of
            tokens.
    """
    if data is None or held_out is None:
        return
    from natsel.data.corpus import same_text
    from natsel.data.overlap import OVERLAPPING, shared_share
    from natsel.data.windows import shared_run

    name: object = held_out.corpus.source if held_out.corpus is not None else "batches"
    if data.batches is held_out.batches:
        refuse("held_out", name, "other data than data")
    texts = (data.corpus, held_out.corpus)
    if texts[0] is not None and texts[1] is not None and same_text(texts[0], texts[1]):
        refuse("held_out", name, f"another text than data: {texts[0].source} is the same")
    if texts[0] is not None and texts[1] is not None:
        share = shared_share(texts[0].documents, texts[1].documents)
        if share >= OVERLAPPING:
            told = f"{share:.0%} of it are in {texts[0].source}, too"
            refuse("held_out", name, f"a text apart from data: {told}")
    one, other_rows = _rows(data.batches), _rows(held_out.batches)
    if shared := shared_run(one, other_rows):
        allowed = f"a text apart from data: they share {shared} tokens in a row"
        refuse("held_out", name, allowed)


def _rows(batches: Iterable[Any]) -> Iterator[Tensor]:
    """Yield the tokens of each window without padding; nothing of what is not held in memory."""
    if not isinstance(batches, list | tuple):
        return
    for batch in batches:
        inputs = read_batch(batch).inputs
        tokens = inputs.get("input_ids") if isinstance(inputs, Mapping) else None
        if not isinstance(tokens, Tensor) or tokens.dim() != 2 or not isinstance(inputs, Mapping):
            continue
        mask = inputs.get("attention_mask")
        for place, row in enumerate(tokens.detach().cpu()):
            if isinstance(mask, Tensor) and mask.shape == tokens.shape:
                row = row[mask[place].bool().cpu()]
            yield row
