"""A model with the data that it is scored and measured on, all by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from natsel.common.batches import is_causal, read_batch
from natsel.common.calls import IGNORED, Inputs, tensors_of_inputs, with_tensors
from natsel.common.errors import did_you_mean, first_line, refuse
from natsel.common.importing import names_own
from natsel.common.vocabulary import check_tokens
from natsel.data import TEXTS, names
from natsel.data.corpus import FILES, FORMS, HUB, Corpus, names_text, read_corpus
from natsel.integrations.transformers.tokenizers import tokenizer_of
from natsel.io import open_model
from natsel.io.opening import Opened, open_own
from natsel.models import MODELS, TASKS
from natsel.pruning.texts import Reading, check_apart, read_text
from natsel.runs.own_data import are_named, own_corpus
from natsel.runs.splits import SPLIT_SEED, Splits, load_splits


@dataclass(frozen=True, eq=False)
class Material:
    """A model that was opened, and its data.

    Attributes:
        opened: the model.
        splits: of a data set with labels; None with texts, named batches, or no data.
        calibration: texts or named batches to score on.
        held_out: the same to measure on.
        tokenizer: that cut the texts; None where none was needed.
    """

    opened: Opened
    splits: Splits | None = None
    calibration: Reading | None = None
    held_out: Reading | None = None
    tokenizer: Any = None

    @property
    def language(self) -> bool:
        """Whether the model predicts the next token of a text."""
        return is_causal(self.opened.model) is True

    def plain(self) -> dict[str, Any] | None:
        """Return what was taken of which text, as plain data; None without texts."""
        return cuts_of({"data": self.calibration, "held_out": self.held_out})


def cuts_of(found: Mapping[str, Reading | None]) -> dict[str, Any] | None:
    """Return what was taken of which text, as plain data; None without texts."""
    cuts = {name: read.plain() for name, read in found.items() if read is not None}
    return cuts or None


def check_source(name: str, *, argument: str = "data") -> None:
    """Refuse what names no data; files and modules are looked at when they are read.

    Raises:
        ValueError: if there is no data set of this name, or no such file.
    """
    if names_text(name):
        if not name.startswith("hub:") and not Path(name).exists():
            refuse(argument, name, "a file that is there")
    elif not names_own(name):
        if argument == "held_out" and name in TEXTS:
            return
        if argument == "held_out" or "/" in name or Path(name).suffix or Path(name).is_dir():
            refuse(argument, name, f"a {FORMS}")
        known = (*names(), *TEXTS)
        if name not in known:
            others = f", or a {FILES}, {HUB}NAME or module:name"
            refuse(argument, name, f"one of {', '.join(known)}{others}{did_you_mean(name, known)}")


def open_material(
    model: str,
    data: str | None = None,
    held_out: str | None = None,
    *,
    tokenizer: str | None = None,
    tokenizers: tuple[str, ...] = (),
    length: int,
    samples: int,
    seed: int = 0,
    measuring: bool = False,
) -> Material:
    """Open a model, and the data that it is scored and measured on.

    Args:
        model: what ``natsel.open_model`` opens.
        data: a data set, a text, or ``module:name``; or None.
        held_out: a text or ``module:name`` to measure on; a named text brings its own.
        tokenizer: a folder or a name with the tokenizer; that of the model if not given.
        tokenizers: where else one is looked for.
        length: tokens in a window of a text.
        samples: windows of each text.
        seed: of a reference network's weights.
        measuring: ``data`` are to be measured on, not scored on.

    Raises:
        ValueError: if there is no such model or data, or they do not fit together.
    """
    read = {
        name: _read(source, name, held_out=measuring or name == "held_out")
        for name, source in (("data", data), ("held_out", held_out))
        if source is not None
    }
    own = read.get("data")
    first = next((c.batches[0] for c in read.values() if c is not None and c.batches), None)
    if own is not None and own.batches and not are_named(own.batches):
        opened, splits = open_for(model, data, seed, batches=own.batches)
        _no_held_out(data, held_out)
        return Material(opened, splits)
    if data is not None and own is None:
        if not (data in TEXTS and model not in MODELS):
            opened, splits = open_for(model, data, seed)
            _no_held_out(data, held_out)
            return Material(opened, splits)
        opened = open_model(model, seed=seed)
        if _task_of(opened) is not None:
            _no_held_out(data, held_out)
            return Material(opened, load_splits(data, task=_task_of(opened)))
        own = read["data"] = read_corpus(data, held_out=measuring)
        if held_out is None and not measuring:
            read["held_out"] = read_corpus(data, argument="held_out", held_out=True)
    elif names_own(model) and not Path(model).exists():
        opened = open_own(model, seed=seed, example_inputs=_inputs_of(first))
    else:
        opened = open_model(model, seed=seed)
    if held_out in TEXTS:
        read["held_out"] = read_corpus(str(held_out), argument="held_out", held_out=True)
    reader = None
    # Of a model that reads no text that is told first, whether or not it has a tokenizer.
    if is_causal(opened.model) and any(c is not None and c.documents for c in read.values()):
        reader = found_tokenizer(tokenizer, (model, *tokenizers), opened.model)
    ready = {
        name: read_text(opened.model, corpus, reader, argument=name, length=length, samples=samples)
        for name, corpus in read.items()
        if corpus is not None
    }
    for name, reading in ready.items():
        _check_runs(name, reading, opened)
        check_own(name, reading, opened.model)
    check_apart(ready.get("data"), ready.get("held_out"))
    return Material(opened, None, ready.get("data"), ready.get("held_out"), reader)


def _read(source: str, argument: str, *, held_out: bool) -> Corpus | None:
    """Read a text, or batches of a user's own; None for a data set that has a name."""
    if names_text(source):
        return read_corpus(source, argument=argument, held_out=held_out)
    if names_own(source):
        return own_corpus(source, seed=SPLIT_SEED, argument=argument)
    if argument == "held_out" and source not in TEXTS:
        refuse(argument, source, f"a {FORMS}")
    return None


