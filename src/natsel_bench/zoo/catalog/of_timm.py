"""timm: its models by name, shrunk by the arguments that their families take."""

from __future__ import annotations

import sys
from functools import partial
from typing import Any
from unittest.mock import patch

from torch import nn

from natsel_bench.zoo.catalog.entry import Entry, Sized, pictures
from natsel_bench.zoo.catalog.libraries import timm

CLASSES = 10
Options = dict[str, Any]


def _create(name: str, options: Options) -> nn.Module:
    """Create a model whose class gets ``options`` last: a family's own sizes come before."""
    library = timm()
    module = sys.modules[library.models.model_entrypoint(name).__module__]
    builder = vars(module)["build_model_with_cfg"]

    def smaller(cls: Any, variant: str, pretrained: bool, *args: Any, **given: Any) -> nn.Module:
        model: nn.Module = builder(cls, variant, pretrained, *args, **{**given, **options})
        return model

    with patch.object(module, "build_model_with_cfg", smaller):
        model: nn.Module = library.create_model(name, pretrained=False, num_classes=CLASSES)
    return model


_SMALL, _LARGE = pictures(40, 72), pictures(64, 96)
_64, _32 = pictures(64), pictures(32)
_ONE: Options = {"layers": [1, 1, 1, 1]}
_VIT: Options = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 4}
_STAGES: Options = {"depths": (1, 1, 1, 1), "dims": (16, 24, 32, 48)}
_SWIN: Options = {
    "img_size": 64,
    "embed_dim": 24,
    "depths": (2, 2),
    "num_heads": (2, 4),
    "window_size": 4,
}
_MIXER: Options = {"img_size": 32, "patch_size": 8, "num_blocks": 2, "embed_dim": 48}

_BY_ARGUMENTS: tuple[tuple[str, Options, Sized], ...] = (
    ("resnet18", _ONE, _SMALL),
    ("resnet50", _ONE, _SMALL),
    ("resnet50d", _ONE, _SMALL),
    ("resnext50_32x4d", _ONE, _SMALL),
    ("wide_resnet50_2", _ONE | {"base_width": 64}, _SMALL),
    ("seresnet50", _ONE, _SMALL),
    ("ecaresnet50d", _ONE, _SMALL),
    ("skresnet18", _ONE, _SMALL),
    ("resnest14d", {}, _SMALL),
    ("res2net50_26w_4s", _ONE, _SMALL),
    ("resnetv2_50", {"layers": [1, 1, 1, 1]}, _SMALL),
    ("resnetv2_50x1_bit", {"layers": [1, 1, 1, 1]}, _SMALL),
    ("vit_base_patch16_224", _VIT, _32),
    ("vit_small_patch14_dinov2", _VIT, _32),
    ("vit_small_patch14_reg4_dinov2", _VIT, _32),
    ("vit_base_patch16_siglip_224", _VIT, _32),
    ("vit_base_patch16_clip_224", _VIT, _32),
    ("vit_small_patch16_dinov3", _VIT, _32),
    ("vit_relpos_small_patch16_224", _VIT, _32),
    ("deit_small_patch16_224", _VIT, _32),
    ("deit3_small_patch16_224", _VIT, _32),
    ("deit_small_distilled_patch16_224", _VIT, _32),
    ("beit_base_patch16_224", _VIT, _32),
    ("beitv2_base_patch16_224", _VIT, _32),
    ("eva02_small_patch14_224", _VIT, _32),
    ("eva02_base_patch14_224", _VIT, _32),
    ("cait_xxs24_224", _VIT, _32),
    ("xcit_nano_12_p8_224", {"img_size": 32, "embed_dim": 48, "depth": 2, "num_heads": 4}, _32),
    ("convit_tiny", _VIT, _32),
    ("tnt_s_legacy_patch16_224", {"img_size": 32, "embed_dim": 96, "depth": 2}, _32),
    (
        "crossvit_9_240",
        # Narrower yet, the embedding of patches would outweigh the blocks, which it does not.
        {"depth": [[1, 3, 0]] * 2, "embed_dim": [32, 64], "num_heads": [2, 2]},
        pictures(240),
    ),
    ("pit_s_224", {"img_size": 64, "base_dims": (8, 8, 8), "depth": (1, 1, 1)}, _64),
    (
        "samvit_base_patch16",
        {"img_size": 64, "embed_dim": 96, "depth": 2, "num_heads": 4, "neck_chans": 32},
        _64,
    ),
    ("swin_tiny_patch4_window7_224", _SWIN, _64),
    ("swinv2_tiny_window8_256", _SWIN, _64),
    ("swinv2_cr_tiny_224", _SWIN, _64),
    ("convnext_tiny", _STAGES, _SMALL),
    ("convnextv2_tiny", _STAGES, _SMALL),
    ("inception_next_tiny", {"depths": (1, 1, 1, 1), "dims": (16, 24, 32, 48)}, _SMALL),
    ("mixer_b16_224", _MIXER, _32),
    ("resmlp_12_224", _MIXER, _32),
    ("gmlp_s16_224", _MIXER, _32),
    ("convmixer_768_32", {"dim": 48, "depth": 2, "patch_size": 4}, _SMALL),
    ("poolformer_s12", _STAGES, _SMALL),
    ("poolformerv2_s12", _STAGES, _SMALL),
    ("caformer_s18", _STAGES | {"dims": (32, 32, 64, 64)}, _SMALL),
    ("convformer_s18", _STAGES, _SMALL),
    (
        "pvt_v2_b0",
        {"depths": (1, 1, 1, 1), "embed_dims": (16, 32, 80, 128), "num_heads": (1, 2, 5, 8)},
        _LARGE,
    ),
    (
        "twins_svt_small",
        {
            "img_size": 64,
            "embed_dims": [16, 16, 32, 32],
            "num_heads": [1, 2, 4, 4],
            "depths": [1, 1, 1, 1],
            "wss": [2, 2, 2, 2],
        },
        _64,
    ),
    (
        "volo_d1_224",
        {
            "img_size": 64,
            "layers": (1, 1, 1, 1),
            "embed_dims": (24, 48, 48, 48),
            "num_heads": (2, 4, 4, 4),
        },
        _64,
    ),
    (
        "davit_tiny",
        {"depths": (1, 1), "embed_dims": (16, 32), "num_heads": (2, 4), "window_size": 4},
        _64,
    ),
    ("focalnet_tiny_srf", {"depths": (1, 1, 1, 1), "embed_dim": 16}, _LARGE),
    (
        "nest_tiny",
        {
            "img_size": 32,
            "embed_dims": (16, 32),
            "num_heads": (2, 4),
            "depths": (1, 1),
            "num_levels": 2,
        },
        _32,
    ),
    (
        "gcvit_xxtiny",
        {
            "img_size": 64,
            "embed_dim": 16,
            "depths": (1, 1, 1, 1),
            "num_heads": (2, 2, 4, 4),
            "window_ratio": (8, 8, 16, 32),
        },
        _64,
    ),
    (
        "sequencer2d_s",
        {
            "img_size": 64,
            "layers": [1, 1, 1, 1],
            "embed_dims": [16, 32, 32, 32],
            "hidden_sizes": [8, 8, 8, 8],
            "mlp_ratios": [3.0] * 4,
        },
        _64,
    ),
    ("hiera_tiny_224", {"img_size": (64, 64), "embed_dim": 16, "stages": (1, 1, 2, 1)}, _64),
    ("edgenext_xx_small", {}, _LARGE),
    ("mambaout_femto", {"depths": (1, 1, 1, 1), "dims": (16, 24, 32, 48)}, _SMALL),
    ("densenet121", {"growth_rate": 8, "block_config": (2, 3, 3, 2)}, _SMALL),
    ("hrnet_w18_small", {}, _LARGE),
    ("dla34", {}, _LARGE),
    ("dpn48b", {"k_sec": (1, 1, 1, 1)}, _SMALL),
    ("coatnet_nano_rw_224", {}, pictures(224)),
    ("visformer_tiny", {"img_size": 64}, _64),
    ("coat_lite_tiny", {"img_size": 64}, _64),
    ("starnet_s1", {"depths": [1, 1, 1, 1]}, _SMALL),
    ("fasternet_t0", {"depths": (1, 1, 1, 1)}, _SMALL),
)

