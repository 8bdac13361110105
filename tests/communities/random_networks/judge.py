"""An independent judge: whether what is offered can be extracted, and equals the masked network.

Nothing here uses what natsel proves with. The masked network is made from the slices that read a
population, in float64 (casts inside forward are lifted, too), on weights and inputs of its own;
differences count relative to what the removal does.
"""

from __future__ import annotations

import copy
import itertools
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map_only

import natsel

OF_EFFECT, OF_OUTPUT = 1e-6, 1e-12
"""What float64 leaves of a difference, relative to what the removal does and to the outputs."""
OF_ROUNDING = 100
"""The same, relative to what the last digit of the weights does where logits are huge."""
LARGE, FEW = 1_000_000, 6
"""From so many parameters on, a sample of so many selections is judged."""
LOW = {torch.float16, torch.bfloat16, torch.float32}
KINDS = (
    "SILENTLY DIFFERENT",
    "NUMBER STALE",
    "DOES NOT RUN",
    "EXTRACT RAISES",
    "MODEL CHANGED",
    "VERIFY SAYS NO",
    "ERROR",
)
"""Kinds of faults, the worst first."""

Inputs = tuple[Tensor, ...] | dict[str, Tensor]
Alive = Mapping[str, Tensor]
Stale = Callable[[nn.Module, natsel.Communities, Alive], Iterable[str]]


@dataclass
class Verdict:
    """What was found in one network.

    Attributes:
        offered: the communities.
        refused: what is left whole, with the reason.
        faults: kind and description of each.
    """

    offered: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    faults: list[tuple[str, str]] = field(default_factory=list)
    communities: natsel.Communities | None = None

    @property
    def kind(self) -> str:
        """The worst fault; else "exact" where something is offered, "refused" where nothing is."""
        if self.faults:
            return min((kind for kind, _ in self.faults), key=KINDS.index)
        return "exact" if self.offered else "refused"

    @property
    def wrong(self) -> bool:
        """Whether some small network is not the masked one."""
        return any(kind in KINDS[:3] for kind, _ in self.faults)


def judge(
    model: nn.Module,
    example: Inputs,
    others: Callable[[nn.Module], Iterable[Inputs]],
    *,
    stale: Stale = lambda small, communities, alive: (),
    many: int = 3,
    stop: bool = False,
) -> Verdict:
    """Judge everything that natsel offers of a network.

    Args:
        model: in evaluation mode.
        example: what discovery sees.
        others: inputs that it does not see, given the network in float64 with loud weights.
        stale: numbers of a small network that did not follow, where they are known.
        many: how many pairs of communities, and how many selections in all of them.
        stop: end at the first fault.

    Returns:
        The verdict.
    """
    verdict = Verdict()
    before = {n: t.clone() for n, t in model.state_dict().items()}
    try:
        communities = natsel.discover(model, example)
    except ValueError as error:
        told = str(error).splitlines()[0][:200]
        if "cannot be exported" in told:
            verdict.refused.append(told)
        else:
            verdict.faults.append(("ERROR", f"discover: {told}"))
        return verdict
    except Exception as error:  # noqa: BLE001 - a crash is what is looked for
        verdict.faults.append(("ERROR", f"discover: {type(error).__name__}: {str(error)[:200]}"))
        return verdict
    verdict.communities = communities
    verdict.offered = [f"{c.name}:{c.size} {c.kind}s" for c in communities.values()]
    verdict.refused = [f"{r.name} ({r.size}): {r.reason}" for r in communities.refused]
    if any(not torch.equal(t, before[n]) for n, t in model.state_dict().items()):
        verdict.faults.append(("MODEL CHANGED", "by discovery"))
    exact = copy.deepcopy(model).double()
    loud = copy.deepcopy(exact)
    louden(loud, seed=1)
    tests = [(exact, [example]), (loud, list(others(loud)))]
    dense = [[run(network, x) for x in xs] for network, xs in tests]
    rng = random.Random(0)
    chosen = list(selections(communities, rng, many))
    if sum(p.numel() for p in model.parameters()) >= LARGE:
        chosen = rng.sample(chosen, min(FEW, len(chosen)))
    for alive in chosen:
        if stop and verdict.faults:
            break
        told = str({n: f"{int(m.sum())}/{len(m)}" for n, m in alive.items()})
        survivors = natsel.Survivors(alive, communities)
        try:
            small = natsel.extract(model, survivors)
        except Exception as error:  # noqa: BLE001 - whatever is raised is a fault
            what = f"{told}: {type(error).__name__}: {str(error)[:160]}"
            verdict.faults.append(("EXTRACT RAISES", what))
            continue
        for what in stale(small, communities, alive):
            verdict.faults.append(("NUMBER STALE", f"{told}: {what}"))
        for (network, xs), ys in zip(tests, dense, strict=True):
            cut = natsel.extract(network, survivors, communities=communities, verify=False)
            silent = masked(network, communities, alive)
            for x, y in zip(xs, ys, strict=True):
                verdict.faults += [(k, f"{told}: {w}") for k, w in _apart(cut, silent, x, y)]
        if not verdict.wrong and (what := _unverified(model, small, survivors, example)):
            verdict.faults.append(("VERIFY SAYS NO", f"{told}: {what}"))
    return verdict


def _unverified(
    model: nn.Module, small: nn.Module, survivors: natsel.Survivors, example: Inputs
) -> str | None:
    """Return what natsel itself says against a small network, if anything."""
    try:
        held = natsel.verify(model, small, survivors, example)
    except Exception as error:  # noqa: BLE001 - whatever is raised is a fault
        return f"{type(error).__name__}: {str(error)[:160]}"
    return None if held.passed else str(held)


