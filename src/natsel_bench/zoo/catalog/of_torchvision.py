"""torchvision: its classes with fewer and narrower blocks where their arguments allow it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

from natsel.common.calls import Inputs
from natsel_bench.zoo.catalog.entry import Entry, Sized, pictures
from natsel_bench.zoo.catalog.libraries import torchvision

CLASSES = 10


def _models() -> Any:
    return torchvision().models


def _by_name(name: str, **options: Any) -> nn.Module:
    model: nn.Module = getattr(_models(), name)(num_classes=CLASSES, **options)
    return model


def _resnet(block: str, **options: Any) -> nn.Module:
    library = _models().resnet
    options = {"layers": [1, 1, 1, 1], "num_classes": CLASSES} | options
    model: nn.Module = library.ResNet(getattr(library, block), **options)
    return model


def _narrow_classifier(name: str) -> nn.Module:
    """The large Linears of a network's classifier get 64 neurons: the rest is what it was."""
    model = _by_name(name)
    classifier: Any = model.classifier
    width: int | None = None
    for index, layer in enumerate(classifier):
        if isinstance(layer, nn.Linear):
            out = 64 if layer.out_features > CLASSES else CLASSES
            classifier[index] = nn.Linear(width or layer.in_features, out)
            width = out
    return model


def _densenet() -> nn.Module:
    model: nn.Module = _models().DenseNet(8, (2, 3, 3, 2), 16, num_classes=CLASSES)
    return model


def _mobilenet_v2() -> nn.Module:
    blocks = [[1, 16, 1, 1], [6, 24, 2, 2], [6, 32, 2, 2], [6, 64, 1, 2]]
    return _by_name("mobilenet_v2", width_mult=0.5, inverted_residual_setting=blocks)


def _efficientnet_v2() -> nn.Module:
    library = _models().efficientnet
    blocks = [
        library.FusedMBConvConfig(1, 3, 1, 16, 16, 1),
        library.FusedMBConvConfig(4, 3, 2, 16, 24, 2),
        library.MBConvConfig(4, 3, 2, 24, 32, 2),
        library.MBConvConfig(6, 3, 2, 32, 48, 2),
    ]
    model: nn.Module = library.EfficientNet(blocks, 0.2, num_classes=CLASSES, last_channel=64)
    return model


def _regnet(se_ratio: float | None) -> nn.Module:
    library = _models().regnet
    params = library.BlockParams.from_init_params(
        depth=6, w_0=16, w_a=10.0, w_m=2.2, group_width=8, se_ratio=se_ratio
    )
    model: nn.Module = library.RegNet(params, num_classes=CLASSES)
    return model


def _convnext() -> nn.Module:
    library = _models().convnext
    stages = [library.CNBlockConfig(24, 48, 1), library.CNBlockConfig(48, None, 2)]
    model: nn.Module = library.ConvNeXt(stages, num_classes=CLASSES)
    return model


def _vit() -> nn.Module:
    model: nn.Module = _models().VisionTransformer(32, 8, 2, 4, 48, 96, num_classes=CLASSES)
    return model


def _swin(second: bool) -> nn.Module:
    library = _models().swin_transformer
    other: dict[str, Any] = {}
    if second:
        other["block"] = library.SwinTransformerBlockV2
        other["downsample_layer"] = library.PatchMergingV2
    model: nn.Module = library.SwinTransformer(
        [4, 4], 24, [2, 2], [2, 4], [4, 4], num_classes=CLASSES, **other
    )
    return model


def _maxvit() -> nn.Module:
    model: nn.Module = _models().MaxVit(
        (64, 64), 16, 2, [16, 32], [1, 1], 8, 0.0, num_classes=CLASSES
    )
    return model


