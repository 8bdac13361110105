"""A model as if only some of it were there, for a pass: nothing is copied that stays as it is.

Branches that are out are not run: what stands in for them hands on what it is given. Where modules
run on fewer populations as they are, the weights of the survivors are cut out; elsewhere what reads
the others is 0.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

import torch
from torch import Tensor, nn

from natsel.adaptive.arena import runs_cut
from natsel.communities import Communities, Community
from natsel.communities.branches.absent import Absent
from natsel.communities.branches.branch import Branch
from natsel.communities.gates.gates import folded
from natsel.communities.surgery.surgery import cut, dead_branches, silence
from natsel.communities.tensors import tensors_of

KEPT = 2
"""How many versions of one weight are remembered: of the parent, and of the child."""


class Lends(Protocol):
    """What lends a model without what does not survive.

    Attributes:
        model: the dense one.
        owned: by the name of what selections are of, the tensors of each of its populations, or of
            all alike.
    """

    model: nn.Module
    owned: Mapping[str, Sequence[Sequence[str]]]

    def masked(
        self, survivors: Mapping[str, Tensor]
    ) -> AbstractContextManager[tuple[nn.Module, dict[str, Tensor]]]:
        """Lend the model, and the weights that it has to run with."""


class Masking:
    """Runs one model with any of its populations out.

    Args:
        communities: whose populations go; the model is as it was after each pass.
    """

    def __init__(self, communities: Communities) -> None:
        self.model = folded(communities.model)
        self._found = list(communities.values())
        self._tensors = tensors_of(self.model)
        self._cuts = {c.name for c in self._found if runs_cut(self.model, c)}
        self._routed = [c for c in self._found if any(p.role == "route" for p in c.slices)]
        self.owned: Mapping[str, Sequence[Sequence[str]]] = {c.name: _owned(c) for c in self._found}
        self._made: dict[str, dict[tuple[object, ...], Tensor]] = defaultdict(dict)

    @contextmanager
    def masked(
        self, survivors: Mapping[str, Tensor]
    ) -> Iterator[tuple[nn.Module, dict[str, Tensor]]]:
        """Lend the model without what does not survive, and the weights that it has to run with.

        Args:
            survivors: one boolean tensor per community.
        """
        model = self.model
        closed = [c for c in self._routed if not bool(survivors[c.name].all())]
        if closed:
            model = silence(model, closed, survivors, share=True)
        gone = [b for c in self._found for b in dead_branches(c, survivors)]
        dead = {name for branch in gone for name in branch.tensors}
        replaced = self._replaced(survivors, dead, {c.name for c in closed})
        with without(model, gone):
            yield model, replaced

    def _replaced(
        self, survivors: Mapping[str, Tensor], dead: set[str], done: set[str]
    ) -> dict[str, Tensor]:
        """Return the weights that change; those that the last passes had are not made again."""
        changes: dict[str, list[tuple[str, int, Tensor, bool]]] = defaultdict(list)
        for community in self._found:
            gone = ~survivors[community.name]
            if community.name in done or not bool(gone.any()):
                continue
            cuts = community.name in self._cuts
            for part in community.slices if cuts else community.silenced:
                if part.tensor not in dead:
                    places = part.index[gone].reshape(-1)
                    changes[part.tensor].append((community.name, part.axis, places, cuts))
        found = {}
        for tensor, parts in changes.items():
            key = tuple((name, axis, places.numpy().tobytes()) for name, axis, places, _ in parts)
            made = self._made[tensor]
            if key not in made:
                while len(made) >= KEPT:
                    del made[next(iter(made))]
                made[key] = _changed(self._tensors[tensor], parts)
            made[key] = made.pop(key)  # the last used is the last to go
            found[tensor] = made[key]
        return found


def _owned(community: Community) -> list[list[str]]:
    if community.branches:
        return [[*b.tensors, *b.gates] for b in community.branches]
    return [[part.tensor for part in (*community.slices, *community.gates)]]


def _changed(tensor: Tensor, parts: list[tuple[str, int, Tensor, bool]]) -> Tensor:
    result = tensor.detach()
    kept: dict[int, Tensor] = {}
    for _, axis, places, cuts in parts:
        if cuts:
            stays = kept.setdefault(axis, torch.ones(tensor.shape[axis], dtype=torch.bool))
            stays[places] = False
        else:
            result = result.index_fill(axis, places.to(tensor.device), 0)
    return cut(result, {axis: stays.nonzero().reshape(-1) for axis, stays in kept.items()})


@contextmanager
def without(model: nn.Module, gone: list[Branch]) -> Iterator[None]:
    """Take branches out of a model for a while: nothing of them runs.

    Args:
        model: whose modules come back afterwards, the very same.
        gone: branches of it.
    """
    own: list[tuple[nn.Module, str, nn.Module]] = []
    try:
        for stand in (s for branch in gone for s in branch.stands):
            path, _, name = stand.path.rpartition(".")
            parent = model.get_submodule(path)
            module = parent._modules[name]
            assert module is not None
            own.append((parent, name, module))
            parent._modules[name] = Absent(stand.zero, stand.arity, stand.passed)
        yield
    finally:
        for parent, name, module in reversed(own):
            parent._modules[name] = module
