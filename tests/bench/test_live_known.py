"""What a thinned cache still knows where it is known who is needed: the answers are exact."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("transformers")

from tests.induction import induction

import natsel
from natsel.live_populations import METHODS
from natsel_bench.live.answering import answers
from natsel_bench.live.recall import VOCABULARY, needed, oracle, recall_documents, recall_model
from natsel_bench.live.ways import FULL, Way

SHARES = (0.5, 0.75, 0.9)


def by_hand():
    """Return a decoder whose weights are set by a formula, and lists that it knows."""
    return induction(VOCABULARY, 80), recall_documents(12, num_pairs=16)


@pytest.fixture(scope="module")
def known():
    model, cases = by_hand()
    with METHODS.temporarily({"oracle": oracle(cases)}):
        yield model, cases


def right(known, way, question="after"):
    model, cases = known
    return answers(model, cases, [way], question=question, batch=len(cases))[0].right


def held(known, method, share, **options):
    """Return whether all that is needed is held where the decoder looks it up."""
    model, cases = known
    prompts = torch.tensor([case.prompt for case in cases])
    with natsel.live(model, method, natsel.Sparsity(share), **options) as live, torch.no_grad():
        model(prompts)
        gone = live.evicted(1)[:, 0]
    return [not bool(gone[n, list(needed(c)[1:])].any()) for n, c in enumerate(cases)]


def test_the_whole_cache_knows_every_answer(known):
    for question in ("after", "inside"):
        assert all(right(known, FULL, question))


@pytest.mark.parametrize("share", SHARES)
def test_who_keeps_what_will_be_asked_loses_nothing(known, share):
    assert all(held(known, "oracle", share))
    for question in ("after", "inside"):
        assert all(right(known, Way("oracle", share), question))


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("sinks", [0, 4])
def test_the_newest_know_exactly_the_pairs_that_are_new(known, share, sinks):
    found = right(known, Way("newest", share, {"sinks": sinks}))
    assert found == held(known, "newest", share, sinks=sinks)
    assert 0 < sum(found) < len(found) * (1 - share) + 2
    last = found.index(True)
    assert all(found[last:]) or sinks  # the asked pairs come in the order of their age


@pytest.mark.parametrize("share", SHARES)
def test_attention_finds_the_pair_only_if_the_question_is_inside(known, share):
    """The question is the newest entry: with the window of one it is the only one that votes."""
    way = Way("snapkv", share, {"window": 1, "kernel": 3})
    assert all(right(known, way, "inside"))
    assert sum(right(known, way)) < len(known[1])
    assert not all(right(known, Way("newest", share), "inside"))


def test_to_lose_a_token_of_the_answer_is_to_lose_it(known):
    cases = known[1]
    for place in (1, 2):
        lost = oracle(cases).score

        def without(entries, place=place, lost=lost):
            at = torch.tensor([needed(case)[place] for case in cases])[:, None, None]
            return lost(entries).masked_fill(entries.positions == at, -1.0)

        with METHODS.temporarily({"without": type(oracle(cases))("without", without)}):
            assert sum(right(known, Way("without", 0.5))) <= 1


@pytest.mark.slow
def test_a_decoder_that_has_learnt_needs_the_same_entries():
    """Attention that was learnt is not all or nothing: of 64 answers the oracle loses up to 3."""
    cases = recall_documents(64, num_pairs=8)
    known = recall_model(), cases
    assert all(right(known, FULL))
    with METHODS.temporarily({"oracle": oracle(cases)}):
        for share in SHARES:
            newest = right(known, Way("newest", share, {"sinks": 0}))
            assert newest == held(known, "newest", share, sinks=0)
            assert sum(newest) == round(64 * (1 - share) / 8) * 8
            for question in ("after", "inside"):
                assert sum(right(known, Way("oracle", share), question)) >= 61
    asked = Way("snapkv", 0.75, {"window": 1, "kernel": 3})
    assert sum(right(known, asked, "inside")) > 60
    assert sum(right(known, asked)) < 20
