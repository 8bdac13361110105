"""Small networks for sequences, of torch's own layers."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Encoder(nn.Module):
    """``nn.TransformerEncoder`` between two Linears."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Linear(8, 32)
        layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2)
        self.head = nn.Linear(32, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.encoder(self.embedding(x)).mean(1))
        return logits


def transformer_encoder() -> tuple[nn.Module, tuple[Tensor, ...]]:
    """nn.MultiheadAttention."""
    return Encoder(), (torch.randn(2, 6, 8),)


class RecurrentClassifier(nn.Module):
    """An embedding, two recurrent layers, and one Linear on the last step."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 12)
        self.lstm = nn.LSTM(12, 20, num_layers=2, batch_first=True)
        self.head = nn.Linear(20, 4)

    def forward(self, x: Tensor) -> Tensor:
        states, _ = self.lstm(self.embedding(x))
        logits: Tensor = self.head(states[:, -1])
        return logits


def lstm() -> tuple[nn.Module, tuple[Tensor, ...]]:
    """nn.LSTM."""
    return RecurrentClassifier(), (torch.randint(0, 50, (2, 6)),)
