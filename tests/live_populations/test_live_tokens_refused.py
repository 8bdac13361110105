"""What tokens cannot do is told in one line, and the model is as it was."""

from __future__ import annotations

import pytest
import torch
import transformers
from torch import nn
from vits import SIZES, images, vit

import natsel
from natsel.common.errors import NonFiniteError
from natsel.live_populations import Bytes, Held, TokenMethod, prove

SHARE = natsel.Sparsity(0.4)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"method": "marge"}, r"method='marge' .*did you mean 'merge'"),
        ({"budget": None}, r"budget=None .*natsel.Sparsity\(share\) or natsel.Held\(tokens\)"),
        ({"budget": Bytes(100)}, r"budget=Bytes"),
        ({"blocks": [3]}, r"blocks=\[3\] .*indices of 3 blocks, 0 to 2"),
        ({"blocks": []}, r"blocks=\[\] .*indices of 3 blocks"),
        ({"blocks": [1, 1]}, r"each once"),
        ({"pace": "evn"}, r"pace='evn' .*did you mean 'even'"),
        ({"spread": 1}, r"spread=1 .*True or False"),
        ({"fuse": True}, r"fuse=True are not allowed: expected one of merging and fusing"),
        ({"prefix": -1}, r"prefix=-1 .*whole number >= 0"),
        ({"window": 4}, r"window=4 .*None: it is an argument for the cache of a decoder"),
        ({"scope": "layer"}, r"scope='layer' .*None: it is an argument for the cache"),
        ({"kernel": 5}, r"kernel=5 .*no option for method 'merge'"),
        ({"seed": -1}, r"seed=-1"),
    ],
)
def test_arguments(given, message):
    model = vit()
    options = {"method": "merge", "budget": SHARE, **given}
    with pytest.raises(ValueError, match=message) as told:
        natsel.live(model, options.pop("method"), options.pop("budget"), **options)
    assert "\n" not in str(told.value)
    assert not any(m._forward_hooks for m in model.modules())


def test_arguments_of_tokens_for_a_cache():
    sizes = {"vocab_size": 8, "n_embd": 8, "n_layer": 1, "n_head": 1}
    ends = {"bos_token_id": None, "eos_token_id": None}
    decoder = transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes, **ends))
    with pytest.raises(ValueError, match=r"blocks=\[0\] .*argument for the tokens of a vision"):
        natsel.live(decoder, "newest", SHARE, blocks=[0])
    with pytest.raises(ValueError, match=r"in a decoder, the entries of its cache compete"):
        natsel.live(decoder, "merge", SHARE)
    with pytest.raises(ValueError, match=r"a decoder of the transformers library"):
        natsel.live(vit("vit"), "snapkv", SHARE)


@pytest.mark.parametrize("share", [1, 1.0, -0.1])
def test_a_share_of_everybody(share):
    with pytest.raises(ValueError, match=r"sparsity=.* expected a number in \[0, 1\)"):
        natsel.live(vit(), "merge", natsel.Sparsity(share))


def test_budgets_that_the_class_token_does_not_survive():
    model = vit("deit")  # 16 places, and 2 that stay
    with natsel.live(model, "random", natsel.Sparsity(0.84)) as handle:
        model(images())
    assert handle.num_held == 3
    with (
        natsel.live(model, "random", natsel.Sparsity(0.9)),
        pytest.raises(ValueError, match=r"sparsity=0.9 .*at most 15 of 18 tokens: 2 stand for no"),
    ):
        model(images())
    with (
        natsel.live(model, "random", Held(2)),
        pytest.raises(ValueError, match=r"held=2 .*at least 3 of 18: 2 stay"),
    ):
        model(images())


def test_more_pairs_than_there_are():
    model = vit()
    with (
        natsel.live(model, "merge", natsel.Sparsity(0.6), blocks=[1]),
        pytest.raises(
            ValueError, match=r"blocks=\(1,\), pace='even' .*10 of 17 can leave \(not 8\)"
        ),
    ):
        model(images())


@pytest.mark.parametrize("family", ["own-mean", "siglip"])
def test_no_class_token_where_the_method_reads_it(family):
    model = vit(family)
    with pytest.raises(ValueError, match=r"without a class token.*'class-attention' reads"):
        natsel.live(model, "class-attention", SHARE)
    with (
        natsel.live(model, lambda tokens: tokens.of_class(), SHARE),
        pytest.raises(ValueError, match="a model without a class token"),
    ):
        model(images())