def _apart(
    small: nn.Module, silent: nn.Module, x: Inputs, dense: list[Tensor]
) -> Iterator[tuple[str, str]]:
    """Yield how a small network is not the masked one on some inputs; the worst output of each."""
    theirs = run(silent, x)
    try:
        ours = run(small, x)
    except Exception as error:  # noqa: BLE001 - whatever is raised is a fault
        yield "DOES NOT RUN", str(error)[:160]
        return
    if [t.shape for t in ours] != [t.shape for t in theirs]:
        yield "SILENTLY DIFFERENT", f"shapes {[tuple(t.shape) for t in ours]}"
        return
    for number, (a, b, whole) in enumerate(zip(ours, theirs, dense, strict=True)):
        if not a.numel():
            continue
        apart, effect, scale = (float(t.double().abs().max()) for t in (a - b, b - whole, b))
        if not apart <= max(OF_EFFECT * effect, OF_OUTPUT * scale):
            if apart <= OF_ROUNDING * _rounding(silent, x)[number]:
                continue
            shares = [apart / max(part, 1e-300) for part in (effect, scale)]
            what = "{:.2g} of the effect, {:.2g} of the outputs".format(*shares)
            yield "SILENTLY DIFFERENT", what


def _rounding(model: nn.Module, x: Inputs) -> list[float]:
    """Return what weights that differ by their last digit make of each output."""
    generator = torch.Generator().manual_seed(0)
    shaken = copy.deepcopy(model)
    with torch.no_grad():
        for p in shaken.parameters():
            p.mul_(1 + 2**-52 * torch.randn(p.shape, generator=generator, dtype=p.dtype))
    pairs = zip(run(shaken, x), run(model, x), strict=True)
    return [float((a - b).abs().max()) if a.numel() else 0.0 for a, b in pairs]


class Lifted(TorchFunctionMode):
    """Every floating-point type that forward names is float64."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if getattr(func, "__name__", "") in ("float", "half", "bfloat16"):
            return args[0].double()
        named = {k: torch.float64 if _low(v) else v for k, v in (kwargs or {}).items()}
        return func(*(torch.float64 if _low(a) else a for a in args), **named)


def _low(x: object) -> bool:
    return isinstance(x, torch.dtype) and x in LOW


def run(model: nn.Module, inputs: Inputs) -> list[Tensor]:
    """Return the tensors that a model in float64 returns, whatever types its forward names."""
    exact: Any = tree_map_only(Tensor, _double, inputs)
    with torch.no_grad(), Lifted():
        value = model(**exact) if isinstance(exact, dict) else model(*exact)
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]


def _double(x: Tensor) -> Tensor:
    return x.double() if x.is_floating_point() else x


def masked(model: nn.Module, communities: natsel.Communities, alive: Alive) -> nn.Module:
    """Return the network in which nobody reads what is removed."""
    result = copy.deepcopy(model)
    tensors = dict(result.named_parameters()) | dict(result.named_buffers())
    with torch.no_grad():
        for name, mask in alive.items():
            for part in communities[name].slices:
                assert part.role != "route", "the judge knows no routers"
                if part.role == "in":
                    places = part.index[~mask].reshape(-1)
                    tensors[part.tensor].index_fill_(part.axis, places, 0)
    return result


@torch.no_grad()
def louden(model: nn.Module, *, seed: int) -> None:
    """Give a network weights with which nothing is saturated, uniform or without effect."""
    generator = torch.Generator().manual_seed(seed)

    def noise(x: Tensor) -> Tensor:
        return torch.randn(x.shape, generator=generator)

    for name, p in model.named_parameters():
        if p.dim() > 1:
            p.copy_(noise(p) * 1.2 * p[0].numel() ** -0.5)
        elif name.endswith("bias"):
            p.copy_(noise(p) * 0.5)
        else:
            p.copy_(0.5 + torch.rand(p.shape, generator=generator))
    for name, b in model.named_buffers():
        if name.endswith("running_var"):
            b.copy_(0.5 + torch.rand(b.shape, generator=generator))
        elif name.endswith("running_mean"):
            b.copy_(noise(b) * 0.3)


def selections(
    communities: natsel.Communities, rng: random.Random, many: int
) -> Iterator[dict[str, Tensor]]:
    """Yield choices of survivors.

    Each community alone with one, all but one, an even and an odd number kept; pairs, those that
    share a tensor first; all together with random numbers, one of each, all but one of each.
    """
    sizes = {n: (c.size, c.minimum) for n, c in communities.items()}

    def some(name: str, count: int | None = None) -> Tensor:
        size, least = sizes[name]
        count = rng.randint(least, size) if count is None else max(count, least)
        alive = torch.zeros(size, dtype=torch.bool)
        alive[rng.sample(range(size), count)] = True
        return alive

    for name, (size, _) in sizes.items():
        middle = max(1, size // 2)
        for count in dict.fromkeys((1, size - 1, middle, min(middle + 1, size - 1))):
            yield {name: some(name, count)}
    for a, b in _pairs(communities, rng)[:many]:
        yield {a: some(a), b: some(b)}
    if len(sizes) > 1:
        for _ in range(many):
            yield {name: some(name) for name in sizes}
        yield {name: some(name, 1) for name in sizes}
        yield {name: some(name, size - 1) for name, (size, _) in sizes.items()}


def _pairs(communities: natsel.Communities, rng: random.Random) -> Sequence[tuple[str, str]]:
    owned = {n: {s.tensor for s in c.slices} for n, c in communities.items()}
    pairs = list(itertools.combinations(owned, 2))
    rng.shuffle(pairs)
    return sorted(pairs, key=lambda pair: not owned[pair[0]] & owned[pair[1]])
