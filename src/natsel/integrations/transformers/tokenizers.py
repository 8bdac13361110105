"""The tokenizer that comes with a model, by folder or by name: no code but that of the library."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from natsel.common.errors import first_line, refuse
from natsel.integrations.transformers.library import library, without_bars

FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "vocab.txt")


def has_tokenizer(name: str | Path) -> bool:
    """Tell whether a folder has a tokenizer; of what is no folder that is not known: True.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     has_tokenizer(folder)
        False
    """
    folder = Path(name)
    return not folder.is_dir() or any((folder / file).is_file() for file in FILES)


def tokenizer_of(name: str | Path, *, argument: str = "tokenizer") -> Any:
    """Read the tokenizer of a model.

    Args:
        name: a folder, or ``hf:NAME`` for a name on the Hugging Face Hub.
        argument: the name the caller used, for messages.

    Returns:
        A tokenizer of the transformers library. For a folder nothing reaches the network.

    Raises:
        ValueError: if there is none, or it needs code that natsel does not have.
        MissingExtraError: if the transformers library is not installed.
    """
    transformers: Any = library()
    wanted = str(name).removeprefix("hf:")
    here = Path(wanted).is_dir()
    if not here and not str(name).startswith("hf:"):
        refuse(argument, str(name), "a folder that is there, or hf:NAME for a name on the Hub")
    if not has_tokenizer(wanted):
        allowed = (
            "a folder with a tokenizer: copy tokenizer.json and tokenizer_config.json from the "
            "model it was cut from into it, or name that with --tokenizer"
        )
        refuse(argument, str(name), allowed)
    try:
        with without_bars():
            return transformers.AutoTokenizer.from_pretrained(
                wanted, trust_remote_code=False, local_files_only=here
            )
    # What can go wrong here comes from several libraries, each with errors of its own.
    except Exception as error:  # noqa: BLE001
        refuse(argument, str(name), f"a model with a tokenizer ({first_line(error)})")
