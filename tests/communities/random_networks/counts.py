"""Where a number of heads is written down: an attribute, a tuple, a configuration, a closure."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

import torch
from torch import nn

from .attention import PASSED, AttentionWay


@dataclass
class Sizes:
    heads: int
    head_dim: int


@dataclass(frozen=True)
class Closure:
    heads: int

    def __call__(self) -> int:
        return self.heads


class HeadCount(nn.Module):
    """A module that knows how many heads it has."""

    way: AttentionWay
    config: SimpleNamespace
    dim: int
    inner: int

    def keep_count(self, store: str, heads: int, dim: int) -> None:
        if store in ("heads", "num_heads", "property", "twice"):
            setattr(self, "num_heads" if store in ("num_heads", "property") else "heads", heads)
        if store == "twice":
            self.num_heads = heads
        elif store in ("tuple", "list"):
            self.sizes = (heads, dim) if store == "tuple" else [heads, dim]
        elif store == "dict":
            self.sizes = {"heads": heads, "dim": dim}
        elif store == "config":
            self.config.num_attention_heads = heads
        elif store == "dataclass":
            self.sizes = Sizes(heads, dim)
        elif store == "class":
            self.__class__ = type("AttentionOfItsOwn", (type(self),), {"class_heads": heads})
        elif store == "buffer":
            self.register_buffer("num", torch.tensor(heads), persistent=False)
        elif store == "float":
            self.heads = float(heads)
        elif store == "closure":
            self.num = Closure(heads)
        elif store == "private":
            self._heads = heads
        elif store == "child":
            self.sizes = nn.Identity()
            self.sizes.heads = heads

    @property
    def of_property(self) -> int:
        return self.num_heads

    def count(self, passed: int | None = None) -> int:
        """Return how many heads there are, as the way has it written down."""
        store = self.way.store
        if store in ("heads", "num_heads", "twice"):
            return self.num_heads if store == "num_heads" else self.heads
        if store == "property":
            return self.of_property
        if store == "computed":
            return self.inner // self.dim
        if store in PASSED:
            assert passed is not None
            return passed
        if store == "private":
            return self._heads
        if store in ("tuple", "list"):
            return self.sizes[0]
        if store == "dict":
            return self.sizes["heads"]
        if store == "config":
            return self.config.num_attention_heads
        if store in ("dataclass", "child"):
            return self.sizes.heads
        if store == "class":
            return self.class_heads
        if store == "closure":
            return self.num()
        return int(self.num if store == "buffer" else self.heads)
