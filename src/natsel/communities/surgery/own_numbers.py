"""A configuration that a module shares with others, with some numbers of its own."""

from __future__ import annotations

from typing import Any


class OwnNumbers:
    """Reads and writes like a configuration that is shared, but for some numbers.

    Layers of one model have one configuration; where they lose different counts, each has its own.

    Args:
        shared: what everything else is read from and written to.
        numbers: what this one says.

    Example:
        >>> from types import SimpleNamespace
        >>> shared = SimpleNamespace(heads=4, attention="eager")
        >>> own = OwnNumbers(shared, heads=3)
        >>> shared.attention = "sdpa"
        >>> own.heads, own.attention, shared.heads
        (3, 'sdpa', 4)
    """

    def __init__(self, shared: Any, **numbers: int) -> None:
        if isinstance(shared, OwnNumbers):
            known = vars(shared)
            shared, numbers = known["_shared"], {**known["_numbers"], **numbers}
        vars(self).update(_shared=shared, _numbers=numbers)

    def __getattr__(self, name: str) -> Any:
        known = vars(self)
        # A copy that is being made has nothing yet, and asks for its own ways of being copied.
        if name.startswith("__") or "_shared" not in known:
            raise AttributeError(name)
        return (
            known["_numbers"][name]
            if name in known["_numbers"]
            else getattr(known["_shared"], name)
        )

    def __setattr__(self, name: str, value: Any) -> None:
        known = vars(self)
        if name in known["_numbers"]:
            known["_numbers"][name] = value
        else:
            setattr(known["_shared"], name, value)
