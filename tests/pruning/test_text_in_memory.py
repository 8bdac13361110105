"""Texts and held-out data for a model in memory: quality, tokenizer, and the default scorer."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import natsel
from language import llama, text, tokenizer
from natsel.quality import losses, quality_of

pytest.importorskip("tokenizers")
EXAMPLE = {"input_ids": torch.arange(8)[None]}
SHORT = {"length": 16, "samples": 6}


def test_held_out_texts_are_measured_and_the_tokenizer_is_kept():
    model, words = llama(), tokenizer()
    given = {"data": [text(1, 300)], "held_out": [text(2, 300)], "tokenizer": words}
    pruned = natsel.prune(model, EXAMPLE, natsel.Parameters(0.9), **given, **SHORT)
    assert pruned.tokenizer is words
    assert pruned.quality.measure == "perplexity"
    assert pruned.quality.summary() in pruned.summary()
    alone = natsel.evaluate(pruned.small, [text(2, 300)], tokenizer=words, **SHORT)
    assert alone.after == pruned.quality.after
    both = natsel.evaluate(pruned.small, [text(2, 300)], against=model, tokenizer=words, **SHORT)
    assert both == pruned.quality
    by_hand = natsel.prune(model, EXAMPLE, natsel.Parameters(0.9), scorer="auto", **given, **SHORT)
    assert all(torch.equal(by_hand.survivors[n], m) for n, m in pruned.survivors.items())


def test_without_held_out_data_there_is_no_quality():
    pruned = natsel.prune(llama(), EXAMPLE, natsel.Parameters(0.9))
    assert pruned.quality is None
    assert pruned.tokenizer is None


def test_images_are_judged_by_accuracy():
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    held = [(torch.randn(20, 4), torch.arange(20) % 3)]
    pruned = natsel.prune(model, torch.ones(1, 4), natsel.Sparsity(0.5), held_out=held)
    assert pruned.quality.measure == "accuracy"
    wanted = quality_of(losses(pruned.small, held), losses(model, held), measure="accuracy")
    assert pruned.quality == wanted


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"data": [text(1, 300)]}, "tokenizer=None is not allowed"),
        ({"data": "x.txt", "tokenizer": tokenizer}, "data='x.txt' is not allowed"),
        ({"data": [text(1, 30)], "tokenizer": "words"}, "tokenizer='words'"),
        ({"held_out": [{"input_ids": torch.zeros(1, 4).long()}]}, "batches without labels"),
        ({"data": [text(1, 300)], "held_out": [text(1, 300)], "tokenizer": 0}, "tokenizer=0"),
    ],
)
def test_wrong_data(given, told):
    with pytest.raises(ValueError, match="is not allowed") as error:
        natsel.prune(llama(), EXAMPLE, natsel.Parameters(0.9), **given, **SHORT)
    assert told in str(error.value)


def test_a_token_that_the_model_does_not_have_is_named():
    ids = torch.full((1, 8), 10**6)
    with pytest.raises(ValueError, match="input_ids=1000000 is not allowed: expected a token of"):
        natsel.evaluate(llama(), [{"input_ids": ids, "labels": ids}])
    ids = torch.full((1, 8), -1)
    with pytest.raises(ValueError, match="input_ids=-1 is not allowed"):
        natsel.prune(llama(), EXAMPLE, natsel.Parameters(0.9), data=[{"input_ids": ids}])


def test_data_to_evaluate_on_are_called_what_the_caller_called_them():
    with pytest.raises(ValueError, match="data='batches without whole-number labels'"):
        natsel.evaluate(llama(), [{"input_ids": torch.zeros(1, 4).long()}])


def test_the_data_themselves_are_not_held_out():
    held = [{"input_ids": torch.arange(16)[None], "labels": torch.arange(16)[None]}]
    for other in (held, list(held)):
        with pytest.raises(ValueError, match="held_out="):
            natsel.prune(llama(), EXAMPLE, natsel.Parameters(0.9), data=held, held_out=other)