_AS_THEY_ARE: tuple[tuple[str, Sized], ...] = (
    tuple(
        (name, _SMALL)
        for name in (
            "mobilenetv3_small_100",
            "mobilenetv3_large_100",
            "mobilenetv2_050",
            "mobilenetv4_conv_small",
            "efficientnet_b0",
            "efficientnet_lite0",
            "tf_efficientnetv2_b0",
            "mnasnet_small",
            "fbnetc_100",
            "lcnet_050",
            "tinynet_e",
            "semnasnet_075",
            "ghostnet_100",
            "ghostnetv2_100",
            "rexnet_100",
            "regnety_002",
            "regnetx_002",
            "repvgg_a0",
            "mobileone_s0",
            "resnet10t",
            "resnet26t",
            "gernet_s",
            "gcresnet33ts",
            "eca_resnet33ts",
            "cspdarknet53",
            "cspresnet50",
            "darknet53",
            "ese_vovnet19b_dw",
            "hardcorenas_a",
            "selecsls42b",
            "tresnet_m",
            "hgnetv2_b0",
            "xception41",
            "dm_nfnet_f0",
            "nf_resnet50",
            "eca_nfnet_l0",
        )
    )
    + tuple(
        (name, _LARGE)
        for name in (
            "fastvit_t8",
            "repvit_m0_9",
            "mobilevit_xxs",
            "mobilevitv2_050",
            "efficientvit_b0",
            "lambda_resnet26t",
            "swiftformer_xs",
            "shvit_s1",
            "nextvit_small",
        )
    )
    + (
        ("levit_128s", pictures(224)),
        ("efficientformer_l1", pictures(224)),
        ("efficientformerv2_s0", pictures(224)),
        ("efficientvit_m0", pictures(224)),
        ("tiny_vit_5m_224", pictures(224)),
        ("maxvit_nano_rw_256", pictures(256)),
        ("botnet26t_256", pictures(256)),
        *((name, pictures(96, 112)) for name in ("inception_v3", "inception_v4")),
        *((name, pictures(96, 112)) for name in ("inception_resnet_v2", "legacy_xception")),
        ("halonet26t", pictures(256)),
    )
)

ENTRIES = tuple(
    Entry(f"timm/{name}", partial(_create, name, options), inputs)
    for name, options, inputs in (
        *_BY_ARGUMENTS,
        *((name, {}, inputs) for name, inputs in _AS_THEY_ARE),
    )
)
