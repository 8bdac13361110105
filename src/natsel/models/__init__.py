"""Reference networks, one file each, built from a name and JSON arguments.

>>> from natsel import models
>>> model = models.build("mlp", in_shape=(1, 28, 28), num_classes=10, seed=0)
>>> model.constructor["arguments"]["hidden"]
[512, 256]
"""

from natsel.models.cnn import CNN
from natsel.models.mlp import MLP
from natsel.models.registry import MODELS, TASKS, build, default_shape, rebuild
from natsel.models.resnet import ResNet20
from natsel.models.vit import ViT

__all__ = ["CNN", "MLP", "MODELS", "TASKS", "ResNet20", "ViT", "build", "default_shape", "rebuild"]