def _no_held_out(data: str | None, held_out: str | None) -> None:
    if held_out is not None:
        refuse("held_out", held_out, f"None: {data} is measured on its own test split")


def _task_of(opened: Opened) -> str | None:
    constructor = getattr(opened.model, "constructor", None)
    held = constructor.get("name") if isinstance(constructor, dict) else None
    return TASKS.get(held) if held is not None else None


def found_tokenizer(given: str | None, models: tuple[str, ...], model: nn.Module) -> Any:
    """Return the tokenizer that is asked for, or that of the first model that has one.

    Args:
        given: a folder or ``hf:NAME``; or None.
        models: what ``natsel.open_model`` opens.
        model: the first of them, for messages.

    Raises:
        ValueError: if there is none.
    """
    if given is not None:
        return tokenizer_of(given)
    found = [name for name in models if name not in MODELS and not names_own(name)]
    if not found:
        kind = type(model).__name__
        refuse("tokenizer", None, f"--tokenizer FOLDER: {kind} comes without one")
    for name in found[:-1]:
        try:
            return tokenizer_of(name)
        except ValueError:  # the next one may have it
            continue
    return tokenizer_of(found[-1])


def _inputs_of(batch: Any) -> Inputs | None:
    """Return two samples of a batch as example inputs."""
    if batch is None:
        return None
    inputs = read_batch(batch).inputs
    return with_tensors(inputs, [x[:2] for x in tensors_of_inputs(inputs)])


def _check_runs(argument: str, reading: Reading, opened: Opened) -> None:
    """Make sure that the model runs on a user's own batches: on one sample."""
    if reading.cut is not None:
        return
    assert reading.corpus is not None
    for batch in reading.batches:
        held = read_batch(batch)
        try:
            inputs = held.given(opened.model)
            one = with_tensors(inputs, [x[:1] for x in tensors_of_inputs(inputs)])
            with torch.no_grad():
                opened.model(**one) if isinstance(one, Mapping) else opened.model(*one)
        except (RuntimeError, TypeError, IndexError, AttributeError) as error:
            told = f"batches that {opened.description} runs on ({first_line(error)})"
            refuse(argument, reading.corpus.source, told)
        return


def check_own(argument: str, reading: Reading, *models: nn.Module) -> None:
    """Make sure that a user's own batches are of tokens of the models, and that some label counts.

    Raises:
        ValueError: if all labels are padding, or tokens or labels are none of a model's.
    """
    if reading.cut is not None:
        return
    assert reading.corpus is not None
    for model in models:
        check_tokens(model, reading.batches, argument, reading.corpus.source)
    labels = [read_batch(batch).labels for batch in reading.batches]
    if all(
        isinstance(x, Tensor) and not x.is_floating_point() and bool((x == IGNORED).all())
        for x in labels
    ):
        refuse(argument, reading.corpus.source, f"labels that are not all padding, {IGNORED}")


def open_for(
    name: str, data: str | None, seed: int, *, batches: Any = None
) -> tuple[Opened, Splits | None]:
    """Open a model, and the data set that it is measured on.

    A reference network is built for the data.

    Args:
        name: of the model.
        data: of the data set, or None.
        seed: of a reference network's weights.
        batches: what a user's own loader yields, if that was read before.

    Raises:
        ValueError: if there is no such model or data set, or the model cannot read it.
    """
    splits: Splits | None = None
    if names_own(name) and data is not None and not Path(name).exists():
        splits = load_splits(data, batches=batches)
        opened = open_own(name, seed=seed, example_inputs=(splits.train[0][:2],))
    elif name not in MODELS:
        opened = open_model(name, seed=seed)
        task = _task_of(opened)
        splits = load_splits(data, task=task, batches=batches) if data is not None else None
    elif data is None:
        return open_model(name, seed=seed), None
    else:
        splits = load_splits(data, task=TASKS.get(name), batches=batches)
        num_classes = len(splits.classes)
        opened = open_model(name, in_shape=splits.in_shape, num_classes=num_classes, seed=seed)
    if splits is not None:
        check_fit(opened, splits)
    return opened, splits


def check_fit(opened: Opened, splits: Splits) -> None:
    """Make sure that a model runs on a data set.

    Raises:
        ValueError: if it does not.
    """
    wanted = tuple(tensors_of_inputs(opened.example_inputs)[0].shape[1:])
    if len(wanted) == len(splits.in_shape) == 3 and wanted != splits.in_shape:
        allowed = f"images of shape {wanted}, as the model reads; these have {splits.in_shape}"
        refuse("data", splits.name, allowed)
    try:
        with torch.no_grad():
            opened.model(splits.test[0][:2])
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        line = first_line(error)
        refuse("data", splits.name, f"inputs that {opened.description} runs on ({line})")
