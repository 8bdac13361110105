"""Compensation: those that stay take over, in closed form, what those that went did."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from natsel.common.calls import Inputs, call, shapes_of, unlabelled
from natsel.common.errors import first_line, refuse
from natsel.common.wrappers import unwrapped
from natsel.communities import Communities
from natsel.communities.discover import evaluating
from natsel.communities.gates import folded
from natsel.communities.surgery import cut
from natsel.communities.tensors import tensors_of
from natsel.extraction.absorbed import Absorbed, Compensation
from natsel.extraction.consumers import Consumer, consumers_of
from natsel.extraction.moments import RIDGE, Moments, Regression, regress
from natsel.extraction.renormalize import renormalize
from natsel.extraction.verify import check_model, communities_of
from natsel.fitness.parts import input_axis

Data = Iterable[tuple[Any, ...]]


def compensate(
    model: nn.Module,
    small: nn.Module,
    survivors: Mapping[str, Tensor],
    data: Data,
    *,
    communities: Communities | None = None,
    ridge: float = RIDGE,
    batch_norm: bool = True,
) -> Compensation:
    """Let the kept populations of a small model take over what the removed ones did, in place.

    A consumer computes y = W h + b of kept and removed activations, h = (k, r). Regress r on k
    over calibration data, r = A k + c + residual, with a ridge penalty, and fold what is found into
    the consumer: W_k + W_r A for its weight, b + W_r c for its bias. No labels, no gradients, one
    pass: of each consumer only the second moments of what enters it are kept. Its squared error
    over the data is never larger than without, if it is linear in one place at a time; where
    several consumers, or the taps of a kernel, meet again, that is no proof for their sum.

    A convolution mixes channels at each place alike. Without a bias there is no c, nor where a
    convolution pads with zeros or is transposed: at borders it would be wrong.

    Args:
        model: the dense model, gated or not; it is not changed.
        small: what was extracted from it; its weights change.
        survivors: what it holds.
        data: yields ``(inputs,)`` or ``(inputs, labels)``; labels are not read. What can be read
            once only is held in memory.
        communities: what the survivors belong to, where they do not know it themselves.
        ridge: the penalty, as a share of the mean variance of what enters a consumer.
        batch_norm: measure the running statistics of BatchNorm layers again, afterwards: of those
            that run after something lost inputs.

    Returns:
        What was done, consumer by consumer.

    Raises:
        ValueError: if the survivors do not belong to the model, or the data are empty, are not
            what the model reads, or give NaN or infinity; ``small`` is as it was then.

    Example:
        >>> import natsel
        >>> model = nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 1))
        >>> with torch.no_grad():  # the second neuron is three times the first
        ...     for i, values in enumerate(([[1.0], [3.0]], [0.0, 0.0], [[1.0, 1.0]], [0.0])):
        ...         _ = list(model.parameters())[i].copy_(torch.tensor(values))
        >>> masks = {"0": torch.tensor([True, False])}
        >>> survivors = natsel.Survivors(masks, natsel.discover(model, torch.ones(1, 1)))
        >>> small = natsel.extract(model, survivors)
        >>> found = compensate(model, small, survivors, [(torch.arange(9.0).reshape(9, 1),)])
        >>> [round(m(torch.ones(1, 1)).item(), 1) for m in (model, small)]
        [4.0, 4.0]

    Reference:
        He, Zhang and Sun, "Channel pruning for accelerating very deep neural networks" (2017),
        arXiv:1707.06168, which reconstructs outputs by least squares after selecting channels.
    """
    if not ridge > 0:
        refuse("ridge", ridge, "a number > 0")
    checked, known = communities_of(survivors, communities)
    base = folded(unwrapped(model))
    check_model(base, known)
    batches = data if not isinstance(data, Iterator) else list(data)
    consumers = consumers_of(base, known, checked)
    tensors = tensors_of(unwrapped(small))
    with _random_state(base):
        moments = _observed(base, [c for c in consumers if not c.reason], batches)
        absorbed, changes = [], dict[str, Tensor]()
        for consumer in consumers:
            found = moments.get(consumer.tensor)
            line, changed = _absorb(base, tensors, consumer, found, ridge)
            absorbed.append(line)
            changes |= changed
        before = {n: t.detach().clone() for n, t in unwrapped(small).state_dict().items()}
        _write(tensors, changes)
        try:
            modules = [c.module for c in consumers] if batch_norm else []
            again = renormalize(unwrapped(small), modules, lambda: _inputs(batches))
        except Exception:
            unwrapped(small).load_state_dict(before)
            raise
    return Compensation(tuple(absorbed), (*changes, *again), len(again) // 2)


def _absorb(
    model: nn.Module,
    tensors: Mapping[str, Tensor],
    consumer: Consumer,
    moments: Moments | None,
    ridge: float,
) -> tuple[Absorbed, dict[str, Tensor]]:
    """Return what becomes of a consumer, and the new values of its weight and bias."""
    sizes = (consumer.communities, len(consumer.kept), len(consumer.removed))
    reason = consumer.reason
    if not reason and (moments is None or not moments.count):
        reason = "nothing was seen to enter its module"
    if reason or moments is None:
        return Absorbed(consumer.tensor, *sizes, reason=reason), {}
    if not bool(torch.isfinite(moments.scatter).all()):
        refuse("data", "NaN or infinity", f"what gives finite activations at {consumer.module}")
    found = regress(
        moments, consumer.kept, consumer.removed, constant=consumer.constant, ridge=ridge
    )
    if moments.count < len(consumer.kept):
        warnings.warn(
            f"compensation of {consumer.tensor}: {moments.count} calibration rows for "
            f"{len(consumer.kept)} kept inputs, effective rank {found.effective_rank:.1f}; "
            "give more data",
            stacklevel=4,
        )
    whole = _reading_last(tensors_of(model)[consumer.tensor], consumer)
    reads = whole[..., consumer.removed.to(whole.device)]
    changed = fold(tensors, consumer, reads, found)
    output = _energy(whole, moments.second(about_mean=False))
    line = Absorbed(
        consumer.tensor,
        *sizes,
        effective_rank=found.effective_rank,
        rows=moments.count,
        unexplained=_share(found.after.trace(), found.before.trace()),
        error_before=_share(_energy(reads, found.before), output),
        error_after=_share(_energy(reads, found.after), output),
    )
    return line, changed


def fold(
    tensors: Mapping[str, Tensor], consumer: Consumer, reads: Tensor, found: Regression
) -> dict[str, Tensor]:
    """Return a small consumer's weight and bias with W_r A and W_r c added.

    Args:
        tensors: of the small model.
        consumer: which one.
        reads: W_r, what the dense weight reads of the removed, float64 ``[..., removed]``.
        found: A and c.
    """
    weight = tensors[consumer.tensor]
    more = (reads @ found.weights.to(reads.device)).movedim(-1, consumer.axis)
    changed = {consumer.tensor: weight.detach() + more.to(weight.device)}
    if found.constant is not None:
        name = f"{consumer.module}.bias".lstrip(".")
        rest = reads @ found.constant.to(reads.device)
        rest = rest.reshape(len(rest), -1).sum(1)
        changed[name] = tensors[name].detach() + rest.to(weight.device)
    return changed


def _reading_last(weight: Tensor, consumer: Consumer) -> Tensor:
    """Return what remains of a dense weight but for the axis that reads, which comes last."""
    rows = cut(weight, consumer.others)
    home = "cpu" if rows.device.type == "mps" else rows.device
    return rows.to(home).double().movedim(consumer.axis, -1)


def _energy(weight: Tensor, second: Tensor) -> Tensor:
    """Return E|W x|^2 from the second moments of x: tr W S W^T."""
    rows = weight.reshape(-1, weight.shape[-1]).to(second.device)
    return ((rows @ second) * rows).sum()


def _share(part: Tensor, whole: Tensor) -> float:
    return max(float(part), 0.0) / float(whole) if float(whole) > 0 else 0.0


def _write(tensors: Mapping[str, Tensor], changes: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        for name, value in changes.items():
            tensors[name].copy_(value)


def _observed(model: nn.Module, consumers: Iterable[Consumer], batches: Data) -> dict[str, Moments]:
    """Run a model over the data, and return the moments of what enters each consumer."""
    found: dict[str, Moments] = {}
    handles = []
    for consumer in consumers:
        found[consumer.tensor] = Moments()
        module = model.get_submodule(consumer.module)
        hook = _observer(found[consumer.tensor], input_axis(module) or -1)
        handles.append(module.register_forward_pre_hook(hook, with_kwargs=True))
    count = 0
    try:
        with evaluating(model), torch.no_grad():
            for inputs in _inputs(batches):
                try:
                    call(model, inputs)
                except (RuntimeError, ValueError, TypeError, IndexError) as error:
                    told = first_line(error)
                    refuse("data", _shape(inputs), f"inputs that the model runs on ({told})")
                count += 1
    finally:
        for handle in handles:
            handle.remove()
    if not count:
        refuse("data", "empty", "at least one batch")
    return found


def _observer(moments: Moments, axis: int) -> Callable[..., None]:
    def observe(module: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> None:
        x = args[0] if args else next(iter(named.values()))
        moments.add(x.detach().movedim(axis, -1).reshape(-1, x.shape[axis]))

    return observe


def _inputs(batches: Data) -> Iterator[Inputs]:
    for batch in batches:
        yield unlabelled(batch)


def _shape(inputs: Inputs) -> str:
    values = inputs.values() if isinstance(inputs, dict) else inputs
    if all(isinstance(x, Tensor) for x in values):
        return shapes_of(inputs)
    return ", ".join(type(x).__name__ for x in values)


@contextmanager
def _random_state(model: nn.Module) -> Iterator[None]:
    """Give the random state back as it was: a loader that shuffles draws from it."""
    devices = {p.device.index or 0 for p in model.parameters() if p.device.type == "cuda"}
    with torch.random.fork_rng(devices=sorted(devices)):
        yield
