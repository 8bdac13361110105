"""Batches of data: what one gives to the model, and what its outputs are compared with.

A batch is a tuple ``(inputs, labels)`` or ``(inputs,)``, or a mapping from the names of the model's
arguments, as a data loader of the transformers library yields it, with ``labels`` among them. The
model never gets the labels: the loss does.

**Which label belongs to which output.** A loss compares each output with the label in the same
place. In a tuple, labels are taken to be laid out so. In a mapping they are what the transformers
library means by ``labels``: its causal language models predict with each token the *next* one, so
their labels are moved by one place here, and nothing is asked of the last. What decides:

1. ``shift_labels`` in the mapping are taken as they are.
2. Labels of fewer than two axes, and those of a class of the transformers library that is no causal
   language model (``...ForMaskedLM``, ``...ForTokenClassification``, anything with an encoder and
   a decoder), are taken as they are.
3. A causal language model (``...ForCausalLM``, ``...LMHeadModel``, ``...ForConditionalGeneration``
   without an encoder) gets them moved, unless the tokens show that they were moved before: each
   label that counts is the token after its own, and not all are their own; that is said.
4. Of any other model the tokens tell: labels that all equal their own tokens are moved, those that
   all equal the next are not; where neither holds they are taken as they are, which is said.

In a tuple, labels that all equal their own tokens are moved for a causal language model, too, which
is said: nothing else can be meant.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from natsel.common.calls import IGNORED, Inputs
from natsel.common.errors import refuse
from natsel.common.padding import DECODER_MASK
from natsel.common.wrappers import unwrapped

Data = Iterable[Any]
"""What :func:`read_batch` reads, batch by batch."""

BATCH = "tuples (inputs, labels), or mappings from names to tensors"
LABELS = ("shift_labels", "labels", "label", "label_ids")
"""Names of labels in a mapping; the first that is there counts."""
TOKENS = ("input_ids", "decoder_input_ids")
DECODED = ("decoder_input_ids", "decoder_inputs_embeds")
UNMOVED = ("XLNetLMHeadModel", "XLMWithLMHeadModel", "FlaubertWithLMHeadModel")
"""Classes with the name of a causal language model whose own loss moves no labels."""


@dataclass(frozen=True, eq=False)
class Batch:
    """One batch.

    Attributes:
        inputs: what the model is called with.
        labels: as they were handed over; None without.
        name: under which a mapping held them; None in a tuple.
    """

    inputs: Inputs
    labels: Any = None
    name: str | None = None

    def given(self, model: nn.Module) -> Inputs:
        """Return what the model is called with.

        A decoder that reads what it has said so far gets that from the labels, as the loss of the
        transformers library does it, where the batch does not hold it.

        Raises:
            ValueError: if the model does not take a name.
        """
        inputs = self.inputs
        if isinstance(inputs, dict) and isinstance(self.labels, Tensor):
            prepare = getattr(unwrapped(model), "prepare_decoder_input_ids_from_labels", None)
            if callable(prepare) and not any(name in inputs for name in DECODED):
                inputs = {**inputs, "decoder_input_ids": prepare(labels=self.labels)}
                there = self.labels != IGNORED
                # Only what comes behind all else can be told to be padding, and changes nothing.
                behind = bool(there[:, 0].all()) and bool((there.long().diff(dim=1) <= 0).all())
                if DECODER_MASK not in inputs and behind:
                    inputs[DECODER_MASK] = there.long()
        check_names(model, inputs)
        return inputs

    def targets(self, model: nn.Module) -> Any:
        """Return the labels, each in the place of the output that predicts it.

        Raises:
            ValueError: if there are none.
        """
        if self.labels is None:
            refuse("data", "batches without labels", "(inputs, labels), or 'labels' by name")
        labels = self.labels
        if not isinstance(labels, Tensor) or labels.dim() < 2 or labels.is_floating_point():
            return labels
        if self.name == "shift_labels":
            return labels
        causal = is_causal(model)
        own, following = _shown(labels, self._tokens(labels))
        if self.name is None:
            if causal and own and not following:
                _say("labels equal the tokens in their own places: they are moved by one")
                return moved(labels)
            return labels
        if causal is False or (causal is None and following):
            return labels
        if causal and following and not own:
            _say("labels were moved by one place before: they are taken as they are")
            return labels
        if causal or own:
            return moved(labels)
        if self._tokens(labels) is not None:
            _say(
                f"whether {type(unwrapped(model)).__name__} predicts the next token cannot be "
                "told: labels are taken as they are; name them 'shift_labels' to say so"
            )
        return labels

    def _tokens(self, labels: Tensor) -> Tensor | None:
        """Return the tokens that labels lie beside, if there are any."""
        if isinstance(self.inputs, dict):
            found = [self.inputs.get(name) for name in TOKENS]
        else:
            found = [*self.inputs[:1]]
            if found and isinstance(found[0], Mapping):
                found = [found[0].get(name) for name in TOKENS]
        for tokens in found:
            if (
                isinstance(tokens, Tensor)
                and tokens.shape == labels.shape
                and not tokens.is_floating_point()
            ):
                return tokens
        return None


def read_batch(batch: object) -> Batch:
    """Return what a batch holds.

    Args:
        batch: ``(inputs, labels)``, ``(inputs,)`` with one or more inputs, or a mapping; the
            inputs of a tuple may be a mapping, too.

    Raises:
        ValueError: if it is no batch.

    Example:
        >>> import torch
        >>> read_batch({"input_ids": torch.tensor([[3]]), "labels": torch.tensor([1])})
        Batch(inputs={'input_ids': tensor([[3]])}, labels=tensor([1]), name='labels')
        >>> read_batch((torch.zeros(1), torch.tensor([1]))).labels
        tensor([1])
    """
    if isinstance(batch, Mapping):
        return _named(batch)
    parts = check_batch(batch)
    if len(parts) == 1 and isinstance(parts[0], Mapping):
        return _named(parts[0])
    inputs, labels = (parts[:-1], parts[-1]) if len(parts) > 1 else (parts, None)
    return Batch(batch_inputs(inputs), labels)


def check_batch(batch: object) -> Sequence[Any]:
    """Return a batch that is a sequence, made sure that it is one.

    Raises:
        ValueError: if it is anything but a tuple or a list of something.
    """
    if not isinstance(batch, list | tuple) or not batch:
        refuse("data", f"batches of type {type(batch).__name__}", BATCH)
    return batch


def inputs_for(model: nn.Module, batch: object) -> Inputs:
    """Return what a batch gives to a model.

    Raises:
        ValueError: if it is no batch, or the model does not take its names.
    """
    return read_batch(batch).given(model)


def batch_inputs(parts: Sequence[Any]) -> Inputs:
    """Return what a batch without its labels gives to the model: a mapping gives named inputs."""
    if len(parts) == 1 and isinstance(parts[0], Mapping):
        return {name: value for name, value in parts[0].items() if name not in LABELS}
    return tuple(parts)


def check_data(data: Any, argument: str = "data") -> Any:
    """Return data, made sure that they can be read batch by batch; None stays None.

    Raises:
        ValueError: if they cannot.
    """
    if data is None:
        return None
    if isinstance(data, Mapping | Tensor | str) or not isinstance(data, Iterable):
        refuse(argument, data, f"an iterable of batches: {BATCH}")
    return data


def reread(data: Any, argument: str = "data") -> Any:
    """Return data that can be read again: what can be read once only is held in memory.

    Raises:
        ValueError: if they cannot be read at all.
    """
    found = check_data(data, argument)
    return list(found) if isinstance(found, Iterator) else found


def gathered(model: nn.Module, data: Data) -> tuple[Inputs, Any]:
    """Return all samples of some batches in one, with their labels where they belong.

    Args:
        model: that they are for.
        data: batches of one kind and, but for their number of samples, of one shape.

    Returns:
        The inputs and the labels; None for these if no batch has any.

    Raises:
        ValueError: if there is no batch, or they do not fit together.
    """
    batches = [read_batch(batch) for batch in data]
    if not batches:
        refuse("data", "empty", "at least one batch")
    labelled = [batch.labels is not None for batch in batches]
    if any(labelled) and not all(labelled):
        refuse("data", "some batches without labels", "labels in every batch, or in none")
    given = [batch.given(model) for batch in batches]
    found: list[dict[Any, Any]] = [
        dict(inputs) if isinstance(inputs, dict) else dict(enumerate(inputs)) for inputs in given
    ]
    inputs = {key: _joined(key, [values.get(key) for values in found]) for key in found[0]}
    if any(values.keys() != inputs.keys() for values in found):
        refuse("data", "batches of several kinds", "the same inputs in every batch")
    labels = _joined("labels", [b.targets(model) for b in batches]) if labelled[0] else None
    whole: Inputs = inputs if isinstance(given[0], dict) else tuple(inputs.values())
    return whole, labels


def _joined(name: object, parts: Sequence[Any]) -> Tensor:
    whole = isinstance(name, int)
    what = f"input {name}" if whole else repr(name)
    if any(not isinstance(part, Tensor) or not part.dim() for part in parts):
        refuse("data", f"{what} that is no tensor with a row a sample", "tensors [samples, ...]")
    if len({part.shape[1:] for part in parts}) > 1:
        shapes = sorted({tuple(part.shape[1:]) for part in parts})
        refuse("data", f"{what} of shapes {shapes}", "one shape in all batches: pad to one length")
    return torch.cat(list(parts))


def check_names(model: nn.Module, inputs: Inputs) -> None:
    """Make sure that a model takes the names of some inputs.

    Raises:
        ValueError: if it does not.
    """
    if not isinstance(inputs, dict):
        return
    try:
        taken = inspect.signature(unwrapped(model).forward).parameters
    except (TypeError, ValueError):
        return
    if any(p.kind is p.VAR_KEYWORD for p in taken.values()):
        return
    for name in inputs:
        if name not in taken:
            what = f"{type(unwrapped(model)).__name__}.forward"
            refuse("data", f"batches with {name!r}", f"what {what} takes: {', '.join(taken)}")


def is_causal(model: nn.Module) -> bool | None:
    """Tell whether a model predicts with each token the next one; None if nothing says it.

    Example:
        >>> class TinyForCausalLM(nn.Module): ...
        >>> is_causal(TinyForCausalLM()), is_causal(nn.Linear(1, 1))
        (True, None)
    """
    model = unwrapped(model)
    config = getattr(model, "config", None)
    if getattr(config, "is_encoder_decoder", False) is True:
        return False
    kinds = type(model).__mro__
    names = [kind.__name__ for kind in kinds]
    if not set(names).isdisjoint(UNMOVED):
        return False
    causal = ("ForCausalLM", "LMHeadModel", "ModelWithLMHead", "ForConditionalGeneration")
    if any(name.endswith(causal) for name in names):
        return True
    base = getattr(model, "get_base_model", None)  # of the peft library, around another model
    if callable(base) and base() is not model:
        return is_causal(base())
    ours = any(kind.__module__.partition(".")[0] == "transformers" for kind in kinds)
    return False if ours else None


def moved(labels: Tensor) -> Tensor:
    """Return labels one place earlier; the last place has none.

    Example:
        >>> import torch
        >>> moved(torch.tensor([[5, 6, 7]]))
        tensor([[   6,    7, -100]])
    """
    return F.pad(labels[:, 1:].movedim(1, -1), (0, 1), value=IGNORED).movedim(-1, 1)


def _named(batch: Mapping[str, Any]) -> Batch:
    if not batch:
        refuse("data", "a batch without tensors", BATCH)
    name = next((n for n in LABELS if batch.get(n) is not None), None)
    inputs = {n: value for n, value in batch.items() if n not in LABELS}
    if not inputs:
        refuse("data", f"a batch of {name!r} alone", "inputs of the model besides")
    return Batch(inputs, batch[name] if name is not None else None, name)


def _shown(labels: Tensor, tokens: Tensor | None) -> tuple[bool, bool]:
    """Tell whether all labels that count equal their own tokens, and whether the next ones."""
    if tokens is None:
        return False, False
    tokens = tokens.to(labels.device)
    counts = labels != IGNORED
    if not bool(counts.any()):
        return False, False
    own = bool((labels == tokens)[counts].all())
    ahead = counts[:, :-1]
    # The token after the last one is not there to be compared with.
    following = bool(ahead.any()) and bool((labels[:, :-1] == tokens[:, 1:])[ahead].all())
    return own, following


def _say(text: str) -> None:
    warnings.warn(f"data: {text}", stacklevel=4)
