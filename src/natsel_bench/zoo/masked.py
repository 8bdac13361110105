"""The judge of the zoo: a smaller network must compute what the dense one with zeros does.

It knows nothing of how natsel finds or proves: which numbers are gone is read off the weights,
which :func:`natsel_bench.peers.reference.distinct_` made unlike each other.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from natsel.common.calls import Inputs, call, in_double, outputs_of, without_cache
from natsel.communities import Communities

WITHIN = 1e-6
"""Largest difference that counts as none, relative to what the removal changes, in float64."""
NOISE = 1e-12
"""The same relative to the largest output, for removals that change next to nothing."""

LARGEST_TABLE = 1 << 26
HUGE = 1e300
"""In place of what is not finite, so that it can be written."""
_ROUTERS = ("router", "gate")
_PREFERENCE = "correction_bias"
_STANDARDISED = ("StdConv", "WeightStandardized")
"""In the names of layers that give the rows of their weight mean 0 and variance 1 at every pass."""


class _Whole(TorchFunctionMode):
    """What code casts to float32 stays in float64, so that no difference hides in rounding.

    Args:
        closed: weights of routers by ``id``, with the outputs that may never be chosen: their
            logits are minus infinity, not 0.
    """

    def __init__(self, closed: Mapping[int, Tensor] | None = None) -> None:
        super().__init__()
        self.closed = closed or {}

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        named = dict(kwargs or {})
        if func is Tensor.float:
            return args[0].double()
        if func is not Tensor.type:
            args = tuple(_wide(a) for a in args)
            named = {key: _wide(value) for key, value in named.items()}
        out = func(*args, **named)
        if func is F.linear and self.closed:
            weight = args[1] if len(args) > 1 else named["weight"]
            if id(weight) in self.closed:
                return out.masked_fill(self.closed[id(weight)], -math.inf)
        return out


def _wide(value: Any) -> Any:
    return torch.float64 if value is torch.float32 else value


@contextmanager
def doubled(closed: Mapping[int, Tensor] | None = None) -> Iterator[None]:
    """Compute in float64 throughout, also where code asks for float32."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with _Whole(closed):
            yield
    finally:
        torch.set_default_dtype(before)


def in_float64(model: nn.Module) -> nn.Module:
    """Return a copy in float64, with experts run one by one: the fused product has none."""
    twin = copy.deepcopy(model).double()
    choose: Any = getattr(twin, "set_experts_implementation", None)
    if choose is not None:
        choose("eager")
    return twin


def gone_from(dense: nn.Module, small: nn.Module) -> dict[str, Tensor]:
    """Return, per parameter of the dense model, which of its numbers the small one lacks.

    The same as :func:`natsel_bench.peers.reference.removed`, by a table in place of a sort.

    Args:
        dense: a model whose numbers all differ within a tensor.
        small: what was made of it.
    """
    kept = dict(small.named_parameters(remove_duplicate=False))
    found = {}
    for name, tensor in dense.named_parameters(remove_duplicate=False):
        lost = _absent(tensor.detach(), kept[name].detach())
        if bool(lost.any()):
            found[name] = lost
    return found


def _absent(numbers: Tensor, among: Tensor) -> Tensor:
    if numbers.shape == among.shape and torch.equal(numbers, among):
        return torch.zeros_like(numbers, dtype=torch.bool)
    if numbers.dtype != torch.float32 or among.dtype != torch.float32 or not among.numel():
        return ~torch.isin(numbers, among)
    bits, held = (x.contiguous().view(torch.int32).long() for x in (numbers.abs(), among.abs()))
    low, high = int(bits.min()), int(bits.max())
    if high - low > LARGEST_TABLE:
        return ~torch.isin(numbers, among)
    table = torch.zeros(high - low + 1, dtype=torch.bool)
    table[held[(held >= low) & (held <= high)] - low] = True
    return ~table[bits - low]


def outputs(
    model: nn.Module, inputs: Inputs, *, closed: Mapping[int, Tensor] | None = None
) -> list[Tensor]:
    """Return every floating-point output of a model in float64; the model is left as it was.

    Args:
        model: in float64 already.
        inputs: what it runs on.
        closed: as :class:`_Whole` takes it.
    """
    with torch.no_grad(), doubled(closed), without_cache(model):
        torch.default_generator.manual_seed(0)
        found = outputs_of(call(model, in_double(inputs)))
    return [x.detach().clone() for x in found if x.is_floating_point() or x.is_complex()]


