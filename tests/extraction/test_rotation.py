"""A turned model computes the same; what cannot be turned is refused by name."""

from __future__ import annotations

import copy

import pytest
import torch
import transformers as hf
from torch import nn

import natsel
from natsel.communities.proof.doubled import in_float64
from natsel.extraction.rotation import principal_axes

SIZES = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 6,
}
IDS = torch.randint(40, (4, 9), generator=torch.Generator().manual_seed(1))
DATA = [{"input_ids": IDS}]


def build(name, *, tied=True, noisy=True, **more):
    """Return a tiny model in which no weight is constant."""
    torch.manual_seed(0)
    config = getattr(hf, f"{name}Config")(**{**SIZES, **more}, tie_word_embeddings=tied)
    kind = "GPT2LMHeadModel" if name == "GPT2" else f"{name}ForCausalLM"
    model = getattr(hf, kind)(config).eval()
    with torch.no_grad():
        for parameter in model.parameters() if noisy else ():
            if parameter.dim() == 1:
                parameter.add_(torch.rand_like(parameter))
    return model


def logits(model, ids=IDS):
    with torch.no_grad(), in_float64():
        return model(input_ids=ids).logits


LIKE_LLAMA = {
    "Llama": {"attention_bias": True},
    "Qwen2": {},
    "Qwen3": {},
    "Mistral": {"sliding_window": 4},
    "Mixtral": {"num_local_experts": 3, "num_experts_per_tok": 2},
    "Phi3": {"pad_token_id": 0},
}


@pytest.mark.filterwarnings("ignore:.*was tied to an embedding")
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("name", LIKE_LLAMA)
def test_the_function_is_the_same(name, tied):
    model = build(name, tied=tied, **LIKE_LLAMA[name])
    before = {n: p.clone() for n, p in model.state_dict().items()}
    turned = natsel.rotate(model, DATA)
    found = natsel.rotation_of(turned)
    assert found.folded == 5
    assert found.error < 1e-12
    ids = torch.randint(40, (2, 12), generator=torch.Generator().manual_seed(2))
    ours, theirs = logits(turned, ids), logits(model, ids)
    # The proof is in float64; what is left here is the rounding of its weights to float32.
    assert float((ours - theirs).abs().max() / theirs.abs().max()) < 1e-5
    # It did turn, and left the given model alone.
    assert not torch.allclose(turned.lm_head.weight, model.lm_head.weight)
    assert all(bool((turned.get_parameter(f"{n}.weight") == 1).all()) for n in norms(turned))
    assert all(torch.equal(p, before[n]) for n, p in model.state_dict().items())
    assert model.config.tie_word_embeddings is tied
    assert turned.config.tie_word_embeddings is False


def norms(model):
    return [n for n, _ in model.named_modules() if n.endswith(("layernorm", "model.norm"))]


@pytest.mark.parametrize("name", ["Llama", "Qwen2", "Mistral"])
def test_in_float64_nothing_is_lost(name):
    model = build(name, tied=False).double()
    ours, theirs = logits(natsel.rotate(model, DATA)), logits(model)
    assert float((ours - theirs).abs().max() / theirs.abs().max()) < 1e-12


def test_a_tied_head_is_its_own_tensor_and_that_is_counted():
    model = build("Llama")
    with pytest.warns(UserWarning, match=r"^lm_head.weight was tied .* 640 parameters more"):
        turned = natsel.rotate(model, DATA)
    assert turned.lm_head.weight is not turned.model.embed_tokens.weight
    found = natsel.rotation_of(turned)
    assert (found.untied, found.num_untied) == (("lm_head.weight",), 640)
    more = sum(p.numel() for p in turned.parameters()) - sum(p.numel() for p in model.parameters())
    assert more == 640


