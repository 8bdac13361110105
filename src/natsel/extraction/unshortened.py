"""A small model under the names of the dense one, where whole blocks went."""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from natsel.communities import Communities
from natsel.communities.branches.branch import Shortening
from natsel.communities.copies import copied
from natsel.communities.surgery.surgery import remove, shortened_by
from natsel.communities.tensors import tensors_of
from natsel.selection import Survivors

GONE = "it went with its branch"


class Unshortened:
    """A small model as it would be had no block left its list: both models have one set of names.

    Modules of branches that are gone compute nothing there, as they do in blocks that stay. All
    other parameters and buffers are those of the small model: what changes them, changes it.

    Args:
        base: the dense model.
        small: what was extracted from it.
        known: the communities that the survivors belong to.
        survivors: what it holds.
    """

    def __init__(
        self, base: nn.Module, small: nn.Module, known: Communities, survivors: Survivors
    ) -> None:
        self._shortening: Shortening = shortened_by(base, known.values(), survivors)
        self.model = small
        if not self._shortening:
            return
        whole = [
            replace(c, branches=tuple(replace(b, block="") for b in c.branches))
            for c in known.values()
        ]
        twin = remove(base, whole, survivors)
        ours = tensors_of(small)
        same = {
            id(tensor): ours[after]
            for name, tensor in tensors_of(twin).items()
            if (after := self._shortening.renamed(name)) in ours
        }
        self.model = copied(twin, same).train(small.training)

    def gone(self, path: str) -> bool:
        """Tell whether a module of the dense model is no more."""
        after = self._shortening.renamed(path)
        stands = (stand.path for stand in self._shortening.stands)
        return after is None or any(after == s or after.startswith(f"{s}.") for s in stands)

    def renamed(self, name: str) -> str:
        """Return the name that a tensor which is left has in the small model."""
        after = self._shortening.renamed(name)
        assert after is not None
        return after
