r"""Turn the residual stream of a language model to its principal axes: the same function.

With x the stream as a row, Q orthogonal, and RMSNorm's weight g folded into what reads it, every
writer's output W becomes W Q and every reader's input, too: (x Q)(V Q)^T = x V^T. RMSNorm with
weight 1 turns along. One Q serves the whole stream: with one for each block, as SliceGPT has them,
each residual connection would need a matrix of its own.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from natsel.common.batches import Data, inputs_for, reread
from natsel.common.calls import Inputs, call, first_samples, outputs_of, without_cache
from natsel.common.errors import refuse
from natsel.common.logs import logger_of
from natsel.common.modes import evaluating
from natsel.common.wrappers import unwrapped
from natsel.communities import Communities
from natsel.communities.copies import copied
from natsel.communities.discover import discover
from natsel.communities.gates.gates import folded
from natsel.communities.proof.doubled import in_float64
from natsel.communities.proof.gap import apart
from natsel.extraction.stream import Stream, is_constant, stream_of
from natsel.extraction.verification import VerificationError
from natsel.fitness.running import Products

_LOG = logger_of(__name__)
_ATTRIBUTE = "_natsel_rotation"

TOLERANCE = 1e-9
"""Largest difference of outputs in float64, relative to the largest of them."""
TOKENS = 16
"""Places of a sequence on which the structure is found."""


@dataclass(frozen=True, eq=False)
class Rotation:
    """What was done to a model by :func:`rotate`.

    Attributes:
        community: name of the residual width.
        explained: the share of the stream, as its normalisations see it, that lies along each axis,
            ``[width]``, in descending order.
        folded: how many weights of normalisations went into what reads them.
        untied: names of the tensors that were tied to another one and are their own now.
        num_untied: how many parameters that added.
        error: largest difference of the outputs in float64, relative to the largest of them.
    """

    community: str
    explained: Tensor
    folded: int
    untied: tuple[str, ...]
    num_untied: int
    error: float

    def axes_of(self, share: float) -> int:
        """Return how many axes hold a share of the stream, the largest first."""
        return int((self.explained.cumsum(0) < share).sum()) + 1

    def __repr__(self) -> str:
        half = self.axes_of(0.9)
        cost = f", {self.num_untied:,} parameters more" if self.num_untied else ""
        return (
            f"Rotation({self.community}: 90 % lies along {half} of {len(self.explained)} axes; "
            f"{self.folded} normalisations folded{cost}; error {self.error:.1e} in float64)"
        )


def rotate(model: nn.Module, data: Data, *, communities: Communities | None = None) -> nn.Module:
    r"""Return a copy of a language model with its residual width turned to principal axes.

    The weight g of each RMSNorm is folded into the weights that read it, and becomes 1; then one
    orthogonal matrix Q is folded into everything that writes the residual stream or reads it. Q has
    the eigenvectors of $\sum E[\hat x^T \hat x]$ as columns, $\hat x = x / \mathrm{rms}(x)$ what
    each normalisation makes of the stream before its weight, over all of them and all places of the
    data: the first places of the new width carry the most, the last the least. It computes the
    same, which is proven in float64 on the data's first sample. Then
    ``natsel.discover(small, ..., residual=True)`` offers the axes, and scorers of activations
    (``variance``, ``wanda``, ``joint``) know what each of them carries.

    A head that is tied to the embedding becomes a tensor of its own wherever the last
    normalisation's weight is not constant: a warning says what that adds. Nothing else could hold
    it, short of a matrix of its own between the two.

    Args:
        model: a model whose residual stream is normalised by RMSNorm alone, before each sublayer:
            Llama, Mistral, Qwen2, Qwen3 and their like. It is not changed.
        data: batches as :func:`natsel.score` takes them; labels are not read.
        communities: of the model with ``residual=True``, if they are there already.

    Returns:
        The turned copy; ``natsel.rotation_of`` says what was done.

    Raises:
        ValueError: if the model has another structure, named; or the data are empty.
        VerificationError: if the copy computes something else.

    Example:
        >>> import natsel
        >>> from transformers import LlamaConfig, LlamaForCausalLM
        >>> sizes = {"hidden_size": 8, "intermediate_size": 12, "num_attention_heads": 2}
        >>> model = LlamaForCausalLM(LlamaConfig(vocab_size=20, num_hidden_layers=1, **sizes))
        >>> turned = rotate(model, [{"input_ids": torch.arange(18).reshape(2, 9)}])
        >>> natsel.rotation_of(turned).error < 1e-9
        True

    Reference:
        Ashkboos et al., "SliceGPT: Compress large language models by deleting rows and columns"
        (2024), arXiv:2401.15024.
    """
    base = folded(unwrapped(model))
    batches = reread(data)
    first = next(iter(batches or ()), None)
    if first is None:
        refuse("data", "empty" if data is not None else None, "at least one batch")
    sample = first_samples(inputs_for(base, first), 1)
    if communities is None:
        communities = discover(base, _shortened(sample), residual=True, proof=False)
    stream = stream_of(communities, _shortened(sample))
    found = second_moments(base, stream, batches)
    q, explained = principal_axes(found)
    turned, untied = turned_by(base, stream, q)
    error = _difference(base, turned, sample)
    if not error <= TOLERANCE:
        raise VerificationError(
            f"{type(base).__name__} computes something else when its residual stream is turned: "
            f"outputs differ by {error:.3g} in float64 (allowed {TOLERANCE:.0e})"
        )
    _as_before(turned, base)
    parameters = dict(turned.named_parameters())
    num_untied = sum(parameters[name].numel() for name in untied)
    gains = [base.get_submodule(path).get_parameter("weight") for path in stream.norms]
    num_folded = sum(not is_constant(gain) for gain in gains)
    rotation = Rotation(
        stream.community.name, explained.float(), num_folded, untied, num_untied, error
    )
    object.__setattr__(turned, _ATTRIBUTE, rotation)
    if untied:
        warnings.warn(
            f"{', '.join(untied)} was tied to an embedding and is its own now, "
            f"{num_untied:,} parameters more: the last normalisation's weight went into it",
            stacklevel=2,
        )
    _LOG.info("turned %r", rotation)
    return turned


def rotation_of(model: nn.Module) -> Rotation | None:
    """Return what :func:`rotate` did to a model; None if it did not make it."""
    return getattr(unwrapped(model), _ATTRIBUTE, None)


def principal_axes(moments: Tensor) -> tuple[Tensor, Tensor]:
    """Return the eigenvectors of second moments, the largest first, and the share of each.

    Args:
        moments: symmetric, ``[n, n]``.

    Returns:
        An orthogonal matrix ``[n, n]`` in float64 with the axes as columns, each with its largest
        number positive; and shares that sum to 1, ``[n]``.

    Example:
        >>> q, shares = principal_axes(torch.tensor([[1.0, 0.0], [0.0, 3.0]]))
        >>> q.tolist(), shares.tolist()
        ([[0.0, 1.0], [1.0, 0.0]], [0.75, 0.25])
    """
    moments = moments.double()
    values, vectors = torch.linalg.eigh((moments + moments.T) / 2)
    values, vectors = values.flip(0).clamp_min(0), vectors.flip(1)
    largest = vectors.gather(0, vectors.abs().argmax(0, keepdim=True))
    return vectors * largest.sign(), values / values.sum()


def second_moments(model: nn.Module, stream: Stream, data: Data) -> Tensor:
    """Return the mean products of all pairs of places, as normalisations see the stream.

    Args:
        model: that holds the stream.
        stream: whose normalisations to look at, all of them with the same weight.
        data: batches; read once, each as far as to the last normalisation.
    """
    products = Products(-1)
    count = 0
    with evaluating(model), without_cache(model), torch.no_grad(), _seeing(model, stream, products):
        for batch in data:
            with suppress(_EndedError):
                call(model, inputs_for(model, batch))
            count += 1
    if not count or not products.seen:
        refuse("data", "empty", "at least one batch with a sample")
    return products.value()


class _EndedError(BaseException):
    """Ends a forward pass after all that is looked at; no ``except Exception`` may catch it."""


@contextmanager
def _seeing(model: nn.Module, stream: Stream, products: Products) -> Iterator[None]:
    """Take in what normalisations make of the stream before their weight."""
    last = stream.norms[-1]
    # Copies, without the hooks, with which a module would see itself called again.
    plain = {path: _of_ones(model.get_submodule(path)) for path in stream.norms}

    def look(path: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            products(module, (plain[path](args[0]),))
            if path == last:
                raise _EndedError

        return hook

    handles = [
        model.get_submodule(path).register_forward_pre_hook(look(path)) for path in stream.norms
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _of_ones(norm: nn.Module) -> nn.Module:
    """Return a copy of a normalisation whose weight is 1."""
    weight = norm.get_parameter("weight")
    return copied(norm, {id(weight): _parameter(torch.ones_like(weight), weight)})


def turned_by(model: nn.Module, stream: Stream, q: Tensor) -> tuple[nn.Module, tuple[str, ...]]:
    """Return a copy of a model with its stream turned, in float64 where it is turned.

    Args:
        model: is not changed.
        stream: of the model.
        q: an orthogonal matrix ``[width, width]``.

    Returns:
        The copy, and the names of tensors in it that no longer are tied to others.
    """
    gains = {path: model.get_submodule(path).get_parameter("weight") for path in stream.norms}
    kept = {path for path, gain in gains.items() if is_constant(gain)}
    tensors = dict(model.named_parameters())
    by_reader = {key: path for key, path in stream.readers.items() if path not in kept}
    instead: dict[int, Tensor] = {}
    for path in set(gains) - kept:
        instead[id(gains[path])] = _parameter(torch.ones_like(gains[path]), gains[path])
    others: dict[tuple[str, str], Tensor] = {}
    untied = []
    with torch.no_grad():
        for name, axis in stream.turned.items():
            tensor = tensors[name]
            through = {holder: by_reader.get(holder) for holder in _holders(model, tensor)}
            made = {
                path: _parameter(_turned(tensor, axis, q, gains.get(path or "")), tensor)
                for path in dict.fromkeys(through.values())
            }
            first, *rest = made
            instead[id(tensor)] = made[first]
            others |= {holder: made[path] for holder, path in through.items() if path != first}
            untied += [next(h for h, path in through.items() if path == each) for each in rest]
    result = copied(model, instead)
    for (path, name), value in others.items():
        result.get_submodule(path)._parameters[name] = value  # type: ignore[assignment]
    if others:
        _untie(result)
    return result, tuple(".".join(holder).lstrip(".") for holder in untied)


def _turned(tensor: Tensor, axis: int, q: Tensor, gain: Tensor | None) -> Tensor:
    """Return a tensor in float64 with one of its axes scaled and turned."""
    rows = tensor.detach().double().movedim(axis, -1)
    if gain is not None:
        rows = rows * gain.detach().double()
    return (rows @ q.to(rows.device)).movedim(-1, axis).contiguous()


def _parameter(value: Tensor, like: Tensor) -> Tensor:
    if isinstance(like, nn.Parameter):
        return nn.Parameter(value, requires_grad=like.requires_grad)
    return value


def _holders(model: nn.Module, tensor: Tensor) -> list[tuple[str, str]]:
    return [
        (path, name)
        for path, module in model.named_modules()
        for name, held in module._parameters.items()
        if held is tensor
    ]


def _untie(model: nn.Module) -> None:
    """Let the configuration of a model of the transformers library say that nothing is tied."""
    for module in model.modules():
        config = getattr(module, "config", None)
        if config is not None and getattr(config, "tie_word_embeddings", False) is True:
            config.tie_word_embeddings = False


def _difference(base: nn.Module, turned: nn.Module, inputs: Inputs) -> float:
    """Return by how much two models differ in float64, relative to the largest output."""
    outputs = []
    for each in (base, turned):
        with evaluating(each), without_cache(each), in_float64():
            outputs.append(outputs_of(call(each, inputs)))
    theirs, ours = outputs
    if [x.shape for x in ours] != [x.shape for x in theirs]:
        return float("inf")
    found = [apart(a, b) for a, b in zip(ours, theirs, strict=True) if b.is_floating_point()]
    return max((difference / max(size, 1e-300) for difference, size in found), default=0.0)


def _as_before(turned: nn.Module, base: nn.Module) -> None:
    """Give the parameters of a copy the precision that they had."""
    types = {name: p.dtype for name, p in base.named_parameters(remove_duplicate=False)}
    for name, parameter in turned.named_parameters():
        parameter.data = parameter.data.to(types[name])


def _shortened(inputs: Inputs) -> Inputs:
    """Return the first places of sequences, which say all of the structure, where all are such."""
    values = list(inputs.values()) if isinstance(inputs, dict) else list(inputs)
    if len({tuple(x.shape) for x in values}) != 1 or values[0].dim() != 2:
        return inputs
    if isinstance(inputs, dict):
        return {name: x[:, :TOKENS] for name, x in inputs.items()}
    return tuple(x[:, :TOKENS] for x in values)
