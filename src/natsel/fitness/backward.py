"""Gradients that are looked at and let go: of all weights at once, or of one block after the other.

Block by block, what entered each block is held and the block is run again when its turn comes: no
activations but one block's are there, no gradients but its own, and of the logits those of some
places at a time. The sums are the same, in another order: equal to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from natsel.blockwise import Feed, Held, feed, finish
from natsel.common.calls import IGNORED, Inputs, call, cross_entropy, logits_of
from natsel.common.errors import first_line, refuse
from natsel.common.padding import padded
from natsel.communities import Communities
from natsel.fitness.in_blocks import Blocks, blocks_of, examples
from natsel.fitness.parts import PartsReader

Criterion = Callable[[Any, Tensor], Tensor]
Gradients = Mapping[int, Tensor]
"""By the ``id`` of a parameter; 0 where the loss does not depend on it."""

ROOM = 2**23
"""Bytes of logits that are there at a time."""
SAME = 1e-4
"""How far logits of a run by parts may be from those of the model, relative to the largest."""


class Backward(Protocol):
    """Runs a model on a batch and back."""

    def __call__(
        self, batch: Any, inputs: Inputs, labels: Any
    ) -> Iterator[tuple[Sequence[int], Gradients]]:
        """Yield communities, by their place, with the gradients of their weights."""


class Whole:
    """One pass through the whole model, with the gradients of all weights.

    Args:
        communities: whose model runs.
        reader: of them.
        criterion: the loss.
    """

    def __init__(self, communities: Communities, reader: PartsReader, criterion: Criterion) -> None:
        self._model = communities.model
        self._weights = reader.weights()
        self._positions = range(len(communities))
        self._criterion = criterion

    def __call__(
        self, batch: Any, inputs: Inputs, labels: Any
    ) -> Iterator[tuple[Sequence[int], Gradients]]:
        """Yield all communities at once."""
        loss = loss_of(self._criterion, call(self._model, inputs), labels)
        found = torch.autograd.grad(loss, self._weights, allow_unused=True)
        yield self._positions, _by_id(self._weights, found)


class ByBlocks:
    """The last block first, each with the gradients of its own weights.

    Args:
        communities: whose model runs.
        reader: of them.
        blocks: that hold their weights.
        head: the layer that makes the logits, where nothing changes them after it; or None.
    """

    def __init__(
        self,
        communities: Communities,
        reader: PartsReader,
        blocks: Blocks,
        head: nn.Linear | None,
    ) -> None:
        self._model = communities.model
        self._chain, self._members = blocks.chain, blocks.members
        self._weights = [
            list({id(p): p for i in members for p in reader.parameters(i)}.values())
            for members in blocks.members
        ]
        self._head = head

    def __call__(
        self, batch: Any, inputs: Inputs, labels: Any
    ) -> Iterator[tuple[Sequence[int], Gradients]]:
        """Yield the communities of each block."""
        fed, hidden = forth(self._model, self._chain.paths, self._feed(batch), inputs)
        back = self._from_the_end(inputs, labels, hidden.pop())
        first = next(n for n, members in enumerate(self._members) if members)
        for number in reversed(range(first, len(self._chain))):
            weights = self._weights[number]
            x = hidden.pop().detach().requires_grad_()
            block = self._model.get_submodule(self._chain.paths[number])
            with padded(self._model, inputs):
                left = fed.run(number, block, x)
            back, *found = torch.autograd.grad(left, [x, *weights], back, allow_unused=True)
            back = torch.zeros_like(x) if back is None else back
            del left, x
            if self._members[number]:
                yield self._members[number], _by_id(weights, found)

    def logits(self, batch: Any, inputs: Inputs) -> Tensor:
        """Return the logits of a batch, by the parts that are run."""
        _, hidden = forth(self._model, self._chain.paths, self._feed(batch), inputs)
        if self._head is None:
            return logits_of(finish(self._model, self._chain, inputs, hidden[-1]))
        with _handing_on(self._head):
            entering = logits_of(finish(self._model, self._chain, inputs, hidden[-1]))
        return self._head(entering)  # type: ignore[no-any-return]

    def _feed(self, batch: Any) -> tuple[Feed, Tensor]:
        store = Held()
        (fed,) = feed(self._model, self._chain, [batch], store)
        return fed, store.get(0)

    def _from_the_end(self, inputs: Inputs, labels: Any, last: Tensor) -> Tensor:
        """Return the gradient of the loss for what left the last block."""
        last = last.detach().requires_grad_()
        if self._head is None or not isinstance(labels, Tensor):
            output = finish(self._model, self._chain, inputs, last)
            return torch.autograd.grad(loss_of(cross_entropy, output, labels), last)[0]
        with _handing_on(self._head):
            entering = logits_of(finish(self._model, self._chain, inputs, last))
        if labels.dim() < 2 or entering.shape[:-1] != labels.shape or labels.is_floating_point():
            loss = loss_of(cross_entropy, self._head(entering), labels)
            return torch.autograd.grad(loss, last)[0]
        back = through_head(self._head, entering.detach(), labels)
        return torch.autograd.grad(entering, last, back)[0]


def backward_of(communities: Communities, reader: PartsReader, criterion: Criterion) -> Backward:
    """Return the way back that holds least: block by block where that is the same.

    Args:
        communities: whose model runs, in evaluation mode.
        reader: of them.
        criterion: the loss.
    """
    if criterion is not cross_entropy:
        return Whole(communities, reader, criterion)  # which may look at more than logits
    holders: dict[int, list[nn.Module]] = {}
    for module in communities.model.modules():
        for parameter in module._parameters.values():
            if parameter is not None:
                holders.setdefault(id(parameter), []).append(module)
    homes = [
        {m for p in reader.parameters(i) for m in holders.get(id(p), [communities.model])}
        for i in range(len(communities))
    ]
    blocks = blocks_of(communities, homes)
    if blocks is not None:
        head = _head_of(communities.model)
        for layer in dict.fromkeys((head, None)):
            found = ByBlocks(communities, reader, blocks, layer)
            if _is_the_same(communities, found):
                return found
    return Whole(communities, reader, criterion)


def forth(
    model: nn.Module, paths: Sequence[str], fed: tuple[Feed, Tensor], inputs: Inputs
) -> tuple[Feed, list[Tensor]]:
    """Run the blocks of a chain on one batch; return what entered each, and what left the last.

    Raises:
        RuntimeError: if a block writes to what it is given.
    """
    given, first = fed
    hidden = [first]
    with torch.no_grad(), padded(model, inputs):
        for number, path in enumerate(paths):
            entered = hidden[-1]
            version = entered._version
            hidden.append(given.run(number, model.get_submodule(path), entered))
            if entered._version != version:
                raise RuntimeError(f"{path} writes to what it is given")
    return given, hidden


def through_head(head: nn.Linear, entering: Tensor, labels: Tensor) -> Tensor:
    """Return the gradient of the mean cross-entropy for what enters the layer of the logits.

    Args:
        head: makes the logits.
        entering: ``[..., n]``.
        labels: int64 ``[...]``; those that are -100 do not count.

    Example:
        >>> head, x = nn.Linear(1, 2, bias=False), torch.ones(1, 2, 1)
        >>> _ = nn.init.zeros_(head.weight)
        >>> through_head(head, x, torch.tensor([[0, -100]])).abs()
        tensor([[[0.],
                 [0.]]])
    """
    rows, wanted = entering.flatten(0, -2), labels.flatten().to(entering.device)
    count = (wanted != IGNORED).sum()
    found = torch.empty_like(rows)
    size = max(1, ROOM // (rows.element_size() * head.out_features))
    for start in range(0, len(rows), size):
        part = slice(start, start + size)
        x = rows[part].requires_grad_()
        with torch.enable_grad():
            loss = loss_of(_summed, head(x), wanted[part]) / count
        found[part] = torch.autograd.grad(loss, x)[0]
    return found.view_as(entering)


def _summed(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits, labels, reduction="sum")


def loss_of(criterion: Criterion, output: Any, labels: Any) -> Tensor:
    """Return the loss of what a model returned.

    Raises:
        ValueError: if it does not take the labels.
    """
    try:
        return criterion(output, labels)
    except IndexError as error:
        refuse("data", labels, f"labels that the loss takes ({first_line(error)})")


def _by_id(weights: Sequence[nn.Parameter], gradients: Sequence[Tensor | None]) -> Gradients:
    return {
        id(w): g if g is not None else torch.zeros_like(w)
        for w, g in zip(weights, gradients, strict=True)
    }


def _head_of(model: nn.Module) -> nn.Linear | None:
    """Return the layer that makes the logits of a model of the transformers library."""
    find = getattr(model, "get_output_embeddings", None)
    found = find() if callable(find) else None
    return found if isinstance(found, nn.Linear) else None


def _is_the_same(communities: Communities, by_blocks: ByBlocks) -> bool:
    """Tell whether what is run by parts gives the logits of the model."""
    inputs = examples(communities)
    batch = inputs if isinstance(inputs, dict) else (*inputs, None)
    try:
        with torch.no_grad():
            whole = logits_of(call(communities.model, inputs))
            parts = by_blocks.logits(batch, inputs)
    except (RuntimeError, TypeError, ValueError, LookupError, AttributeError):
        return False
    if parts.shape != whole.shape:
        return False
    return bool((parts - whole).abs().max() <= SAME * whole.abs().max())


@contextmanager
def _handing_on(layer: nn.Module) -> Iterator[None]:
    """Let a layer return what it is given."""
    own = vars(layer)
    before = {name: own.get(name) for name in ("forward", "_forward_pre_hooks", "_forward_hooks")}
    own |= {"forward": lambda x: x, "_forward_pre_hooks": {}, "_forward_hooks": {}}
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del own[name]
            else:
                own[name] = value
