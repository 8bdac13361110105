"""The loss of each sample is that of the whole, wherever the labels lie."""

from __future__ import annotations

import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from natsel.quality import losses


class Fixed(nn.Module):
    """Returns the rows of a table that its inputs name."""

    def __init__(self, table):
        super().__init__()
        self.table = table
        self.most = 0

    def forward(self, x):
        self.most = max(self.most, len(x))
        return self.table[x]


def test_by_hand():
    table = torch.log(torch.tensor([[0.5, 0.5], [0.25, 0.75]]))
    found = losses(Fixed(table), [(torch.tensor([0, 1]), torch.tensor([0, 0]))])
    assert found.total.tolist() == pytest.approx([0.6931472, 1.3862944])
    assert found.counted.tolist() == [1, 1]
    assert found.correct.tolist() == [1, 0]


def test_labels_that_do_not_count_and_samples_of_them_alone_are_left_out():
    table = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    tokens = torch.tensor([[0, 1], [2, 3], [4, 4]])
    labels = torch.tensor([[1, -100], [-100, -100], [0, 2]])
    found = losses(Fixed(table), [(tokens, labels)])
    assert found.counted.tolist() == [1, 2]
    wanted = F.cross_entropy(table[tokens].double().flatten(0, 1), labels.flatten())
    assert float(found.total.sum() / found.counted.sum()) == pytest.approx(float(wanted), rel=1e-6)


def test_classes_may_lie_on_the_second_axis():
    logits = torch.randn(2, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    labels = torch.randint(0, 4, (2, 3, 3), generator=torch.Generator().manual_seed(1))
    found = losses(Fixed(logits), [(torch.tensor([0, 1]), labels)])
    wanted = F.cross_entropy(logits.double(), labels, reduction="none").sum((1, 2))
    assert torch.allclose(found.total, wanted, rtol=1e-6)


@pytest.mark.parametrize("room", [1, 10_000, 2**28])
def test_rows_run_together_as_far_as_there_is_room_and_the_loss_is_the_same(room):
    table = torch.randn(7, 50, generator=torch.Generator().manual_seed(0))
    tokens = torch.randint(0, 7, (9, 4), generator=torch.Generator().manual_seed(1))
    model = Fixed(table)
    found = losses(model, [(tokens, tokens)] * 2, room=room)
    assert torch.equal(found.total, losses(Fixed(table), [(tokens, tokens)] * 2).total)
    assert model.most == {1: 1, 10_000: 9, 2**28: 9}[room]


def test_many_classes_lose_no_digits():
    logits = 3 * torch.randn(1, 4, 50_000, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([[1, 2, 3, 4]])
    found = losses(Fixed(logits), [(torch.tensor([0]), labels)])
    wanted = F.cross_entropy(logits.double().flatten(0, 1), labels.flatten(), reduction="sum")
    assert float(found.total) == pytest.approx(float(wanted), rel=1e-6)


def test_a_causal_language_model_is_asked_for_the_next_token():
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1}
    config = transformers.LlamaConfig(**sizes, num_attention_heads=2, vocab_size=50)
    model = transformers.LlamaForCausalLM(config).eval()
    tokens = torch.randint(0, 50, (3, 8), generator=torch.Generator().manual_seed(0))
    labels = tokens.clone()
    labels[0, 5:] = -100
    mask = (labels != -100).long()
    batch = {"input_ids": tokens, "attention_mask": mask, "labels": labels}
    found = losses(model, [batch])
    assert found.counted.tolist() == [4, 7, 7]
    wanted = model(**batch).loss
    mean = float(found.total.sum() / found.counted.sum())
    assert mean == pytest.approx(float(wanted), rel=1e-6)


@pytest.mark.parametrize(
    ("data", "named"),
    [([], "data"), ([(torch.tensor([0]), torch.tensor([-100]))], "label")],
)
def test_nothing_to_compare_with_is_refused_by_name(data, named):
    with pytest.raises(ValueError, match=named):
        losses(Fixed(torch.zeros(1, 2)), data)


def test_logits_of_some_rows_at_a_time_lose_the_same(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 5, 11, generator=generator)
    labels = torch.randint(11, (3, 5), generator=generator)
    labels[0, :2] = -100
    module = sys.modules["natsel.quality.losses"]
    together = module.compared(logits, labels)
    monkeypatch.setattr(module, "AT_ONCE", 4 * 11 * 4)
    for ours, wanted in zip(module.compared(logits, labels), together, strict=True):
        assert torch.equal(ours, wanted)
