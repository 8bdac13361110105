"""Linear layers with two zeros in each four inputs, in the format that some accelerators read."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from natsel.common.errors import refuse
from natsel.communities.copies import copied

KINDS = (torch.float16, torch.bfloat16)


def semi_structured(model: nn.Module) -> nn.Module:
    """Return a copy whose 2:4 layers hold only what is not zero, by ``to_sparse_semi_structured``.

    Each ``nn.Linear`` with at most two weights that are not 0 in each four inputs is converted; the
    others stay as they are. The result is for running: it neither trains nor saves.

    Args:
        model: in float16 or bfloat16 on a CUDA device of compute capability 8.0 or more.

    Raises:
        ValueError: if the device or the type has no such format, or no layer such zeros.

    Example:
        >>> semi_structured(nn.Linear(4, 4))  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ValueError: model='on cpu' is not allowed: expected a CUDA device ...
    """
    first = next(model.parameters(), None)
    device = first.device if first is not None else torch.device("cpu")
    if not _has_format(device):
        allowed = "a CUDA device of compute capability 8.0 or more, which has the 2:4 format"
        refuse("model", f"on {device}", allowed)
    result = copied(model, {})
    fits = [m for m in result.modules() if isinstance(m, nn.Linear) and is_two_of_four(m.weight)]
    if not fits:
        refuse("model", type(model).__name__, "a Linear with 2 zeros in each 4 inputs: NM(2, 4)")
    wrong = [m for m in fits if m.weight.dtype not in KINDS]
    if wrong:
        refuse("model", wrong[0].weight.dtype, "float16 or bfloat16, which the 2:4 format knows")
    for module in fits:
        packed = _packed(module.weight.detach())
        module.weight = nn.Parameter(packed, requires_grad=False)
    return result


def is_two_of_four(weight: Tensor) -> bool:
    """Tell whether at most two weights of each four inputs are not 0.

    Example:
        >>> is_two_of_four(torch.tensor([[1.0, 0.0, 2.0, 0.0]]))
        True
        >>> is_two_of_four(torch.tensor([[1.0, 3.0, 2.0, 0.0]]))
        False
    """
    if weight.dim() != 2 or weight.shape[1] % 4:
        return False
    return bool(((weight.detach() != 0).view(len(weight), -1, 4).sum(2) <= 2).all())


def _has_format(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)


def _packed(weight: Tensor) -> Tensor:
    from torch.sparse import to_sparse_semi_structured

    found: Tensor = to_sparse_semi_structured(weight)
    return found
