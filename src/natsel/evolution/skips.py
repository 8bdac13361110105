"""Steps that evolve nothing, because the gradients of a scaled loss overflowed."""

from __future__ import annotations

import warnings

from natsel.common.errors import NonFiniteError
from natsel.common.logs import logger_of

_LOG = logger_of(__name__)

MOST = 20
"""In a row: a scale of 2^16, where a GradScaler starts, is down to 1 after 16 halvings."""


class Skips:
    """Counts them, and tells an overflow from numbers that are lost.

    Attributes:
        total: how many steps were skipped.
    """

    def __init__(self) -> None:
        self.total = 0
        self._in_a_row = 0
        self._warned = False

    def take(self, error: NonFiniteError) -> None:
        """Count one that was met where nobody says that it is an overflow.

        Args:
            error: what was found.

        Raises:
            NonFiniteError: if there were too many in a row for an overflow.
        """
        self._in_a_row += 1
        if self._in_a_row >= MOST:
            raise NonFiniteError(
                f"{error}; gradients were NaN or infinite in {self._in_a_row} steps in a row, "
                "which no scale of the loss explains"
            ) from error
        self.count()
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"{error}: gradients overflowed, and nothing evolved in this step; such steps are "
                "counted in evolution.num_skipped",
                stacklevel=4,
            )

    def count(self) -> None:
        """Count one that the optimizer skips by itself."""
        self.total += 1
        _LOG.debug("gradients overflowed: nothing evolved in %d steps so far", self.total)

    def over(self) -> None:
        """Take notice of a step that was not skipped."""
        self._in_a_row = 0
