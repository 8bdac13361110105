"""A branch: what is added to a stream, and everything that only it needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
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
        passed: for each of these values by what name, or at what place, the module was given it,
            where it only hands it on; empty where it makes it.
    """

    path: str
    zero: bool
    arity: int = 0
    passed: tuple[str, ...] = ()

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Stand:
        """Return what ``asdict`` made plain data.

        Raises:
            ValueError: if it is something else.
        """
        path, zero, arity = (data.get(name) for name in ("path", "zero", "arity"))
        passed = data.get("passed", [])
        if type(path) is not str or type(zero) is not bool or type(arity) is not int or arity < 0:
            refuse("plan branches", dict(data), "a path, whether zeros come out, and a count")
        if not isinstance(passed, list | tuple) or any(type(name) is not str for name in passed):
            refuse("plan branches", dict(data), "names of what is handed on")
        return cls(path, zero, arity, tuple(passed))


@dataclass(frozen=True)
class Sight:
    """Where a value of the graph can be seen while the modules run.

    Attributes:
        path: of a module that is called once, and that has no other floating-point tensor there.
        leaves: whether it is what the module returns, in place of what enters it.
    """

    path: str
    leaves: bool


NO_COST = Cost(0, 0.0)
LEAST = 2
"""A stream of fewer branches is no community."""


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
        before: where the stream before the branch can be seen; None where no module shows it.
        adds: where what it adds can be seen, likewise.
        after: where the stream after it can be seen, likewise; None, too, where something else is
            added in the same place.
        axis: of the stream, from the end, along which one place of it lies.
    """

    name: str
    holder: str
    gates: tuple[str, ...]
    scale: bool
    tensors: tuple[str, ...]
    stands: tuple[Stand, ...]
    cost: Cost = NO_COST
    block: str = ""
    before: Sight | None = None
    adds: Sight | None = None
    after: Sight | None = None
    axis: int = -1


def mean_cost(branches: Sequence[Branch]) -> Cost:
    """Return what a branch costs on average."""
    parameters = sum(b.cost.parameters for b in branches) / len(branches)
    return Cost(round(parameters), sum(b.cost.macs for b in branches) / len(branches))


@dataclass(frozen=True)
class Dropped:
    """Blocks of a list that go as a whole.

    Attributes:
        numbers: which.
        size: how many blocks the list has with them.
    """

    numbers: tuple[int, ...]
    size: int


@dataclass(frozen=True)
class Shortening:
    """What the removal of branches does to the modules of a model.

    Attributes:
        dropped: blocks that go, by the path of the list that holds them.
        stands: modules that others take the place of, with the paths that they have once blocks
            are gone.
        numbers: attributes that count blocks, by ``module.attribute`` with such paths.
    """

    dropped: Mapping[str, Dropped] = field(default_factory=dict)
    stands: tuple[Stand, ...] = ()
    numbers: Mapping[str, int] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.dropped or self.stands)

    def renamed(self, name: str) -> str | None:
        """Return the name that something has once blocks are gone; None where it went with one.

        Example:
            >>> shortening = Shortening({"layers": Dropped((0, 2), 4)})
            >>> shortening.renamed("layers.3.mlp"), shortening.renamed("layers.2.mlp")
            ('layers.1.mlp', None)
        """
        for container, gone in self.dropped.items():
            head = f"{container}." if container else ""
            number, _, rest = name[len(head) :].partition(".")
            if not name.startswith(head) or not number.isdecimal():
                continue
            if int(number) in gone.numbers:
                return None
            before = sum(n < int(number) for n in gone.numbers)
            name = f"{head}{int(number) - before}" + (f".{rest}" if rest else "")
        return name

    def then(self, later: Shortening) -> Shortening:
        """Return the one shortening that comes of this one and a later one.

        Example:
            >>> first, second = (Shortening({"layers": Dropped((1,), n)}) for n in (4, 3))
            >>> first.then(second).dropped
            {'layers': Dropped(numbers=(1, 2), size=4)}
        """
        dropped = dict(self.dropped)
        for path, gone in later.dropped.items():
            before = dropped.get(path, Dropped((), gone.size))
            left = [n for n in range(before.size) if n not in before.numbers]
            more = (left[n] for n in gone.numbers)
            dropped[path] = Dropped(tuple(sorted((*before.numbers, *more))), before.size)
        renamed = [(later.renamed(s.path), s) for s in self.stands]
        stands = [replace(s, path=path) for path, s in renamed if path is not None]
        moved = {later.renamed(name): value for name, value in self.numbers.items()}
        numbers = {name: value for name, value in moved.items() if name is not None}
        return Shortening(dropped, (*stands, *later.stands), {**numbers, **later.numbers})

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, as JSON holds it."""
        return {
            "dropped": {p: [list(d.numbers), d.size] for p, d in self.dropped.items()},
            "stands": [asdict(stand) for stand in self.stands],
            "numbers": dict(self.numbers),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Shortening:
        """Return what :meth:`to_dict` turned into plain data.

        Raises:
            ValueError: if it is something else.
        """
        try:
            dropped = {
                str(path): Dropped(tuple(map(_whole, numbers)), _whole(size))
                for path, (numbers, size) in data["dropped"].items()
            }
            stands = tuple(Stand.from_dict(stand) for stand in data["stands"])
            numbers = {str(name): _whole(value) for name, value in data["numbers"].items()}
        except (KeyError, TypeError, AttributeError, ValueError):
            refuse("plan branches", dict(data), "dropped blocks, modules that stand in, numbers")
        return cls(dropped, stands, numbers)


def _whole(value: object) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r} is no count")
    return value
