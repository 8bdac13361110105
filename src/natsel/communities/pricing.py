"""What a selection leaves, counted without building it: parameters and multiply-accumulates."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from math import prod

import numpy as np
import torch
from torch import Tensor, nn

from natsel.common.errors import choose, refuse
from natsel.common.showing import counted
from natsel.communities.branches.branch import Branch
from natsel.communities.community import Community
from natsel.communities.cost import Cost
from natsel.communities.labels.propagation import Propagation, WeightMacs


@dataclass(frozen=True, eq=False)
class Pricing:
    """The price list of one model, as it was when its communities were found.

    Attributes:
        shapes: of every tensor that the model's graph reads, and of every parameter.
        parameters: names of the parameters, each shared one once.
        products: multiply-accumulates of every use of a weight.
        between: multiply-accumulates that each population needs without a weight, such as those
            of a head between its queries and keys: ``{community: float64 [size]}``.
        total_between: the sum of all such, with those that belong to no population.
        in_branches: those of ``total_between`` that each branch needs, by its name.
    """

    shapes: Mapping[str, tuple[int, ...]]
    parameters: tuple[str, ...]
    products: tuple[WeightMacs, ...]
    between: Mapping[str, Tensor]
    total_between: float
    in_branches: Mapping[str, float] = field(default_factory=dict)

    def __repr__(self) -> str:
        uses = counted(len(self.products), "use")
        return f"Pricing({counted(len(self.parameters), 'parameter tensor')}, {uses} of a weight)"

    def price(self, communities: Iterable[Community], survivors: Mapping[str, Tensor]) -> Cost:
        """Return what the model costs that holds only the survivors.

        A tensor has as many elements as its axes leave, prod_a (n_a - removed_a), and a use of a
        weight shrinks likewise along the axes that it runs over.

        Args:
            communities: whose populations may go.
            survivors: one boolean tensor ``[size]`` per community; one that is missing keeps all.

        Returns:
            Parameters, and multiply-accumulates per sample, of the whole small model.

        Raises:
            ValueError: if a name is unknown or a mask has another length.
        """
        known = {community.name: community for community in communities}
        gone: dict[tuple[str, int], int] = defaultdict(int)
        branches = [b for c in known.values() for b in c.branches]
        dead_branches = _dead_branches(known, survivors)
        whole = self._gone_whole(branches, dead_branches)
        macs = self.total_between - sum(self.in_branches.get(b.name, 0.0) for b in dead_branches)
        for name, mask in survivors.items():
            community = known[choose("survivors", name, known)]
            if mask.shape != (community.size,):
                size = community.size
                refuse(f"survivors[{name!r}]", tuple(mask.shape), f"a mask of shape ({size},)")
            dead = ~mask.to(device="cpu", dtype=torch.bool)
            num_dead = int(dead.sum())
            for part in community.slices if num_dead else ():
                gone[part.tensor, part.axis] += num_dead * part.index.shape[1]
            # What a branch needs is gone with it, whoever in it survives.
            if not any(part.tensor in whole for part in community.slices):
                macs -= float(self.between[name][dead].sum()) if name in self.between else 0.0

        def left(tensor: str, axes: Iterable[int]) -> int:
            if tensor in whole:
                return 0
            return prod(self.shapes[tensor][a] - gone.get((tensor, a), 0) for a in axes)

        for use in self.products:
            # Per element first: that is a whole number, and the result exact.
            each = use.macs / prod(self.shapes[use.tensor][a] for a in use.axes)
            macs += each * left(use.tensor, use.axes)
        parameters = sum(left(name, range(len(self.shapes[name]))) for name in self.parameters)
        return Cost(parameters, macs)

    def _gone_whole(self, branches: Iterable[Branch], dead: Collection[Branch]) -> set[str]:
        """Return the tensors that go with branches: their own, and what is left of a block."""
        gone = {name for branch in dead for name in branch.tensors}
        blocks = {b.block for b in dead if b.block}
        blocks -= {b.block for b in branches if b not in dead}
        for block in blocks:
            gone |= {name for name in self.shapes if name.startswith(f"{block}.")}
        return gone


def _dead_branches(
    communities: Mapping[str, Community], survivors: Mapping[str, Tensor]
) -> list[Branch]:
    return [
        branch
        for name, mask in survivors.items()
        if name in communities
        for branch, alive in zip(communities[name].branches, mask.tolist(), strict=False)
        if not alive
    ]


def macs_by_class(run: Propagation) -> dict[int, float]:
    """Return the multiply-accumulates that each class of labels needs without a weight."""
    charged: dict[int, float] = defaultdict(float)
    for labels, each, _ in run.label_macs:
        roots, counts = np.unique(run.space.roots(labels).numpy(), return_counts=True)
        for root, count in zip(roots.tolist(), counts.tolist(), strict=True):
            charged[root] += each * count
    return charged


def pricing_of(
    model: nn.Module,
    run: Propagation,
    communities: Iterable[Community],
    in_branches: Mapping[str, float] | None = None,
) -> Pricing:
    """Return the price list of a model from what its propagation counted.

    Args:
        model: the model; parameters that its graph does not read cost, too.
        run: the propagation, at its fixed point.
        communities: what was collected from it.
        in_branches: multiply-accumulates without a weight, by branch.

    Returns:
        The price list.
    """
    parameters = {name: tuple(p.shape) for name, p in model.named_parameters()}
    charged = macs_by_class(run)
    between = {}
    for community in communities:
        if not community.slices:
            continue
        part = next(s for s in community.slices if (s.tensor, s.axis) in run.axis_labels)
        labels = run.axis_labels[part.tensor, part.axis][part.index[:, 0]]
        macs = [charged.get(root, 0.0) for root in run.space.roots(labels).tolist()]
        between[community.name] = torch.tensor(macs, dtype=torch.float64)
    return Pricing(
        shapes={**run.shapes, **parameters},
        parameters=tuple(parameters),
        products=tuple(run.weight_macs),
        between=between,
        total_between=sum(charged.values()),
        in_branches=in_branches or {},
    )
