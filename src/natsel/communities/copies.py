"""Copies of models in which some tensors are others, or the very same."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Mapping

from torch import Tensor, nn

from natsel.communities.tables import kept_tables


def copied(model: nn.Module, instead: Mapping[int, Tensor]) -> nn.Module:
    """Return a deep copy of a model.

    Args:
        model: the model, which is not touched.
        instead: by the ``id`` of a tensor of the model, what the copy holds in its place: a
            smaller one, or the same, which both then share.

    Returns:
        The copy.

    Example:
        >>> model = nn.Linear(2, 3)
        >>> copied(model, {id(model.weight): model.weight}).weight is model.weight
        True
    """
    memo: dict[int, object] = dict(instead)
    # A module holds a dozen empty collections, for hooks mostly: making them anew takes most of
    # the time that a copy of a deep model takes.
    for module in model.modules():
        for table in kept_tables(module).values():
            memo[id(table)] = {}  # it is computed from parameters, which may be others in the copy
        for value in vars(module).values():
            if isinstance(value, Tensor) and not value.is_leaf:
                # What a hook computed from parameters last time: torch copies leaves only.
                memo.setdefault(id(value), value.detach().clone())
            if type(value) in (dict, OrderedDict, set) and not value:
                memo[id(value)] = type(value)()
    return copy.deepcopy(model, memo)
