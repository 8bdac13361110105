"""Pretrained models by name or folder: safetensors only, and no code but that of the library."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from torch import nn

from natsel.common.errors import first_line, refuse
from natsel.integrations.transformers.library import class_named, library, without_bars

PATHS = ("/", ".", "~")
"""How a path begins, and no name on the Hub does."""


def from_pretrained(name: str) -> nn.Module:
    """Read a pretrained model of the class that its configuration names.

    Args:
        name: a folder; or, where there is none and it is no path, a name on the Hugging Face Hub.

    Returns:
        The model, in evaluation mode.

    Raises:
        ValueError: if there is none, its class is not in the library, it has no safetensors, or
            its weights do not fit its configuration.
        MissingExtraError: if the transformers library is not installed.
    """
    transformers: Any = library()
    here = Path(name).is_dir()
    if not here and name.startswith(PATHS):
        refuse("model", name, "a folder that is there")
    options = {"trust_remote_code": False, "local_files_only": here}
    try:
        config = transformers.AutoConfig.from_pretrained(name, **options)
    # What can go wrong here comes from four libraries, each with errors of its own.
    except Exception as error:  # noqa: BLE001
        refuse("model", name, f"a folder or a name on the Hub ({first_line(error)})")
    kinds = [class_named(kind) for kind in config.architectures or ()]
    if not kinds or kinds[0] is None:
        found = ", ".join(config.architectures or ()) or "none"
        refuse("model", name, f"a model of a class in the transformers library, not {found}")
    try:
        # Reading a folder takes seconds; a download may take long, and shows it on a terminal.
        with nullcontext() if sys.stderr.isatty() and not here else without_bars():
            model, told = kinds[0].from_pretrained(
                name, config=config, use_safetensors=True, output_loading_info=True, **options
            )
    except Exception as error:  # noqa: BLE001
        refuse("model", name, f"safetensors that fit its configuration ({first_line(error)})")
    missing = sorted([*told["missing_keys"], *(str(k[0]) for k in told["mismatched_keys"])])
    if missing:
        refuse("model", name, f"weights for {', '.join(missing[:3])} too")
    found_model: nn.Module = model.eval()
    return found_model
