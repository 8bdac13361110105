"""A branch: what is added to a stream, and everything that only it needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from natsel.common.errors import refuse
from natsel.communities.cost import Cost


@dataclass(frozen=True)
class Stand:
    """What takes the place of a module that went with its branch.

    Attributes:
        path: of the module.
        zero: whether zeros come out of it, in place of what enters it.
        arity: how many values the module returned; 0 where it was one tensor.
    """

    path: str
    zero: bool
    arity: int = 0

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Stand:
        """Return what ``asdict`` made plain data.

        Raises:
            ValueError: if it is something else.
        """
        path, zero, arity = (data.get(name) for name in ("path", "zero", "arity"))
        if type(path) is not str or type(zero) is not bool or type(arity) is not int or arity < 0:
            refuse("plan branches", dict(data), "a path, whether zeros come out, and a count")
        return cls(path, zero, arity)


NO_COST = Cost(0, 0.0)


@dataclass(frozen=True)
class Branch:
    """One branch of a stream.

    Attributes:
        name: path of the module that what is added comes out of.
        holder: path of the smallest module that holds the branch and its sum.
        gates: parameters that are all its last operators read: while they are 0 it adds 0, and its
            mass multiplies there.
        scale: whether a factor on the gates is one on what it adds; under a normalisation of its
            own it is not.
        tensors: parameters and buffers that only it reads, each under its first name.
        stands: the outermost modules that only it needs.
        cost: of all that goes with it.
        block: path of the block of a list that goes as a whole when all branches in it go; empty
            where it stays, for what is left of it does something.
    """

    name: str
    holder: str
    gates: tuple[str, ...]
    scale: bool
    tensors: tuple[str, ...]
    stands: tuple[Stand, ...]
    cost: Cost = NO_COST
    block: str = ""


@dataclass(frozen=True)
class Shortening:
    """What the removal of branches does to the modules of a model, as plain data.

    Attributes:
        stands: modules that others take the place of.
        dropped: blocks that go as a whole, by the path of the list that holds them.
        numbers: attributes that count blocks, by ``module.attribute`` with the paths that modules
            have afterwards.
    """

    stands: tuple[Stand, ...] = ()
    dropped: Mapping[str, tuple[int, ...]] | None = None
    numbers: Mapping[str, int] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, as JSON holds it."""
        return {
            "stands": [asdict(stand) for stand in self.stands],
            "dropped": {path: list(gone) for path, gone in (self.dropped or {}).items()},
            "numbers": dict(self.numbers or {}),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Shortening:
        """Return what :meth:`to_dict` turned into plain data.

        Raises:
            ValueError: if it is something else.
        """
        stands, dropped, numbers = (data.get(n) for n in ("stands", "dropped", "numbers"))
        if not (isinstance(stands, Sequence) and isinstance(dropped, Mapping)):
            refuse("plan branches", sorted(data), "stands, dropped and numbers")
        if not isinstance(numbers, Mapping) or any(type(n) is not int for n in numbers.values()):
            refuse("plan branches", sorted(data), "stands, dropped and numbers")
        for path, gone in dropped.items():
            if not isinstance(gone, list) or any(type(n) is not int for n in gone):
                refuse(f"plan branches {path}", gone, "the numbers of blocks")
        return cls(
            tuple(Stand.from_dict(stand) for stand in stands),
            {path: tuple(gone) for path, gone in dropped.items()},
            dict(numbers),
        )