def masked(dense: nn.Module, gone: Mapping[str, Tensor]) -> tuple[nn.Module, dict[int, Tensor]]:
    """Return the dense model in float64 with zeros where numbers are gone, and closed routers.

    Of weights that are standardised at every pass whole rows are zero, and the columns that read
    what is gone stay: it is zero that they read.

    Args:
        dense: the model, not changed.
        gone: from :func:`natsel_bench.peers.reference.removed`.
    """
    twin = in_float64(dense)
    parameters = dict(twin.named_parameters(remove_duplicate=False))
    with torch.no_grad():
        for name, lost in gone.items():
            kind = type(twin.get_submodule(name.rpartition(".")[0])).__name__
            if lost.dim() > 1 and any(word in kind for word in _STANDARDISED):
                # Zeros in a row would change all of it. What a column reads is zero anyway.
                lost = lost.flatten(1).all(1).reshape(-1, *[1] * (lost.dim() - 1))
            parameters[name].masked_fill_(lost, 0)
    for name, module in twin.named_modules():
        if _routes(name, module) and f"{name}.weight" in gone:
            _prefer_nobody(twin, name, gone[f"{name}.weight"].flatten(1).all(1))
    closed = {
        id(module.weight): lost
        for name, module in twin.named_modules()
        if _routes(name, module)
        and f"{name}.weight" in gone
        and bool((lost := gone[f"{name}.weight"].flatten(1).all(1)).any())
    }
    return twin, closed


def _prefer_nobody(model: nn.Module, router: str, lost: Tensor) -> None:
    """Close what is added to the scores of who is gone, beside a router or in the block around it.

    A sigmoid of minus infinity is 0, and with a preference added to that it could be chosen.
    """
    around = model.get_submodule(router.rpartition(".")[0])
    for name, tensor in (*around.named_parameters(), *around.named_buffers()):
        if name.endswith(_PREFERENCE) and tensor.numel() == len(lost):
            tensor.data.view(-1).masked_fill_(lost, -math.inf)


def _routes(name: str, module: nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor) or weight.dim() != 2:
        return False
    last = name.rsplit(".", 1)[-1]
    return last in _ROUTERS or type(module).__name__.lower().endswith("router")


def difference(ours: list[Tensor], theirs: list[Tensor], before: list[Tensor]) -> dict[str, Any]:
    """Compare outputs: the largest difference relative to the effect of the removal, and to all.

    Args:
        ours: of the small model.
        theirs: of the masked one.
        before: of the dense one.

    Returns:
        ``relative`` to the largest change of the removal, ``noise`` relative to the largest
        output, and ``effect``, that change relative to the largest output; worst over outputs.

    Raises:
        ValueError: if outputs have other shapes.

    Example:
        >>> one = [torch.ones(1)]
        >>> difference(one, one, [torch.zeros(1)])["relative"]
        0.0
    """
    shapes = [[tuple(x.shape) for x in found] for found in (ours, theirs)]
    if shapes[0] != shapes[1]:
        raise ValueError(f"outputs of shapes {shapes[1]} became {shapes[0]}")
    worst = {"relative": 0.0, "noise": 0.0, "effect": 0.0}
    for mine, right, full in zip(ours, theirs, before, strict=True):
        if not mine.numel():
            continue
        same = (mine == right) | (mine.isnan() & right.isnan())  # also where both are infinite
        apart = _largest(torch.where(same, 0, mine - right))
        effect = _largest(torch.where(full == right, 0, full - right))
        scale = max(_largest(right[right.isfinite()]), 1e-300)
        worst["relative"] = max(worst["relative"], apart / effect if effect else float(apart > 0))
        worst["noise"] = max(worst["noise"], apart / scale)
        worst["effect"] = max(worst["effect"], effect / scale)
    return {key: min(value, HUGE) for key, value in worst.items()}


def _largest(x: Tensor) -> float:
    found = float(x.abs().max()) if x.numel() else 0.0
    return found if math.isfinite(found) else HUGE


def is_exact(found: Mapping[str, float]) -> bool:
    """Say whether a difference is none.

    Example:
        >>> is_exact({"relative": 1e-9, "noise": 1e-10}), is_exact({"relative": 1, "noise": 1e-3})
        (True, False)
    """
    return found["relative"] <= WITHIN or found["noise"] <= NOISE


def as_selected(
    communities: Communities, survivors: Mapping[str, Tensor], gone: Mapping[str, Tensor]
) -> str:
    """Say where what is gone is not what was selected, or nothing.

    Args:
        communities: what was offered.
        survivors: what was selected of it.
        gone: what the small model lacks.
    """
    for name, community in communities.items():
        out = ~survivors[name]
        for part in community.slices:
            lost = gone.get(part.tensor)
            if lost is None or not bool(out.any()):
                continue
            places = lost.movedim(part.axis, 0).reshape(lost.shape[part.axis], -1).all(1)
            if not bool(places[part.index[out].flatten()].all()):
                return f"{part.tensor}: what was selected to go is still there"
    return ""
