"""Splits and shuffled batches that depend on a generator and on nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeAlias

import torch
from torch import Tensor

from natsel.common.errors import refuse
from natsel.data.loading import Dataset

Augment: TypeAlias = Callable[[Tensor, torch.Generator], Tensor]


def split(
    dataset: Dataset, *, validation: int = 5000, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Split the training samples in two, at random.

    Args:
        dataset: the data set; its test samples play no part.
        validation: how many training samples are held out.
        generator: draws the split.

    Returns:
        The indices of the training and of the validation samples, int64.

    Raises:
        ValueError: if nothing would be left to train on.
    """
    total = len(dataset.train_labels)
    if not 0 <= validation < total:
        refuse("validation", validation, f"0 to {total - 1} of the {total} training samples")
    order = torch.randperm(total, generator=generator, device=generator.device)
    return order[validation:], order[:validation]


def batches(
    inputs: Tensor,
    labels: Tensor,
    *,
    batch_size: int,
    generator: torch.Generator,
    augment: Augment | None = None,
    start: int = 0,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Shuffle once, then go through every sample in batches; the last may be smaller.

    The generator is drawn from in this call and never later: its state before the call is all
    that is needed to replay the epoch, whatever was consumed and whatever ``augment`` draws.

    Args:
        inputs: ``[N, ...]``.
        labels: ``[N]``.
        batch_size: samples in a batch.
        generator: draws the order and the seed of each batch's augmentation.
        augment: a function of a batch of inputs and a generator (on the CPU) of its own.
        start: the first batch to give; the ones before it are skipped at no cost.

    Returns:
        An iterator over ``(inputs, labels)``.

    Raises:
        ValueError: if the sizes do not fit.

    Example:
        >>> numbers = torch.arange(4)
        >>> for _ in range(2):
        ...     epoch = batches(
        ...         numbers, numbers, batch_size=3, generator=torch.Generator().manual_seed(0)
        ...     )
        ...     print([batch.tolist() for batch, _ in epoch])
        [[0, 1, 3], [2]]
        [[0, 1, 3], [2]]
    """
    if len(inputs) != len(labels):
        refuse("labels", len(labels), f"as many labels as inputs, {len(inputs)}")
    if batch_size < 1:
        refuse("batch_size", batch_size, "a whole number of at least 1")
    if start < 0:
        refuse("start", start, "a batch number of at least 0")
    order = torch.randperm(len(inputs), generator=generator, device=generator.device)
    seed = int(torch.randint(2**48, (), generator=generator, device=generator.device))

    def epoch() -> Iterator[tuple[Tensor, Tensor]]:
        for number, chosen in enumerate(torch.split(order.to(inputs.device), batch_size)):
            if number < start:
                continue
            batch = inputs.index_select(0, chosen)
            if augment is not None:
                batch = augment(batch, torch.Generator().manual_seed(seed + number))
            yield batch, labels.index_select(0, chosen.to(labels.device))

    return epoch()
