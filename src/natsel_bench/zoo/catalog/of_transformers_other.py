"""Models of the transformers library for pictures, sound, and both with text."""

from __future__ import annotations

import torch

from natsel.common.calls import Inputs
from natsel_bench.zoo.catalog.entry import Sized, pictures
from natsel_bench.zoo.catalog.of_transformers_text import (
    TEXT,
    VOCABULARY,
    Family,
    Options,
    entries,
)

_VIT: Options = {
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "image_size": 32,
    "patch_size": 8,
}
_SWIN: Options = {
    "image_size": 32,
    "patch_size": 4,
    "embed_dim": 16,
    "depths": [2, 2],
    "num_heads": [2, 4],
    "window_size": 4,
}
_CONV: Options = {"hidden_sizes": [16, 24, 32, 48], "depths": [1, 1, 1, 1]}
_CLIP_TEXT = TEXT | {"eos_token_id": VOCABULARY - 1}
_TOWERS: Options = {"text_config": _CLIP_TEXT, "vision_config": _VIT, "projection_dim": 32}
_DETR_BACKBONE: Options = {
    "model_type": "resnet",
    "hidden_sizes": [16, 16, 32, 32],
    "depths": [1, 1, 1, 1],
    "embedding_size": 16,
    "out_features": ["stage4"],
}
_DETR: Options = {
    "use_timm_backbone": False,
    "use_pretrained_backbone": False,
    "backbone": None,
    "backbone_config": _DETR_BACKBONE,
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "num_queries": 6,
}
_SEGFORMER: Options = {
    "depths": [1, 1, 1, 1],
    "hidden_sizes": [16, 16, 32, 32],
    "num_attention_heads": [1, 2, 4, 4],
    "decoder_hidden_size": 32,
}
_WAVE: Options = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "conv_dim": [16, 16],
    "conv_kernel": [8, 4],
    "conv_stride": [4, 4],
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "vocab_size": 32,
    "apply_spec_augment": False,
}
_WHISPER: Options = {
    "vocab_size": VOCABULARY,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "num_mel_bins": 16,
    "max_source_positions": 20,
    "max_target_positions": 32,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
}

_VISION: tuple[tuple[tuple[str, str, Options], Sized], ...] = (
    (("ViTForImageClassification", "ViTConfig", _VIT), pictures(32)),
    (("DeiTForImageClassification", "DeiTConfig", _VIT), pictures(32)),
    (("BeitForImageClassification", "BeitConfig", _VIT), pictures(32)),
    (("Dinov2Model", "Dinov2Config", _VIT), pictures(32, 48)),
    (("Dinov2WithRegistersModel", "Dinov2WithRegistersConfig", _VIT), pictures(32, 48)),
    (("DINOv3ViTModel", "DINOv3ViTConfig", _VIT), pictures(32, 48)),
    (("SwinForImageClassification", "SwinConfig", _SWIN), pictures(32, 64)),
    (("Swinv2ForImageClassification", "Swinv2Config", _SWIN), pictures(32, 64)),
    (("ConvNextForImageClassification", "ConvNextConfig", _CONV), pictures(40, 72)),
    (("ConvNextV2ForImageClassification", "ConvNextV2Config", _CONV), pictures(40, 72)),
    (("ResNetForImageClassification", "ResNetConfig",
      {"hidden_sizes": [32, 48, 64, 96], "depths": [1, 1, 1, 1], "embedding_size": 16}),
     pictures(40, 72)),
    (("RegNetForImageClassification", "RegNetConfig",
      {"hidden_sizes": [16, 32, 32, 48], "depths": [1, 1, 1, 1], "embedding_size": 16,
       "groups_width": 8}), pictures(40, 72)),
    (("MobileNetV2ForImageClassification", "MobileNetV2Config", {"depth_multiplier": 0.35}),
     pictures(64, 96)),
    (("MobileNetV1ForImageClassification", "MobileNetV1Config", {"depth_multiplier": 0.25}),
     pictures(64, 96)),
    (("MobileViTForImageClassification", "MobileViTConfig",
      {"hidden_sizes": [16, 24, 32], "neck_hidden_sizes": [8, 8, 16, 16, 24, 32, 48]}),
     pictures(64, 128)),
    (("SegformerForSemanticSegmentation", "SegformerConfig", _SEGFORMER), pictures(64, 96)),
    (("PvtForImageClassification", "PvtConfig",
      {"image_size": 64, "hidden_sizes": [16, 16, 32, 32], "depths": [1, 1, 1, 1],
       "num_attention_heads": [1, 2, 4, 4]}), pictures(64)),
    (("PoolFormerForImageClassification", "PoolFormerConfig",
      {"hidden_sizes": [16, 16, 32, 32], "depths": [1, 1, 1, 1]}), pictures(64, 96)),
    (("LevitForImageClassification", "LevitConfig",
      {"image_size": 64, "hidden_sizes": [16, 32, 48], "num_attention_heads": [2, 4, 4],
       "depths": [1, 1, 1], "key_dim": [4, 4, 4]}), pictures(64)),
    (("DPTForDepthEstimation", "DPTConfig",
      _VIT | {"num_hidden_layers": 4, "backbone_out_indices": [0, 1, 2, 3],
              "neck_hidden_sizes": [8, 16, 16, 16],
              "fusion_hidden_size": 16, "is_hybrid": False}), pictures(32)),
    (("DetrForObjectDetection", "DetrConfig", _DETR), pictures(64, 96)),
    (("ConditionalDetrForObjectDetection", "ConditionalDetrConfig", _DETR), pictures(64, 96)),
    (("YolosForObjectDetection", "YolosConfig",
      _VIT | {"image_size": [32, 32], "num_detection_tokens": 5}), pictures(32)),
    (("ViTMAEModel", "ViTMAEConfig", _VIT), pictures(32)),
    (("CLIPVisionModel", "CLIPVisionConfig", _VIT), pictures(32)),
    (("SiglipVisionModel", "SiglipVisionConfig", _VIT), pictures(32)),
    (("SuperPointForKeypointDetection", "SuperPointConfig",
      {"encoder_hidden_sizes": [16, 16, 16, 16], "decoder_hidden_size": 32,
       "descriptor_decoder_dim": 32}), pictures(64)),
    (("Swin2SRForImageSuperResolution", "Swin2SRConfig",
      {"image_size": 16, "patch_size": 1, "embed_dim": 16, "depths": [2], "num_heads": [2],
       "window_size": 4}), pictures(16, 24)),
    (("EfficientNetForImageClassification", "EfficientNetConfig",
      {"width_coefficient": 0.25, "depth_coefficient": 0.2, "hidden_dim": 320}), pictures(64, 96)),
)  # fmt: skip


