"""From labels to communities: group the classes that own the same slices."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from natsel.communities.community import Community, Refusal, Role, Slice
from natsel.communities.cost import Cost
from natsel.communities.kinds import CHANNEL, KEY, NEURON, kind_of, marked
from natsel.communities.labels.groups import whole_groups
from natsel.communities.labels.propagation import Propagation
from natsel.communities.pricing import macs_by_class
from natsel.communities.tensors import common_path

Key = tuple[str, int]
Group = tuple[np.ndarray, list[Key]]
"""Classes of one community, and the tensor axes that they own places of."""
PARAMETRIZED = ".parametrizations."
"""What torch puts between a module and the parameters that its weight is computed from."""

WIDTH = (
    "residual=True (--residual on the command line) offers it: removing is then not masking, "
    "and the difference is stated"
)
TEACH = "teach the operator with @natsel.rule"
REORDERED = "its populations change their order on the way (a roll, a shuffle)"
SHUFFLE = (
    "write a shuffle of channels as nn.ChannelShuffle or F.channel_shuffle, which is understood"
)


def collect(run: Propagation) -> tuple[list[Community], list[Refusal]]:
    """Return the communities that the labels of a finished propagation describe.

    Populations that own equally wide slices of the same tensors are interchangeable and form one
    community. What is fixed, or alone in its community, is returned as a refusal with its reason.

    Args:
        run: the propagation, at its fixed point.

    Returns:
        Communities in the order of first use, and refusals.
    """
    axes = _resolved_axes(run)
    roots = {key: run.space.roots(labels).numpy() for key, labels in axes.items()}
    makers = [key for key in axes if "out" in run.roles.get(key, ())]
    readers = [key for key in axes if run.roles.get(key, set()) & {"in", "expert"}]
    if not makers:
        return [], _untaught(run, set())
    made = np.unique(np.concatenate([roots[key] for key in makers]))
    read = np.unique(np.concatenate([roots[key] for key in readers])) if readers else made[:0]
    # No weight reads a dimension of queries and keys: each reads the other.
    read = np.union1d(read, _roots_of(run, run.marked.get(KEY.name, [])))
    # Nor does one in a parameter that a weight is computed from show as it is.
    read = np.union1d(read, _roots_of(run, list(run.unread.values())))
    free = made[~run.space.is_fixed(torch.from_numpy(made)).numpy()]
    candidates = np.intersect1d(free, read)
    groups = _groups(candidates, roots)
    said = {kind: _roots_of(run, run.marked[kind]) for kind in marked() if kind in run.marked}
    inexact = _roots_of(run, run.inexact)
    communities: list[Community] = []
    alone: dict[int, str] = {}
    names: dict[str, int] = defaultdict(int)
    charged = macs_by_class(run)
    parameters = set(run.program.graph_signature.inputs_to_parameters.values())
    for members, owned in _in_order(groups, makers, roots):
        if len(members) < 2:
            alone[int(members[0])] = "all of it stands or falls together"
            continue
        kinds = (k for k, roots_said in said.items() if np.isin(members, roots_said).any())
        kind = CHANNEL.name if np.isin(members, inexact).any() else next(kinds, NEURON.name)
        macs = charged.get(int(members[0]), 0.0)
        found = {key: roots[key] for key in owned}
        community = _community(run, members, found, kind, names, parameters, macs)
        if not all(_in_step(part.index.numpy()) for part in community.slices):
            reason = REORDERED
        elif community.minimum >= community.size:
            reason = "its router chooses all of them"
        else:
            communities.append(community)
            continue
        alone.update(dict.fromkeys(members.tolist(), reason))
    return communities, _refusals(run, makers, roots, communities, read, alone)


def _in_step(index: np.ndarray) -> bool:
    """Tell whether populations follow one another in the same order, or the reverse, everywhere.

    Each population may own several places: the first places of all must be in order, and the
    second, and so on. Cutting keeps the order within a tensor; operators that reorder by a rule
    of their own, such as a roll, reorder what remains differently.
    """
    steps = np.diff(np.sort(index, axis=1), axis=0)
    return bool(((steps > 0).all(axis=0) | (steps < 0).all(axis=0)).all())


def _resolved_axes(run: Propagation) -> dict[Key, torch.Tensor]:
    """Return labels per tensor axis, with lifted parameters resolved into slices of one axis."""
    axes = dict(run.axis_labels)
    for name, labels in run.lifted.items():
        if labels.numel() == 0 or bool((labels <= 1).all()):
            continue
        roots = run.space.roots(labels)
        for axis in range(labels.dim()):
            rows = roots.movedim(axis, 0).reshape(roots.shape[axis], -1)
            if bool((rows == rows[:, :1]).all()) and roots.shape[axis] > 1:
                axes.setdefault((name, axis), rows[:, 0].contiguous())
                break
        else:
            values, counts = np.unique(roots.numpy(), return_counts=True)
            run.space.fix(
                torch.from_numpy(values[counts > 1]), f"{name} cannot be sliced along one axis"
            )
            shared = run.space.roots(labels)
            for owned in list(axes.values()):
                met = shared[torch.isin(shared, run.space.roots(owned))]
                run.space.fix(met, f"{name} cannot be sliced along one axis")
    return axes


def _groups(candidates: np.ndarray, roots: dict[Key, np.ndarray]) -> list[Group]:
    """Split classes by how many places of each tensor axis they own; say which axes these are."""
    if not len(candidates):
        return []
    entries = []
    for number, owned in enumerate(roots.values()):
        position = np.minimum(np.searchsorted(candidates, owned), len(candidates) - 1)
        hit, counts = np.unique(position[candidates[position] == owned], return_counts=True)
        entries.append(np.stack([hit, np.full_like(hit, number), counts], axis=1))
    table = np.concatenate(entries)
    table = table[np.lexsort((table[:, 1], table[:, 0]))]
    starts = np.searchsorted(table[:, 0], np.arange(len(candidates) + 1))
    groups: dict[bytes, list[int]] = defaultdict(list)
    for candidate, (start, stop) in enumerate(itertools.pairwise(starts.tolist())):
        groups[table[start:stop, 1:].tobytes()].append(candidate)
    keys = list(roots)
    return [
        (
            candidates[members],
            [keys[number] for number in table[starts[members[0]] : starts[members[0] + 1], 1]],
        )
        for members in groups.values()
    ]


def _in_order(groups: list[Group], makers: list[Key], roots: dict[Key, np.ndarray]) -> list[Group]:
    """Sort groups, and the classes in them, by where they first appear among the makers."""
    sequence = np.concatenate([roots[key] for key in makers])
    values, first = np.unique(sequence, return_index=True)
    order = dict(zip(values.tolist(), first.tolist(), strict=True))
    ordered = [(np.array(sorted(g.tolist(), key=order.__getitem__)), keys) for g, keys in groups]
    return sorted(ordered, key=lambda group: order[int(group[0][0])])


def _roots_of(run: Propagation, labels: list[torch.Tensor]) -> np.ndarray:
    if not labels:
        return np.empty(0, dtype=np.int64)
    return np.unique(run.space.roots(torch.cat(labels)).numpy())


def _community(
    run: Propagation,
    members: np.ndarray,
    roots: dict[Key, np.ndarray],
    kind: str,
    names: dict[str, int],
    parameters: set[str],
    macs_between: float,
) -> Community:
    by_value = np.argsort(members)
    slices = []
    owned_widths: dict[str, dict[int, int]] = defaultdict(dict)
    for (name, axis), labels in roots.items():
        places = np.flatnonzero(np.isin(labels, members))
        population = by_value[np.searchsorted(members[by_value], labels[places])]
        width = len(places) // len(members)
        index = places[np.argsort(population, kind="stable")].reshape(len(members), width)
        role = _role(run.roles.get((name, axis), set()), kind)
        if role == "tied" and name in run.preferences:
            role = "preference"
        slices.append(Slice(name, axis, torch.from_numpy(index.copy()), role))
        owned_widths[name][axis] = width
    macs = _weight_macs(run, owned_widths) + macs_between
    makers = [s for s in slices if "out" in run.roles.get((s.tensor, s.axis), ())]
    name = _name(makers[0].tensor, [s.tensor for s in slices], kind)
    names[name] += 1
    if names[name] > 1:
        name = f"{name}#{names[name]}"
    num_parameters = _parameter_cost(run, owned_widths, parameters)
    cost, minimum = Cost(num_parameters, macs), _num_chosen(run, members)
    community = Community(name, kind, len(members), cost, tuple(slices), minimum=minimum)
    counted = tuple(c for c, rows in run.counted.items() if _meets(run, [rows], members))
    standards = tuple(p for p, rows in run.standards.items() if _meets(run, [rows], members))
    unread = _meets(run, list(run.unread.values()), members)
    stilled = _all_along(run, slices) if unread else _makers(slices) if counted else ()
    return replace(community, counted=counted, standards=standards, stilled=stilled)


def _meets(run: Propagation, labels: list[torch.Tensor], members: np.ndarray) -> bool:
    return bool(np.isin(_roots_of(run, labels), members).any())


def _all_along(run: Propagation, slices: Sequence[Slice]) -> tuple[int, ...]:
    """Return which slices there are of populations until they are read where nothing silences them.

    A shift on the way, behind a normalisation say, would be read of a population that makes none.
    """
    parameters = set(run.program.graph_signature.inputs_to_parameters.values())
    return tuple(
        n
        for n, s in enumerate(slices)
        if s.role != "in" and s.tensor in parameters and (s.tensor, s.axis) not in run.unread
    )


def _makers(slices: Sequence[Slice]) -> tuple[int, ...]:
    """Return which slices make the populations: rows of weights, and the biases beside them."""
    made = {s.tensor.rpartition(".")[0] for s in slices if s.role == "out"}
    return tuple(
        n
        for n, s in enumerate(slices)
        if s.role == "out" or (s.role == "tied" and s.tensor.rpartition(".")[0] in made)
    )


def _num_chosen(run: Propagation, members: np.ndarray) -> int:
    """Return how many of some populations a router must have to choose from; else 1."""
    least = 1
    for top_k, labels in run.routers.items():
        if labels is None or not np.isin(_roots_of(run, [labels]), members).any():
            continue
        chosen: Any = top_k.args[1]
        grouping = run.groupings.get(top_k)
        if grouping is not None:
            chosen = grouping.least(chosen, whole_groups(run, grouping))
        least = max(least, chosen)
    return least


def _role(roles: set[str], kind: str) -> Role:
    """Return what a slice is to its populations; experts are read where their weights are."""
    made = kind_of(kind).produced
    if made != "out" and "out" in roles:
        return made
    if roles & {"in", "expert"}:
        return "in"
    return "out" if "out" in roles else "tied"


def _parameter_cost(
    run: Propagation, widths: dict[str, dict[int, int]], parameters: set[str]
) -> int:
    total = 0
    for name, owned in widths.items():
        if name not in parameters:
            continue
        full, left = 1, 1
        for axis, size in enumerate(run.shapes[name]):
            full *= size
            left *= size - owned.get(axis, 0)
        total += full - left
    return total


def _weight_macs(run: Propagation, widths: dict[str, dict[int, int]]) -> float:
    total = 0.0
    for use in run.weight_macs:
        if use.tensor not in widths:
            continue
        full, left = 1, 1
        for axis in use.axes:
            size = run.shapes[use.tensor][axis]
            full *= size
            left *= size - widths[use.tensor].get(axis, 0)
        total += use.macs * (full - left) / full
    return total


def _name(maker: str, tensors: list[str], kind: str) -> str:
    """Name a community after the module that makes it; heads after what holds all their parts."""
    if kind_of(kind).named == "maker":
        return _holder(maker)
    return common_path(t.rpartition(".")[0] for t in tensors) or _holder(maker)


def _holder(tensor: str) -> str:
    """Return the path of the module whose tensor this is, or from which it is computed."""
    module = tensor.partition(PARAMETRIZED)[0] if PARAMETRIZED in tensor else ""
    return module or tensor.rpartition(".")[0] or tensor


def _refusals(
    run: Propagation,
    makers: list[Key],
    roots: dict[Key, np.ndarray],
    communities: list[Community],
    read: np.ndarray,
    alone: dict[int, str],
) -> list[Refusal]:
    taken: dict[Key, list[Slice]] = defaultdict(list)
    for part in (s for c in communities for s in c.slices):
        taken[part.tensor, part.axis].append(part)
    refusals = []
    told: set[tuple[str, bytes]] = set()
    for key in makers:
        left = roots[key]
        # A weight that is computed from several parameters has rows in each.
        if (same := (_holder(key[0]), left.tobytes())) in told:
            continue
        told.add(same)
        if key in taken:
            mask = np.ones(len(left), dtype=bool)
            for part in taken[key]:
                mask[part.index.reshape(-1).numpy()] = False
            left = left[mask]
        if not len(left):
            continue
        labels = torch.from_numpy(np.unique(left))
        reasons = run.space.reasons(labels)
        if not reasons:
            reasons = list(dict.fromkeys(alone[r] for r in labels.tolist() if r in alone))
        if not reasons and not np.isin(labels.numpy(), read).any():
            reasons = ["no linear map reads it"]
        remedy = TEACH if any(r.startswith("no rule for") for r in reasons) else ""
        if not run.residual and any(" together with its neighbours" in r for r in reasons):
            remedy = remedy or WIDTH
        if REORDERED in reasons:
            remedy = remedy or SHUFFLE
        name = _holder(key[0])
        refusals.append(Refusal(name, len(left), "; ".join(reasons[:3]) or "unknown", remedy))
    return refusals + _untaught(run, {r.name for r in refusals})


def _untaught(run: Propagation, named: set[str]) -> list[Refusal]:
    """Name the modules whose weights enter an operator without a rule, such as a recurrent one."""
    found: dict[str, Refusal] = {}
    for tensor, reason in run.untaught.items():
        name = _holder(tensor)
        if name not in named and len(run.shapes[tensor]) > 1:
            found.setdefault(name, Refusal(name, run.shapes[tensor][0], reason, TEACH))
    return list(found.values())
