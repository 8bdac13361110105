"""Whether token ids are such as a decoder reads, before it reads them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from natsel.common.errors import brief, refuse
from natsel.common.vocabulary import check_tokens

KINDS = (torch.int64, torch.int32)
"""What an embedding takes for token ids."""


def check_ids(model: nn.Module, ids: object, argument: str, allowed: str) -> None:
    """Refuse what is no batch of token ids of a model.

    Args:
        model: that is to read them.
        ids: what was given.
        argument: the name the caller used for it.
        allowed: what may be given.

    Raises:
        ValueError: if it is none.

    Example:
        >>> check_ids(nn.Linear(1, 1), torch.zeros(1, 3), "inputs", "token ids")
        Traceback (most recent call last):
        ValueError: inputs='<float32 tensor of shape (1, 3)>' is not allowed: expected token ids
    """
    if not isinstance(ids, Tensor) or ids.dim() != 2 or ids.dtype not in KINDS or not ids.numel():
        refuse(argument, brief(ids), allowed)
    check_tokens(model, [{"input_ids": ids}], argument)
