"""Small networks of the transformers library before the independent judge."""

from functools import partial

import pytest
import torch
from random_networks.judge import judge

transformers = pytest.importorskip("transformers")

SMALL = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 20,
    "vocab_size": 30,
    "max_position_embeddings": 16,
    "pad_token_id": 0,
}
IMAGE = {"image_size": 8, "patch_size": 4}
TOKENS = {
    "BertConfig": {},
    "GPT2Config": {"n_embd": 24, "n_layer": 2, "n_head": 4, "n_positions": 16},
    "GPTNeoXConfig": {},
    "LlamaConfig": {"num_key_value_heads": 2},
    "Qwen3Config": {"num_key_value_heads": 2, "head_dim": 6},
    "DistilBertConfig": {"dim": 24, "n_heads": 4, "hidden_dim": 20, "n_layers": 2},
    "T5EncoderModel": {"d_model": 24, "d_kv": 6, "d_ff": 20, "num_heads": 4, "num_layers": 2},
}
SWIN = {"image_size": 8, "patch_size": 2, "window_size": 2, "embed_dim": 12, "depths": [1, 2]}
IMAGES = {"ViTConfig": IMAGE, "SwinConfig": SWIN | {"num_heads": [2, 4]}}


def tokens(model, seed, length):
    generator = torch.Generator().manual_seed(seed)
    return {"input_ids": torch.randint(1, 30, (2, length), generator=generator)}


def images(model, seed, length):
    generator = torch.Generator().manual_seed(seed)
    return {"pixel_values": torch.randn(2, 3, 8, 8, generator=generator)}


@pytest.mark.slow
@pytest.mark.parametrize("name", [*TOKENS, *IMAGES])
def test_what_is_offered_of_a_library_model_equals_the_masked_one(name):
    torch.manual_seed(0)
    if name == "T5EncoderModel":
        model = transformers.T5EncoderModel(transformers.T5Config(**TOKENS[name], vocab_size=30))
    else:
        words = (TOKENS | IMAGES)[name]
        words = SMALL | words if name in TOKENS or name == "ViTConfig" else words
        config = getattr(transformers, name)(**words)
        model = transformers.AutoModel.from_config(config)
    inputs = partial(tokens if name in TOKENS else images, model)
    others = lambda loud: [inputs(1, 7), inputs(2, 5)]  # noqa: E731
    verdict = judge(model.eval(), inputs(0, 7), others, many=1)
    assert verdict.offered
    assert not verdict.faults, verdict.faults[:5]
