"""What the blocks of a chain are given besides the hidden state, for every batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from natsel.blockwise.chain import Chain
from natsel.blockwise.store import Store
from natsel.common.batches import Data, inputs_for
from natsel.common.calls import Inputs, call, without_cache
from natsel.common.errors import refuse
from natsel.common.modes import evaluating


class _EndedError(BaseException):
    """Ends a forward pass; no ``except Exception`` of a model may take it for a failure."""


@dataclass(frozen=True, eq=False)
class Feed:
    """What one batch gives to the blocks of a chain.

    Attributes:
        inputs: of the whole model; they say what is padding.
        name: under which the hidden state is handed over; None by its place.
        args: for each block, what follows the hidden state by place.
        named: for each block, what is given by name.
    """

    inputs: Inputs
    name: str | None
    args: tuple[tuple[Any, ...], ...]
    named: tuple[dict[str, Any], ...]

    def run(self, number: int, block: nn.Module, hidden: Tensor) -> Tensor:
        """Run a block of the chain on a hidden state and return the next one.

        Args:
            number: of the block in the chain.
            block: is called; hooks on it and inside it see the call.
            hidden: enters it.
        """
        args, named = self.args[number], self.named[number]
        if self.name is None:
            left = block(hidden, *args, **named)
        else:
            left = block(*args, **{self.name: hidden, **named})
        return left if isinstance(left, Tensor) else left[0]


def feed(model: nn.Module, chain: Chain, data: Data, store: Store) -> list[Feed]:
    """Run all of a model that comes before a chain, over some batches.

    The blocks themselves do not run: each hands on what it was given. What follows the chain does
    not run either.

    Args:
        model: in evaluation mode meanwhile.
        chain: of it.
        data: batches.
        store: gets the hidden state that enters the first block, by the number of the batch.

    Returns:
        What each batch gives to each block besides.

    Raises:
        ValueError: if there is no batch.
    """
    feeds: list[Feed] = []
    with evaluating(model), without_cache(model), torch.no_grad():
        for batch in data:
            inputs = inputs_for(model, batch)
            seen: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
            with _handing_on(model, chain, seen.append), suppress(_EndedError):
                call(model, inputs)
            args, named = seen[0]
            name = None if args else next(iter(named))
            store.put(len(feeds), (args[0] if name is None else named[name]).detach())
            rest = tuple(a[1:] if name is None else a for a, _ in seen)
            others = tuple({n: v for n, v in k.items() if n != name} for _, k in seen)
            feeds.append(Feed(inputs, name, rest, others))
    if not feeds:
        refuse("data", "empty", "at least one batch")
    return feeds


def finish(model: nn.Module, chain: Chain, inputs: Inputs, hidden: Tensor) -> Any:
    """Run all of a model that comes after a chain, and return what the model does.

    The blocks themselves do not run. With gradients, where they are on, back to the hidden state.

    Args:
        model: in evaluation mode meanwhile.
        chain: of it.
        inputs: of the model.
        hidden: what left the last block for these inputs.

    Example:
        >>> model = nn.Sequential(nn.Sequential(nn.ReLU(), nn.Tanh()), nn.Softmax(-1))
        >>> chain = Chain(("0.0", "0.1"), (0, 0))
        >>> finish(model, chain, (torch.zeros(1, 2),), torch.ones(1, 2))
        tensor([[0.5000, 0.5000]])
    """
    with (
        evaluating(model),
        without_cache(model),
        _handing_on(model, chain, lambda _: None, last=hidden),
    ):
        return call(model, inputs)


@contextmanager
def _handing_on(
    model: nn.Module,
    chain: Chain,
    note: Callable[[tuple[tuple[Any, ...], dict[str, Any]]], None],
    *,
    last: Tensor | None = None,
) -> Iterator[None]:
    """Let blocks return what they are given, and the last of them end the pass, or return that."""

    def stub(number: int) -> Callable[..., Any]:
        def forward(*args: Any, **named: Any) -> Any:
            note((args, named))
            hidden = args[0] if args else next(iter(named.values()))
            if number + 1 == len(chain):
                if last is None:
                    raise _EndedError
                hidden = last
            arity = chain.arity[number]
            return (hidden, *([None] * (arity - 1))) if arity else hidden

        return forward

    with ExitStack() as stack:
        for number, path in enumerate(chain.paths):
            own = vars(model.get_submodule(path))
            # Its hooks are for what it does, and it does nothing here.
            for name, value in (("forward", stub(number)), *((hooks, {}) for hooks in _HOOKS)):
                stack.callback(_restore, own, name, own.get(name))
                own[name] = value
        yield


_HOOKS = ("_forward_pre_hooks", "_forward_hooks")


def _restore(own: dict[str, Any], name: str, before: Any) -> None:
    if before is None:
        del own[name]
    else:
        own[name] = before
