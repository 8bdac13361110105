"""A basis for each head in which the dimensions that matter come first.

Legend: d dimensions of a head, D width of what it is added to, A the change of basis ``[d, d]``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from natsel.common.batches import Data, reread
from natsel.common.errors import refuse
from natsel.common.hooks import entering, watching
from natsel.common.modes import evaluating
from natsel.communities import Communities, Community, Slice
from natsel.communities.copies import copied
from natsel.communities.gates.gates import folded
from natsel.communities.kinds import DIMENSION, EXPERT, KEY, QUERY, VALUE
from natsel.communities.tensors import owner, tensors_of
from natsel.extraction.entering import inputs_of, run
from natsel.extraction.moments import Moments
from natsel.extraction.ordering import moved, ordered, why_not
from natsel.fitness.experts.routed import reap_of_each

RIDGE = 1e-6
"""Share of the mean variance that is added to each direction: what never varies stays defined."""


class Aligned(NamedTuple):
    """A model in another basis.

    Attributes:
        model: computes what the given one does.
        scores: per community the share of each dimension in what its heads compute, ``[size]``.
        skipped: communities that have no basis of their own, with the reason.
    """

    model: nn.Module
    scores: dict[str, Tensor]
    skipped: dict[str, str]


def align(model: nn.Module, communities: Communities, data: Data) -> Aligned:
    """Turn the dimensions inside heads so that a few of them do most of what all do.

    Products of queries and keys do not change where q becomes A q and k becomes A^(-T) k. With
    second moments G of the queries and C, about their mean, of the keys (a constant added to all
    keys shifts all logits of a query alike), the singular values of G^(1/2) C^(1/2) are what each
    dimension adds to the mean square of the logits, and the first r of the basis are the best r:
    closed form, no labels, no gradients. Outputs of a head do not change where v becomes A v and
    the map that reads it W A^(-1): there it is the singular values of W C^(1/2).

    Heads of a layer each have a basis of their own, so that what goes is the last dimension of
    every head, not the same place of bases that have nothing in common. Rotary dimensions keep
    theirs: a turn would mix frequencies.

    Query heads that share keys and values go from all groups at one place. Those of a group change
    places, so that the last ones add least to the output: each group loses its own least. So do
    the experts of each group, where a router chooses groups first, by what the router sends them
    and they answer (``reap``).

    Args:
        model: that the communities were found in, with ``dims=True`` or ``query_heads=True``, or
            whose routers choose groups of experts.
        communities: of it; those of other kinds are left alone.
        data: batches as :func:`natsel.score` takes them; labels are not read.

    Returns:
        The model in its new basis, a copy, and a score for each dimension, query head or expert.

    Raises:
        ValueError: if there are no data, or no dimensions, query heads or experts in groups among
            the communities.

    Example:
        >>> import natsel
        >>> from natsel.models import ViT
        >>> vit = ViT((1, 8, 8), 3, dim=8, depth=1, heads=2)
        >>> images = torch.randn(64, 1, 8, 8)
        >>> communities = natsel.discover(vit, images[:2], dims=True)
        >>> aligned = align(vit, communities, [(images,)])
        >>> torch.allclose(aligned.model(images), vit(images), atol=1e-4)
        True
    """
    kinds = (DIMENSION.name, KEY.name, VALUE.name, QUERY.name)
    experts = [c for c in communities.values() if c.kind == EXPERT.name and _in_groups(c)]
    chosen = [c for c in communities.values() if c.kind in kinds]
    if not chosen and not experts:
        allowed = (
            "some with dimensions or query heads: discover(..., dims=True or query_heads=True)"
            ", or with experts in groups"
        )
        refuse("communities", communities, allowed)
    batches = reread(data)
    if batches is None:
        refuse("data", None, "batches of calibration data")
    turned = copied(folded(model), {})
    moments = _moments(turned, chosen, batches) if chosen else {}
    scores: dict[str, Tensor] = {}
    skipped: dict[str, str] = {}
    worth = _worth(turned, communities, experts, batches) if experts else {}
    with torch.no_grad():
        tensors = tensors_of(turned)
        for community in experts:
            scores[community.name] = moved(tensors, community, worth[community.name])
        for community in chosen:
            reason = _unfit(turned, community, moments)
            if reason:
                skipped[community.name] = reason
                continue
            if community.kind == QUERY.name:
                scores[community.name] = ordered(tensors, community, moments)
                continue
            total = torch.zeros(community.size, dtype=torch.float64)
            for part in (_keys, _values):
                total += part(tensors, community, moments)
            scores[community.name] = total
    return Aligned(turned, scores, skipped)


def _in_groups(community: Community) -> bool:
    """Tell whether each population is one of several groups, in every tensor."""
    return all(s.index.shape[1] > 1 for s in community.slices)


def _worth(
    model: nn.Module, communities: Communities, experts: list[Community], batches: Data
) -> dict[str, Tensor]:
    """Return what each expert of each group is worth, ``[groups, size]``."""
    mine = communities.in_model(model)
    names = {c.name for c in experts}
    found = reap_of_each(mine.without(set(communities) - names), batches)
    return {name: each.T for name, each in found.items()}


def _makers(community: Community) -> list[Slice]:
    """Return the weights that make queries and keys, in this order."""
    return [s for s in community.slices if s.role == "in" and s.axis == 0]


def _readers(community: Community) -> list[Slice]:
    return [s for s in community.slices if s.role == "in" and s.axis == 1]


def _unfit(model: nn.Module, community: Community, moments: dict[str, Moments]) -> str:
    parts = [s for s in community.slices if s.role in ("in", "out")]
    held = {p.tensor.rpartition(".")[0] for p in parts}
    if not all(isinstance(model.get_submodule(path), nn.Linear) for path in held):
        return "a map of it is no nn.Linear"
    if community.kind == QUERY.name:
        return why_not(community) or _unseen(moments)
    if any(s.tensor.rpartition(".")[0] not in held for s in community.slices):
        return "other tensors, such as rotary frequencies, are in its basis"
    if len(_makers(community)) > 2 or len([s for s in parts if s.role == "out"]) > 1:
        return "it is of several layers"
    return _unseen(moments)


def _unseen(moments: dict[str, Moments]) -> str:
    return "" if all(m.count for m in moments.values()) else "nothing was seen of it"


def _moments(model: nn.Module, chosen: list[Community], batches: Data) -> dict[str, Moments]:
    """Return moments of what each weight makes (of queries and keys), or reads (of values)."""
    made = {s.tensor for c in chosen for s in _makers(c)}
    read = {s.tensor for c in chosen for s in _readers(c)}
    found: dict[str, Moments] = defaultdict(Moments)
    modules = {name: owner(model, name)[0] for name in (*made, *read)}

    def note(name: str, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> None:
        rows = entering(args, kwargs)
        rows = rows if name in read else modules[name].forward(rows)
        found[name].add(rows.detach().reshape(-1, rows.shape[-1]))

    with torch.no_grad(), evaluating(model), watching(modules, note):
        for inputs in inputs_of(batches, model):
            run(model, inputs)
    return found


def _keys(tensors: dict[str, Tensor], community: Community, moments: dict[str, Moments]) -> Tensor:
    makers = _makers(community)
    total = torch.zeros(community.size, dtype=torch.float64)
    if not makers:
        return total
    shares = []
    for queries, keys in _pairs(makers):
        gram = sum(moments[t].second(about_mean=False)[i][:, i] for t, i in queries)
        spread = sum(moments[t].second(about_mean=True)[i][:, i] for t, i in keys)
        assert isinstance(gram, Tensor)
        assert isinstance(spread, Tensor)
        root, back = _roots(gram)
        left, values, _ = torch.linalg.svd(root @ _roots(spread)[0])
        values = values.clamp_min(values[0] * 1e-12).clamp_min(1e-300)
        forth = values.sqrt()[:, None] * left.T @ back
        inverse = values.rsqrt()[:, None] * left.T @ root
        for basis, places in ((forth, queries), (inverse, keys)):
            for tensor, index in places:
                _turn_rows(tensors, tensor, index, basis)
        shares.append(values.square() / values.square().sum())
    return torch.stack(shares).mean(0)


def _values(
    tensors: dict[str, Tensor], community: Community, moments: dict[str, Moments]
) -> Tensor:
    makers = [s for s in community.slices if s.role == "out"]
    total = torch.zeros(community.size, dtype=torch.float64)
    if not makers:
        return total
    (maker,), (reader,) = makers, _readers(community)
    group = reader.index.shape[1] // maker.index.shape[1]
    shares = []
    for head in range(maker.index.shape[1]):
        columns = [reader.index[:, head * group + i] for i in range(group)]
        second = moments[reader.tensor].second(about_mean=True)
        spread = sum(second[i][:, i] for i in columns)
        assert isinstance(spread, Tensor)
        root, back = _roots(spread)
        weight = tensors[reader.tensor]
        stacked = torch.cat([weight[:, i.to(weight.device)].double().cpu() for i in columns])
        _, values, right = torch.linalg.svd(stacked @ root)
        values = torch.cat((values, values.new_zeros(len(root) - len(values))))
        values = values.clamp_min(values[0] * 1e-6).clamp_min(1e-300)
        forth = values.sqrt()[:, None] * right @ back
        inverse = root @ right.T * values.rsqrt()
        _turn_rows(tensors, maker.tensor, maker.index[:, head], forth)
        for index in columns:
            there = index.to(weight.device)
            new = weight[:, there].double().cpu() @ inverse
            weight[:, there] = new.to(weight)
        shares.append(values.square() / values.square().sum())
    return torch.stack(shares).mean(0)


Places = list[tuple[str, Tensor]]


def _pairs(makers: list[Slice]) -> Iterator[tuple[Places, Places]]:
    """Yield, per key head, the places of the queries that read it and of its keys."""
    if len(makers) == 1:
        (packed,) = makers
        half = packed.index.shape[1] // 2
        queries, keys = packed.index[:, :half], packed.index[:, half:]
        names = (packed.tensor, packed.tensor)
    else:
        queries, keys = makers[0].index, makers[1].index
        names = (makers[0].tensor, makers[1].tensor)
    group = queries.shape[1] // keys.shape[1]
    for head in range(keys.shape[1]):
        mine = [(names[0], queries[:, head * group + i]) for i in range(group)]
        yield mine, [(names[1], keys[:, head])]


def _roots(moment: Tensor) -> tuple[Tensor, Tensor]:
    """Return the square root of a matrix of second moments, and its inverse."""
    moment = moment.double().cpu()
    floor = RIDGE * float(moment.diagonal().mean()) + 1e-300
    values, vectors = torch.linalg.eigh(moment)
    values = values.clamp_min(0) + floor
    return vectors * values.sqrt() @ vectors.T, vectors * values.rsqrt() @ vectors.T


def _turn_rows(tensors: dict[str, Tensor], name: str, index: Tensor, basis: Tensor) -> None:
    """Change the basis of what rows of a weight, and of the bias beside it, make."""
    for tensor in (tensors[name], tensors.get(f"{name.rpartition('.')[0]}.bias")):
        if tensor is not None:
            there = index.to(tensor.device)
            rows = tensor[there].double().cpu().reshape(len(index), -1)
            tensor[there] = (basis @ rows).reshape(tensor[there].shape).to(tensor)
