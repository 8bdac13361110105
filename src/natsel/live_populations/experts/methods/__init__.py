"""The methods of experts, one file each; here is the one table of their names."""

from natsel.live_populations.experts.methods.by_chance import by_chance
from natsel.live_populations.experts.methods.router import router
from natsel.live_populations.experts.methods.threshold import below
from natsel.live_populations.experts.registry import ExpertMethod, register

register(ExpertMethod("router", router))
register(ExpertMethod("router-threshold", router, extinct=below))
register(ExpertMethod("router-random", by_chance))

__all__ = ["below", "by_chance", "router"]
