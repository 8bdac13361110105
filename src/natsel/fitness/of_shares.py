"""Gradients of a model that is spread over processes: of each process's own samples.

Training adds gradients up over processes. A score is an average over batches, so that of each
batch its own gradient is needed. A process gets it, whole, when the backward pass has come through
a block, whose weights are whole just then: what signals say is taken, and the gradient let go
before anything is reduced. No process holds more of them than of the communities whose weights the
pass has reached in part; nothing is sent that the pass itself does not send.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor

from natsel.common.calls import Inputs, call, logits_of
from natsel.common.errors import refuse
from natsel.common.sharding.local import whole
from natsel.common.sharding.reducing import summed
from natsel.common.sharding.wrapping import Spread, gathered_parameters
from natsel.communities import Communities
from natsel.fitness.backward import Criterion, loss_of
from natsel.fitness.in_blocks import examples
from natsel.fitness.parts import PartsReader

T = TypeVar("T")
Whole = Mapping[int, Tensor]
"""By the ``id`` of a parameter: all of it."""
Take = Callable[[Sequence[int], Whole, Whole], None]
"""Told of communities, by their place, with gradients and weights."""


class OfShares:
    """Runs a model under ``fully_shard`` on a batch of this process and back.

    Every process that holds shares has to run it as often: with :meth:`idle` if it has no batch.

    Args:
        communities: whose model runs.
        reader: of them.
        criterion: the loss.
        spread: how the model is spread.
    """

    def __init__(
        self, communities: Communities, reader: PartsReader, criterion: Criterion, spread: Spread
    ) -> None:
        self._communities = communities
        self._criterion = criterion
        self._spread = spread
        gathered = gathered_parameters(spread)
        self._shares = reader.weights()
        self._whole = [gathered.get(id(p), p) for p in self._shares]
        places = {id(p): n for n, p in enumerate(self._shares)}
        self._wanted = [
            {places[id(p)] for p in reader.parameters(i)} for i in range(len(communities))
        ]
        self._readers: list[list[int]] = [[] for _ in self._shares]
        for position, wanted in enumerate(self._wanted):
            for n in wanted:
                self._readers[n].append(position)

    def __call__(self, inputs: Inputs, labels: Any, take: Take) -> None:
        """Let ``take`` have the communities, each as soon as all of its gradients are there."""
        gradients: dict[int, Tensor] = {}
        weights: dict[int, Tensor] = {}
        left = [set(wanted) for wanted in self._wanted]
        heard: set[int] = set()

        def arrived(n: int, gradient: Tensor, weight: Tensor) -> None:
            if n in heard:
                kind = type(self._communities.model).__name__
                refuse("model", kind, "one whose gradients come once (checkpoint: use_reentrant)")
            heard.add(n)
            gradients[n], weights[n] = gradient, weight
            for position in self._readers[n]:
                left[position].discard(n)
                if not left[position]:
                    take([position], self._by_id(gradients), self._by_id(weights))
            done = {m for m in gradients if not any(left[p] for p in self._readers[m])}
            for m in done:
                del gradients[m], weights[m]

        with self._hearing(arrived):
            loss = loss_of(self._criterion, call(self._communities.model, inputs), labels)
            torch.autograd.backward(loss, inputs=self._whole)
        self._spread.settle()
        # What the loss of this batch does not depend on, such as experts that no sample chose.
        missing = [n for n in range(len(self._shares)) if any(n in some for some in left)]
        for n in self._of_any(missing):
            weight = whole(self._shares[n]).detach()
            if n in missing:
                arrived(n, torch.zeros_like(weight), weight)

    def idle(self) -> None:
        """Do what the others need of this process, and look at nothing."""

        def ignore(n: int, gradient: Tensor, weight: Tensor) -> None:
            pass

        with self._hearing(ignore, copies=False):
            output = call(self._communities.model, examples(self._communities))
            torch.autograd.backward(logits_of(output).sum(), inputs=self._whole)
        self._spread.settle()
        for n in self._of_any([]):
            whole(self._shares[n])

    def _of_any(self, mine: Sequence[int]) -> list[int]:
        """Return, in their order, the numbers that any process names."""
        told = torch.zeros(len(self._shares), device=self._whole[0].device)
        told[list(mine)] = 1.0
        return [int(n) for n in summed(told, self._spread.group).nonzero().flatten()]

    def _by_id(self, found: Mapping[int, Tensor]) -> Whole:
        """Return tensors by the ids of whatever stands for their parameters now."""
        return {
            id(p): value for n, value in found.items() for p in (self._shares[n], self._whole[n])
        }

    @contextmanager
    def _hearing(
        self, arrived: Callable[[int, Tensor, Tensor], None], *, copies: bool = True
    ) -> Iterator[None]:
        """Call for each gradient that is there, with the weight, and let nobody else have it."""

        def listener(n: int) -> Callable[[Tensor], None]:
            def hear(parameter: Tensor) -> None:
                gradient, parameter.grad = parameter.grad, None
                assert gradient is not None
                precision = self._shares[n].dtype
                with torch.no_grad():
                    weight = parameter.detach().clone() if copies else parameter.detach()
                    arrived(n, gradient.to(precision), weight.to(precision))

            return hear

        before = [(p, p.requires_grad, p.grad) for p in self._whole]
        handles = []
        try:
            for n, parameter in enumerate(self._whole):
                parameter.requires_grad_(True)
                parameter.grad = None
                told: Any = parameter
                handles.append(told.register_post_accumulate_grad_hook(listener(n)))
            yield
        finally:
            for handle in handles:
                handle.remove()
            for parameter, required, gradient in before:
                parameter.requires_grad_(required)
                parameter.grad = gradient


def in_step(batches: Iterable[T], group: Any, device: torch.device) -> Iterator[T | None]:
    """Yield batches while any process of a group has one; None where this one has no more.

    Args:
        batches: of this process.
        group: processes that must run as often.
        device: where their collective calls take tensors.

    Raises:
        Exception: what this process met when it read its batches.
        RuntimeError: if another one could not read its own.

    Example:
        >>> list(in_step([1, 2], None, torch.device("cpu")))
        [1, 2]
    """
    source = iter(batches)
    while True:
        met: Exception | None = None
        found: list[T] = []
        try:
            found = [next(source)]
        except StopIteration:
            pass
        except Exception as error:  # noqa: BLE001 - the others wait for this process
            met = error
        told = torch.tensor([float(bool(found)), float(met is not None)], device=device)
        there, failed = summed(told, group).tolist()
        if met is not None:
            raise met
        if failed:
            raise RuntimeError("another process could not read its batches of data")
        if not there:
            return
        yield found[0] if found else None
