"""What a child shares with its parent is not run again: all before the first block that differs.

The hidden states that enter the blocks of one selection, the base, are held for each window. A
selection that differs from it from some block on begins there, and comes to the same numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from natsel.blockwise import Chain, Held, OnDisk, Store, begun, chains_of
from natsel.common.calls import Inputs, call, logits_of, without_cache
from natsel.common.folders import make_folder
from natsel.common.modes import evaluating

ROOM = 2**30
"""Bytes of hidden states that are held."""


class Prefix:
    """Hidden states of one selection, and where others may begin.

    Only where the blocks of a chain return the stream alone, and nothing but the next block reads
    what one returns, can a model begin in its middle: that is tried once, with NaN in the place of
    what would be missing. Elsewhere nothing is held, and all runs.

    Args:
        model: whose blocks they are.
        owned: by the name of what selections are of, the tensors of each of its populations, or of
            all alike.
        inputs: of one window.
        num_windows: how many there are.
        at_once: of how many of them states are wanted at a time, at least.
        room: bytes for the states: of as many windows as fit, and of fewer blocks where those of
            ``at_once`` windows do not.
        store: where they are held; in memory by default.

    Attributes:
        chain: whose blocks are begun at; None where there is none.
    """

    def __init__(
        self,
        model: nn.Module,
        owned: Mapping[str, Sequence[Sequence[str]]],
        inputs: Inputs,
        *,
        num_windows: int,
        at_once: int,
        room: int = ROOM,
        store: Store | None = None,
    ) -> None:
        self._store = Held() if store is None else store
        self._base: dict[str, Tensor] | None = None
        self._there: set[tuple[int, int]] = set()
        self._names = list(owned)
        self.chain = _free_chain(model, inputs)
        self._slots: dict[int, int] = {}
        self._kept: tuple[int, ...] = ()
        if self.chain is None:
            return
        size = max(1, _bytes_of(model, self.chain, inputs))
        fit = room // (size * (len(self.chain) - 1))
        self._num_slots = min(num_windows, max(at_once, fit))
        most = max(1, room // (size * self._num_slots))
        step = -(-(len(self.chain) - 1) // most)
        self._kept = tuple(range(1, len(self.chain), step))
        self._first = [_first_blocks(each, self.chain) for each in owned.values()]

    @contextmanager
    def offloaded(self, path: str | Path | None) -> Iterator[None]:
        """Hold states in files for a while, in a folder of their own that goes afterwards.

        Args:
            path: where that folder is made; None leaves the states where they are.
        """
        if path is None:
            yield
            return
        before = self._store
        make_folder(Path(path), "offload")
        with TemporaryDirectory(prefix="states-", dir=path) as own:
            self._store, self._there = OnDisk(own), set()
            try:
                yield
            finally:
                self._store, self._there = before, set()

    def rebase(self, survivors: Mapping[str, Tensor]) -> None:
        """Let a selection be the one whose states are held; those of another are let go."""
        new = {name: mask.clone() for name, mask in survivors.items()}
        if self._base is not None and all(torch.equal(new[n], self._base[n]) for n in new):
            return
        # What both have in common stays.
        same = self._common(new) if self._base is not None and self.chain is not None else 0
        self._there = {(w, n) for w, n in self._there if n <= same}
        self._base = new

    @contextmanager
    def running(
        self, model: nn.Module, survivors: Mapping[str, Tensor], window: int
    ) -> Iterator[None]:
        """Let the masked model begin where it differs from the base; of the base, hold states.

        Args:
            model: without what does not survive.
            survivors: one boolean tensor per community.
            window: which one it runs on.
        """
        if self.chain is None or self._base is None:
            yield
            return
        self._make_room(window)
        same = self._common(survivors)
        there = [n for n in self._kept if n <= same and (window, n) in self._there]
        start = max(there, default=0)
        with ExitStack() as stack:
            for number in (n for n in self._kept if start < n <= same):
                block = model.get_submodule(self.chain.paths[number])
                hook = self._noting(window, number)
                stack.callback(block.register_forward_pre_hook(hook, with_kwargs=True).remove)
            hidden = self._store.get(self._place(window, start)) if start else None
            with nullcontext() if hidden is None else begun(model, self.chain, start, hidden):
                yield

    def _common(self, survivors: Mapping[str, Tensor]) -> int:
        """Return the number of the first block that differs from the base; all: their count."""
        assert self.chain is not None
        assert self._base is not None
        found = len(self.chain)
        for name, first in zip(self._names, self._first, strict=True):
            differs = survivors[name] != self._base[name]
            if bool(differs.any()):
                found = min(found, int(first.expand(differs.shape)[differs].min()))
        return found

    def _make_room(self, window: int) -> None:
        """Give a window a slot; the one that was begun first gives its own where none is free."""
        if window in self._slots:
            return
        slot = len(self._slots)
        if slot == self._num_slots:
            oldest = next(iter(self._slots))
            slot = self._slots.pop(oldest)
            self._there = {(w, n) for w, n in self._there if w != oldest}
        self._slots[window] = slot

    def _place(self, window: int, number: int) -> int:
        assert self.chain is not None
        return self._slots[window] * len(self.chain) + number

    def _noting(self, window: int, number: int) -> Any:
        def enters(_: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> None:
            hidden = next(iter((*args, *named.values())))
            # A block may write over what it is given.
            self._store.put(self._place(window, number), hidden.detach().clone())
            self._there.add((window, number))

        return enters


def _first_blocks(owned: Sequence[Sequence[str]], chain: Chain) -> Tensor:
    """Return for each population the first block in which anything is its own.

    What is outside of the blocks, wherever it is, counts as before all of them.
    """
    return torch.tensor([_first(names, chain) for names in owned])


def _first(names: Sequence[str], chain: Chain) -> int:
    places = [
        next((n for n, path in enumerate(chain.paths) if name.startswith(f"{path}.")), 0)
        for name in names
    ]
    return min(places, default=0)


def _free_chain(model: nn.Module, inputs: Inputs) -> Chain | None:
    """Return the longest chain whose blocks are read by nothing but the next one."""
    for chain in sorted(chains_of(model, inputs), key=len, reverse=True):
        if any(chain.arity):
            continue
        last = len(chain) - 1
        seen: list[Tensor] = []

        def enters(
            _: nn.Module, args: Any, named: dict[str, Any], seen: list[Tensor] = seen
        ) -> None:
            seen.append(next(iter((*args, *named.values()))).detach().clone())

        block = model.get_submodule(chain.paths[last])
        with evaluating(model), without_cache(model), torch.no_grad():
            handle = block.register_forward_pre_hook(enters, with_kwargs=True)
            try:
                whole = logits_of(call(model, inputs))
            finally:
                handle.remove()
            with begun(model, chain, last, seen[0], marked=True):
                again = logits_of(call(model, inputs))
        if torch.equal(whole, again):
            return chain
    return None


def _bytes_of(model: nn.Module, chain: Chain, inputs: Inputs) -> int:
    """Return how many bytes the largest hidden state takes that enters a block."""
    sizes = [0]

    def enters(_: nn.Module, args: Any, named: dict[str, Any]) -> None:
        hidden = next(iter((*args, *named.values())))
        sizes.append(hidden.numel() * hidden.element_size())

    with ExitStack() as stack, evaluating(model), without_cache(model), torch.no_grad():
        for path in chain.paths:
            block = model.get_submodule(path)
            handle = block.register_forward_pre_hook(enters, with_kwargs=True)
            stack.callback(handle.remove)
        call(model, inputs)
    return max(sizes)
