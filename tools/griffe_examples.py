"""Read this project's docstrings: ``Example:`` is code, and a role is a name in a fixed font."""

from __future__ import annotations

import re
from typing import Any

import griffe


class Examples(griffe.Extension):
    """Rewrite a docstring before it is parsed: griffe knows the plural only, and no roles."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Look at one object as it is loaded."""
        if obj.docstring is not None:
            text = re.sub(r"(?m)^(\s*)Example:$", r"\1Examples:", obj.docstring.value)
            obj.docstring.value = re.sub(r":(?:func|class|meth|mod|attr):`~?", "`", text)
