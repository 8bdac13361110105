"""Fewer experts a token: what a router chose competes, call by call.

Importing this package fills the table of methods.
"""

import natsel.live_populations.experts.methods as methods
from natsel.live_populations.experts.choices import Choices
from natsel.live_populations.experts.registry import EXPERT_METHODS, ExpertMethod

__all__ = ["EXPERT_METHODS", "Choices", "ExpertMethod", "methods"]
