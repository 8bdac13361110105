"""Populations that are read by frozen weights: who of them can evolve."""

from __future__ import annotations

from torch import nn

from natsel.common.errors import refuse
from natsel.common.logs import logger_of
from natsel.communities import Communities, Community, Refusal
from natsel.communities.gates.gating import gated_slices
from natsel.fitness import Fitness

_LOG = logger_of(__name__)

FROZEN = "a weight that reads it is frozen, and tells no fitness"


def that_train(communities: Communities, fitness: Fitness) -> Communities:
    """Return the communities whose fitness can be read, and whose masses are kept with the model.

    A gradient is read of weights that train. Where only adapters train (PEFT), only they are in a
    checkpoint: masses on the frozen weights would be lost with it, whatever the fitness.

    Args:
        communities: as they were found.
        fitness: the signal.

    Returns:
        Those that can evolve; the others are among ``refused``.

    Raises:
        ValueError: if there are none, with the remedies.
    """
    communities.require()
    adapted = is_adapted(communities.model)
    if not fitness.needs_gradient and not adapted:
        return communities
    named = dict(communities.model.named_parameters())
    left = [c for c in communities.values() if not _trains(c, named)]
    if not left:
        return communities
    if len(left) == len(communities):
        remedy = (
            "merge them (merge_and_unload) and train the whole, or evolve their ranks by "
            "discovery={'lora': True}"
            if adapted
            else "let their weights require gradients, or choose a fitness that needs none, such "
            "as 'magnitude'"
        )
        what = "only adapters train" if adapted else "every weight that reads one is frozen"
        refuse(
            "model",
            f"{type(communities.model).__name__}, of which {what}",
            f"populations that train ({remedy})",
        )
    for community in left:
        _LOG.info("left whole: %s: %s", community.name, FROZEN)
    frozen = {c.name for c in left}
    return Communities(
        communities.model,
        communities.example_inputs,
        tuple(c for c in communities.values() if c.name not in frozen),
        (*communities.refused, *(Refusal(c.name, c.size, FROZEN) for c in left)),
        communities.barriers,
        communities.macs,
        pricing=communities.pricing,
    )


def is_adapted(model: nn.Module) -> bool:
    """Say whether a model is wrapped by PEFT, whose checkpoints hold adapters alone.

    Example:
        >>> is_adapted(nn.Linear(2, 3))
        False
    """
    kinds = (kind for module in model.modules() for kind in type(module).__mro__)
    return any(kind.__module__.startswith("peft.") for kind in kinds)


def _trains(community: Community, named: dict[str, nn.Parameter]) -> bool:
    return all(named[part.tensor].requires_grad for part in gated_slices(community))
