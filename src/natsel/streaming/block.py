"""One block cut, verified on its own values, and compensated, while it is in memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from torch import Tensor, nn

from natsel.blockwise import Place, Store
from natsel.blockwise.alone import BLOCK, Alone, whole
from natsel.communities import Communities
from natsel.communities.surgery.surgery import reference, remove
from natsel.extraction.block import compensate_block
from natsel.extraction.consumers import consumers_of
from natsel.extraction.decide import decide_removal
from natsel.extraction.verification import VerificationError
from natsel.selection import Survivors


def cut_block(
    alone: Alone, known: Communities, masks: Mapping[str, Tensor], hidden: Tensor, path: str
) -> tuple[nn.Module, dict[str, Any] | None]:
    """Return what is left of a block, and how far it is from the masked one in float64.

    A community lies in one block, and all that follows reads nothing but what the block returns:
    so a model whose every cut block equals the masked one equals the masked model.

    Args:
        alone: the dense block.
        known: its communities there.
        masks: who survives, by the names there.
        hidden: a state that enters it.
        path: of the block in the whole model, for messages.

    Raises:
        VerificationError: if it does not equal the masked block.
    """
    survivors = Survivors(dict(masks), known)
    small = remove(alone, known.values(), survivors)
    if all(bool(mask.all()) for mask in masks.values()):
        return small, None
    masked = reference(alone, known.values(), survivors, share=True)
    found = decide_removal(alone, masked, small, survivors, known, (hidden,))
    if not found.passed:
        raise VerificationError(f"{path}, cut, differs from the masked block: {found.reason}")
    said = {"block": path, "error": found.error, "effect": found.effect}
    return small, {**said, "tolerance": found.tolerance, "precision": found.precision}


def compensated(
    dense: Place,
    small: nn.Module,
    known: Communities,
    masks: Mapping[str, Tensor],
    store: Store,
    path: str,
) -> dict[str, Any]:
    """Let what is left of a block take over what the rest did, in place; return what was done.

    Args:
        dense: the dense block, with what enters it in the dense model.
        small: what is left of it, alone.
        known: the communities.
        masks: who survived.
        store: what enters it in the small model.
        path: of the block in the whole model.
    """
    survivors = Survivors(dict(masks), known)
    consumers = consumers_of(dense.model, known, survivors)
    place = Place(dense.number, BLOCK, small.get_submodule(BLOCK), small, dense.feeds, store)
    lines, changed = [], []
    for line, names in compensate_block(dense, place, consumers):
        said = asdict(line)
        said["consumer"] = whole(line.consumer, path)
        said["communities"] = [whole(name, path) for name in line.communities]
        lines.append(said)
        changed += [whole(name, path) for name in names]
    return {"consumers": lines, "tensors": changed, "renormalized": 0}
