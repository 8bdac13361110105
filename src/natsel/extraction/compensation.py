"""Compensation: those that stay take over, in closed form, what those that went did."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from natsel.common.batches import Data, reread
from natsel.common.errors import refuse
from natsel.common.modes import evaluating
from natsel.common.sharding.batches import everybodys
from natsel.common.sharding.reducing import check_group
from natsel.common.sharding.wrapping import fsdp_modules
from natsel.common.wrappers import on_own_forward, unwrapped
from natsel.communities import Communities
from natsel.communities.gates.gates import folded
from natsel.communities.tensors import tensors_of
from natsel.extraction.absorbed import Absorbed, Compensation
from natsel.extraction.absorption import absorb
from natsel.extraction.bridging import bridges_of
from natsel.extraction.consumers import consumers_of
from natsel.extraction.entering import inputs_of, num_calls
from natsel.extraction.in_turn import alone, in_turn
from natsel.extraction.renormalize import renormalize
from natsel.extraction.unshortened import GONE, Unshortened
from natsel.extraction.verify import check_model, communities_of
from natsel.selection import Survivors


@on_own_forward
def compensate(
    model: nn.Module,
    small: nn.Module,
    survivors: Mapping[str, Tensor],
    data: Data,
    *,
    communities: Communities | None = None,
    ridge: float | None = None,
    sequential: bool = True,
    stream: bool = True,
    batch_norm: bool = False,
    group: Any = None,
) -> Compensation:
    """Let the kept populations of a small model take over what the removed ones did, in place.

    A consumer computes y = W h + b of activations h in the dense model, and W_k k + b of those that
    are left, k, in the small one. What it lacks is y = W h - W_k k. Regress y on k over calibration
    data with a ridge penalty, y = A k + c + residual, and fold what is found into the consumer:
    W_k + A for its weight, b + c for its bias. Consumers are taken in the order in which the model
    runs them, so that each also makes up for what those before it left. No labels, no gradients;
    of what enters a consumer only its second moments are kept.

    The squared error of a linear consumer over the very data is never larger than it was, which
    says little: few rows fit anything. So the penalty is chosen by, and what is told is, the error
    over samples that were held out. For the sum over the taps of a kernel, or for what comes
    after, that is no proof.

    Where a model is a chain of blocks, as transformers are, both models are walked block by block
    over the hidden states: two or three runs of each block over the data, at any depth. Where the
    output of a consumer is added to a stream there, what is lacking is what the sum lacks of the
    dense one: so each makes up for all that was lost before it, not for its own inputs alone.

    A convolution mixes channels at each place alike. Without a bias there is no c, nor where a
    convolution pads with zeros or is transposed: at borders it would be wrong.

    Args:
        model: the dense model, gated or not; it is not changed.
        small: what was extracted from it; its weights change.
        survivors: what it holds.
        data: batches as :func:`natsel.score` takes them; labels are not read, and places where
            ``attention_mask`` is 0 do not count. They are held in memory.
        communities: what the survivors belong to, where they do not know it themselves.
        ridge: the penalty, as a share of the mean variance of what enters a consumer. By default
            each consumer's own is chosen by the squared error over samples that are held out, in
            turn; a consumer whose held-out error would not fall is left as it is. A number is used
            as it is, everywhere, and nothing is left alone for it.
        sequential: take consumers in turn, as above. Otherwise read what is
            removed off the dense model alone, all consumers in one pass: faster, and worse where
            one consumer follows another.
        stream: in chains of blocks, let the sums come out as in the dense model, as above.
            Otherwise only what each consumer itself puts out.
        batch_norm: afterwards measure the running statistics of those BatchNorm layers again that
            run after something lost inputs. Without ``sequential`` it helps; with it outputs are
            already what the statistics were measured on.
        group: processes that hold the same models and samples of their own each: "default" for all
            of ``torch.distributed``, or a process group. Each gets the samples of all and does the
            same. None reads those of this process alone.

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
        >>> data = [(torch.arange(9.0).reshape(9, 1),)]
        >>> found = compensate(model, small, survivors, data, ridge=1e-4)
        >>> [round(m(torch.ones(1, 1)).item(), 1) for m in (model, small)]
        [4.0, 4.0]

    Reference:
        He, Zhang and Sun, "Channel pruning for accelerating very deep neural networks" (2017),
        arXiv:1707.06168, which reconstructs outputs by least squares after selecting channels.
    """
    if ridge is not None and not ridge > 0:
        refuse("ridge", ridge, "a number > 0, or None to choose it by held-out samples")
    checked, known = communities_of(survivors, communities)
    for argument, each in (("model", model), ("small", small)):
        if fsdp_modules(each):
            allowed = "one that each process has all of: compensate before fully_shard, or after"
            refuse(argument, type(each).__name__, f"{allowed} natsel.load of what was saved")
    base, small = folded(unwrapped(model)), unwrapped(small)
    check_model(base, known)
    check_group(group)
    batches = reread(everybodys(data, group))
    if batches is None:
        refuse("data", None, "batches of calibration data")
    return compensated(
        *(base, small, checked, batches),
        communities=known,
        ridge=ridge,
        sequential=sequential,
        stream=stream,
        batch_norm=batch_norm,
    )


def compensated(
    base: nn.Module,
    small: nn.Module,
    survivors: Survivors,
    batches: Data,
    *,
    communities: Communities,
    ridge: float | None = None,
    sequential: bool = True,
    stream: bool = True,
    batch_norm: bool = False,
    restore: bool = True,
) -> Compensation:
    """Do what :func:`compensate` says, with what was checked.

    Args:
        base: the dense model, without gates.
        small: what was extracted from it; its weights change.
        survivors: what it holds.
        batches: can be read again.
        communities: what the survivors belong to.
        ridge: the penalty.
        sequential: whether each makes up for those before it.
        stream: whether sums are followed.
        batch_norm: whether batch norms are run anew.
        restore: give the small model its weights back if something fails; until then they are
            there twice.
    """
    known, checked = communities, survivors
    twin = Unshortened(base, small, known, checked)
    consumers = [
        replace(c, reason=GONE) if twin.gone(c.module) else c
        for c in consumers_of(base, known, checked)
    ]
    gaps = bridges_of(base, known, checked) if sequential and stream else []
    gaps = [each for each in gaps if not twin.gone(each.consumer.module)]
    able = [c for c in consumers if not c.reason]
    touched = None if batch_norm else {c.module for c in (*able, *(g.consumer for g in gaps))}
    touched = touched if restore else set()
    with _all_or_nothing(twin.model, touched), _aside(base), evaluating(base):
        # The same batches each time, from a loader that shuffles too.
        batches = list(batches)
        if sequential:
            done = in_turn(base, twin.model, able, batches, ridge, stream=stream, bridges=gaps)
        else:
            calls = num_calls(base, {c.module for c in able}, batches)
            seen = alone(base, [c for c in able if c.module in calls], batches)
            done = [absorb(twin.model, c, seen[c.module], ridge) for c in able if c.module in seen]
        lines = {line.consumer: line for line, _ in done if not line.gap}
        bridged = [line for line, _ in done if line.gap]
        changed = [twin.renamed(name) for _, names in done for name in names]
        for line in (*lines.values(), *bridged):
            _warn(line)
        for consumer in consumers:
            reason = consumer.reason or "nothing was seen to enter its module"
            lines.setdefault(consumer.tensor, Absorbed.left(consumer, reason))
        paths = [c.module for c in consumers if c.reason != GONE] if batch_norm else []
        again = [
            twin.renamed(name)
            for name in renormalize(twin.model, paths, lambda: inputs_of(batches, base))
        ]
    return Compensation(
        (*(lines[c.tensor] for c in consumers), *bridged),
        tuple(dict.fromkeys((*changed, *again))),
        len(again) // 2,
    )


def _warn(line: Absorbed) -> None:
    if 0 < line.rows < line.kept:
        warnings.warn(
            f"compensation of {line.consumer}: {line.rows} calibration rows for {line.kept} kept "
            f"inputs, effective rank {line.effective_rank:.1f}; give more data",
            stacklevel=3,
        )


@contextmanager
def _all_or_nothing(model: nn.Module, modules: Collection[str] | None) -> Iterator[None]:
    """Give a model its tensors back as they were if something fails: those of modules, or all."""
    before = {
        name: t.detach().clone()
        for name, t in tensors_of(model).items()
        if modules is None or name.rpartition(".")[0] in modules
    }
    try:
        yield
    except BaseException:
        with torch.no_grad():
            tensors = tensors_of(model)
            for name, value in before.items():
                tensors[name].copy_(value)
        raise


@contextmanager
def _aside(model: nn.Module) -> Iterator[None]:
    """Give the random state back as it was: a loader that shuffles draws from it."""
    devices = {p.device.index or 0 for p in model.parameters() if p.device.type == "cuda"}
    with torch.random.fork_rng(devices=sorted(devices)):
        yield
