"""What reads and writes a residual stream, and whether it may be turned.

A residual stream is the sum of what its writers add: an embedding, the last projections of
attentions and perceptrons. Its readers see it through normalisations. Where all of these are
RMSNorms, y = g * x / rms(x), the stream may be turned by an orthogonal matrix Q: rms(xQ) = rms(x),
so that with g folded into the readers nothing is left that knows one place from another.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.func import functional_call

from natsel.common.calls import Inputs, call, without_cache
from natsel.common.errors import refuse
from natsel.common.hooks import entering
from natsel.common.modes import evaluating
from natsel.communities import Communities, Community
from natsel.communities.kinds import CHANNEL
from natsel.communities.proof.doubled import in_float64
from natsel.communities.tensors import owner, tensors_of

PLACES = 5
"""Rows on which a normalisation is tried."""
CLOSE = 1e-9
WHAT = "a model whose residual stream is normalised by RMSNorm alone, before each sublayer"


@dataclass(frozen=True, eq=False)
class Stream:
    """A residual stream.

    Attributes:
        community: its places.
        turned: the tensors that lie along it, with their axis; tied ones once.
        norms: the paths of its normalisations, in the order in which they run.
        readers: which normalisation each weight reads through, by the path of the module that holds
            it and the name there.
    """

    community: Community
    turned: Mapping[str, int]
    norms: tuple[str, ...]
    readers: Mapping[tuple[str, str], str]


def stream_of(communities: Communities, inputs: Inputs) -> Stream:
    """Return the residual stream of a model.

    Args:
        communities: of :func:`natsel.discover` with ``residual=True``.
        inputs: what the model is run on, once.

    Raises:
        ValueError: naming what stands in the way of turning it.
    """
    model = communities.model
    found = [c for c in communities.values() if c.kind == CHANNEL.name]
    if len(found) != 1:
        whole = [r for r in communities.refused if "neighbours" in r.reason]
        why = f"{whole[0].name}: {whole[0].reason}" if whole else f"it has {len(found)} of them"
        _refuse(model, f"one residual width that can be removed from ({why})")
    (community,) = found
    tensors = tensors_of(model)
    parameters = dict(model.named_parameters())
    turned: dict[str, int] = {}
    norms = []
    for part in community.slices:
        size = tensors[part.tensor].shape[part.axis]
        if not torch.equal(part.index, torch.arange(size).unsqueeze(1)):
            _refuse(model, f"{WHAT}: {part.tensor} holds other places between those of the stream")
        if part.tensor not in parameters:
            _refuse(model, f"{WHAT}: {part.tensor} is a buffer")
        if part.tensor in turned:
            _refuse(model, f"{WHAT}: {part.tensor} reads the stream and writes it, along two axes")
        module, name = owner(model, part.tensor)
        path = part.tensor.rpartition(".")[0]
        others = [p for p in module.parameters(recurse=False) if p.dim() > 1]
        if tensors[part.tensor].dim() > 1 or others:
            turned[part.tensor] = part.axis
        elif name != "weight" or not is_rms_norm(module, size):
            _refuse(model, f"{WHAT}: {path} is a {type(module).__name__}{_why_not(module)}")
        else:
            norms.append(path)
    read = {p.tensor for p in community.gates}
    order, readers = _through(model, inputs, norms, read)
    unread = [n for n in norms if n not in set(readers.values())]
    for path in unread:
        gain = model.get_submodule(path).get_parameter("weight")
        if not is_constant(gain):
            what = "what it returns enters no weight that its own could be folded into"
            _refuse(model, f"{WHAT}: {path} is none of these, {what}")
    return Stream(community, turned, tuple(order), readers)


def is_constant(gain: Tensor) -> bool:
    """Tell whether all numbers are the same: such a weight knows no place from another."""
    return bool((gain == gain.flatten()[0]).all())


def is_rms_norm(module: nn.Module, size: int) -> bool:
    """Tell whether a module is g * f(x) where f is the same for a stream that is turned."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(PLACES, size, generator=generator, dtype=torch.float64)
    gain = torch.randn(size, generator=generator, dtype=torch.float64)
    q, _ = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))
    ones = torch.ones_like(gain)
    try:
        with in_float64():
            plain, turned, scaled = (
                functional_call(module, {"weight": weight}, (rows,))
                for rows, weight in ((x, ones), (x @ q, ones), (x, gain))
            )
            return _same(plain @ q, turned) and _same(plain * gain, scaled)
    except Exception:  # noqa: BLE001 - what cannot be tried is nothing that is known
        return False


def _same(one: Tensor, other: Tensor) -> bool:
    return bool(torch.allclose(one, other, rtol=0, atol=CLOSE))


def _why_not(module: nn.Module) -> str:
    if isinstance(module, nn.LayerNorm):
        return ", which subtracts a mean: turning what enters it does not turn what it returns"
    if "RMSNorm" in type(module).__name__:
        return ", whose weight does not multiply what it returns by itself (1 + weight, say)"
    return ""


def _through(
    model: nn.Module, inputs: Inputs, norms: Collection[str], read: Collection[str]
) -> tuple[list[str], dict[tuple[str, str], str]]:
    """Run a model once; return its normalisations in order, and which of them each weight reads."""
    tensors = dict(model.named_parameters())
    wanted = {id(tensors[name]) for name in read}
    # What they return is held, so that no other tensor comes to lie in its place meanwhile.
    returned: dict[int, tuple[str, Tensor]] = {}
    order: dict[str, None] = {}
    readers: dict[tuple[str, str], str] = {}

    def leave(path: str) -> Any:
        def hook(_: nn.Module, __: Any, left: Tensor) -> None:
            order[path] = None
            returned[left.untyped_storage().data_ptr()] = (path, left)

        return hook

    def enter(path: str, names: list[str]) -> Any:
        def hook(_: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> None:
            x = entering(args, named)
            seen = returned.get(x.untyped_storage().data_ptr())
            if seen is None:
                return
            for name in names:
                if readers.setdefault((path, name), seen[0]) != seen[0]:
                    tensor = f"{path}.{name}"
                    _refuse(model, f"{WHAT}: {tensor} reads through several normalisations")

        return hook

    with ExitStack() as stack:
        for path in norms:
            handle = model.get_submodule(path).register_forward_hook(leave(path))
            stack.callback(handle.remove)
        for path, module in model.named_modules():
            names = [n for n, p in module._parameters.items() if id(p) in wanted]
            if names:
                handle = module.register_forward_pre_hook(enter(path, names), with_kwargs=True)
                stack.callback(handle.remove)
        with evaluating(model), without_cache(model), torch.no_grad():
            call(model, inputs)
    return list(order), readers


def _refuse(model: nn.Module, allowed: str) -> NoReturn:
    refuse("model", type(model).__name__, allowed)
