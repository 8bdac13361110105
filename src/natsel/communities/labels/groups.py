"""Routers that choose groups of experts first: what can go so that the groups stay alike.

Scores are seen as ``[tokens, groups, experts of a group]``. What a group is worth (its best
expert, the sum of its two best) decides which groups a token may choose from, and the others are
masked. The view is a rectangle, so either every group loses as many experts, or groups go whole.
Both compute what closed experts compute: one that is never chosen is among the best of no group,
and a group of those alone is not among the best groups.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
from torch import Tensor, fx

from natsel.communities.kinds import GROUP
from natsel.communities.labels.graph import map_tensors, operator_name, place, shape_of
from natsel.communities.labels.labels import NONE
from natsel.communities.labels.routes import (
    MASKED,
    TOP_K,
    behind,
    choosing_from,
    name_of,
    preferences,
)

if TYPE_CHECKING:
    from natsel.communities.labels.propagation import Propagation

VIEWS = ("aten.view.default", "aten.reshape.default", "aten.unflatten.int")
REASON = "its router chooses groups of experts, which must stay alike"


class Grouping(NamedTuple):
    """How a router chooses groups.

    Attributes:
        view: the scores of experts as ``[..., groups, experts of a group]``.
        nodes: what is computed from it, until a mask of experts meets their scores.
        num_groups: how many there are.
        num_chosen: how many groups a token may choose from.
        num_read: how many of its experts the worth of a group is computed from, at least.
    """

    view: fx.Node
    nodes: frozenset[fx.Node]
    num_groups: int
    num_chosen: int
    num_read: int

    def least(self, num_experts: int, whole: bool) -> int:
        """Return how many must stay: groups, or experts of each group.

        Args:
            num_experts: that a token chooses.
            whole: whether groups go as a whole.
        """
        return self.num_chosen if whole else max(self.num_read, -(-num_experts // self.num_chosen))


def grouping_of(top_k: fx.Node, placeholders: set[str]) -> Grouping | None:
    """Return how a router chooses groups before it chooses experts; None where it does not.

    Args:
        top_k: chooses experts.
        placeholders: names of parameters and buffers.
    """
    path = choosing_from(top_k, placeholders)
    if not all(_closes(node, top_k, placeholders) for node in path):
        return None
    sources = behind(top_k)
    seen = [n for n in sources if operator_name(n) in VIEWS and _groups(n, path)]
    if len(seen) != 1:
        return None
    (view,) = seen
    inside = {view}
    for node in view.graph.nodes:
        if node in sources and node not in path and any(n in inside for n in node.all_input_nodes):
            inside.add(node)
    num_groups, each = shape_of(view)[-2:]
    chosen: list[int] = []
    read = [1]
    for node in inside:
        if operator_name(node) != TOP_K:
            continue
        scores, count = cast("tuple[fx.Node, int]", node.args[:2])
        if shape_of(scores) == shape_of(view):
            read.append(count)
        elif shape_of(scores)[-1] == num_groups:
            chosen.append(count)
    if len(chosen) != 1 or max(read) > each:
        return None
    return Grouping(view, frozenset(inside), num_groups, chosen[0], max(read))


def _closes(node: fx.Node, top_k: fx.Node, placeholders: set[str]) -> bool:
    """Tell whether a mask leaves who is masked behind everybody else, whatever their scores.

    Behind shares of a softmax, or the like, 0 is; with something added of each expert it is not.
    """
    if name_of(node) not in MASKED:
        return True
    value = node.args[2]
    if not isinstance(value, int | float):
        return False
    return value == -torch.inf or (value == 0 and not preferences(top_k, placeholders))


def _groups(view: fx.Node, path: set[fx.Node]) -> bool:
    """Tell whether a view of a router's scores splits its experts into groups."""
    source = view.args[0]
    if not isinstance(source, fx.Node) or source not in path:
        return False
    before, after = shape_of(source), shape_of(view)
    return len(after) == len(before) + 1 and after[-2] * after[-1] == before[-1]


def in_groups(run: Propagation, node: fx.Node, grouping: Grouping, x: Any) -> Any:
    """Return labels of what is between the scores of experts and the mask of those in other groups.

    Experts at one place of all groups are one population, or those of one group are. What is
    computed from their scores follows whoever they mask.

    Args:
        run: the propagation.
        node: in the grouping.
        grouping: of its router.
        x: labels of what it reads first.
    """
    if node is not grouping.view:
        return map_tensors(node.meta["val"], lambda t: torch.full(tuple(t.shape), NONE))
    seen: Tensor = run.lift(x).reshape(shape_of(node))
    axis = -2
    if whole_groups(run, grouping):
        axis = -1
        run.mark(seen, GROUP.name)
    run.space.unite_along(seen, (axis % seen.dim(),), f"{REASON}{place(node)}")
    return seen


def whole_groups(run: Propagation, grouping: Grouping) -> bool:
    """Tell whether groups go as a whole; one group alone does not."""
    return run.expert_groups and grouping.num_groups > 1
