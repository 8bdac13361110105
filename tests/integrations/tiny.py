"""A tiny transformer, its data, and a Trainer of it, the same every time."""

from __future__ import annotations

import pytest
import torch

NUM_SAMPLES = 24


class Data(torch.utils.data.Dataset):
    """Images whose label is which half is brighter."""

    def __len__(self):
        return NUM_SAMPLES

    def __getitem__(self, index):
        image = torch.randn(1, 8, 8, generator=torch.Generator().manual_seed(index))
        return {"pixel_values": image, "labels": int(image[:, :4].mean() > image[:, 4:].mean())}


def vit(seed=0):
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        **{"image_size": 8, "patch_size": 4, "num_channels": 1, "num_labels": 2},
        **{"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4},
        intermediate_size=24,
        hidden_dropout_prob=0.1,  # so that a resumed run needs its random numbers
    )
    torch.manual_seed(seed)
    return transformers.ViTForImageClassification(config)


def trainer_of(model, folder, callbacks, steps=6, **options):
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    arguments = transformers.TrainingArguments(
        output_dir=str(folder),
        **{
            **{"max_steps": steps, "per_device_train_batch_size": 4, "learning_rate": 5e-3},
            **{"logging_steps": 1, "save_strategy": "no", "report_to": [], "disable_tqdm": True},
            **{"use_cpu": True, "seed": 3},
            **options,
        },
    )
    return transformers.Trainer(
        model=model, args=arguments, train_dataset=Data(), eval_dataset=Data(), callbacks=callbacks
    )
