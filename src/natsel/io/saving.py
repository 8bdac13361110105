"""Save what ``natsel.extract`` returned, without pickle."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from natsel.common.errors import refuse
from natsel.common.sharding.together import is_first, together
from natsel.common.sharding.wrapping import spread_of
from natsel.communities.gathering import gathered_copy
from natsel.extraction import Plan, has_plan, plan_of, write_model
from natsel.integrations.transformers import pretrained
from natsel.integrations.transformers.beside import KEY as BESIDE
from natsel.integrations.transformers.beside import beside, carried, carrying, seals, written
from natsel.integrations.transformers.cards import Card, carrying_card
from natsel.integrations.transformers.pretrained import Pretrained


def save(
    small: nn.Module,
    folder: str | Path,
    *,
    constructor: tuple[Sequence[Any], Mapping[str, Any]] | None = None,
    tokenizer: Any = None,
    card: Card = None,
) -> Path:
    """Write an extracted model: ``model.safetensors`` and ``plan.json``, no pickle.

    A model of the transformers library, unless it is a reference network of natsel, gets its
    configuration too, so that ``from_pretrained`` reads the folder: a plain one where all layers
    have the same width, else, and where layers hold compressed rows, with a small module beside it
    that ``trust_remote_code=True`` allows; without, ``from_pretrained`` refuses. Such a model need
    not have been extracted: one that was read, trained or merged can be saved again. What lies
    beside the model in the folder that it was read from (tokenizer, processors, chat template) is
    copied, unless files of these names are there; code never is. Its model card goes along if
    natsel wrote it and the weights are the same.

    The files are replaced together: whatever happens while saving, :func:`natsel.load` finds the
    old model or the new one. Other files in the folder stay.

    Of a model under ``fully_shard``, every process has to call it; the first one writes, and holds
    the whole of it meanwhile.

    Args:
        small: a model returned by :func:`natsel.extract`.
        folder: where; it is made if it is not there.
        constructor: positional and named arguments that made the dense model, for a class of your
            own: ``natsel.load(folder, constructor=MyNet)`` passes them on. They must be JSON, in
            which a tuple becomes a list. A model may also have them as ``model.constructor``.
        tokenizer: a tokenizer or processor of the transformers library, to be saved in place of
            what lies beside the model.
        card: write a model card, ``README.md``: of the result of a run, as ``result.json`` has it;
            or True, of what the plan says; or a text of your own. A ``README.md`` that natsel did
            not write stays, with a warning.

    Returns:
        The folder.

    Raises:
        ValueError: if the model was not extracted by natsel, the arguments are not JSON, the
            tokenizer has more tokens than the model has embeddings, or the folder holds files of
            the same names that natsel did not save.
        OSError: if something cannot be written; what was there is then untouched.

    Example:
        >>> import tempfile, torch, natsel
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
        >>> scores = natsel.score(natsel.discover(model, (torch.zeros(1, 4),)), "magnitude")
        >>> small = natsel.extract(model, natsel.select(scores, natsel.Sparsity(0.5)))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     natsel.load(save(small, folder), model=model)[0]
        Linear(in_features=4, out_features=4, bias=True)
    """
    folder = Path(folder)
    if (spread := spread_of(small)) is not None:
        options = {"constructor": constructor, "tokenizer": tokenizer, "card": card}
        first = is_first(spread)
        whole = gathered_copy(small, keep=first)
        with together(spread, "write the model"):
            return save(whole, folder, **options) if first else folder
    # A reference network is rebuilt by its name, whatever library its parts are from.
    is_named = isinstance(getattr(small, "constructor", None), dict)
    known = pretrained(small) if constructor is None and not is_named else None
    recorded = known.constructor if known is not None else None
    if known is None:
        plan_of(small)
        recorded = _constructor(small, constructor)
    before = carried(folder)
    with ExitStack() as stack:
        if tokenizer is not None:
            files = stack.enter_context(written(tokenizer, small))
        else:
            files = beside(small) if known is not None else {}
        stack.enter_context(carrying(files, folder, before, strict=tokenizer is not None))
        stack.enter_context(carrying_card(card, small, folder, known))
        recorded = {n: v for n, v in (recorded or {}).items() if n != BESIDE}
        if files:
            recorded[BESIDE] = seals(files)
        return _write(small, folder, recorded or None, known)


def _write(
    small: nn.Module, folder: Path, constructor: dict[str, Any] | None, known: Pretrained | None
) -> Path:
    """Write a model, with its configuration if it is one of the transformers library."""
    if known is None:
        return write_model(small, folder, constructor=constructor)
    if has_plan(small):
        plan = plan_of(small)
        plan = replace(plan, attributes={**known.numbers, **plan.attributes})
    else:
        plan = Plan.of_whole(small, known.numbers)
    return write_model(
        small,
        folder,
        constructor=constructor,
        companions=known.companions,
        left_out=known.left_out,
        repeated=known.repeated,
        absent=known.absent,
        plan=plan,
    )


def _constructor(small: nn.Module, given: object) -> dict[str, Any] | None:
    """Return what the plan says of how the dense model was made."""
    if given is None:
        own = getattr(small, "constructor", None)
        if isinstance(own, dict) and set(own) == {"name", "arguments"}:
            return own
        given = own if isinstance(own, tuple) else None
    if given is None:
        return plan_of(small).constructor
    allowed = "(args, kwargs), a pair of a sequence and a mapping of what JSON can hold"
    if not (
        isinstance(given, tuple | list)
        and len(given) == 2
        and isinstance(given[0], list | tuple)
        and isinstance(given[1], Mapping)
    ):
        refuse("constructor", given, allowed)
    described = {"args": list(given[0]), "kwargs": dict(given[1])}
    try:
        json.dumps(described, allow_nan=False)
    except (TypeError, ValueError):
        refuse("constructor", given, allowed)
    return described
