"""What is hung onto the blocks of a model while tokens compete in it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.hooks import RemovableHandle

from natsel.common.errors import refuse
from natsel.live_populations.tokens.tokens import Attended
from natsel.live_populations.tokens.watching import Watching

FIRST = -1
"""What counts as a block: tokens leave before the first one."""


class Rounds(Protocol):
    """What happens to the tokens of an input, block by block."""

    @property
    def num_prefix(self) -> int:
        """How many of the first tokens stand for no place."""

    def begin(self, stream: Tensor) -> None:
        """An input comes to the first block."""

    def expected(self, block: int) -> int:
        """Return how many tokens come to a block."""

    def bias(self, block: int, stream: Tensor) -> Tensor | None:
        """Return what is added to the logits of each key at a block, ``[batch, tokens]``."""

    def leaves(self, block: int) -> bool:
        """Tell whether somebody leaves at a block."""

    def reduced(self, block: int, stream: Tensor, attended: Attended | None) -> Tensor:
        """Return the stream after the attention of a block, without those who leave."""

    def ended(self, stream: Tensor) -> Tensor:
        """Return what the last block gives."""


def hooked(rounds: Rounds, blocks: tuple[nn.Module, ...]) -> list[RemovableHandle]:
    """Let rounds be held in the blocks of a model.

    Args:
        rounds: what happens.
        blocks: in their order.

    Returns:
        What takes the hooks away.
    """
    running: list[tuple[nn.Module, Watching]] = []
    handles: list[Any] = [_Interrupted(running)]
    for block, module in enumerate(blocks):
        before, after = _hooks(rounds, block, block == len(blocks) - 1, running)
        handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
        handles.append(module.register_forward_hook(after, always_call=True))
    return handles


class _Interrupted:
    """Ends what a call has left that was stopped: hooks follow a forward only where it fails."""

    def __init__(self, running: list[tuple[nn.Module, Watching]]) -> None:
        self._running = running

    def remove(self) -> None:
        while self._running:
            self._running.pop()[1].__exit__(None, None, None)  # type: ignore[no-untyped-call]


def _hooks(
    rounds: Rounds, block: int, is_last: bool, running: list[tuple[nn.Module, Watching]]
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    def before(module: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> Any:
        told = f"{type(module).__name__} at block {block}"
        given = [x for x in tree_leaves((args, named)) if isinstance(x, Tensor)]
        stream = given[0] if given else None
        if stream is None or stream.dim() != 3:
            refuse("model", told, "blocks that are given tokens, [batch, tokens, width]")
        if module.training and getattr(module, "gradient_checkpointing", False):
            refuse("gradient_checkpointing", True, "False while tokens compete")
        if block == 0:
            _Interrupted(running).remove()
            rounds.begin(stream)
        _check_others(given[1:], told, rounds.expected(FIRST), rounds.num_prefix)
        changed = None
        if block == 0 and rounds.leaves(FIRST):
            thinned = rounds.reduced(FIRST, stream, None)
            changed = tree_map(lambda x: thinned if x is stream else x, (args, named))
            stream = thinned
        if stream.shape[1] != rounds.expected(block):
            seen = f"{told}, given {stream.shape[1]} tokens"
            refuse("model", seen, f"the {rounds.expected(block)} tokens that the block before gave")
        bias = rounds.bias(block, stream)
        leaves = rounds.leaves(block)
        if bias is None and not leaves:
            return changed
        at_sum = partial(rounds.reduced, block) if leaves else None
        watching = Watching(told, stream, bias, at_sum)
        watching.__enter__()  # type: ignore[no-untyped-call]
        running.append((module, watching))
        return changed

    def after(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        watching = None
        if running and running[-1][0] is module:
            watching = running.pop()[1]
            watching.__exit__(None, None, None)  # type: ignore[no-untyped-call]
        if output is None:
            return None  # forward has failed
        stream = output[0] if isinstance(output, tuple) else output
        if watching is not None:
            attended = watching.require()
            if watching.at_sum is not None and not watching.summed:
                stream = watching.at_sum(stream, attended)
        if is_last:
            stream = rounds.ended(stream)
        return (stream, *output[1:]) if isinstance(output, tuple) else stream

    return before, after


def _check_others(given: list[Tensor], told: str, num_tokens: int, num_prefix: int) -> None:
    """Refuse what tells blocks of each place: it would have to go where tokens go."""
    for other in given:
        if num_tokens in other.shape or num_tokens - num_prefix in other.shape:
            seen = f"{told}, given a tensor of shape {tuple(other.shape)} for {num_tokens} tokens"
            refuse("model", seen, "blocks that are given tokens alone: no mask, no positions")
