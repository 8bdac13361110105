"""Unstructured communities: the weights of a tensor, each of them a population."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from natsel.common.batches import Data, check_data, inputs_for, read_batch
from natsel.common.calls import LABELLED, call, cross_entropy, has_labels
from natsel.common.errors import choose, refuse
from natsel.common.hooks import as_rows, entering, watching
from natsel.common.modes import evaluating
from natsel.common.padding import without_padding
from natsel.common.patterns import Patterns, chosen
from natsel.communities.computed import how_computed
from natsel.single_weights.matrices import is_transposed
from natsel.single_weights.streaming.source import Scorer, magnitude, product

SCORERS: dict[str, Scorer] = {"magnitude": magnitude, "wanda": product, "taylor": product}
SECOND = {
    "wanda": "the norms of the inputs, that broadcast to each weight",
    "taylor": "gradients of the shape of each weight",
}
ENGINES = ("auto", "numpy", "numba", "torch")


class Weights(Mapping[str, Tensor]):
    """Tensors whose weights compete one by one, and what scores them.

    Nothing is computed before :func:`natsel.select` streams through them, so that selecting needs
    no copy of the weights. Two names of one tensor (tied embeddings) are one community that counts
    once; both names get its mask.

    Args:
        tensors: by name; floating point, not empty, on one device.
        scorer: "magnitude" (|w|), "wanda" (|w| times the norm of its input), "taylor" (|w times its
            gradient|), or a function of a part of the weights and of the second tensor that works
            element by element; higher is fitter.
        second: for each name a tensor that broadcasts to the weights': norms ``[1, inputs]`` for
            "wanda", gradients for "taylor".
        engine: "numpy" on a processor, "numba" (extra ``fast``), "torch" on any device, or "auto".

    Attributes:
        transposed: names of tensors whose first dimension is of inputs.
        turned: names of matrices ``[inputs, outputs]``, whose rows are their columns.

    Raises:
        ValueError: if a tensor cannot be selected from; the message names it.

    Example:
        >>> import natsel
        >>> weights = Weights({"w": torch.tensor([[0.3, -0.9], [0.1, 0.2]])})
        >>> natsel.select(weights, natsel.Sparsity(0.5))["w"]
        tensor([[ True,  True],
                [False, False]])
    """

    def __init__(
        self,
        tensors: Mapping[str, Tensor],
        *,
        scorer: str | Scorer = "magnitude",
        second: Mapping[str, Tensor] | None = None,
        engine: str = "auto",
    ) -> None:
        if not tensors:
            refuse("tensors", {}, "at least one tensor of weights")
        if isinstance(scorer, str):
            choose("scorer", scorer, SCORERS)
        choose("engine", engine, ENGINES)
        self.engine = engine
        self.transposed: frozenset[str] = frozenset()
        self.turned: frozenset[str] = frozenset()
        self.scorer = SCORERS[scorer] if isinstance(scorer, str) else scorer
        self._tensors = {name: _checked(name, tensor) for name, tensor in tensors.items()}
        devices = sorted({str(t.device) for t in self._tensors.values()})
        if len(devices) > 1:
            refuse("tensors", f"on {', '.join(devices)}", "tensors on one device")
        self.owner = _owners(self._tensors)
        needs = SECOND.get(scorer) if isinstance(scorer, str) else None
        if needs is not None and second is None:
            refuse("second", None, f"{needs}: scorer {scorer!r} multiplies by them")
        if scorer == "magnitude" and second is not None:
            refuse("second", "tensors", "None: scorer 'magnitude' reads none")
        self.second = {n: _matched(n, self._tensors[n], second) for n in self.owner.values()}

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def __repr__(self) -> str:
        return f"Weights({len(self)} tensors, {self.size:,} weights)"

    def only(self, names: Iterable[str]) -> Weights:
        """Return some of them, on the same memory."""
        taken = {name: self[name] for name in names}
        second = {name: self.second[self.owner[name]] for name in taken}
        there = {name: tensor for name, tensor in second.items() if tensor is not None}
        found = Weights(taken, scorer=self.scorer, second=there or None, engine=self.engine)
        found.transposed = self.transposed & set(taken)
        found.turned = self.turned & set(taken)
        return found

    def laid(self, name: str) -> tuple[Tensor, Tensor | None]:
        """Return a tensor with its outputs first, and the second one beside it; views of them."""
        tensor, second = self[name], self.second[self.owner[name]]
        if name not in self.turned:
            return tensor, second
        return tensor.T, None if second is None else second.T

    @property
    def size(self) -> int:
        """How many weights compete; those of tied tensors once."""
        return sum(self[name].numel() for name in dict.fromkeys(self.owner.values()))


def weights(
    model: nn.Module,
    *,
    scorer: str | Scorer = "magnitude",
    data: Data | None = None,
    include: Patterns = None,
    exclude: Patterns = None,
    engine: str = "auto",
) -> Weights:
    """Return the weights of a model's Linear and convolution layers as communities.

    A Conv1D of the transformers library (GPT-2) is a Linear that holds its weight transposed: what
    competes in it is what would in that Linear, and its mask has the shape of its weight.

    Args:
        model: its parameters are shared, not copied.
        scorer: see :class:`Weights`; "wanda" and "taylor" read data.
        data: batches for them, as :func:`natsel.score` takes them; "taylor" reads labels, too.
        include: patterns of the parameters' names that take part.
        exclude: patterns of those that stay whole.
        engine: see :class:`Weights`.

    Returns:
        Communities that :func:`natsel.select` takes.

    Raises:
        ValueError: if data is missing, or there is no such layer.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> list(weights(model, exclude="2.*"))
        ['0.weight']
    """
    layers = {
        f"{name}.weight" if name else "weight": layer
        for name, layer in model.named_modules(remove_duplicate=False)
        if isinstance(layer, nn.Linear | nn.modules.conv._ConvNd) or is_transposed(layer)
    }
    if not layers:
        refuse("model", type(model).__name__, "a model with Linear or convolution layers")
    taking = {name: layers[name] for name in chosen(layers, include, exclude)}
    for name, layer in taking.items():
        parameter = layer._parameters.get("weight")
        if not isinstance(parameter, nn.Parameter) or layer.weight is not parameter:
            # A gated or normalised weight is computed anew at each read: a mask has no place.
            what, remedy = how_computed(model, name)
            refuse(f"model.{name}", what, f"a parameter of its layer ({remedy})")
    tensors = {name: layer.get_parameter("weight") for name, layer in taking.items()}
    second = None
    if scorer in SECOND:
        if data is None:
            refuse("data", None, f"batches of inputs: scorer {scorer!r} reads them")
        data = check_data(data)
        read = _norms if scorer == "wanda" else _gradients
        second = read(model, taking, data)
    found = Weights(tensors, scorer=scorer, second=second, engine=engine)
    inputs_first = (n for n, layer in taking.items() if getattr(layer, "transposed", False))
    found.transposed = frozenset(inputs_first)
    found.turned = frozenset(n for n, layer in taking.items() if is_transposed(layer))
    return found


def _norms(model: nn.Module, layers: Mapping[str, nn.Module], data: Data) -> dict[str, Tensor]:
    """Return the root mean square of what each input of each layer carries, to broadcast."""
    sums: dict[str, Tensor] = {}
    counts: dict[str, int] = {}

    def add(name: str, args: tuple[Any, ...], named: dict[str, Any]) -> None:
        layer, x = layers[name], entering(args, named).detach()
        axis = -1 if isinstance(layer, nn.Linear) or is_transposed(layer) else 1
        x = without_padding(layer, x, axis if axis < 0 else axis - x.dim())
        x = as_rows(x, axis)
        squares = torch.linalg.vector_norm(x, dim=0, dtype=torch.float32).square()
        sums[name] = sums[name] + squares if name in sums else squares
        counts[name] = counts.get(name, 0) + len(x)

    with watching(layers, add), evaluating(model), torch.no_grad():
        for batch in data:
            call(model, inputs_for(model, batch))
    unseen = [name for name in layers if not counts.get(name)]
    if unseen:
        refuse("data", f"nothing that reaches {unseen[0]!r}", "batches that run every layer")
    return {
        name: _per_input(layer, (sums[name] / counts[name]).sqrt())
        for name, layer in layers.items()
    }


def _per_input(layer: nn.Module, norms: Tensor) -> Tensor:
    """Lay the norms of a layer's inputs beside its weights."""
    weight = layer.get_parameter("weight")
    groups = int(getattr(layer, "groups", 1))
    behind = (1,) * (weight.dim() - 2)
    if getattr(layer, "transposed", False) or is_transposed(layer):
        return norms.view(-1, 1, *behind)
    if groups == 1:
        return norms.view(1, -1, *behind)
    # Each group of outputs reads inputs of its own.
    rows = norms.view(groups, 1, -1).expand(groups, len(weight) // groups, -1)
    return rows.reshape(len(weight), -1, *behind)


def _gradients(model: nn.Module, layers: Mapping[str, nn.Module], data: Data) -> dict[str, Tensor]:
    """Return the gradient of the mean loss over all batches for each weight."""
    names = list(layers)
    tensors = [layers[name].get_parameter("weight") for name in names]
    frozen = [t for t in tensors if not t.requires_grad]
    sums = [torch.zeros_like(t, memory_format=torch.contiguous_format) for t in tensors]
    count, num_batches = 0, 0
    try:
        for tensor in frozen:
            tensor.requires_grad_(True)
        with evaluating(model), torch.enable_grad():
            for batch in data:
                held = read_batch(batch)
                labels = held.targets(model)
                num_batches += 1
                if not has_labels(labels):
                    continue
                loss = cross_entropy(call(model, held.given(model)), labels)
                found = torch.autograd.grad(loss, tensors, allow_unused=True)
                count += 1
                for total, gradient in zip(sums, found, strict=True):
                    if gradient is not None:
                        total.add_(gradient)
    finally:
        for tensor in frozen:
            tensor.requires_grad_(False)
    if not num_batches:
        refuse("data", "no batches", "at least one")
    if not count:
        refuse("data", "no sample with a label", LABELLED)
    return {name: total.div_(count) for name, total in zip(names, sums, strict=True)}


def _checked(name: str, tensor: object) -> Tensor:
    argument = f"tensors[{name!r}]"
    if not isinstance(tensor, Tensor):
        refuse(argument, type(tensor).__name__, "a tensor")
    if tensor.is_quantized or not tensor.dtype.is_floating_point:
        refuse(argument, tensor.dtype, "a tensor of floating-point numbers")
    if tensor.dtype not in (torch.float32, torch.bfloat16, torch.float16, torch.float64):
        refuse(argument, tensor.dtype, "bfloat16, float16, float32 or float64")
    if tensor.layout != torch.strided:
        refuse(argument, tensor.layout, "a dense tensor")
    if tensor.is_meta:
        refuse(argument, "a tensor without data (meta)", "a tensor on a processor or accelerator")
    if tensor.numel() == 0:
        refuse(argument, "an empty tensor", "at least one weight")
    return tensor.detach()


def _owners(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Return for each name the first name of the same memory.

    Raises:
        ValueError: if two tensors share a part of their memory.
    """
    seen: dict[tuple[Any, ...], str] = {}
    spans: dict[int, list[tuple[int, int, str]]] = {}
    owner = {}
    for name, tensor in tensors.items():
        storage = tensor.untyped_storage().data_ptr()
        steps = list(zip(tensor.shape, tensor.stride(), strict=True))
        last = sum((n - 1) * s for n, s in steps)
        first = int(tensor.storage_offset()) * tensor.element_size()
        span = (first, first + (int(last) + 1) * tensor.element_size())
        key = (storage, span, tensor.dtype, *steps)
        owner[name] = seen.setdefault(key, name)
        if owner[name] != name:
            continue
        if (0 in tensor.stride()) and any(n > 1 and s == 0 for n, s in steps):
            refuse(f"tensors[{name!r}]", "an expanded tensor", "one with memory for each weight")
        for start, stop, other in spans.setdefault(storage, []):
            if start < span[1] and span[0] < stop:
                allowed = "tensors that share all of their memory or none"
                refuse(f"tensors[{name!r}]", f"memory of {other!r}", allowed)
        spans[storage].append((*span, name))
    return owner


def _matched(name: str, weight: Tensor, second: Mapping[str, Tensor] | None) -> Tensor | None:
    """Return the second tensor of one name, expanded to the shape of the weights."""
    if second is None:
        return None
    if name not in second:
        refuse("second", sorted(second), f"a tensor for {name!r} as well")
    tensor = second[name].detach()
    argument = f"second[{name!r}]"
    if tensor.device != weight.device:
        refuse(argument, f"on {tensor.device}", f"on {weight.device}, where the weights are")
    if not tensor.dtype.is_floating_point:
        refuse(argument, tensor.dtype, "a tensor of floating-point numbers")
    try:
        return tensor.expand(weight.shape)
    except RuntimeError:
        refuse(argument, tuple(tensor.shape), f"a shape that broadcasts to {tuple(weight.shape)}")
