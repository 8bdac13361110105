"""The gate test: a community is offered only after removing from it was shown to be masking."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from natsel.communities.community import Community, Rebinding, Refusal
from natsel.communities.surgery import remove, silence

MAX_SUBSETS = 64


class Difference(NamedTuple):
    """How far two models are apart on the same inputs.

    Attributes:
        max_abs: the largest absolute difference over all outputs.
        max_rel: the same, relative to the largest absolute output.
        finite: whether all outputs are finite.
        same_shape: whether all outputs have the same shapes.
    """

    max_abs: float
    max_rel: float
    finite: bool
    same_shape: bool

    def within(self, tolerance: float) -> bool:
        """Tell whether the two agree to a relative tolerance."""
        return self.same_shape and self.finite and self.max_rel <= tolerance


def outputs_of(value: object) -> list[Tensor]:
    """Return the floating-point tensors inside what a model returned."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return [t for item in value for t in outputs_of(item)]
    return []


def difference(first: nn.Module, second: nn.Module, inputs: tuple[Tensor, ...]) -> Difference:
    """Run two models on the same inputs and measure how far their outputs are apart."""
    with torch.no_grad():
        ours, theirs = outputs_of(first(*inputs)), outputs_of(second(*inputs))
    if [t.shape for t in ours] != [t.shape for t in theirs]:
        return Difference(float("inf"), float("inf"), True, False)
    max_abs, scale, finite = 0.0, 0.0, True
    for a, b in zip(ours, theirs, strict=True):
        if not a.numel():
            continue
        a, b = a.detach().double(), b.detach().double()
        finite &= bool(torch.isfinite(a).all()) and bool(torch.isfinite(b).all())
        max_abs = max(max_abs, float((a - b).abs().max()))
        scale = max(scale, float(b.abs().max()))
    return Difference(max_abs, max_abs / max(scale, 1e-30) if max_abs else 0.0, finite, True)


def tolerance_for(model: nn.Module) -> float:
    """Return the relative tolerance that a model's precision allows."""
    dtypes = {p.dtype for p in model.parameters() if p.is_floating_point()}
    if dtypes & {torch.bfloat16, torch.float16}:
        return 5e-2
    return 1e-9 if dtypes == {torch.float64} else 1e-4


def prove(
    model: nn.Module, communities: Sequence[Community], inputs: tuple[Tensor, ...]
) -> tuple[list[Community], list[Refusal]]:
    """Keep the communities for which extracted equals masked; say why for the others.

    Each community loses an uneven, seeded choice of its populations. Where ``forward`` uses a
    Python number that holds a size (a head count, say), numbers of that value in the modules
    around are rebound, and the rebinding is proven by the same comparison.

    Args:
        model: the model, in evaluation mode.
        communities: what was collected.
        inputs: what the model runs on.

    Returns:
        The proven communities, with the rebindings they need, and the refusals.
    """
    inputs = _informative(inputs)
    tolerance = tolerance_for(model)
    plain = list(communities)
    if _failure(model, plain, inputs, tolerance) is None:
        return plain, []
    bound = [replace(c, rebindings=tuple(_candidates(model, c))) for c in plain]
    mixed = [b if b.kind == "head" else p for b, p in zip(bound, plain, strict=True)]
    if _failure(model, mixed, inputs, tolerance) is None:
        return mixed, []
    proven: list[Community] = []
    refused: list[Refusal] = []
    for community, candidate in zip(plain, bound, strict=True):
        reason = ""
        for attempt in _attempts(community, candidate.rebindings):
            failure = _failure(model, [attempt], inputs, tolerance)
            if failure is None:
                proven.append(attempt)
                break
            reason = reason or failure
        else:
            remedy = "write sizes in forward as shapes of tensors, or as attributes of the module"
            refused.append(Refusal(community.name, community.size, reason, remedy))
    while len(proven) > 1 and _failure(model, proven, inputs, tolerance) is not None:
        # Each is exact alone and not together: keep the longest prefix that is.
        last = proven.pop()
        refused.append(
            Refusal(last.name, last.size, "removing it together with others is not masking")
        )
    return proven, refused


def _informative(inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Replace constant floating-point inputs, on which a wrong network may look right."""
    generator = torch.Generator().manual_seed(0)
    result = []
    for x in inputs:
        if x.is_floating_point() and x.numel() > 1 and bool((x == x.reshape(-1)[0]).all()):
            noise = torch.randn(x.shape, generator=generator, dtype=torch.float64)
            x = noise.to(device=x.device, dtype=x.dtype)
        result.append(x)
    return tuple(result)


def _uneven(communities: Iterable[Community]) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    survivors = {}
    for c in communities:
        alive = torch.rand(c.size, generator=generator) < 0.6
        alive[int(torch.randint(c.size, (1,), generator=generator))] = False
        if not bool(alive.any()):
            alive[-1] = True
        if not bool(alive.any()) or bool(alive.all()):
            alive = torch.arange(c.size) > 0
        survivors[c.name] = alive
    return survivors


def _failure(
    model: nn.Module,
    communities: Sequence[Community],
    inputs: tuple[Tensor, ...],
    tolerance: float,
) -> str | None:
    """Return why removing is not masking, or None if it is."""
    survivors = _uneven(communities)
    try:
        small = remove(model, communities, survivors)
        masked = silence(model, communities, survivors)
        found = difference(small, masked, inputs)
    except Exception as error:  # noqa: BLE001 - a broken forward is what this test looks for
        lines = str(error).strip().splitlines() or [type(error).__name__]
        return f"the small model does not run: {lines[0]}"
    if not found.same_shape:
        return "removing changes the shape of an output"
    if not found.within(tolerance):
        return f"removing is not masking: outputs differ by {found.max_abs:.3g}"
    return None


def _candidates(model: nn.Module, community: Community) -> list[Rebinding]:
    """Find plain integer attributes that hold the size of a community or of one of its slices."""
    paths = dict.fromkeys(
        path for s in community.slices for path in _ancestors(s.tensor.rpartition(".")[0])
    )
    widths = {1, *(s.index.shape[1] for s in community.slices)}
    found = []
    for path in paths:
        module = model.get_submodule(path)
        if type(module).__module__.startswith("torch.nn.modules"):
            continue
        for attribute, value in vars(module).items():
            if type(value) is not int or attribute.startswith("_") or attribute == "training":
                continue
            for width in sorted(widths):
                if value == community.size * width:
                    found.append(Rebinding(path, attribute, width))
                    break
    return found


def _ancestors(path: str) -> list[str]:
    parts = path.split(".") if path else []
    return [".".join(parts[:i]) for i in range(len(parts), max(len(parts) - 3, -1), -1)]


def _attempts(community: Community, candidates: tuple[Rebinding, ...]) -> list[Community]:
    sizes = [0, *range(len(candidates), 0, -1)]
    subsets = itertools.chain.from_iterable(
        itertools.combinations(candidates, size) for size in sizes
    )
    return [replace(community, rebindings=s) for s in itertools.islice(subsets, MAX_SUBSETS)]
