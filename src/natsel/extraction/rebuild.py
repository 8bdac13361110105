"""From a dense model and stored tensors to the small model: re-shape, tie, set numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from natsel.common.errors import refuse
from natsel.communities.branches.branch import Shortening
from natsel.communities.branches.removal import shorten
from natsel.communities.copies import copied
from natsel.communities.gates.gates import folded
from natsel.communities.numbers import number, set_number
from natsel.communities.programs.program import follow_literals
from natsel.communities.surgery.adapters import adapt
from natsel.communities.surgery.counting import follow_counts
from natsel.communities.surgery.standards import with_standards
from natsel.communities.tensors import all_tensors
from natsel.extraction.conversion import Conversion
from natsel.extraction.csr import CsrLinear
from natsel.extraction.plan import Plan, attach_plan
from natsel.extraction.unstructured import with_skeletons


def rebuild_small(model: nn.Module, tensors: Mapping[str, Tensor], plan: Plan) -> nn.Module:
    """Return a copy of a dense model that has the stored tensors and the numbers of a plan.

    Args:
        model: a dense model of the same architecture; it is not changed, and nothing of it that
            is stored is copied.
        tensors: what is stored; they become the parameters and buffers of the small model.
        plan: of the small model.

    Returns:
        The small model, in evaluation mode.

    Raises:
        ValueError: if the model is of another architecture.
    """
    model = folded(model)
    tensors = dict(tensors)
    if plan.branches is not None:
        model = copied(model, {id(t): t for t in all_tensors(model).values()})
        shortening = Shortening.from_dict(plan.branches)
        shorten(model, shortening)
        gone = tuple(f"{stand.path}." for stand in shortening.stands)
        tensors = {name: t for name, t in tensors.items() if not name.startswith(gone)}
    conversion = Conversion.from_dict(plan.conversion) if plan.conversion is not None else None
    if conversion is not None:
        model = with_skeletons(model, conversion)
        tensors = {name: t for name, t in tensors.items() if name not in conversion.absent}
    model = with_standards(model, tensors)
    wanted = {**tensors, **{name: tensors.get(first) for name, first in plan.tied.items()}}
    found = all_tensors(model)
    persistent = model.state_dict(keep_vars=True).keys()
    missing = sorted((persistent | wanted) - (found.keys() & wanted))
    if missing or None in wanted.values():
        names = ", ".join(missing[:3] or [n for n, t in wanted.items() if t is None][:3])
        refuse("model", type(model).__name__, f"the architecture that was saved ({names} differ)")
    new: dict[str, Tensor] = {}
    memo: dict[int, Any] = {}
    for name, tensor in tensors.items():
        if name in plan.tied:
            continue
        old = found[name]
        # A table that is no part of the state has the size of the last input that it was made for.
        grows = any(map(int.__gt__, tensor.shape, old.shape)) and name in persistent
        if tensor.dim() != old.dim() or grows:
            refuse(f"model {name}", tuple(old.shape), f"at least the saved {tuple(tensor.shape)}")
        if isinstance(old, nn.Parameter):
            tensor = nn.Parameter(tensor, requires_grad=name not in plan.frozen)
        new[name] = memo[id(old)] = tensor
    small = copied(model, memo)
    for name, tensor in all_tensors(small).items():
        mine = new.get(plan.tied.get(name, name))
        if mine is not None and tensor is not mine:
            path, _, attribute = name.rpartition(".")
            setattr(small.get_submodule(path), attribute, mine)
    set_numbers(small, follow_literals(small, follow_counts(small, plan.attributes)))
    adapt(small)
    for name, module in small.named_modules():
        if isinstance(module, CsrLinear):
            module.check(name)
    attach_plan(small, plan)
    return small.eval()


def set_numbers(model: nn.Module, numbers: Mapping[str, int]) -> None:
    """Set whole numbers in modules of a model.

    Args:
        model: changed in place.
        numbers: by "module.attribute".

    Raises:
        ValueError: if there is no such number, or it would grow: a plan is data, not code.
    """
    modules = dict(model.named_modules())
    for path, value in numbers.items():
        name, _, attribute = path.rpartition(".")
        found = number(modules[name], attribute) if name in modules else None
        if type(value) is not int or found is None:
            refuse("model", type(model).__name__, f"one with a whole number at {path}")
        if not 0 <= value <= found:
            refuse(f"plan {path}", value, f"a number from 0 to {found}, what the model has")
        set_number(modules[name], attribute, value)
