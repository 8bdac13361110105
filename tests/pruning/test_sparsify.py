"""A whole model made sparse: language models of two kinds, and what is left dense."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

import natsel
from natsel.single_weights.obs import error


def llama(**options: Any) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        **{
            "vocab_size": 50,
            "hidden_size": 16,
            "intermediate_size": 24,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "tie_word_embeddings": True,
            **options,
        }
    )
    return LlamaForCausalLM(config).eval()


def gpt2() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(vocab_size=50, n_embd=16, n_layer=2, n_head=2)).eval()


def tokens(count: int = 3, length: int = 24) -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [
        {"input_ids": torch.randint(0, 50, (2, length), generator=generator)} for _ in range(count)
    ]


@pytest.mark.parametrize("scorer", ["obs", "admm", "wanda", "magnitude"])
def test_half_of_each_row_of_a_llama(scorer: Any) -> None:
    model = llama()
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    found = natsel.sparsify(model, natsel.Sparsity(0.5), data=tokens(), scorer=scorer)
    assert len(found.masks) == 14
    for name, weight in found.model.named_parameters():
        if name not in found.masks:
            assert torch.equal(weight, before[name])
            continue
        assert (found.masks[name].sum(1) == weight.shape[1] // 2).all()
        assert not weight[~found.masks[name]].any()
    assert "model.embed_tokens.weight" not in found.masks
    assert found.left == {"lm_head.weight": "its weight is shared"}
    assert found.sparsity == 0.5
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())


@pytest.mark.parametrize("make", [llama, gpt2])
def test_what_stays_makes_up_for_what_went(make: Any) -> None:
    model, data = make(), tokens(8)
    losses = {}
    for scorer in ("obs", "admm", "wanda"):
        found = natsel.sparsify(model, natsel.Sparsity(0.5), data=data, scorer=scorer)
        gap = 0.0
        with torch.no_grad():
            for batch in data:
                gap += float((model(**batch).logits - found.model(**batch).logits).square().mean())
        losses[scorer] = gap
    assert losses["obs"] < 0.8 * losses["wanda"]
    assert losses["admm"] < 0.8 * losses["wanda"]


def test_two_of_four_inputs_of_a_transposed_weight() -> None:
    found = natsel.sparsify(gpt2(), natsel.NM(2, 4), data=tokens())
    weight = found.model.transformer.h[0].mlp.c_fc.weight  # [inputs, outputs]
    assert weight.shape == (16, 64)
    assert ((weight.view(4, 4, 64) != 0).sum(1) == 2).all()
    assert len(found.masks) == 8
    assert found.left == {"lm_head.weight": "its weight is shared"}


def test_the_first_layers_weights_are_the_least_squares() -> None:
    """Nothing changed before it: what enters it is what enters in the dense model."""
    model, data = llama(), tokens(8)
    found = natsel.sparsify(model, natsel.Sparsity(0.5), data=data, damping=1e-3)
    name = "model.layers.0.self_attn.q_proj"
    rows: list[Tensor] = []
    layer = model.get_submodule(name)
    with layer.register_forward_pre_hook(lambda _, args: rows.append(args[0].flatten(0, 1))):
        for batch in data:
            model(**batch)
    x = torch.cat(rows).detach().double()
    second = x.T @ x / len(x)
    damped = second + 1e-3 * second.diagonal().mean() * torch.eye(16)
    weight = layer.weight.detach().double()
    mask = found.masks[f"{name}.weight"]
    best = torch.zeros_like(weight)
    for row, kept in enumerate(mask):
        wanted = (weight[row] @ damped)[kept]
        best[row, kept] = torch.linalg.solve(damped[kept][:, kept], wanted)
    ours = found.model.get_submodule(name).weight.detach().double()
    assert error(weight, ours, damped) <= error(weight, best, damped) * 1.001
    assert found.layers[0].error < found.layers[0].masked  # type: ignore[operator]


def test_a_head_of_its_own_stays_dense_unless_it_is_named() -> None:
    model = llama(tie_word_embeddings=False)
    found = natsel.sparsify(model, natsel.Sparsity(0.5), scorer="magnitude")
    assert found.left == {"lm_head.weight": "it gives the model's words"}
    named = natsel.sparsify(model, natsel.Sparsity(0.5), scorer="magnitude", include="lm_head*")
    assert list(named.masks) == ["lm_head.weight"]


def test_patterns_and_given_masks() -> None:
    model, data = llama(), tokens()
    budget = {"*.mlp.*": natsel.Sparsity(0.25), "*.self_attn.*": natsel.NM(2, 4)}
    found = natsel.sparsify(model, budget, data=data)
    assert found.masks["model.layers.1.mlp.down_proj.weight"].sum(1).tolist() == [18] * 16
    assert found.masks["model.layers.1.self_attn.o_proj.weight"].sum(1).tolist() == [8] * 16
    some = {"model.layers.1.mlp.up_proj.weight": torch.rand(24, 16) > 0.3}
    given = natsel.sparsify(model, some, data=data)
    assert torch.equal(given.masks["model.layers.1.mlp.up_proj.weight"], next(iter(some.values())))
    done = given.layers[0]
    assert done.error < done.masked  # type: ignore[operator]
    assert given.left["model.layers.0.mlp.up_proj.weight"] == "no budget is for it"


def test_shares_by_outliers_come_to_the_share_asked_for() -> None:
    model = llama()
    with torch.no_grad():
        model.model.layers[0].mlp.down_proj.weight[0, :4] *= 60
    found = natsel.sparsify(
        model, natsel.Sparsity(0.5), data=tokens(), shares="owl", scope="community"
    )
    kept = {d.name: d.kept / d.size for d in found.layers}
    assert kept["model.layers.0.mlp.down_proj.weight"] == max(kept.values()) > 0.55
    assert found.sparsity == pytest.approx(0.5, abs=0.005)


def test_in_place_changes_the_model_itself() -> None:
    model = llama()
    found = natsel.sparsify(model, natsel.Sparsity(0.5), data=tokens(), in_place=True)
    assert found.model is model
    assert (model.model.layers[0].mlp.up_proj.weight == 0).sum() == 24 * 8


def test_a_convolutional_network_outside_any_chain() -> None:
    torch.manual_seed(0)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2d(2, 4, 3, padding=1)
            self.grouped = nn.Conv2d(4, 4, 3, groups=2)
            self.head = nn.Linear(4, 3)
            self.unused = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.grouped(self.first(x).relu()).mean((2, 3)))

    found = natsel.sparsify(Net(), natsel.Sparsity(0.5), data=[(torch.randn(4, 2, 6, 6),)])
    assert list(found.masks) == ["first.weight", "head.weight"]
    assert (found.masks["first.weight"].flatten(1).sum(1) == 9).all()
    assert found.left == {"unused.weight": "it does not run on the data"}
    assert found.passes == 2


def test_it_is_saved_with_its_masks_and_loaded(tmp_path: Path) -> None:
    found = natsel.sparsify(llama(), natsel.NM(2, 4), data=tokens())
    with torch.no_grad():  # a weight that stays may be 0 by chance
        name = "model.layers.0.mlp.up_proj.weight"
        mask = found.masks[name]
    natsel.save(found.model, tmp_path)
    again = natsel.load(tmp_path)
    masks = natsel.masks_of(again)
    assert all(torch.equal(masks[n], m) for n, m in found.masks.items())
    plain = LlamaForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(plain.get_parameter(name), found.model.get_parameter(name))
    with torch.no_grad():
        again.get_parameter(name)[~mask] = 1.0
    with pytest.raises(ValueError, match=r"natsel.hold"):
        natsel.masks_of(again)


def test_a_weight_that_stays_and_is_zero_is_known_again(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(4, 2), nn.ReLU(), nn.Linear(2, 2))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[0.0, 0.0, 0.0, 1.0], [1.0, 2.0, 3.0, 4.0]]))
    found = natsel.sparsify(model, natsel.Sparsity(0.5), scorer="magnitude", include="0.*")
    assert found.masks["0.weight"].tolist() == [
        [True, False, False, True],
        [False, False, True, True],
    ]
    natsel.save(found.model, tmp_path)
    again = natsel.load(tmp_path, model=model)
    assert torch.equal(natsel.masks_of(again)["0.weight"], found.masks["0.weight"])


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"budget": natsel.Parameters(0.5)}, "budget="),
        ({"budget": {"nothing*": natsel.NM(2, 4)}}, "matches"),
        ({"budget": natsel.NM(2, 5)}, "num_all=5"),
        ({"scorer": "obx"}, "scorer='obx'"),
        ({"scope": "global"}, "scope='global'"),
        ({"shares": "owl", "budget": natsel.NM(2, 4)}, "shares='owl'"),
        ({"data": None}, "data=None"),
        ({"data": []}, "empty"),
        ({"damping": -1.0}, "damping=-1.0"),
        ({"budget": {"model.layers.0.mlp.up_proj.weight": torch.ones(3, 3) > 0}}, "shape"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(options: dict[str, Any], told: str) -> None:
    given = {"budget": natsel.Sparsity(0.5), "data": tokens(), **options}
    with pytest.raises(ValueError, match=told) as caught:
        natsel.sparsify(llama(), given.pop("budget"), **given)
    assert "\n" not in str(caught.value)
