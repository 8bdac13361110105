"""Sums of products in any order of axes: ``einsum``, and products with a weight of many axes."""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch import Tensor, fx

from natsel.communities.labels.graph import TensorRef, place, shape_of
from natsel.communities.labels.propagation import Propagation, rule
from natsel.communities.labels.rules.products import product_of_activations
from natsel.communities.labels.rules.weights import channels_of, over_places, spread

Letters = list[str]


@rule("aten.einsum.default")
def einsum(run: Propagation, node: fx.Node, equation: str, operands: Any, **kwargs: Any) -> Any:
    """out[o] = sum over the letters that o lacks of the product of the operands."""
    found = _letters(equation, [_rank(x) for x in operands])
    if found is None or len(operands) != 2:
        return run.barrier(node, operands)
    (first, second), out = found
    a, b = operands
    if isinstance(a, TensorRef) and not isinstance(b, TensorRef):
        (a, first), (b, second) = (b, second), (a, first)
    if isinstance(b, TensorRef) and not isinstance(a, TensorRef):
        return contract(run, node, a, first, b, second, out)
    return _of_activations(run, node, run.lift(a), first, run.lift(b), second, out)


def _rank(x: Any) -> int:
    return len(x.axes) if isinstance(x, TensorRef) else x.dim()


def _letters(equation: str, ranks: list[int]) -> tuple[list[Letters], Letters] | None:
    """Return the letters of each operand and of the result; a letter for each axis under dots."""
    entering, arrow, leaving = equation.replace(" ", "").partition("->")
    terms = entering.split(",")
    if len(terms) != len(ranks):
        return None
    longest = max(
        (n - len(t) + 3 for t, n in zip(terms, ranks, strict=True) if "..." in t), default=0
    )
    dots = [f"dots {i}" for i in range(longest)]

    def spelled(term: str, rank: int) -> Letters:
        before, has_dots, after = term.partition("...")
        num_dots = rank - len(before) - len(after) if has_dots else 0
        return [*before, *dots[longest - num_dots :], *after]

    spelt = [spelled(term, rank) for term, rank in zip(terms, ranks, strict=True)]
    if any(len(set(s)) != len(s) for s in spelt):
        return None
    if arrow:
        return spelt, spelled(leaving, len(leaving.replace("...", "")) + longest)
    flat = [letter for s in spelt for letter in s]
    once = sorted(letter for letter in set(flat) - set(dots) if flat.count(letter) == 1)
    return spelt, [*dots, *once]


def contract(
    run: Propagation,
    node: fx.Node,
    x: Any,
    x_letters: Letters,
    weight: TensorRef,
    w_letters: Letters,
    out: Letters,
) -> Any:
    """Sum the products of an activation and a weight over the letters that the result lacks.

    Where a letter is in all three, its places are apart from one another like the heads of
    projections that are held head by head: populations are its places. Else the first letter
    that only the weight brings makes them, and of those that are summed over the one along which
    the populations of the activation differ reads them.
    """
    x = run.lift(x)
    size = dict(zip(w_letters, weight.sizes, strict=True))
    here = {
        n for n, length in zip(x_letters, x.shape, strict=True) if length > 1 or size.get(n) == 1
    }
    apart = [n for n in w_letters if n in here and n in out and size[n] > 1]
    summed = [n for n in w_letters if n in here and n not in out]
    made = [n for n in w_letters if n not in here and n in out]
    if len(apart) + len(summed) + len(made) < sum(n > 1 for n in weight.sizes):
        return run.barrier(node, (x, weight))
    reason = f"it carries plain data{place(node)}"
    shape = shape_of(node)
    if made and not apart and over_places(run, node, x, [x_letters.index(n) for n in summed]):
        labels = _laid_out(x, x_letters, out)
        run.mixing[node] = (weight, w_letters.index(made[0]))
        macs = float(prod(shape) * prod(size[n] for n in summed))
        run.charge_labels(labels, macs / labels.numel())
        return labels.expand(shape)
    axes = tuple(range(len(w_letters)))
    spread_letter = next(iter(apart or made), None)
    for letter in apart[:1]:
        channels = channels_of(run, x, x_letters.index(letter), reason)
        run.space.unite(channels, run.axis(weight, w_letters.index(letter), "tied"), reason)
    if summed and not apart:
        read = _carrier(run, x, x_letters, summed)
        channels = channels_of(run, x, x_letters.index(read), reason)
        run.space.unite(channels, run.axis(weight, w_letters.index(read), "in"), reason)
    run.charge(weight, axes, float(prod(shape) * prod(size[n] for n in summed)))
    if spread_letter is None:
        return torch.ones(shape, dtype=torch.int64)
    role = "tied" if apart else "out"
    labels = run.axis(weight, w_letters.index(spread_letter), role)
    return spread(labels, shape, out.index(spread_letter))


