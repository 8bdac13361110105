"""How much of a text is in another one, whatever windows are cut from either."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

PASSAGE = 256
"""Characters that are looked for together; a power of two."""

OVERLAPPING = 0.05
"""The share of a text from which on it overlaps; below, two texts may quote the same."""

_PIECE = 2**20
_BASE = 0x9E3779B97F4A7C15  # odd, so that no character falls out of the 64 bits


def shared_share(first: Iterable[str], second: Iterable[str]) -> float:
    """Return the share of the passages of a text that are in another one.

    The second text is cut in passages side by side; each is looked for at every place of the first,
    by its polynomial hash modulo 2^64.

    Args:
        first: documents to look in.
        second: documents whose passages are looked for.

    Example:
        >>> one, other = "".join(map(str, range(999))), "".join(map(str, range(500, 1300)))
        >>> round(shared_share([one], [other]), 1), shared_share([one[:800]], [other])
        (0.5, 0.0)
    """
    passages = _hashes("\n".join(second))[::PASSAGE]
    if not len(passages):
        return 0.0
    found = np.zeros(len(passages), dtype=bool)
    for piece in _pieces("\n".join(first)):
        found |= np.isin(passages, _hashes(piece))
    return float(found.mean())


def _pieces(text: str) -> Iterator[str]:
    """Yield parts that overlap by a passage, so that memory is bounded and no passage is lost."""
    for start in range(0, max(len(text) - PASSAGE + 1, 0), _PIECE):
        yield text[start : start + _PIECE + PASSAGE - 1]


def _hashes(text: str) -> NDArray[np.uint64]:
    """Return the hash of the passage that begins at each place, by doubling its length."""
    if len(text) < PASSAGE:
        return np.empty(0, dtype=np.uint64)
    codes = text.encode("utf-32-le", "surrogatepass")
    found = np.frombuffer(codes, dtype="<u4").astype(np.uint64)
    size = 1
    while size < PASSAGE:
        factor = np.uint64(pow(_BASE, size, 2**64))
        found = found[:-size] + found[size:] * factor
        size *= 2
    return found
