r"""What experts do for the tokens that their router sends them.

For each token x that is sent to expert e the router gives a weight $g_e(x)$, after it normalized
and scaled as it does, and the expert answers $f_e(x)$. All is summed over the data in float64.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from natsel.common.batches import Data, inputs_for
from natsel.common.calls import call, without_cache
from natsel.common.errors import refuse
from natsel.common.modes import evaluating
from natsel.common.padding import without_padding
from natsel.communities import Communities, Community
from natsel.fitness.experts.registry import EXPERT_SCORERS, ExpertScorer


class Sent(NamedTuple):
    """What a router sent to its experts.

    Attributes:
        num_tokens: that chose experts.
        counts: tokens that each expert got, ``[E]``.
        norms: sum of the norms of its answers, ``[E]``.
        weighted: sum of the norms of its answers times the router's weights, ``[E]``.
    """

    num_tokens: int
    counts: Tensor
    norms: Tensor
    weighted: Tensor


def reap(communities: Communities, data: Data) -> dict[str, Tensor]:
    r"""Return the mean of weight times norm over the tokens that are sent to it: ``[size]``.

    $\frac{1}{|X_e|} \sum_{x \in X_e} g_e(x) \|f_e(x)\|_2$, and 0 for who gets none.

    Source:
        M. Lasby et al., REAP the Experts: Why Pruning Prevails for One-Shot MoE Compression,
        2510.13999.
    """
    return _measured(communities, data, "reap", lambda s: s.weighted / s.counts.clamp(min=1))


def frequency(communities: Communities, data: Data) -> dict[str, Tensor]:
    """Return the share of all tokens that are sent to the expert: ``[size]``."""
    return _measured(communities, data, "frequency", lambda s: s.counts / s.num_tokens)


def output_norm(communities: Communities, data: Data) -> dict[str, Tensor]:
    """Return the mean norm of the expert's answers to the tokens that it gets: ``[size]``."""
    return _measured(communities, data, "output-norm", lambda s: s.norms / s.counts.clamp(min=1))


def reap_of_each(communities: Communities, data: Data) -> dict[str, Tensor]:
    """Return the same of each expert where a population is several, ``[size, width]``."""
    return _of_each(communities, data, "reap", lambda s: s.weighted / s.counts.clamp(min=1))


def _measured(
    communities: Communities, data: Data, scorer: str, measure: Callable[[Sent], Tensor]
) -> dict[str, Tensor]:
    # Of a population that is one expert of each group, or a group, the mean.
    found = _of_each(communities, data, scorer, measure)
    return {name: each.mean(1) for name, each in found.items()}


def _of_each(
    communities: Communities, data: Data, scorer: str, measure: Callable[[Sent], Tensor]
) -> dict[str, Tensor]:
    homes = {name: home_of(community, scorer) for name, community in communities.items()}
    modules = {name: communities.model.get_submodule(path) for name, (path, _) in homes.items()}
    sent = sent_by(communities.model, modules, data)
    found = {}
    for name, (_, places) in homes.items():
        if not sent[name].num_tokens:
            refuse("data", "no token in any batch", "at least one token")
        found[name] = measure(sent[name])[places]
    return found


def home_of(community: Community, scorer: str) -> tuple[str, Tensor]:
    """Return the path of the module that holds a community of experts, and their numbers.

    Each population may be several, ``[size, width]``.

    Raises:
        ValueError: if they are held by several.
    """
    held = [(s.tensor.rpartition(".")[0], s.index) for s in community.gates]
    paths = {path for path, _ in held}
    if len(paths) != 1 or any(not torch.equal(index, held[0][1]) for _, index in held):
        told = f"experts whose weights one module holds; those of {community.name} are in "
        refuse("scorer", scorer, told + ", ".join(sorted(paths)))
    return held[0]


def sent_by(
    model: nn.Module, modules: Mapping[str, nn.Module], data: Iterable[Any]
) -> dict[str, Sent]:
    """Run a model and return what its routers send to experts; padding is not counted.

    Args:
        model: runs in evaluation mode, without gradients.
        modules: of experts, which are called with tokens ``[n, width]``, the numbers of the chosen
            ``[n, k]`` and their weights ``[n, k]``.
        data: batches.

    Raises:
        ValueError: if a module is called otherwise, or there is no batch.
    """
    found: dict[str, Sent] = {}
    for name, module in modules.items():
        size = next(module.parameters()).shape[0]
        zeros = torch.zeros(size, dtype=torch.float64)
        found[name] = Sent(0, zeros, zeros, zeros)

    def hook_for(name: str) -> Callable[..., None]:
        parameters = inspect.signature(inspect.unwrap(type(modules[name]).forward)).parameters
        order = list(parameters)[1:4]

        def hook(module: nn.Module, args: tuple[Any, ...], named: dict[str, Any], _: Any) -> None:
            given = dict(zip(order, args, strict=False)) | named
            tokens, experts, weights = _checked(name, [given.get(key) for key in order])
            parts = [without_padding(module, x, -1) for x in (tokens, experts, weights)]
            found[name] = _added(found[name], module, *parts)

        return hook

    count = 0
    with ExitStack() as stack, evaluating(model), without_cache(model), torch.no_grad():
        for name, module in modules.items():
            handle = module.register_forward_hook(hook_for(name), with_kwargs=True)
            stack.callback(handle.remove)
        for batch in data:
            call(model, inputs_for(model, batch))
            count += 1
    if not count:
        refuse("data", "empty", "at least one batch")
    return found


def _checked(name: str, given: list[Any]) -> list[Tensor]:
    tensors = [x for x in given if isinstance(x, Tensor) and x.dim() == 2]
    fits = len(tensors) == 3 and tensors[1].shape == tensors[2].shape
    if not fits or tensors[1].is_floating_point() or len(tensors[0]) != len(tensors[1]):
        told = "experts that are called with tokens, the numbers of the chosen and their weights"
        refuse("model", name, told)
    return tensors


def _added(sent: Sent, module: nn.Module, tokens: Tensor, experts: Tensor, weights: Tensor) -> Sent:
    if not len(tokens):
        return sent
    # Each choice by itself and with weight 1: what the expert answers.
    pairs, alone = tokens.repeat_interleave(experts.shape[1], 0), experts.reshape(-1, 1)
    answers = module.forward(pairs, alone, torch.ones_like(weights).reshape(-1, 1))
    norms = answers.double().norm(dim=-1).cpu()
    index, given = alone[:, 0].cpu(), weights.reshape(-1).double().cpu()
    return Sent(
        sent.num_tokens + len(tokens),
        sent.counts.index_add(0, index, torch.ones_like(norms)),
        sent.norms.index_add(0, index, norms),
        sent.weighted.index_add(0, index, norms * given),
    )


SCORERS: Mapping[str, Any] = {"reap": reap, "frequency": frequency, "output-norm": output_norm}
for _name, _score in SCORERS.items():
    EXPERT_SCORERS.add(_name, ExpertScorer(_name, _score))
