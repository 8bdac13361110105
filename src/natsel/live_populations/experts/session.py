"""Rounds of selection between a router and its experts: who leaves is not computed."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from natsel.common.errors import NonFiniteError, refuse
from natsel.live_populations.allowances import Allowance, Held
from natsel.live_populations.experts.choices import Choices
from natsel.live_populations.experts.choosing import (
    reweighted,
    survivors_of_call,
    survivors_of_tokens,
)
from natsel.live_populations.experts.registry import ExpertMethod
from natsel.live_populations.experts.routers import Block
from natsel.selection import Sparsity


class Record(NamedTuple):
    """Who stayed in the last call of a layer.

    Attributes:
        experts: that each token chose, ``[tokens, chosen]``.
        kept: which of these choices stayed, the same shape.
        tokens: which tokens are no padding, ``[tokens]``.
    """

    experts: Tensor
    kept: Tensor
    tokens: Tensor


@dataclass
class Session:
    """A method at work between routers and experts.

    Attributes:
        method: who is fit.
        budget: how many choices go or stay.
        floor: how many of its fittest each token keeps.
        scope: who shares a budget: "token" (each its own) or "layer" (all tokens of a call).
        generator: the only source of chance.
        blocks: the places where tokens choose.
        records: who stayed, after the last call.
    """

    method: ExpertMethod
    budget: Allowance
    floor: int
    scope: str
    generator: torch.Generator
    blocks: Mapping[int, Block]
    records: dict[int, Record] = field(default_factory=dict)
    _padding: Tensor | None = None
    _waiting: dict[int, tuple[Tensor, tuple[int, ...]]] = field(default_factory=dict)
    _called: set[int] = field(default_factory=set)

    def hooked(self, model: nn.Module) -> list[RemovableHandle]:
        """Stand between routers and experts."""
        forward = inspect.signature(model.forward)
        handles = [
            model.register_forward_pre_hook(
                lambda _, args, named: self._begin(forward, args, named), with_kwargs=True
            ),
            model.register_forward_hook(lambda *_: self._end(model)),
        ]
        for index, block in self.blocks.items():
            handles += [
                block.experts.register_forward_pre_hook(self._before(index), with_kwargs=True),
                block.experts.register_forward_hook(self._after(index)),
            ]
        return handles

    def _begin(self, forward: inspect.Signature, args: Any, named: Any) -> None:
        mask = named.get("attention_mask")
        if mask is None and args:
            mask = forward.bind_partial(*args).arguments.get("attention_mask")
        told = isinstance(mask, Tensor) and mask.dim() == 2 and not bool(mask.all())
        self._padding = mask.bool() if told else None
        self._called.clear()
        self._waiting.clear()

    def _end(self, model: nn.Module) -> None:
        self._padding = None
        if missing := [index for index in self.blocks if index not in self._called]:
            # A kernel may take the place of a block.
            told = f"experts that are called as modules; those of layer {missing[0]} were not"
            refuse("model", type(model).__name__, told)

    def _before(self, index: int) -> Callable[..., Any]:
        block = self.blocks[index]
        names = list(inspect.signature(inspect.unwrap(type(block.experts).forward)).parameters)[1:4]

        def thin(module: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> Any:
            given = dict(zip(names, args, strict=False)) | named
            hidden, experts, weights = (given[name] for name in names)
            kept = self._round(index, hidden, experts, weights)
            if bool(kept.all()):
                return None
            weights = reweighted(
                weights, kept, renormalized=block.routing.renormalizes(block.router)
            )
            slots = kept.reshape(-1).nonzero().reshape(-1)
            self._waiting[index] = (slots, tuple(experts.shape))
            tokens = slots // experts.shape[1]
            single = (experts.reshape(-1)[slots, None], weights.reshape(-1)[slots, None])
            return (hidden[tokens], *single), {}

        return thin

    def _after(self, index: int) -> Callable[..., Any]:
        def gather(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
            if index not in self._waiting:
                return None
            slots, (tokens, chosen) = self._waiting.pop(index)
            # Places of their own, then a sum: the same order of addition on every device.
            full = output.new_zeros(tokens * chosen, output.shape[-1]).index_copy(0, slots, output)
            dtype = torch.promote_types(output.dtype, torch.float32)
            return full.view(tokens, chosen, -1).sum(1, dtype=dtype).to(output.dtype)

        return gather

    @torch.no_grad()
    def _round(self, index: int, hidden: Tensor, experts: Tensor, weights: Tensor) -> Tensor:
        self._called.add(index)
        tokens = self._tokens(len(experts), experts.device)
        kept = torch.ones_like(experts, dtype=torch.bool)
        if not (isinstance(self.budget, Sparsity) and self.budget.value == 0) or (
            self.method.extinct is not None
        ):
            choices = Choices(weights, experts, hidden, tokens, index, self.generator)
            kept = self._survivors(choices)
        self.records[index] = Record(experts, kept, tokens)
        return kept

    def _survivors(self, choices: Choices) -> Tensor:
        scores = _checked(self.method.score(choices), choices, self.method.name)
        alive = torch.ones_like(scores, dtype=torch.bool)
        if self.method.extinct is not None:
            best = survivors_of_tokens(scores, alive, self.floor)
            alive = ~self.method.extinct(choices) | best
        if self.budget is None:
            return alive
        chosen = scores.shape[1]
        if self.scope == "token":
            return survivors_of_tokens(scores, alive, kept_of(self.budget, chosen))
        each = int(choices.alive.sum())
        kept = kept_of(self.budget, each * chosen, each)
        return survivors_of_call(scores, alive, choices.alive, kept, self.floor)

    def _tokens(self, count: int, device: torch.device) -> Tensor:
        """Return which of the tokens of a call are no padding."""
        mask = self._padding
        if mask is None:
            return torch.ones(count, dtype=torch.bool, device=device)
        rows = len(mask)
        if count % rows or count // rows > mask.shape[1]:
            refuse("attention_mask", mask, f"a mask of the {count} tokens that choose experts")
        return mask[:, mask.shape[1] - count // rows :].reshape(-1).to(device)


def kept_of(budget: Allowance, choices: int, tokens: int = 1) -> int:
    """Return how many choices stay.

    Args:
        budget: a share that goes, or a count of each token that stays.
        choices: how many there are.
        tokens: of how many tokens.

    Example:
        >>> kept_of(Sparsity(0.5), 12), kept_of(Held(2), 12, tokens=3)
        (6, 6)
    """
    if isinstance(budget, Held):
        return min(choices, budget.value * tokens)
    assert isinstance(budget, Sparsity)
    return choices - budget.count(choices)


def _checked(scores: object, choices: Choices, name: str) -> Tensor:
    shape = tuple(choices.experts.shape)
    if not isinstance(scores, Tensor) or tuple(scores.shape) != shape:
        told = tuple(scores.shape) if isinstance(scores, Tensor) else scores
        refuse("method", name, f"scores of shape {shape}, this gave {told}")
    if not bool(scores.isfinite().all()):
        raise NonFiniteError(f"method {name!r} gave NaN or infinity at layer {choices.layer}")
    return scores
