"""How the sizes in each operator follow a removal: one short function per family."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor, fx

from natsel.communities.labels.graph import operator_name, shape_of
from natsel.communities.programs.literals import Literal, Remains, follows, unfollowable

SIZES = {
    "view.default": 1,
    "reshape.default": 1,
    "_unsafe_view.default": 1,
    "expand.default": 1,
    "broadcast_to.default": 1,
    "new_zeros.default": 1,
    "new_ones.default": 1,
    "new_full.default": 1,
    "zeros.default": 0,
    "ones.default": 0,
    "full.default": 0,
}


def count(places: Tensor) -> int:
    """Return how many places remain."""
    return int(places.sum())


@follows(*SIZES)
def sizes(remains: Remains, node: fx.Node) -> Iterator[Literal]:
    """One number per axis of the result; -1 follows by itself."""
    argument = SIZES[operator_name(node).removeprefix("aten.")]
    yield from _shape(remains, node, argument, 0)


@follows("unflatten.int")
def unflatten(remains: Remains, node: fx.Node) -> Iterator[Literal]:
    """The numbers stand for some axes of the result."""
    source, axis = node.args[:2]
    assert isinstance(source, fx.Node)
    assert isinstance(axis, int)
    yield from _shape(remains, node, 2, axis % len(shape_of(source)))


def _shape(remains: Remains, node: fx.Node, argument: int, first: int) -> Iterator[Literal]:
    given: Any = node.args[argument]
    left = remains.of(node)
    if -1 in given and not all(bool(places.any()) for places in left):
        raise ValueError(f"{unfollowable(node)} (nothing remains of it)")
    for i, size in enumerate(given):
        if type(size) is int and size >= 0:
            yield Literal((argument, i), count(left[first + i]))


@follows("split_with_sizes.default")
def split(remains: Remains, node: fx.Node) -> Iterator[Literal]:
    """Each part keeps what remains in it."""
    source, lengths, axis = _arguments(node, 3, 0)
    left, start = remains.along(source, axis, node), 0
    for i, length in enumerate(lengths):
        yield Literal((1, i), count(left[start : start + length]))
        start += length


@follows("unbind.int")
def unbind(remains: Remains, node: fx.Node) -> Iterator[Literal]:
    """How many parts there are is written in the code around it."""
    source, axis = _arguments(node, 2, 0)
    if not bool(remains.along(source, axis, node).all()):
        raise ValueError(unfollowable(node))
    yield from ()


@follows("slice.Tensor")
def part(remains: Remains, node: fx.Node) -> Iterator[Literal]:
    """From the first to the last place that remains of those taken."""
    source, axis, start, end, *step = node.args
    yield from _range(remains, node, (source, axis, start, end, *step), 2)


@follows("slice_scatter.default")
def written_part(remains: Remains, node: fx.Node) -> Iterator[Literal]:
    """The same for a part that is written to."""
    source, _, *rest = node.args
    yield from _range(remains, node, (source, *rest), 3)


def _range(
    remains: Remains, node: fx.Node, arguments: tuple[Any, ...], first: int
) -> Iterator[Literal]:
    source, axis, start, end, *rest = arguments
    step = rest[0] if rest else 1
    left = remains.along(source, axis % len(shape_of(source)), node)
    if type(start) is not int or type(end) is not int or bool(left.all()):
        return
    if step != 1:
        raise ValueError(unfollowable(node))
    yield Literal((first,), count(left[:start]))
    yield Literal((first + 1,), count(left[:end]))


@follows("select.int")
def select(remains: Remains, node: fx.Node) -> Iterator[Literal]:
    """One place: it must remain."""
    yield from _chosen(remains, node, node.args[0], node.args[1], 2)


@follows("select_scatter.default")
def written_place(remains: Remains, node: fx.Node) -> Iterator[Literal]:
    """The same for a place that is written to."""
    yield from _chosen(remains, node, node.args[0], node.args[2], 3)


def _chosen(
    remains: Remains, node: fx.Node, source: Any, axis: Any, argument: int
) -> Iterator[Literal]:
    axis %= len(shape_of(source))
    left = remains.along(source, axis, node)
    index = node.args[argument]
    if type(index) is not int or bool(left.all()):
        return
    index %= len(left)
    if not remains.always(source, axis, index):
        raise ValueError(f"{unfollowable(node)} (it names one population)")
    yield Literal((argument,), count(left[:index]))


@follows("repeat.default", "tile.default")
def repeat(remains: Remains, node: fx.Node) -> Iterator[Literal]:
    """How often: what remains of the result over what remains of the source."""
    source, times = node.args[:2]
    before, after = remains.of(source), remains.of(node)
    assert isinstance(times, list | tuple)
    added = len(after) - len(before)
    for i, number in enumerate(times):
        axis = len(after) - len(times) + i
        whole = count(before[axis - added]) if axis >= added else 1
        if type(number) is not int or bool(after[axis].all()):
            continue
        if count(after[axis]) % whole:
            raise ValueError(unfollowable(node))
        yield Literal((1, i), count(after[axis]) // whole)


@follows("repeat_interleave.self_int")
def interleave(remains: Remains, node: fx.Node) -> Iterator[Literal]:
    """The same, element by element, along one axis."""
    source, number, *axis = node.args
    if not axis or not isinstance(axis[0], int) or type(number) is not int:
        return
    before, after = (remains.of(value)[axis[0]] for value in (source, node))
    if count(after) % count(before):
        raise ValueError(unfollowable(node))
    yield Literal((1,), count(after) // count(before))


@follows("conv1d.default", "conv2d.default", "conv3d.default")
def groups(remains: Remains, node: fx.Node) -> Iterator[Literal]:
    """Groups of a convolution: the channels that come in over those that each filter reads."""
    if len(node.args) > 6:
        channels, read = remains.of(node.args[0])[1], remains.of(node.args[1])[1]
        yield Literal((6,), count(channels) // count(read))


@follows("group_norm.default")
def norm_groups(remains: Remains, node: fx.Node) -> Iterator[Literal]:
    """Whole groups go: their width stays."""
    channels = remains.of(node.args[0])[1]
    number = node.args[1]
    assert isinstance(number, int)
    if count(channels) * number % len(channels):
        raise ValueError(unfollowable(node))
    yield Literal((1,), count(channels) * number // len(channels))


@follows("layer_norm.default", "rms_norm.default")
def norm_shape(remains: Remains, node: fx.Node) -> Iterator[Literal]:
    """The last axes."""
    shape = node.args[1]
    assert isinstance(shape, list | tuple)
    left = remains.of(node)
    yield from _shape(remains, node, 1, len(left) - len(shape))


@follows("pad.default", "constant_pad_nd.default")
def pad(remains: Remains, node: fx.Node) -> Iterator[Literal]:
    """Pairs from the last axis on: what remains of the border, or of what is cut off."""
    widths, last = node.args[1], len(shape_of(node)) - 1
    assert isinstance(widths, list | tuple)
    for i, width in enumerate(widths):
        axis = last - i // 2
        if type(width) is not int:
            continue
        value, sign = (node, 1) if width >= 0 else (node.args[0], -1)
        inside = remains.along(value, axis, node)
        border = inside[: abs(width)] if i % 2 == 0 else inside[len(inside) - abs(width) :]
        yield Literal((1, i), sign * count(border))


def _arguments(node: fx.Node, number: int, axis: int) -> list[Any]:
    """Return arguments of which the last is an axis, which may be left out."""
    found: list[Any] = [*node.args, axis] if len(node.args) < number else list(node.args[:number])
    found[-1] %= len(shape_of(found[0]))
    return found
