"""How models are called: positional or named inputs, and the logits in what they return."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence
from torch.utils._pytree import tree_leaves

from natsel.common.errors import refuse
from natsel.common.padding import padded

Inputs = tuple[Tensor, ...] | dict[str, Tensor]
"""Positional inputs, or named ones as models of the transformers library take them."""

IGNORED = -100
"""Label of a place that is not predicted, as ``torch.nn.functional.cross_entropy`` has it."""

LABELLED = f"samples whose labels are not all {IGNORED}: the loss sees no other"


def as_inputs(example_inputs: Tensor | Sequence[Tensor] | Mapping[str, Tensor]) -> Inputs:
    """Return example inputs as a tuple of tensors, or as a dictionary where they have names.

    Args:
        example_inputs: one tensor, a tuple of them, or a mapping from argument names to tensors.

    Returns:
        The same tensors.

    Raises:
        ValueError: if they are anything else, or there is none.

    Example:
        >>> import torch
        >>> as_inputs(torch.zeros(2))
        (tensor([0., 0.]),)
    """
    if isinstance(example_inputs, Tensor):
        example_inputs = (example_inputs,)
    named = isinstance(example_inputs, Mapping)
    found: list[Any]
    if isinstance(example_inputs, Mapping):
        found = list(example_inputs.values())
    elif isinstance(example_inputs, list | tuple):
        found = list(example_inputs)
    else:
        found = [None]
    if isinstance(example_inputs, PackedSequence) or any(
        isinstance(x, PackedSequence) for x in found
    ):
        allowed = "padded tensors (pad_packed_sequence): the sizes of packed ones are data"
        refuse("example_inputs", "a PackedSequence", allowed)
    if other := [type(x).__name__ for x in found if not isinstance(x, Tensor)]:
        allowed = "a tuple of tensors, or a mapping from names to tensors"
        where = type(example_inputs).__name__
        refuse("example_inputs", f"{other[0]} in a {where}" if found != [None] else where, allowed)
    if not found:
        refuse("example_inputs", () if not named else {}, "at least one tensor")
    if any(not x.numel() for x in found):
        refuse("example_inputs", shapes_of(tuple(found)), "tensors with at least one element each")
    if isinstance(example_inputs, Mapping):
        return dict(example_inputs)
    return tuple(found)


def tensors_of_inputs(inputs: Inputs) -> tuple[Tensor, ...]:
    """Return the tensors of inputs, in order."""
    return tuple(inputs.values()) if isinstance(inputs, dict) else inputs


def with_tensors(inputs: Inputs, tensors: Sequence[Tensor]) -> Inputs:
    """Return inputs with other tensors in the same places."""
    if isinstance(inputs, dict):
        return dict(zip(inputs, tensors, strict=True))
    return tuple(tensors)


def in_double(inputs: Inputs) -> Inputs:
    """Return inputs with floating-point tensors in float64."""
    tensors = tensors_of_inputs(inputs)
    return with_tensors(inputs, [x.double() if x.is_floating_point() else x for x in tensors])


def first_samples(inputs: Inputs, count: int) -> Inputs:
    """Return the first samples where all inputs agree on a batch axis, else all of them."""
    tensors = tensors_of_inputs(inputs)
    if all(x.dim() > 0 and x.shape[0] == tensors[0].shape[0] for x in tensors):
        return with_tensors(inputs, [x[:count] for x in tensors])
    return inputs


def taken(inputs: Inputs, part: Any) -> Inputs:
    """Return some samples of inputs: a slice of them, or their indices.

    Example:
        >>> import torch
        >>> taken((torch.arange(4),), slice(1, 3))
        (tensor([1, 2]),)
    """
    return with_tensors(inputs, [x[part] for x in tensors_of_inputs(inputs)])


def shapes_of(inputs: Inputs) -> str:
    """Return the shapes of inputs, for messages."""
    return ", ".join(str(tuple(x.shape)) for x in tensors_of_inputs(inputs))


@contextmanager
def without_cache(model: nn.Module) -> Iterator[None]:
    """Let models of the transformers library return no key/value cache for a while.

    A cache is a Python object that ``torch.export`` cannot return.
    """
    configs = {id(c): c for m in model.modules() if (c := getattr(m, "config", None)) is not None}
    caching = [c for c in configs.values() if getattr(c, "use_cache", False) is True]
    for config in caching:
        config.use_cache = False
    try:
        yield
    finally:
        for config in caching:
            config.use_cache = True


def call(model: nn.Module, inputs: Inputs) -> Any:
    """Run a model on positional or named inputs; hooks know what of them is padding.

    Raises:
        ValueError: if an input holds a token that the model does not have.
    """
    try:
        with padded(model, inputs):
            return model(**inputs) if isinstance(inputs, dict) else model(*inputs)
    except IndexError:
        _check_tokens(model, inputs)
        raise


def _check_tokens(model: nn.Module, inputs: Inputs) -> None:
    """Refuse tokens that a model of the transformers library does not have."""
    embed = getattr(model, "get_input_embeddings", lambda: None)()
    size = getattr(embed, "num_embeddings", None)
    tokens = inputs.get("input_ids") if isinstance(inputs, dict) else inputs[0]
    if isinstance(size, int) and isinstance(tokens, Tensor) and not tokens.is_floating_point():
        for wrong in tokens[(tokens < 0) | (tokens >= size)][:1].tolist():
            refuse("input_ids", wrong, f"a token of the model, 0 to {size - 1}")


def outputs_of(value: object) -> list[Tensor]:
    """Return the tensors inside what a model returned."""
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]


def cross_entropy(output: Any, labels: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
    """Cross-entropy of what a model returned: classes of samples, of places, or of tokens.

    Args:
        output: logits, or what :func:`logits_of` finds them in: ``[B, K]``, ``[B, K, ...]`` with
            labels ``[B, ...]``, or ``[B, T, K]`` with labels ``[B, T]``.
        labels: int64.
        label_smoothing: share of the target spread over all classes, in [0, 1).

    Returns:
        The mean over all labels that are not -100.
    """
    logits = logits_of(output)
    if logits.dim() > 2 and logits.shape[:-1] == labels.shape:
        logits, labels = logits.flatten(0, -2), labels.flatten()
    return F.cross_entropy(logits, labels, label_smoothing=label_smoothing)


def has_labels(labels: Any, criterion: object = cross_entropy) -> bool:
    """Tell whether a loss can see anything of a batch: a sample, and a label that counts.

    Args:
        labels: of the batch; what is no tensor is taken to hold some.
        criterion: the loss; which labels count is known of cross-entropy.

    Example:
        >>> import torch
        >>> has_labels(torch.tensor([IGNORED, 2])), has_labels(torch.tensor([IGNORED]))
        (True, False)
    """
    if not isinstance(labels, Tensor):
        return True
    if criterion is cross_entropy and not labels.is_floating_point():
        return bool((labels != IGNORED).any())
    return labels.numel() > 0


def logits_of(value: Any) -> Tensor:
    """Return the logits in what a model returned.

    A tensor is its own logits; an output of the transformers library names them; of anything else
    it is the first floating-point tensor.

    Raises:
        ValueError: if there is no such tensor.
    """
    if isinstance(value, Tensor):
        return value
    named = getattr(value, "logits", None)
    if isinstance(named, Tensor):
        return named
    for tensor in outputs_of(value):
        if tensor.is_floating_point():
            return tensor
    refuse("output", type(value).__name__, "a model that returns logits")