def _segmenter(name: str, aux: bool = False) -> nn.Module:
    library = getattr(_models().segmentation, name)
    backbone = _resnet(
        "Bottleneck", width_per_group=16, replace_stride_with_dilation=[False, True, True]
    )
    model: nn.Module = getattr(library, f"_{name}_resnet")(backbone, CLASSES, aux)
    return model


def _whole(part: str, name: str) -> nn.Module:
    model: nn.Module = getattr(getattr(_models(), part), name)(
        weights=None, weights_backbone=None, num_classes=CLASSES
    )
    return model


def _video() -> nn.Module:
    library = _models().video.resnet
    model: nn.Module = library.VideoResNet(
        library.BasicBlock, [library.Conv3DSimple] * 4, [1, 1, 1, 1], library.BasicStem, CLASSES
    )
    return model


def _clip(batch: int, step: int) -> Inputs:
    return (torch.randn(batch, 3, 6 if step else 4, 32, 32),)


_SMALL = pictures(40, 72)
_LARGE = pictures(64, 96)
_NO_AUX = {"aux_logits": False, "init_weights": False}
_BUILT: tuple[tuple[str, Callable[[], nn.Module], Sized], ...] = (
    ("resnet18", partial(_resnet, "BasicBlock"), _SMALL),
    ("resnet50", partial(_resnet, "Bottleneck"), _SMALL),
    ("resnext50_32x4d", partial(_resnet, "Bottleneck", groups=8, width_per_group=4), _SMALL),
    ("wide_resnet50_2", partial(_resnet, "Bottleneck", width_per_group=128), _SMALL),
    ("alexnet", partial(_narrow_classifier, "alexnet"), _LARGE),
    ("vgg16", partial(_narrow_classifier, "vgg16"), _SMALL),
    ("vgg11_bn", partial(_narrow_classifier, "vgg11_bn"), _SMALL),
    ("densenet121", _densenet, _SMALL),
    ("inception_v3", partial(_by_name, "inception_v3", **_NO_AUX), pictures(96, 112)),
    ("googlenet", partial(_by_name, "googlenet", **_NO_AUX), _LARGE),
    ("squeezenet1_1", partial(_by_name, "squeezenet1_1"), _LARGE),
    ("mobilenet_v2", _mobilenet_v2, _SMALL),
    ("mobilenet_v3_small", partial(_by_name, "mobilenet_v3_small"), _SMALL),
    ("mobilenet_v3_large", partial(_by_name, "mobilenet_v3_large"), _SMALL),
    ("shufflenet_v2_x1_0", partial(_by_name, "shufflenet_v2_x0_5"), _SMALL),
    ("mnasnet1_0", partial(_by_name, "mnasnet0_5"), _SMALL),
    ("efficientnet_b0", partial(_by_name, "efficientnet_b0"), _SMALL),
    ("efficientnet_v2_s", _efficientnet_v2, _SMALL),
    ("regnet_y_400mf", partial(_regnet, 0.25), _SMALL),
    ("regnet_x_400mf", partial(_regnet, None), _SMALL),
    ("convnext_tiny", _convnext, _SMALL),
    ("vit_b_16", _vit, pictures(32)),
    ("swin_t", partial(_swin, False), pictures(32, 64)),
    ("swin_v2_t", partial(_swin, True), pictures(32, 64)),
    ("maxvit_t", _maxvit, pictures(64)),
    ("deeplabv3_resnet50", partial(_segmenter, "deeplabv3"), _SMALL),
    ("fcn_resnet50", partial(_segmenter, "fcn"), _SMALL),
    (
        "lraspp_mobilenet_v3_large",
        partial(_whole, "segmentation", "lraspp_mobilenet_v3_large"),
        _SMALL,
    ),
    ("r3d_18", _video, _clip),
    ("fasterrcnn_resnet50_fpn", partial(_whole, "detection", "fasterrcnn_resnet50_fpn"), _SMALL),
)

ENTRIES = tuple(Entry(f"torchvision/{name}", build, inputs) for name, build, inputs in _BUILT)
