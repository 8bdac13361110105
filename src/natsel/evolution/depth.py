"""What a law and a signal must be that branches evolve under."""

from __future__ import annotations

from natsel.common.errors import refuse
from natsel.communities import Communities
from natsel.dynamics import DYNAMICS, Dynamic
from natsel.fitness import FITNESS, Fitness


def check_branches(communities: Communities, fitness: Fitness, dynamic: Dynamic) -> None:
    """Refuse what says nothing of branches, where some evolve.

    Raises:
        ValueError: if the signal reads what a single population's weights are, or the law how
            alike two populations are: branches are not built alike.
    """
    if not any(community.branches for community in communities.values()):
        return
    remedy = "leave branches out: communities.only(...)"
    if not fitness.branches:
        names = ", ".join(name for name, each in FITNESS.items() if each.branches)
        refuse("fitness", fitness.name, f"for branches one of {names} ({remedy})")
    if dynamic.competes:
        names = ", ".join(name for name, each in DYNAMICS.items() if not each.competes)
        refuse("dynamics", dynamic.name, f"for branches one of {names} ({remedy})")