def test_attention_that_is_not_seen():
    model = vit("vit")
    model.config._attn_implementation_internal = "flash_attention_2"
    with pytest.raises(ValueError, match=r"'flash_attention_2' .*'sdpa' or 'eager', which show"):
        natsel.live(model, "class-attention", SHARE)

    class Mixer(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList(
                nn.Sequential(nn.Linear(4, 4), nn.GELU(), nn.Linear(4, 4)) for _ in range(2)
            )

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x):
            return x + self.two(self.one(x))

    chain = nn.Sequential(Block(), Block())
    holder = nn.Sequential(nn.Identity(), chain)
    with (
        natsel.live(holder, "random", SHARE),
        pytest.raises(ValueError, match="Block at block 0, which shows no attention"),
    ):
        holder(torch.randn(1, 6, 4))
    with pytest.raises(ValueError, match=r"'Mixer' .*a vision transformer: one chain"):
        natsel.live(Mixer(), "merge", SHARE)


def made(name, **options):
    config = getattr(transformers, f"{name}Config")(**{**SIZES, **options})
    return getattr(transformers, f"{name}Model")(config).eval()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: nn.Linear(2, 2), "model='Linear' .*a vision transformer"),
        (lambda: "vit", "model='vit' .*a vision transformer"),
        (lambda: torch.jit.trace(nn.Linear(2, 2), torch.ones(2)), "compile it afterwards"),
        (lambda: nn.ModuleDict({"a": vit(), "b": vit()}), "with a.blocks, b.blocks.*one chain"),
    ],
)
def test_models_without_tokens_that_can_leave(build, message):
    with pytest.raises(ValueError, match=message):
        natsel.live(build(), "merge", SHARE)


def test_blocks_that_see_neighbours():
    model = vit()
    model.blocks[1].mlp.append(nn.Conv1d(16, 16, 3, padding=1))
    with pytest.raises(ValueError, match=r"Conv1d at blocks.1.mlp.3.*only attention tells"):
        natsel.live(model, "merge", SHARE)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: made("Beit", use_relative_position_bias=True), "a bias for 17 places|for 17 tok"),
        (lambda: made("DINOv3ViT"), "DINOv3ViTLayer at block 0, given a tensor of shape"),
    ],
)
def test_blocks_that_ask_where_their_tokens_stand(build, message):
    model = build()
    with natsel.live(model, "merge", SHARE), pytest.raises(ValueError, match=message):
        model(images())
    model(images())


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"attn_mask": torch.zeros(17, 17)}, "which is called with attn_mask"),
        ({"key_padding_mask": torch.zeros(2, 17).bool()}, "called with key_padding_mask"),
    ],
)
def test_multihead_attention_that_is_told_more_than_tokens(asked, message):
    model = vit("multihead")
    model.blocks[0].asked.update(asked)
    with natsel.live(model, "merge", SHARE), pytest.raises(ValueError, match=message):
        model(images())
    model(images())


def test_two_methods_in_one_model():
    model = vit("vit")
    with natsel.live(model, "merge", SHARE) as first:
        with pytest.raises(ValueError, match=r"no other method thins: close\(\) that of 'merge'"):
            natsel.live(model, "random", SHARE)
        with pytest.raises(ValueError, match=r"no other method thins"):
            natsel.live(model.vit, "random", SHARE)  # a part of it
        model(images())
    assert first.num_held == 10
    with natsel.live(model, "random", SHARE):
        model(images())


def test_a_method_that_gives_something_else():
    model = vit()
    with (
        natsel.live(model, TokenMethod("keys", lambda tokens: tokens.keys), SHARE),
        pytest.raises(ValueError, match=r"scores of shape \(2, 17\), this gave \(2, 2, 17, 8\)"),
    ):
        model(images())
    with (
        natsel.live(model, lambda tokens: tokens.features.sum(-1) * float("nan"), SHARE),
        pytest.raises(NonFiniteError, match=r"gave NaN or -infinity at block 0"),
    ):
        model(images())
    with (
        natsel.live(model, "received", SHARE, blocks=[-1]),
        pytest.raises(ValueError, match=r"blocks=-1 .*before the first there is no attention"),
    ):
        model(images())
    with (
        natsel.live(model, "key-norm", SHARE, fuse=True),
        pytest.raises(ValueError, match=r"fuse=True .*'key-norm', whose scores are no shares"),
    ):
        model(images())


def test_a_handle_tells_what_it_does_not_know():
    model = vit()
    handle = natsel.live(model, "merge", SHARE)
    with pytest.raises(ValueError, match="expected a call of the model before"):
        handle.places()
    model(images())
    with pytest.raises(ValueError, match=r"block=3 .*0 to 2"):
        handle.held(3)
    with pytest.raises(ValueError, match=r"features=.*a tensor of shape \[2, 10, ...\]"):
        handle.spread(torch.zeros(2, 12, 4))
    with pytest.raises(ValueError, match=r"given 5 tokens.*the 17 tokens|given 5 tokens"):
        model.blocks[1](torch.zeros(2, 5, 16))
    handle.close()
    with pytest.raises(ValueError, match="inputs='cat'"):
        prove(model, "merge", SHARE, "cat")
