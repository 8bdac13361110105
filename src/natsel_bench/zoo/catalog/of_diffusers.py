"""diffusers: the networks inside of its pipelines."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn

from natsel.common.calls import Inputs
from natsel_bench.zoo.catalog.entry import Entry, Sized, pictures
from natsel_bench.zoo.catalog.libraries import diffusers

WIDTH = 16


def _build(name: str, options: dict[str, Any]) -> nn.Module:
    model: nn.Module = getattr(diffusers(), name)(**options)
    return model


def _steps(batch: int) -> torch.Tensor:
    return torch.randint(1, 900, (batch,))


def _latent(
    channels: int = 4, *, text: bool = True, key: str = "sample", classes: bool = False
) -> Sized:
    def make(batch: int, step: int) -> Inputs:
        side = 24 if step else 16
        found: dict[str, torch.Tensor] = {
            key: torch.randn(batch, channels, side, side),
            "timestep": _steps(batch),
        }
        if text:
            found["encoder_hidden_states"] = torch.randn(batch, 9 if step else 7, WIDTH)
        if classes:
            found["class_labels"] = torch.randint(0, 5, (batch,))
        return found

    return make


def _control(batch: int, step: int) -> Inputs:
    side = 24 if step else 16
    return {
        "sample": torch.randn(batch, 4, side, side),
        "timestep": _steps(batch),
        "encoder_hidden_states": torch.randn(batch, 9 if step else 7, WIDTH),
        "controlnet_cond": torch.randn(batch, 3, 8 * side, 8 * side),
    }


def _sd3(batch: int, step: int) -> Inputs:
    return {
        "hidden_states": torch.randn(batch, 4, 16, 16),
        "encoder_hidden_states": torch.randn(batch, 9 if step else 7, WIDTH),
        "pooled_projections": torch.randn(batch, 12),
        "timestep": _steps(batch),
    }


def _flux(batch: int, step: int) -> Inputs:
    words = 9 if step else 7
    return {
        "hidden_states": torch.randn(batch, 16, 4),
        "encoder_hidden_states": torch.randn(batch, words, WIDTH),
        "pooled_projections": torch.randn(batch, 12),
        "timestep": torch.rand(batch),
        "img_ids": torch.randint(0, 4, (16, 3)).float(),
        "txt_ids": torch.zeros(words, 3),
    }


_UNET: dict[str, Any] = {
    "sample_size": 16,
    "block_out_channels": (16, 32),
    "layers_per_block": 1,
    "norm_num_groups": 4,
}
_COARSE = _UNET | {
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "cross_attention_dim": WIDTH,
    "attention_head_dim": 4,
}
_VAE: dict[str, Any] = {
    "block_out_channels": (16, 32),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
}
_DIT: dict[str, Any] = {
    "num_attention_heads": 4,
    "attention_head_dim": 8,
    "in_channels": 4,
    "num_layers": 2,
    "sample_size": 16,
    "patch_size": 2,
}

_MODELS: tuple[tuple[str, dict[str, Any], Sized], ...] = (
    (
        "UNet2DModel",
        _UNET
        | {
            "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
            "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
            "attention_head_dim": 8,
        },
        _latent(3, text=False),
    ),
    (
        "UNet2DConditionModel",
        _COARSE | {"up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D")},
        _latent(),
    ),
    (
        "ControlNetModel",
        {key: value for key, value in _COARSE.items() if key != "sample_size"}
        | {"conditioning_embedding_out_channels": (8, 8, 16, 16)},
        _control,
    ),
    ("AutoencoderKL", _VAE, pictures(32, 48)),
    ("VQModel", _VAE | {"num_vq_embeddings": 16}, pictures(32, 48)),
    (
        "AutoencoderTiny",
        {
            "encoder_block_out_channels": (8, 8),
            "decoder_block_out_channels": (8, 8),
            "num_encoder_blocks": (1, 1),
            "num_decoder_blocks": (1, 1),
        },
        pictures(32, 48),
    ),
    (
        "DiTTransformer2DModel",
        _DIT | {"num_embeds_ada_norm": 5, "out_channels": 8},
        _latent(text=False, key="hidden_states", classes=True),
    ),
    (
        "PixArtTransformer2DModel",
        _DIT
        | {
            "out_channels": 8,
            "cross_attention_dim": 32,
            "caption_channels": WIDTH,
            "use_additional_conditions": False,
        },
        _latent(key="hidden_states"),
    ),
    (
        "SD3Transformer2DModel",
        _DIT
        | {
            "joint_attention_dim": WIDTH,
            "caption_projection_dim": 32,
            "pooled_projection_dim": 12,
            "out_channels": 4,
            "pos_embed_max_size": 16,
        },
        _sd3,
    ),
    (
        "FluxTransformer2DModel",
        {
            "patch_size": 1,
            "in_channels": 4,
            "num_layers": 1,
            "num_single_layers": 1,
            "attention_head_dim": 16,
            "num_attention_heads": 2,
            "joint_attention_dim": WIDTH,
            "pooled_projection_dim": 12,
            "axes_dims_rope": (4, 4, 8),
        },
        _flux,
    ),
    ("Transformer2DModel", _DIT | {"norm_num_groups": 4, "patch_size": None}, _latent(text=False,
     key="hidden_states")),
)  # fmt: skip

ENTRIES = tuple(
    Entry(f"diffusers/{name}", partial(_build, name, options), inputs)
    for name, options, inputs in _MODELS
)
