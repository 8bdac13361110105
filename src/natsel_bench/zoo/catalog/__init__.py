"""Models that people download most, small but true to class; nothing is downloaded."""

from __future__ import annotations

from natsel_bench.zoo.catalog import (
    of_diffusers,
    of_timm,
    of_torchvision,
    of_transformers_other,
    of_transformers_text,
    of_ultralytics,
)
from natsel_bench.zoo.catalog.entry import Entry

CATALOG: dict[str, Entry] = {
    entry.name: entry
    for part in (
        of_torchvision,
        of_timm,
        of_transformers_text,
        of_transformers_other,
        of_diffusers,
        of_ultralytics,
    )
    for entry in part.ENTRIES
}
"""By name, ``library/model``; in the order in which the page has them."""
