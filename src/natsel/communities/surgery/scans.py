"""State-space scans of the second generation: what their code says follows what their layers make.

One layer makes gates, what is scanned, what is written to and read from the state, and the steps
of all heads. Heads can go, or groups of them with what they write and read.
"""

from __future__ import annotations

from typing import Any


def follow_scan(module: Any) -> None:
    """Let a scan of the transformers library split what its layer makes as it is made, in place.

    Args:
        module: parameters of it may have been cut; it still says the old numbers.
    """
    inner, convolved = module.out_proj.weight.shape[1], module.conv1d.weight.shape[0]
    groups = (convolved - inner) // (2 * module.ssm_state_size)
    norm = getattr(module, "norm", None)
    for name, value in (("group_size", inner // groups), ("n_groups", groups)):
        if type(getattr(norm, name, None)) is int:
            setattr(norm, name, value)
    module.intermediate_size, module.conv_dim, module.n_groups = inner, convolved, groups
    module.num_heads = module.A_log.shape[0]
    if hasattr(module, "groups_time_state_size"):
        module.groups_time_state_size = groups * module.ssm_state_size
