"""A walk gives each block what it would be given in the model."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from natsel.blockwise import Held, OnDisk, chains_of, feed, walk

transformers = pytest.importorskip("transformers")

TOKENS = torch.tensor([[3, 1, 4, 1, 5, 9], [2, 6, 5, 3, 5, 8]])
SIZES = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "vocab_size": 50}


def llama() -> nn.Module:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(**SIZES, intermediate_size=24, num_key_value_heads=1)
    return transformers.LlamaForCausalLM(config).eval()


def gpt2() -> nn.Module:
    torch.manual_seed(0)
    ends = {"bos_token_id": 0, "eos_token_id": 0}
    config = transformers.GPT2Config(n_embd=16, n_layer=3, n_head=2, vocab_size=50, **ends)
    return transformers.GPT2LMHeadModel(config).eval()


def gemma() -> nn.Module:
    torch.manual_seed(0)
    config = transformers.Gemma3TextConfig(
        **SIZES | {"num_hidden_layers": 7},
        intermediate_size=24,
        num_key_value_heads=1,
        head_dim=8,
        sliding_window=4,
    )
    return transformers.Gemma3ForCausalLM(config).eval()


@pytest.mark.parametrize("make", [llama, gpt2, gemma])
@pytest.mark.parametrize("on_disk", [False, True])
def test_what_leaves_each_block_is_what_leaves_it_in_the_model(make, on_disk, tmp_path):
    model = make()
    mask = torch.tensor([[1, 1, 1, 1, 1, 1], [0, 0, 1, 1, 1, 1]])
    data = [{"input_ids": TOKENS, "attention_mask": mask}, {"input_ids": TOKENS.flip(1)}]
    (chain,) = chains_of(model, {"input_ids": TOKENS})
    expected: dict[str, list[torch.Tensor]] = {path: [] for path in chain.paths}
    for path in chain.paths:
        model.get_submodule(path).register_forward_hook(
            lambda _, __, left, path=path: expected[path].append(
                left if isinstance(left, torch.Tensor) else left[0]
            )
        )
    with torch.no_grad():
        for batch in data:
            model(**batch, use_cache=False)
    seen = {path: list(outputs) for path, outputs in expected.items()}
    for place in walk(model, chain, data, store=OnDisk(tmp_path) if on_disk else None):
        for found, wanted in zip(place.run(), seen[place.path], strict=True):
            assert torch.equal(found, wanted)


def test_a_change_to_a_block_reaches_the_next_one():
    model = llama()
    (chain,) = chains_of(model, {"input_ids": TOKENS})
    for place in walk(model, chain, [{"input_ids": TOKENS}]):
        if place.number == 0:
            with torch.no_grad():
                place.block.mlp.down_proj.weight.zero_()
        last = place
    changed = []
    model.model.norm.register_forward_pre_hook(lambda _, args: changed.append(args[0]))
    with torch.no_grad():
        model(input_ids=TOKENS, use_cache=False)
    (found,) = last.run()
    assert torch.equal(found, changed[0])


def test_blocks_run_once_for_each_look_and_once_to_be_left():
    model = llama()
    (chain,) = chains_of(model, {"input_ids": TOKENS})
    counts = [0, 0, 0]
    for number, path in enumerate(chain.paths):

        def count(*_, number=number):
            counts[number] += 1

        model.get_submodule(path).register_forward_hook(count)
    for place in walk(model, chain, [{"input_ids": TOKENS}] * 2):
        if place.number == 1:
            place.look()
    assert counts == [2, 4, 0]  # two batches; the last block is left by nobody


def test_what_ran_ahead_does_not_run_again_and_what_entered_stays():
    model = llama()
    (chain,) = chains_of(model, {"input_ids": TOKENS})
    runs = []
    model.model.layers[0].register_forward_pre_hook(lambda *_: runs.append(1))
    data = [{"input_ids": TOKENS}, {"input_ids": TOKENS.flip(1)}]
    expected = [place.store.get(1) for place in walk(model, chain, data)][-1]
    runs.clear()
    for place in walk(model, chain, data):
        if place.number == 0:
            before = place.store.get(1)
            place.ahead(1)
            assert torch.equal(place.store.get(1), before)
    assert len(runs) == 2
    assert torch.equal(place.store.get(1), expected)


def test_the_forward_of_blocks_is_their_own_again_and_nothing_of_the_model_changes():
    model = llama()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    (chain,) = chains_of(model, {"input_ids": TOKENS})
    feed(model, chain, [{"input_ids": TOKENS}], Held())
    assert all("forward" not in vars(model.get_submodule(path)) for path in chain.paths)
    assert model.config.use_cache
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_no_batch_is_refused_by_name():
    model = llama()
    (chain,) = chains_of(model, {"input_ids": TOKENS})
    with pytest.raises(ValueError, match="data"):
        feed(model, chain, [], Held())


class Skipping(nn.Module):
    """What the second block reads is not what the first one returned."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])

    def forward(self, x):
        return self.blocks[1](x + self.blocks[0](x))


class Sharing(nn.Module):
    """The second block is given more of what the first one returned than its hidden state."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([nn.Bilinear(4, 4, 4), nn.Bilinear(4, 4, 4)])

    def forward(self, x):
        y = self.blocks[0](x, x)
        return self.blocks[1](y, y)


@pytest.mark.parametrize("kind", [Skipping, Sharing])
def test_what_is_no_chain_is_not_taken_for_one(kind):
    assert chains_of(kind(), (torch.ones(1, 4),)) == ()
