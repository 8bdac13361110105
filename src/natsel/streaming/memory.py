"""How much memory this process has held at most."""

from __future__ import annotations

from natsel.common.memory import peak_memory

__all__ = ["peak_memory"]