def _laid_out(x: Tensor, letters: Letters, out: Letters) -> Tensor:
    """Return labels that are alike along what is summed in the order of the result's axes."""
    for letter in letters:
        x = x if letter in out else x.narrow(letters.index(letter), 0, 1)
    kept = [n for n in letters if n in out]
    x = x.squeeze(tuple(i for i, n in enumerate(letters) if n not in out))
    x = x.permute([kept.index(n) for n in out if n in kept])
    for place_of, letter in enumerate(out):
        x = x if letter in kept else x.unsqueeze(place_of)
    return x


def _carrier(run: Propagation, x: Tensor, letters: Letters, summed: Letters) -> str:
    """Return the first of some letters along which the populations of an activation differ."""
    roots = run.space.roots(x)
    for letter in summed:
        axis = letters.index(letter)
        if not bool((roots == roots.narrow(axis, 0, 1)).all()):
            return letter
    return summed[0]


def _of_activations(
    run: Propagation,
    node: fx.Node,
    a: Tensor,
    first: Letters,
    b: Tensor,
    second: Letters,
    out: Letters,
) -> Any:
    batch = [n for n in out if n in first and n in second]
    left = [n for n in out if n not in second]
    right = [n for n in out if n not in first]
    inner = [n for n in first if n in second and n not in out]
    if len(batch + left + inner) < len(first) or len(batch + right + inner) < len(second):
        return run.barrier(node, (a, b))
    sizes: dict[str, int] = {}
    for letter, size in zip((*first, *second), (*a.shape, *b.shape), strict=True):
        sizes[letter] = max(size, sizes.get(letter, 1))

    def laid(x: Tensor, letters: Letters, rows: Letters, columns: Letters) -> Tensor:
        ordered = x.permute([letters.index(n) for n in (*batch, *rows, *columns)])
        lead = ordered.shape[: len(batch)]
        num_rows = prod(ordered.shape[len(batch) : len(batch) + len(rows)])
        return ordered.reshape(*lead, num_rows, prod(ordered.shape) // prod((*lead, num_rows)))

    order = [*batch, *left, *right]
    shape = (
        *(sizes[n] for n in batch),
        prod(sizes[n] for n in left),
        prod(sizes[n] for n in right),
    )
    factors = laid(a, first, left, inner), laid(b, second, inner, right)
    result = product_of_activations(run, node, *factors, shape)
    return result.reshape([sizes[n] for n in order]).permute([order.index(n) for n in out])


def stacked(
    x: Tensor, weight: TensorRef, *, first: bool = False
) -> tuple[Letters, TensorRef, Letters, Letters]:
    """Spell a product of matrices with a stack of weights: of which axes each is, and the result.

    Args:
        x: labels of the activation.
        weight: at least three axes.
        first: whether the weight is the first factor.

    Returns:
        What :func:`contract` takes after the activation.
    """
    rank = max(x.dim(), len(weight.axes))
    lead = [f"lead {i}" for i in range(rank - 2)]
    of_x = ["inner", "columns"] if first else ["rows", "inner"]
    of_weight = ["rows", "inner"] if first else ["inner", "columns"]
    x_letters = [*lead[rank - x.dim() :], *of_x]
    w_letters = [*lead[rank - len(weight.axes) :], *of_weight]
    return x_letters, weight, w_letters, [*lead, "rows", "columns"]