def test_a_constant_last_weight_leaves_the_head_tied(recwarn):
    model = build("Llama")
    with torch.no_grad():
        model.model.norm.weight.fill_(1.7)
    turned = natsel.rotate(model, DATA)
    assert turned.lm_head.weight is turned.model.embed_tokens.weight
    assert turned.config.tie_word_embeddings is True
    assert natsel.rotation_of(turned).num_untied == 0
    assert not [w for w in recwarn if "tied" in str(w.message)]
    torch.testing.assert_close(logits(turned), logits(model), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_precision_is_the_models_own(dtype):
    model = build("Llama", tied=False).to(dtype)
    turned = natsel.rotate(model, DATA)
    assert {p.dtype for p in turned.parameters()} == {dtype}
    assert natsel.rotation_of(turned).error < 1e-9


def seen_by_norms(model, ids):
    """Return what each normalisation of a turned model returns, as rows."""
    found = {}
    for name in norms(model):
        model.get_submodule(name).register_forward_hook(
            lambda _, __, left, name=name: found.update({name: left.flatten(0, 1).double()})
        )
    with torch.no_grad():
        model(input_ids=ids)
    return torch.cat([found[name] for name in norms(model)])


def test_the_stream_is_uncorrelated_along_its_axes_and_sorted():
    model = build("Qwen3", tied=False).double()
    turned = natsel.rotate(model, DATA)
    rows = seen_by_norms(copy.deepcopy(turned), IDS)
    products = rows.T @ rows / len(rows)
    diagonal = products.diagonal()
    assert float((products - diagonal.diag()).abs().max()) < 1e-6
    assert (diagonal.diff() <= 1e-7).all()
    explained = natsel.rotation_of(turned).explained.double()
    torch.testing.assert_close(diagonal / diagonal.sum(), explained, rtol=1e-5, atol=1e-7)


def test_padding_turns_nothing():
    model = build("Llama", tied=False).double()
    more = torch.cat([IDS, torch.zeros(4, 3, dtype=torch.long)], 1)
    mask = torch.cat([torch.ones_like(IDS), torch.zeros(4, 3, dtype=torch.long)], 1)
    plain = natsel.rotation_of(natsel.rotate(model, DATA)).explained
    padded = natsel.rotation_of(
        natsel.rotate(model, [{"input_ids": more, "attention_mask": mask}])
    ).explained
    torch.testing.assert_close(plain, padded)


def test_axes_are_orthogonal_and_in_order():
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(12, 12, generator=generator, dtype=torch.float64)
    q, shares = principal_axes(a @ a.T)
    torch.testing.assert_close(q.T @ q, torch.eye(12, dtype=torch.float64), rtol=0, atol=1e-12)
    assert (shares.diff() <= 0).all()
    assert float(shares.sum()) == pytest.approx(1)
    turned = q.T @ a @ a.T @ q
    torch.testing.assert_close(turned.diagonal() / turned.trace(), shares)


REFUSED = {
    "GPT2": ({"n_embd": 16, "n_layer": 2, "n_head": 4}, "is a LayerNorm, which subtracts a mean"),
    "Gemma": ({}, r"is a GemmaRMSNorm, whose weight does not multiply"),
    "Gemma2": ({}, r"is a Gemma2RMSNorm, whose weight does not multiply"),
    "Olmo2": ({"pad_token_id": 0}, r"one residual width that can be removed from \(it has 3"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_exact_is_refused_by_name(name):
    options, told = REFUSED[name]
    model = build(name, **options)
    with pytest.raises(ValueError, match=f"^model='{name}[A-Za-z]+' .*{told}"):
        natsel.rotate(model, DATA)


def test_an_output_that_lies_along_the_stream_is_no_stream_to_turn():
    model = build("Llama").model
    with pytest.raises(ValueError, match=r"^model='LlamaModel' is not allowed"):
        natsel.rotate(model, DATA)


def test_a_network_without_a_stream_is_refused():
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    with pytest.raises(ValueError, match=r"^model='Sequential' .*residual width"):
        natsel.rotate(model, [(torch.randn(3, 4),)])


@pytest.mark.parametrize("data", [None, []])
def test_data_are_needed(data):
    with pytest.raises(ValueError, match=r"^data="):
        natsel.rotate(build("Llama"), data)


# What is cut afterwards.


def channels(model):
    return natsel.discover(model, {"input_ids": IDS[:1]}, residual=True).only("channel")


@pytest.fixture(scope="module")
def turned():
    """A turned model whose stream hardly uses some of its axes."""
    model = build("Llama", tied=False)
    with torch.no_grad():
        low = torch.randn(12, 16) / 4
        for parameter in model.parameters():
            if parameter.shape[-1] == 16 and parameter.dim() == 2 and parameter.shape[0] == 40:
                parameter.copy_(parameter[:, :12] @ low + 1e-4 * parameter)
        for layer in model.model.layers:
            for linear in (layer.self_attn.o_proj, layer.mlp.down_proj):
                linear.weight.copy_(low.T @ linear.weight[:12] + 1e-4 * linear.weight)
    return natsel.rotate(model, DATA)


@pytest.mark.parametrize("scorer", ["variance", "wanda", "joint"])
def test_scorers_of_activations_cut_the_last_axes(turned, scorer):
    scores = natsel.score(channels(turned), scorer, data=DATA)
    survivors = natsel.select(scores, natsel.Sparsity(0.25))
    (mask,) = survivors.values()
    assert mask.tolist() == [True] * 12 + [False] * 4


def test_with_data_the_normalisations_are_what_they_were(turned):
    communities = channels(turned)
    scores = natsel.score(communities, "variance", data=DATA)
    survivors = natsel.select(scores, natsel.Sparsity(0.25))
    plain = natsel.extract(turned, survivors)
    scaled = natsel.extract(turned, survivors, compensate=DATA)
    dense = logits(turned)
    # The four axes carry next to nothing, so that the factor is the root of 16 / 12.
    factor = scaled.model.norm.weight / plain.model.norm.weight
    torch.testing.assert_close(factor, torch.full((12,), (12 / 16) ** -0.5))
    error, before = ((logits(m) - dense).norm() / dense.norm() for m in (scaled, plain))
    assert error < 0.01 < before
    done = natsel.compensation_of(scaled)
    assert set(done.tensors) >= {f"{name}.weight" for name in norms(scaled)}
    assert natsel.verify(turned, plain, survivors, {"input_ids": IDS}).passed


def test_the_factor_is_the_mean_over_rows_and_padding_does_not_count():
    model = build("Llama", tied=False)
    communities = channels(model)
    mask = torch.arange(16) % 3 > 0
    survivors = natsel.Survivors({next(iter(communities)): mask}, communities)
    ids = torch.cat([IDS, torch.zeros(4, 3, dtype=torch.long)], 1)
    attention = torch.cat([torch.ones_like(IDS), torch.zeros(4, 3, dtype=torch.long)], 1)
    data = [{"input_ids": ids, "attention_mask": attention}]
    x = model.model.embed_tokens(IDS).flatten(0, 1)
    rows = (x[:, mask].square().mean(1) / x.square().mean(1)).sqrt()
    small = natsel.extract(model, survivors, compensate=data)
    norm = small.model.layers[0].input_layernorm
    expected = model.model.layers[0].input_layernorm.weight[mask] * rows.mean()
    torch.testing.assert_close(norm.weight, expected)


def test_a_narrower_stream_generates_with_a_cache_and_is_loaded_as_it_was(turned, tmp_path):
    scores = natsel.score(channels(turned), "wanda", data=DATA)
    small = natsel.extract(turned, natsel.select(scores, natsel.Sparsity(0.25)), compensate=DATA)
    options = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    cached, plain = (
        small.generate(input_ids=IDS[:, :4], use_cache=on, **options) for on in (True, False)
    )
    assert torch.equal(cached, plain)
    natsel.save(small, tmp_path / "small")
    loaded = natsel.load(tmp_path / "small")
    assert torch.equal(loaded(input_ids=IDS).logits, small(input_ids=IDS).logits)
    theirs = hf.AutoModelForCausalLM.from_pretrained(tmp_path / "small")
    assert (theirs.config.hidden_size, theirs.config.head_dim) == (12, 6)
    assert theirs.config.tie_word_embeddings is False
    assert torch.equal(theirs(input_ids=IDS).logits, small(input_ids=IDS).logits)
