"""ultralytics: detectors as its package builds them from their own descriptions."""

from __future__ import annotations

import importlib
from functools import partial

from torch import nn

from natsel_bench.zoo.catalog.entry import Entry, pictures
from natsel_bench.zoo.catalog.libraries import ultralytics

CLASSES = 4


def _detector(name: str) -> nn.Module:
    ultralytics()
    tasks = importlib.import_module("ultralytics.nn.tasks")
    model: nn.Module = tasks.DetectionModel(f"{name}.yaml", nc=CLASSES, verbose=False)
    return model


ENTRIES = tuple(
    Entry(f"ultralytics/{name}", partial(_detector, name), pictures(64, 96))
    for name in ("yolov8n", "yolo11n", "yolov5n")
)
