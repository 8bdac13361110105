"""What extract and load return goes into lm-eval as it is, and is worth there what it is here."""

from __future__ import annotations

import math

import pytest
import torch
from language_helpers import NUM_WORDS, dense_model, ids, tokenizer_of

import natsel
from natsel.quality import losses

lm_eval = pytest.importorskip("lm_eval")
datasets = pytest.importorskip("datasets")
huggingface = pytest.importorskip("lm_eval.models.huggingface")
tasks = pytest.importorskip("lm_eval.api.task")

SENTENCES = ["w5 w9 w4 w30 w6 w7", "w8 w8 w10 w39", "w21 w5 w5 w5 w6 w7 w8 w9"]


@pytest.fixture(scope="module")
def small():
    model = dense_model()
    communities = natsel.discover(model, {"input_ids": ids()})
    scores = natsel.score(communities, "magnitude")
    survivors = natsel.select(scores, natsel.Sparsity(0.3), scope="global")
    return natsel.extract(model, survivors)


@pytest.fixture(params=["extracted", "loaded"])
def harness(small, tmp_path, request):
    if request.param == "loaded":
        small = natsel.load(natsel.save(small, tmp_path))
    lm = huggingface.HFLM(
        pretrained=small, tokenizer=tokenizer_of(), batch_size=1, max_length=32, device="cpu"
    )
    return small, lm


def evaluated(lm, documents, **config):
    """Run a task of one's own: documents in memory, and what is asked of each."""
    test = datasets.Dataset.from_list(documents)
    whole = {"task": "own", "custom_dataset": lambda **_: {"test": test}, "test_split": "test"}
    task = tasks.ConfigurableTask(config={**whole, **config})
    # Not simple_evaluate, which first reads the thousands of tasks that the package holds.
    found = lm_eval.evaluate(lm, {"own": task}, bootstrap_iters=0)
    return {name.partition(",")[0]: value for name, value in found["results"]["own"].items()}


def nats(model, text):
    """The loss of each token but the first, by natsel, behind the token that begins a text."""
    words = tokenizer_of()(text)["input_ids"]
    tokens = torch.tensor([[0, *words]])
    found = losses(model, [{"input_ids": tokens, "labels": tokens}])
    assert int(found.counted) == len(words)
    return float(found.total), len(words)


def test_rolling_perplexity_is_that_of_natsel(harness):
    model, lm = harness
    found = evaluated(
        lm,
        [{"text": s} for s in SENTENCES],
        output_type="loglikelihood_rolling",
        doc_to_text="",
        doc_to_target="{{text}}",
        metric_list=[{"metric": "word_perplexity"}],
    )
    pairs = [nats(model, s) for s in SENTENCES]
    wanted = math.exp(sum(t for t, _ in pairs) / sum(n for _, n in pairs))
    assert found["word_perplexity"] == pytest.approx(wanted, rel=1e-5)


def test_choices_are_judged_by_the_losses_of_natsel(harness):
    model, lm = harness
    choices = [f"w{i}" for i in range(4, NUM_WORDS, 3)]
    documents, best = [], []
    for sentence in SENTENCES:
        worth = [nats(model, f"{sentence} {choice}")[0] for choice in choices]
        best.append(worth.index(min(worth)))
    answers = [best[0], (best[1] + 1) % len(choices), best[2]]
    documents = [
        {"text": s, "choices": choices, "answer": a}
        for s, a in zip(SENTENCES, answers, strict=True)
    ]
    found = evaluated(
        lm,
        documents,
        output_type="multiple_choice",
        doc_to_text="<s> {{text}}",
        doc_to_choice="choices",
        doc_to_target="answer",
        metric_list=[{"metric": "acc"}],
    )
    assert found["acc"] == pytest.approx(2 / 3)


def test_what_it_generates_is_what_generate_gives(harness):
    model, lm = harness
    tokenizer, answers = tokenizer_of(), []
    for sentence in SENTENCES:
        tokens = torch.tensor([tokenizer(sentence)["input_ids"]])
        out = model.generate(
            tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=5, do_sample=False
        )
        answers.append(tokenizer.decode(out[0, tokens.shape[1] :], skip_special_tokens=True))
    found = evaluated(
        lm,
        [{"text": s, "answer": a} for s, a in zip(SENTENCES, answers, strict=True)],
        output_type="generate_until",
        doc_to_text="{{text}}",
        doc_to_target="{{answer}}",
        generation_kwargs={"until": ["no such word"], "max_gen_toks": 5, "do_sample": False},
        metric_list=[{"metric": "exact_match"}],
    )
    assert len(set(answers)) > 1
    assert found["exact_match"] == 1.0