def _sound(batch: int, step: int) -> Inputs:
    return (torch.randn(batch, 640 if step else 480),)


def _spectrum(batch: int, step: int) -> Inputs:
    return {
        "input_features": torch.randn(batch, 16, 40),
        "decoder_input_ids": torch.randint(4, VOCABULARY, (batch, 7 if step else 5)),
    }


def _words_and_picture(batch: int, step: int) -> Inputs:
    words = torch.randint(4, VOCABULARY - 1, (batch, 9 if step else 7))
    words[:, -1] = VOCABULARY - 1
    return {"input_ids": words, "pixel_values": torch.randn(batch, 3, 32, 32)}


def _video(batch: int, step: int) -> Inputs:
    return (torch.randn(batch, 4, 3, 32, 32),)


_SOUND: Family = (
    ("Wav2Vec2ForCTC", "Wav2Vec2Config", _WAVE),
    ("HubertForCTC", "HubertConfig", _WAVE),
    ("WavLMForCTC", "WavLMConfig", _WAVE),
)
_WITH_TEXT: Family = (
    ("CLIPModel", "CLIPConfig", _TOWERS),
    ("SiglipModel", "SiglipConfig", {"text_config": TEXT, "vision_config": _VIT}),
    ("ViltModel", "ViltConfig", TEXT | {"image_size": 32, "patch_size": 8}),
    ("BlipModel", "BlipConfig",
     {"text_config": _CLIP_TEXT | {"encoder_hidden_size": 48}, "vision_config": _VIT,
      "projection_dim": 32}),
)  # fmt: skip
_VIDEOS: Family = (
    ("VideoMAEForVideoClassification", "VideoMAEConfig",
     _VIT | {"num_frames": 4, "tubelet_size": 2}),
    ("TimesformerForVideoClassification", "TimesformerConfig", _VIT | {"num_frames": 4}),
)  # fmt: skip

ENTRIES = (
    *(entry for row, inputs in _VISION for entry in entries((row,), inputs)),
    *entries(_SOUND, _sound),
    *entries((("WhisperForConditionalGeneration", "WhisperConfig", _WHISPER),), _spectrum),
    *entries(_WITH_TEXT, _words_and_picture),
    *entries(_VIDEOS, _video),
)
