"""What the tests here share: networks in one line, and the check that removal is exact."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from natsel.common.calls import outputs_of
from natsel.communities import Communities, discover
from natsel.communities.surgery.surgery import remove, silence

TOLERANCE = 1e-10


class Net(nn.Module):
    """A network whose forward is a function of itself and its inputs."""

    def __init__(self, forward: Callable[..., Any], **parts: Any) -> None:
        super().__init__()
        self.function = forward
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, *inputs: Tensor) -> Any:
        return self.function(self, *inputs)


def parameter(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(shape))


def found(model: nn.Module, *inputs: Tensor, **options: bool) -> Communities:
    """Discover in float64, with weights that are far from any initialisation."""
    generator = torch.Generator().manual_seed(0)
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_floating_point():
            noise = torch.rand(tensor.shape, generator=generator) + 0.1
            sign = 1 if tensor.dim() == 1 else torch.randn(tensor.shape, generator=generator).sign()
            tensor.data = (noise * sign).double()
    inputs = tuple(x.double() if x.is_floating_point() else x for x in inputs)
    return discover(model.double().eval(), inputs, **options)


def offered(communities: Communities) -> dict[str, tuple[str, int]]:
    return {c.name: (c.kind, c.size) for c in communities.values()}


def owned(communities: Communities, name: str) -> dict[str, list[list[int]]]:
    """Spell out what a community owns: ``{"tensor:axis": places of each population}``."""
    return {f"{s.tensor}:{s.axis}": s.index.tolist() for s in communities[name].slices}


def reasons(communities: Communities) -> str:
    return "; ".join(f"{r.name}: {r.reason}" for r in communities.refused)


def apart(communities: Communities, survivors: Mapping[str, Tensor], *inputs: Tensor) -> float:
    """Return how far the smaller and the silenced model are apart, relative to the largest."""
    parts = (communities.model, tuple(communities.values()), survivors)
    with torch.no_grad():
        small, masked = outputs_of(remove(*parts)(*inputs)), outputs_of(silence(*parts)(*inputs))
    assert [t.shape for t in small] == [t.shape for t in masked]
    assert all(t.isfinite().all() for t in small)
    scale = max(1.0, *(float(t.double().abs().max()) for t in masked))
    return (
        max(
            float((a.double() - b.double()).abs().max()) for a, b in zip(small, masked, strict=True)
        )
        / scale
    )


def selections(communities: Communities, num_random: int = 6) -> list[dict[str, Tensor]]:
    """Nothing, half, all but one, everything but one, each alone, and uneven random choices."""
    full = communities.full()
    chosen = [full, {}]
    for c in communities.values():
        for alive in (range(0, c.size, 2), [0], [c.size - 1], range(1, c.size), range(c.size - 1)):
            alone = torch.zeros(c.size, dtype=torch.bool)
            alone[list(alive)] = True
            chosen.append({c.name: _enough(alone, c.minimum)})
    generator = torch.Generator().manual_seed(3)
    for _ in range(num_random):
        uneven = {}
        for c in communities.values():
            alive = torch.rand(c.size, generator=generator) < torch.rand(1, generator=generator)
            alive[int(torch.randint(c.size, (1,), generator=generator))] = True
            uneven[c.name] = _enough(alive, c.minimum)
        chosen.append(uneven)
    return chosen


def _enough(alive: Tensor, minimum: int) -> Tensor:
    """Let the first ones live, too, until there are as many as a community must keep."""
    for place in range(len(alive)):
        if int(alive.sum()) < minimum:
            alive[place] = True
    return alive


def assert_exact(communities: Communities, num_random: int = 6) -> None:
    """Removing equals silencing for every selection, on inputs that discovery did not see."""
    torch.manual_seed(7)
    inputs = tuple(
        torch.randn_like(x) if x.is_floating_point() else x for x in communities.example_inputs
    )
    for survivors in selections(communities, num_random):
        assert apart(communities, survivors, *inputs) < TOLERANCE, survivors
