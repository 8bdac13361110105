"""Which card goes into a folder: a new one, the one of the folder that a model was read from."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from natsel.common.errors import refuse
from natsel.common.files import replacing
from natsel.common.folders import make_folder, remove_empty
from natsel.common.shards import Shards
from natsel.communities.tensors import tensors_of
from natsel.extraction import Plan, has_plan, plan_of
from natsel.integrations.model_card import CARD_FILE, is_own
from natsel.integrations.model_card import card as card_text
from natsel.integrations.transformers.beside import source_folder
from natsel.integrations.transformers.library import class_of
from natsel.integrations.transformers.origin import origin_of
from natsel.integrations.transformers.pretrained import Pretrained

Card = Mapping[str, Any] | str | bool | None
MAX_BYTES = 2**20


def text_of(given: Card, small: nn.Module, known: Pretrained | None) -> str | None:
    """Return the text of the card for a model; None for no card.

    Args:
        given: a result, a text, True for what the plan says, None for the one that the model has:
            where it was read from, if its weights are the same.
        small: the model.
        known: how it is stored, if it is one of the transformers library.

    Raises:
        ValueError: if it is none of these.
    """
    if isinstance(given, str):
        return given
    if given is None or given is False:
        return kept_card(small) if given is None else None
    if given is not True and not isinstance(given, Mapping):
        refuse("card", given, "the result of a run, True, or a text")
    facts = {**(of_plan(plan_of(small)) if has_plan(small) else {})}
    facts |= given if isinstance(given, Mapping) else {}
    of_library = class_of(small) is not None
    origin = origin_of(small) if of_library else {"class": type(small).__name__, "own": True}
    return card_text(facts, origin, plain=known is None or known.is_plain)


def of_plan(plan: Plan) -> dict[str, Any]:
    """Return what a plan says of a model, as the result of a run has it."""
    predicted = plan.prediction
    found: dict[str, Any] = {"parameters": [plan.parameters_before, plan.parameters_after]}
    if predicted:
        found["communities"] = predicted["lines"]
        found["macs"] = [predicted[which]["macs"] for which in ("dense", "small")]
        found["prediction"] = predicted
    if plan.sparse:
        size, kept = (sum(one[key] for one in plan.sparse.values()) for key in ("size", "kept"))
        told = f"{size - kept:,} of {size:,} weights of {len(plan.sparse)} tensors are 0"
        found["weights"] = {"summary": f"{told} ({1 - kept / size:.1%})"}
    return found


def kept_card(small: nn.Module) -> str | None:
    """Return the card of the folder that a model was read from, if it tells of these weights."""
    folder = source_folder(small) if class_of(small) is not None else None
    text = read_card(folder / CARD_FILE) if folder is not None else None
    if folder is None or text is None or not is_own(text) or not _unchanged(small, folder):
        return None
    return text


def read_card(path: Path) -> str | None:
    """Return a card that is a plain file of a sane size; None for anything else."""
    try:
        if path.is_symlink() or not path.is_file() or path.stat().st_size > MAX_BYTES:
            return None
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None


def _unchanged(small: nn.Module, folder: Path) -> bool:
    """Say whether a folder holds the tensors of a model; one at a time is in memory."""
    held = tensors_of(small)
    try:
        shards = Shards(folder)
        return all(
            name in held
            and held[name].shape == shards.place(name).shape
            and torch.equal(held[name].detach().cpu(), shards.read(name))
            for name in shards
            if math.prod(shards.place(name).shape)
        )
    except (OSError, ValueError):
        return False


@contextmanager
def carrying_card(
    given: Card, small: nn.Module, folder: Path, known: Pretrained | None
) -> Iterator[None]:
    """Write the card of a model around the block that saves it; one of somebody else's stays.

    What natsel wrote there before is replaced, or removed where there is no new one.

    Raises:
        ValueError: if the card is none.
        OSError: if it cannot be written; nothing has changed then.
    """
    text, path = text_of(given, small, known), folder / CARD_FILE
    is_there = os.path.lexists(path)
    earlier = read_card(path)
    if is_there and (earlier is None or not is_own(earlier)):
        if text is not None and text != earlier:
            told = f"{path} was not written by natsel, or was changed since: it stays"
            warnings.warn(f"{told}, and no model card is written", stacklevel=4)
        yield
    elif text is None:
        yield
        if is_there:
            path.unlink()
    else:
        created = make_folder(folder)
        try:
            with replacing(path) as temporary:
                temporary.write_text(text, encoding="utf-8")
                yield
        except BaseException:
            remove_empty(created)
            raise
