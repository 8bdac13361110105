"""A block's attention, seen while its forward runs, whatever class it is of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from natsel.common.errors import refuse
from natsel.live_populations.tokens.multihead import MULTIHEAD, multihead
from natsel.live_populations.tokens.tokens import Attended

FUSED = F.scaled_dot_product_attention
SOFTMAX = frozenset({F.softmax, torch.softmax, Tensor.softmax})
PRODUCTS = frozenset({torch.matmul, Tensor.matmul, Tensor.__matmul__})
SUMS = frozenset(
    {torch.add, Tensor.add, Tensor.add_, Tensor.__add__, Tensor.__radd__, Tensor.__iadd__}
)


class Watching(TorchFunctionMode):
    """Sees two operators of one block: its attention, and the sum that ends it.

    Attention is ``scaled_dot_product_attention``, that of ``nn.MultiheadAttention``, or a softmax
    over as many logits a query as there are tokens; ``bias`` is added to its logits. The sum is the
    first one afterwards that adds to what the block was given; its result is replaced by what
    ``at_sum`` makes of it, and the rest of the block goes on with that.

    Args:
        told: what to call the block in messages.
        stream: what the block was given, ``[batch, tokens, width]``.
        bias: on the logits of each key, ``[batch, tokens]``, or None.
        at_sum: what becomes of the stream after attention, or None.
    """

    def __init__(
        self,
        told: str,
        stream: Tensor,
        bias: Tensor | None,
        at_sum: Callable[[Tensor, Attended], Tensor] | None,
    ) -> None:
        super().__init__()
        self.told = told
        self.stream = stream
        self.bias = bias
        self.at_sum = at_sum
        self.attended: Attended | None = None
        self.summed = False
        self._product: tuple[Tensor, Tensor, Tensor] | None = None

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is FUSED:
            return self._fused(*args, **kwargs)
        if func in SOFTMAX:
            return self._softmax(func, args, kwargs)
        if func is MULTIHEAD:
            out, average = multihead(self.told, self._fused, *args, **kwargs)
            if average is None:
                return out, None
            weights = self.require().weights(slice(None))
            return out, weights.mean(1) if average else weights
        found = func(*args, **kwargs)
        if func in PRODUCTS and found.dim() == 4:
            self._product = (*args, found)
        elif func in SUMS and self._ends_attention(args):
            assert self.attended is not None
            self.summed = True
            if self.at_sum is not None:
                return self.at_sum(found, self.attended)
        return found

    def require(self) -> Attended:
        """Return what attention was computed from.

        Raises:
            ValueError: if there was none.
        """
        if self.attended is None:
            allowed = "blocks that ask scaled_dot_product_attention, or softmax of their logits"
            refuse("model", f"{self.told}, which shows no attention among its tokens", allowed)
        return self.attended

    def _ends_attention(self, args: tuple[Any, ...]) -> bool:
        if self.summed or self.attended is None:
            return False
        return any(x is self.stream for x in args[:2])

    def _fused(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        self._check(query.shape, query.shape[-2], key.shape[-2])
        if is_causal:
            refuse("model", f"{self.told} with causal attention", "attention among all tokens")
        mask = self._masked(attn_mask, query)
        if enable_gqa:
            groups = query.shape[1] // key.shape[1]
            key, value = (x.repeat_interleave(groups, 1) for x in (key, value))
        scaling = query.shape[-1] ** -0.5 if scale is None else scale

        def weights(rows: slice) -> Tensor:
            wide = torch.promote_types(query.dtype, torch.float32)
            logits = query[:, :, rows].to(wide) @ key.to(wide).transpose(-1, -2) * scaling
            if mask is not None:
                logits = logits + (mask if mask.shape[-2] == 1 else mask[..., rows, :])
            return logits.softmax(-1)

        self.attended = Attended(weights, key, query)
        return FUSED(query, key, value, mask, dropout_p, False, scale=scale)

    def _softmax(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        logits = args[0] if args else kwargs["input"]
        tokens = self.stream.shape[1]
        if logits.dim() < 3 or logits.shape[-1] != logits.shape[-2]:
            found: Tensor = func(*args, **kwargs)  # it is no attention
            return found
        self._check(logits.shape, logits.shape[-2], logits.shape[-1])
        if self.bias is not None:
            logits = logits + self._rows(logits)
        args = (logits, *args[1:]) if args else args
        weights: Tensor = func(*args, **({} if args else {"input": logits}), **_less(kwargs))
        query, key = None, None
        if self._product is not None and self._product[2].shape[-2:] == (tokens, tokens):
            query, key = self._product[0], self._product[1].transpose(-1, -2)
        self.attended = Attended(lambda rows: weights[:, :, rows], key, query)
        return weights

    def _check(self, shape: torch.Size, queries: int, keys: int) -> None:
        batch, tokens = self.stream.shape[:2]
        if self.attended is not None:
            refuse("model", f"{self.told} with two attentions", "one attention a block")
        if len(shape) != 4 or shape[0] != batch or queries != tokens or keys != tokens:
            told = f"{self.told}, whose attention is of shape {tuple(shape)}"
            refuse("model", told, f"attention among all {tokens} tokens of an input")

    def _masked(self, mask: Tensor | None, query: Tensor) -> Tensor | None:
        if mask is not None:
            if mask.shape[-1] > 1:
                told = f"{self.told}, which adds a bias for {mask.shape[-1]} places to its logits"
                refuse("model", told, "attention that does not ask where its tokens stand")
            if mask.dtype == torch.bool:
                none = torch.zeros(mask.shape, dtype=query.dtype, device=mask.device)
                mask = none.masked_fill_(~mask, -torch.inf)
        if self.bias is None:
            return mask
        rows = self._rows(query)
        return rows if mask is None else mask + rows

    def _rows(self, like: Tensor) -> Tensor:
        assert self.bias is not None
        return self.bias[:, None, None, :].to(like.dtype)


def _less(kwargs: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in kwargs.items() if name != "input"}
