"""How many weights of a matrix survive, and where: by row, in all, N of each M, or given."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from natsel.common.errors import refuse
from natsel.single_weights.streaming.rows import fittest_of_rows


@dataclass(frozen=True)
class OfRows:
    """So many weights of each row go.

    Attributes:
        num_removed: of a row.
    """

    num_removed: int


@dataclass(frozen=True)
class OfMatrix:
    """So many weights of the whole matrix go.

    Attributes:
        num_removed: of the matrix.
    """

    num_removed: int


@dataclass(frozen=True)
class OfGroups:
    """Of each M neighbours in a row N stay.

    Attributes:
        num_kept: N.
        num_all: M.
    """

    num_kept: int
    num_all: int


@dataclass(frozen=True, eq=False)
class Given:
    """What stays is known.

    Attributes:
        mask: bool ``[rows, columns]``, true stays.
    """

    mask: Tensor


Pattern = OfRows | OfMatrix | OfGroups | Given


def keep(scores: Tensor, pattern: Pattern) -> Tensor:
    """Return which weights of a matrix survive: the fittest, of equal ones the first.

    Args:
        scores: ``[rows, columns]``, higher is fitter.
        pattern: how many stay, and where.

    Returns:
        A mask of the same shape.

    Raises:
        ValueError: if M does not divide the columns.

    Example:
        >>> import torch
        >>> scores = torch.tensor([[4.0, 3.0, 2.0, 1.0], [8.0, 7.0, 6.0, 5.0]])
        >>> keep(scores, OfRows(2))
        tensor([[ True,  True, False, False],
                [ True,  True, False, False]])
        >>> keep(scores, OfMatrix(4)).any(1)
        tensor([False,  True])
    """
    rows, columns = scores.shape
    match pattern:
        case Given(mask):
            return mask
        case OfRows(num_removed):
            return fittest_of_rows(scores, columns - num_removed)
        case OfMatrix(num_removed):
            flat = scores.reshape(1, -1)
            return fittest_of_rows(flat, flat.shape[1] - num_removed).view(rows, columns)
        case OfGroups(num_kept, num_all):
            check_divides(columns, num_all)
            groups = scores.reshape(-1, num_all)
            return fittest_of_rows(groups, num_kept).view(rows, columns)


def check_divides(columns: int, num_all: int) -> None:
    """Refuse an M that does not divide the inputs."""
    if columns % num_all:
        refuse("num_all", num_all, f"a number that divides the {columns} inputs of the layer")


def up_to(num_removed: int, place: int, size: int) -> int:
    """Return how many go among the first ``place`` of ``size`` when all of them lose alike."""
    return (2 * num_removed * place + size) // (2 * size)
