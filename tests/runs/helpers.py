"""What several tests of the study share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

FAST = {"rate": 0.2, "pressure": 1.5, "horizon": 10, "patience": 3}
"""An ecology in which populations die within one epoch."""


def leftovers(folder: Path) -> list[str]:
    """Name the files that only an unfinished run has."""
    return sorted(
        str(p.relative_to(folder))
        for p in folder.rglob("*")
        if p.name.endswith(".tmp") or p.name.startswith("checkpoint")
    )


def comparable(result: Any) -> Any:
    """Drop what two equal runs may differ in: times."""
    if isinstance(result, dict):
        return {k: comparable(v) for k, v in result.items() if k not in ("latency", "seconds")}
    if isinstance(result, list):
        return [comparable(v) for v in result]
    return result
