"""Scored block by block, a chain of blocks says what it says as a whole."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import natsel
from natsel.common.batches import read_batch
from natsel.common.calls import cross_entropy
from natsel.communities.gates.gates import masses_of
from natsel.fitness import backward, in_blocks, passes
from natsel.fitness.backward import ByBlocks, Whole, backward_of, through_head
from natsel.fitness.parts import PartsReader, readers_of

transformers = pytest.importorskip("transformers")

WIDTHS = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "vocab_size": 50}


def llama() -> nn.Module:
    config = transformers.LlamaConfig(**WIDTHS, intermediate_size=24, num_key_value_heads=1)
    return transformers.LlamaForCausalLM(config)


def gpt2() -> nn.Module:
    ends = {"bos_token_id": 0, "eos_token_id": 0}
    config = transformers.GPT2Config(n_embd=16, n_layer=3, n_head=2, vocab_size=50, **ends)
    return transformers.GPT2LMHeadModel(config)


def capped() -> nn.Module:
    """Its logits are changed after the layer that makes them."""
    config = transformers.Gemma2Config(
        **WIDTHS, intermediate_size=24, num_key_value_heads=1, head_dim=8, sliding_window=4
    )
    config.final_logit_softcapping = 0.05
    return transformers.Gemma2ForCausalLM(config)


def found_in(make) -> tuple[natsel.Communities, list[dict[str, torch.Tensor]]]:
    torch.manual_seed(0)
    model = make().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)  # else all logits are much alike
    tokens = torch.randint(50, (3, 2, 7))
    mask = torch.tensor([[1] * 7, [0, 0, 1, 1, 1, 1, 1]])
    data = [
        {"input_ids": x, "labels": x.masked_fill(mask == 0, -100), "attention_mask": mask}
        for x in tokens
    ]
    return natsel.discover(model, {"input_ids": tokens[0]}, proof=False), data


@pytest.fixture(scope="module", params=[llama, gpt2, capped])
def case(request):
    return request.param, *found_in(request.param)


def test_gradients_block_by_block_are_those_of_the_whole(case, monkeypatch):
    make, communities, data = case
    monkeypatch.setattr(backward, "ROOM", 4 * 50 * 3)  # logits of three places at a time
    reader = PartsReader(communities)
    by_blocks = backward_of(communities, reader, cross_entropy)
    assert isinstance(by_blocks, ByBlocks)
    assert (by_blocks._head is None) == (make is capped)  # what comes after it is not left out
    kept = [p.grad for p in communities.model.parameters()]
    scores = natsel.score_all(communities, ["taylor", "fisher", "gradient"], data=data)
    assert [p.grad for p in communities.model.parameters()] == kept
    monkeypatch.setattr(passes, "backward_of", Whole)
    whole = natsel.score_all(communities, ["taylor", "fisher", "gradient"], data=data)
    for name, values in whole.items():
        for community, value in values.items():
            assert value.any()
            torch.testing.assert_close(scores[name][community], value, rtol=1e-4, atol=1e-8)


def test_no_more_gradients_are_there_than_those_of_a_block(case):
    _, communities, data = case
    reader = PartsReader(communities)
    batch, model = read_batch(data[0]), communities.model
    steps = backward_of(communities, reader, cross_entropy)
    with torch.enable_grad():
        found = steps(data[0], batch.given(model), batch.targets(model))
        sizes = [len(gradients) for _, gradients in found]
    assert len(sizes) == 3
    assert sum(sizes) == len(reader.weights())


def test_products_block_by_block_are_the_same_bit_for_bit(case, monkeypatch):
    _, communities, data = case
    names = ["joint", "obs", "wanda", "variance"]
    calls = []
    own = passes._in_blocks
    monkeypatch.setattr(passes, "_in_blocks", lambda *x: calls.append(1) or own(*x))
    scores = natsel.score_all(communities, names, data=data)
    assert calls
    monkeypatch.setattr(passes, "_one_by_one", lambda *_: None)
    whole = natsel.score_all(communities, names, data=data)
    assert len(calls) == 1
    for name, values in whole.items():
        for community, value in values.items():
            assert torch.equal(scores[name][community], value), (name, community)


def test_only_the_products_of_one_block_are_there_at_a_time(case, monkeypatch):
    _, communities, data = case
    take, most = passes.Watch.take, []

    def looked(self, keys):
        most.append(sum(o.seen for o in self._observers.values()))
        return take(self, keys)

    monkeypatch.setattr(passes.Watch, "take", looked)
    natsel.score(communities, "joint", data=data)
    assert most == [len(readers_of(communities)) // 3] * 3


def test_masses_count_block_by_block_too(monkeypatch):
    communities, data = found_in(llama)
    evolution = natsel.Evolution(communities, dynamics="logistic", fitness="taylor")
    assert evolution is not None
    for mass in masses_of(communities).values():
        mass.copy_(torch.linspace(0.2, 1.0, len(mass)))
    scores = natsel.score_all(communities, ["taylor", "joint"], data=data)
    monkeypatch.setattr(passes, "backward_of", Whole)
    monkeypatch.setattr(passes, "_one_by_one", lambda *_: None)
    for name, values in natsel.score_all(communities, ["taylor", "joint"], data=data).items():
        for community, value in values.items():
            torch.testing.assert_close(scores[name][community], value, rtol=1e-4, atol=1e-8)


def test_what_reaches_across_blocks_is_looked_at_as_a_whole():
    torch.manual_seed(0)
    model = llama().eval()
    tokens = {"input_ids": torch.zeros(1, 4).long()}
    communities = natsel.discover(model, tokens, residual=True, proof=False)
    assert isinstance(backward_of(communities, PartsReader(communities), cross_entropy), Whole)


def test_a_loss_of_the_users_own_sees_all_of_the_output(case):
    _, communities, _ = case
    own = backward_of(communities, PartsReader(communities), lambda out, _: out.logits.sum())
    assert isinstance(own, Whole)


def test_data_that_may_differ_when_read_again_are_read_once(case):
    _, communities, data = case
    assert passes._one_by_one(communities, iter(data)) is None
    assert passes._one_by_one(communities, data) is not None


def test_many_samples_are_not_held_to_save_small_products(case):
    _, communities, data = case
    assert passes._one_by_one(communities, data * 100) is None


def test_layers_without_blocks_are_no_chain():
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
    communities = natsel.discover(model, (torch.zeros(1, 4),), proof=False)
    assert in_blocks.blocks_of(communities, [{model[2]}, {model[4]}]) is None


def test_the_loss_of_some_places_at_a_time_has_the_gradient_of_the_whole(monkeypatch):
    torch.manual_seed(0)
    head = nn.Linear(4, 7).double()
    x = torch.randn(2, 5, 4, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([[0, 3, -100, 6, 1], [-100, 2, 5, 4, -100]])
    expected = torch.autograd.grad(cross_entropy(head(x), labels), x)[0]
    monkeypatch.setattr(backward, "ROOM", 8 * 7 * 3)
    torch.testing.assert_close(through_head(head, x.detach(), labels), expected)


def test_labels_that_the_model_does_not_know_are_refused(case):
    _, communities, data = case
    wrong = [{**data[0], "labels": data[0]["labels"] + 60}]
    with pytest.raises(ValueError, match="labels that the loss takes"):
        natsel.score(communities, "taylor", data=wrong)
