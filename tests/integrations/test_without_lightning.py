"""Where Lightning is not installed, its callbacks say what to install."""

from __future__ import annotations

import sys

import pytest

import natsel
import natsel.integrations.lightning
from natsel.integrations.lightning.library import PACKAGES, library


def test_what_is_missing_is_named(monkeypatch):
    for name in (*PACKAGES, "lightning"):
        monkeypatch.setitem(sys.modules, name, None)
    told = r"lightning is not installed: pip install 'natsel\[lightning\]'"
    with pytest.raises(natsel.MissingExtraError, match=told):
        library()
    monkeypatch.delitem(sys.modules, "natsel.integrations.lightning.callbacks", raising=False)
    with pytest.raises(natsel.MissingExtraError, match=told):
        natsel.integrations.lightning.EvolutionCallback
