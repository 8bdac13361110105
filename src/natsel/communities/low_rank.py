"""Low-rank adapters (LoRA): their inner width is a setting of a fine-tuning, not a population."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from torch import fx, nn
from torch.export import ExportedProgram

from natsel.communities.community import Community, Refusal

REASON = "it is the rank of a low-rank adapter (LoRA)"
REMEDY = "merge the adapter into its layer first, or lora=True offers it"
_NAME = "lora"
_MAPS = ("linear", "addmm", "mm", "matmul", "bmm", "convolution", "conv1d", "conv2d", "conv3d")
# What changes no value but by a factor, or only how it is kept.
_PASSING = (
    *("mul", "div", "dropout", "to", "_to_copy", "type_as", "clone", "contiguous", "alias"),
    *("view", "reshape", "_unsafe_view", "t", "transpose", "permute", "expand", "detach"),
    *("squeeze", "unsqueeze", "native_dropout", "getitem"),
)


def without_ranks(
    model: nn.Module, program: ExportedProgram, communities: Iterable[Community]
) -> tuple[list[Community], list[Refusal]]:
    """Separate the ranks of adapters from all other communities.

    A community is a rank if it is nothing but the rows of one map and the columns of the next, and
    either a module or tensor of it is named after LoRA, or the graph says so: nothing but a factor
    lies between the two maps, and what comes out is added to what another map makes of the same
    input.

    Args:
        model: that the communities are of.
        program: the exported model.
        communities: all that were found.

    Returns:
        The other communities, and a refusal for each rank.
    """
    weights = _weights(program)
    left: list[Community] = []
    refused: list[Refusal] = []
    for community in communities:
        if _is_pair(community) and (_is_named(model, community) or _is_beside(weights, community)):
            refused.append(Refusal(community.name, community.size, REASON, REMEDY))
        else:
            left.append(community)
    return left, refused


def _is_pair(community: Community) -> bool:
    makes = {s.tensor for s in community.slices if s.role == "out"}
    reads = {s.tensor for s in community.slices if s.role == "in"}
    return len(makes) == len(reads) == 1 and len(community.slices) == 2 and makes != reads


def _is_named(model: nn.Module, community: Community) -> bool:
    """Say whether tensors are called LoRA, or the modules that hold them are of such a class."""
    for part in community.slices:
        *path, _ = part.tensor.split(".")
        around = [".".join(path[:end]) for end in range(len(path), max(len(path) - 2, 0), -1)]
        names = [type(model.get_submodule(name)).__name__ for name in around]
        if not any(_NAME in name.lower() for name in (*names, *part.tensor.split(".")[-3:])):
            return False
    return True


def _weights(program: ExportedProgram) -> dict[str, fx.Node]:
    held = program.graph_signature.inputs_to_parameters
    nodes = (node for node in program.graph.nodes if node.op == "placeholder")
    return {held[node.name]: node for node in nodes if node.name in held}


def _is_beside(weights: dict[str, fx.Node], community: Community) -> bool:
    """Say whether two maps in a row are added to another map of the same input."""
    first, second = (
        weights.get(next(s.tensor for s in community.slices if s.role == role))
        for role in ("out", "in")
    )
    if first is None or second is None:
        return False
    for entering in _maps(first):
        for leaving in _maps(second):
            if entering not in set(_behind(_data(leaving, second))):
                continue
            sources = set(_behind(_data(entering, first)))
            for total in _sums(leaving):
                for term in total.all_input_nodes:
                    for other in _behind(term):
                        if other is not leaving and _kind(other) in _MAPS:
                            mine = {n for x in other.all_input_nodes for n in _behind(x)}
                            if mine & sources:
                                return True
    return False


def _kind(node: fx.Node) -> str:
    name = getattr(node.target, "_opname", None) or getattr(node.target, "__name__", "")
    return str(name).split(".")[0].removesuffix("_")


def _maps(weight: fx.Node) -> Iterator[fx.Node]:
    """Yield the maps that use a weight, as it is or transposed."""
    for user in weight.users:
        if _kind(user) in _MAPS:
            yield user
        elif _kind(user) in _PASSING:
            yield from _maps(user)


def _data(node: fx.Node, weight: fx.Node) -> fx.Node:
    """Return what a map reads besides its weight."""
    for other in node.all_input_nodes:
        if weight not in set(_behind(other)):
            return other
    return node


def _behind(node: fx.Node) -> Iterator[fx.Node]:
    """Yield a node and those that it is a factor times, or a view of."""
    seen: set[fx.Node] = set()
    waiting = [node]
    while waiting:
        one = waiting.pop()
        if one in seen:
            continue
        seen.add(one)
        yield one
        if _kind(one) in _PASSING:
            waiting += one.all_input_nodes


def _sums(node: fx.Node) -> Iterator[fx.Node]:
    """Yield the sums that a value goes into, as it is or times a factor."""
    waiting, seen = [node], {node}
    while waiting:
        for user in waiting.pop().users:
            if user in seen:
                continue
            seen.add(user)
            if _kind(user) == "add":
                yield user
            elif _kind(user) in _PASSING:
                waiting.append(user)
