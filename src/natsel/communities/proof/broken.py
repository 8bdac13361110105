"""Say in words why a smaller model does not run: which numbers do not follow, and where."""

from __future__ import annotations

import re

from natsel.common.errors import first_line
from natsel.communities.labels.graph import place_of_error

SHAPES = (
    r"^shape '(?P<shape>\[.*?\])' is invalid for input of size",
    r"^unflatten: Provided sizes (?P<shape>\[.*?\]) don't multiply up",
    r"^The expanded size of the tensor .* Target sizes: (?P<shape>\[.*?\])",
)
PARTS = r"^split_with_sizes expects split_sizes to sum .* got split_sizes=(?P<parts>\[.*?\])"
MEETING = (
    r"^The size of tensor a ",
    r"^mat1 and mat2 shapes cannot be multiplied",
    r"^Given (groups|normalized_shape)=",
    r"^Sizes of tensors must match",
)


def why_broken(error: BaseException) -> str:
    """Return what in the user's code a removal breaks.

    Args:
        error: what the forward of a smaller model raised.

    Returns:
        Words, with the place in the user's code where there is one.

    Example:
        >>> why_broken(RuntimeError("shape '[-1, 8, 6, 6]' is invalid for input of size 360"))
        'forward asks for the fixed shape [-1, 8, 6, 6]'
        >>> why_broken(ZeroDivisionError("division by zero"))
        'division by zero'
    """
    return f"{_words(first_line(error))}{place_of_error(error)}"


def _words(message: str) -> str:
    for pattern in SHAPES:
        if found := re.search(pattern, message):
            return f"forward asks for the fixed shape {found['shape']}"
    if found := re.search(PARTS, message):
        return f"forward asks for parts of the fixed sizes {found['parts']}"
    if any(re.search(pattern, message) for pattern in MEETING):
        return f"a size that was cut meets one that was not ({message.rstrip('. ')})"
    return message
