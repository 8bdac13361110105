"""That fewer experts compute what all compute where the router's own arithmetic closes the others.

After the top-k of a router, what it found of who left becomes 0 (minus infinity of logits); the
router goes on, normalizes and scales as it does, and all of the chosen are computed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from natsel.live_populations.experts.attach import attach
from natsel.live_populations.experts.registry import ExpertMethod
from natsel.live_populations.experts.routers import Block, blocks_of
from natsel.live_populations.experts.session import Record


def logits_of(
    model: Any,
    method: ExpertMethod,
    budget: Any,
    inputs: Tensor,
    mask: Tensor | None,
    engine: Mapping[str, Any],
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the logits with fewer experts, under the masks, and with all.

    Args:
        model: that routes.
        method: who is fit.
        budget: how many go.
        inputs: token ids, ``[batch, tokens]``.
        mask: 0 where they are padding, or None.
        engine: floor, scope and seed.
    """
    real = torch.ones_like(inputs, dtype=torch.bool) if mask is None else mask.bool()
    given = {"input_ids": inputs, "attention_mask": mask}
    with attach(model, method, budget, **engine) as handle:
        fewer = model(**given).logits[real]
        records = dict(handle._session.records)
    with masked(blocks_of(model), records):
        reference = model(**given).logits[real]
    return fewer, reference, model(**given).logits[real]


@contextmanager
def masked(blocks: Mapping[int, Block], records: Mapping[int, Record]) -> Iterator[None]:
    """Let routers give nothing to the choices that did not stay, while this context lasts."""
    with ExitStack() as stack:
        for index, block in blocks.items():
            mode = _Masked(records[index], -torch.inf if block.routing.logits else 0.0)
            stack.callback(mode.end)
            for handle in mode.hooked(block.router):
                stack.callback(handle.remove)
        yield


class _Masked(TorchFunctionMode):
    """Masks what a router finds by the indices of the experts it chose."""

    def __init__(self, record: Record, fill: float) -> None:
        super().__init__()
        self.fill = fill
        self.is_on = False
        num_experts = int(record.experts.max()) + 1
        shape = (len(record.experts), num_experts)
        none = torch.zeros(shape, dtype=torch.bool, device=record.experts.device)
        self.chosen = none.scatter(1, record.experts, True)
        self.kept = none.scatter(1, record.experts, record.kept)
        self.shape = record.experts.shape

    def hooked(self, router: nn.Module) -> list[Any]:
        """Be on while a router runs."""

        def enter(*_: Any) -> None:
            self.is_on = True
            self.__enter__()  # type: ignore[no-untyped-call]

        return [
            router.register_forward_pre_hook(enter),
            router.register_forward_hook(lambda *_: self.end(), always_call=True),
        ]

    def end(self) -> None:
        """Be off; also where a router was stopped, which calls no hook."""
        if self.is_on:
            self.is_on = False
            self.__exit__(None, None, None)  # type: ignore[no-untyped-call]

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        found = func(*args, **kwargs)
        name = getattr(func, "__name__", "")
        if name == "topk":
            return self._masked(found[0], found[1]), found[1]
        if name == "gather":
            return self._masked(found, kwargs.get("index", args[-1]))
        return found

    def _masked(self, values: Tensor, index: Tensor) -> Tensor:
        if values.shape != self.shape or int(index.max()) >= self.chosen.shape[1]:
            return values
        if not bool(self.chosen.gather(1, index).all()):
            return values  # these are groups of experts
        return values.masked_fill(~self.kept.gather(1, index), self.fill)
