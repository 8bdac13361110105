"""A grammar of networks as people write them, and a judge of what natsel offers of them.

A way says all there is to a network, so that one that fails can be made smaller word by word:
``python -m tests.communities.random_networks --seeds 0:500`` judges one after the other.
"""

from .network import NetworkWay, build, draw, inputs_of
from .verdicts import judged, lost, shrink, told

__all__ = ["NetworkWay", "build", "draw", "inputs_of", "judged", "lost", "shrink", "told"]
