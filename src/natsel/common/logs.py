"""The logger of natsel: what long computations tell, for whoever listens.

The library installs no handler but one that is silent: an application chooses with
``logging.getLogger("natsel")``. INFO tells the stages of a computation and what came of them,
WARNING what speaks against its outcome, DEBUG the details.
"""

from __future__ import annotations

import logging

ROOT = "natsel"

logging.getLogger(ROOT).addHandler(logging.NullHandler())


def logger_of(module: str) -> logging.Logger:
    """Return the logger of a module, below the one of natsel.

    Args:
        module: its ``__name__``; one outside natsel is put below it, too.

    Example:
        >>> logger_of("natsel.runs.evolve").name, logger_of("natsel_papers.spectrum").name
        ('natsel.runs.evolve', 'natsel.natsel_papers.spectrum')
    """
    inside = module == ROOT or module.startswith(f"{ROOT}.")
    return logging.getLogger(module if inside else f"{ROOT}.{module}")
