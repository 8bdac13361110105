"""The architectures that people use: what is found in each, and that removing it is exact."""

import pytest
import torch
import transformers
from exactness import apart, found, offered, reasons, selections
from torch import nn

import natsel
from natsel.communities import discover
from natsel.communities.surgery.surgery import remove
from natsel_bench.zoo import ARCHITECTURES, build_architecture

LAYERS = range(2)
EXPECTED = {
    "mlp": {"layers.0": ("neuron", 512), "layers.2": ("neuron", 256)},
    "mobile-unet": {
        "stem": ("filter", 16),
        "same.expand": ("filter", 32),
        "same.attention.reduce": ("filter", 8),
        "down.expand": ("filter", 32),
        "down.attention.reduce": ("filter", 8),
        "down.project": ("filter", 6),
        "grouped": ("filter", 6),
        "up": ("filter", 16),
        "join": ("filter", 16),
    },
    "vit": {f"blocks.{i}.attention": ("head", 4) for i in LAYERS}
    | {f"blocks.{i}.mlp.0": ("neuron", 192) for i in LAYERS},
    "transformer-encoder": {f"encoder.layers.{i}.self_attn": ("head", 4) for i in LAYERS}
    | {f"encoder.layers.{i}.linear1": ("neuron", 64) for i in LAYERS},
    "hf-vit": {f"vit.layers.{i}.attention": ("head", 4) for i in LAYERS}
    | {f"vit.layers.{i}.mlp.fc1": ("neuron", 96) for i in LAYERS},
    "hf-bert": {f"bert.encoder.layer.{i}.attention": ("head", 4) for i in LAYERS}
    | {f"bert.encoder.layer.{i}.intermediate.dense": ("neuron", 96) for i in LAYERS}
    | {"bert.pooler.dense": ("neuron", 48)},
    "hf-llama": {f"model.layers.{i}.self_attn": ("head", 4) for i in LAYERS}
    | {f"model.layers.{i}.mlp.gate_proj": ("neuron", 96) for i in LAYERS},
    "hf-mixtral": {f"model.layers.{i}.self_attn": ("head", 4) for i in LAYERS}
    | {f"model.layers.{i}.mlp": ("expert", 6) for i in LAYERS}
    | {f"model.layers.{i}.mlp.experts": ("neuron", 64) for i in LAYERS},
    "hf-gpt2": {f"transformer.h.{i}.attn": ("head", 4) for i in LAYERS}
    | {f"transformer.h.{i}.mlp.c_fc": ("neuron", 96) for i in LAYERS},
    "hf-t5": {f"encoder.block.{i}.layer.1.DenseReluDense.wi": ("neuron", 96) for i in LAYERS}
    | {f"decoder.block.{i}.layer.2.DenseReluDense.wi": ("neuron", 96) for i in LAYERS}
    # All layers share one table of relative positions, and all cross-attentions one of zeros.
    | {name: ("head", 4) for name in ("encoder.block", "decoder.block", "decoder.block#2")},
    "convnext": {f"blocks.{i}.expand": ("neuron", 64) for i in LAYERS},
    "lstm": {"embedding": ("neuron", 12), "lstm": ("neuron", 20)},
}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_what_is_found_is_exact_for_every_selection(name):
    model, inputs = build_architecture(name)
    single = name == "hf-mixtral"  # the product of experts has no float64
    communities = discover(model, inputs) if single else found(model, *inputs)
    if name in EXPECTED:
        assert offered(communities) == EXPECTED[name], reasons(communities)
    else:
        assert len(communities) == 12, reasons(communities)
    chosen = selections(communities, 4)
    # Nothing, everything but one, halves and single survivors of a few, and uneven choices.
    for survivors in (*chosen[:2], *chosen[2:-4:9], *chosen[-4:]):
        difference = apart(communities, survivors, *communities.example_inputs)
        assert difference < (1e-5 if single else 1e-8), survivors


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize("options", [{}, {"bidirectional": True, "num_layers": 2}, {"bias": False}])
def test_recurrent_layers(kind, options):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = kind(5, 4, **options)
            self.b = nn.Linear(4 * (2 if options.get("bidirectional") else 1), 3)

        def forward(self, x):
            return self.b(self.a(x)[0])

    communities = found(Net(), torch.randn(6, 2, 5))
    assert offered(communities) == {"a": ("neuron", 4)}, reasons(communities)
    alive = torch.tensor([True, False, False, True])
    assert apart(communities, {"a": alive}, *communities.example_inputs) < 1e-12
    small = remove(communities.model, communities.values(), {"a": alive})
    assert (small.a.hidden_size, small.a.input_size) == (2, 5)
    assert small.a.weight_ih_l0.shape[0] == communities.model.a.weight_ih_l0.shape[0] // 2


@pytest.mark.parametrize("options", [{}, {"kdim": 6, "vdim": 7}, {"bias": False}])
@pytest.mark.parametrize("need_weights", [True, False])
def test_heads_of_torchs_attention(options, need_weights):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.MultiheadAttention(12, 3, batch_first=True, **options)
            self.b = nn.Linear(12, 2)

        def forward(self, q, k, v, padding):
            y, _ = self.a(
                q, k, v, key_padding_mask=padding, need_weights=need_weights,
                average_attn_weights=False,
            )  # fmt: skip
            return self.b(y)

    inputs = (
        torch.randn(2, 4, 12),
        torch.randn(2, 5, options.get("kdim", 12)),
        torch.randn(2, 5, options.get("vdim", 12)),
        torch.tensor([[False] * 5, [False] * 3 + [True] * 2]),
    )
    communities = found(Net(), *inputs)
    expected = {"a": ("head", 3), "a.out_proj": ("neuron", 12)}
    assert offered(communities) == expected, reasons(communities)
    for alive in ([True, False, True], [False, False, True]):
        survivors = {"a": torch.tensor(alive)}
        assert apart(communities, survivors, *communities.example_inputs) < 1e-12


def test_an_expert_that_is_gone_is_one_that_no_router_chooses():
    model, inputs = build_architecture("hf-mixtral")
    communities = discover(model, inputs)
    alive = torch.tensor([True, False, True, True, False, True])
    small = remove(model, communities.values(), {"model.layers.0.mlp": alive})
    experts = small.model.layers[0].mlp.experts
    assert experts.gate_up_proj.shape[0] == experts.num_experts == 4
    assert small.model.layers[0].mlp.gate.weight.shape[0] == 4
    assert small.model.layers[1].mlp.experts.num_experts == 6


WIDTHS = {
    "vit": 48,
    "transformer-encoder": 32,
    "hf-vit": 48,
    "hf-bert": 48,
    "hf-llama": 48,
    "hf-gpt2": 48,
    "convnext": 16,
}


@pytest.mark.parametrize("name", WIDTHS)
def test_the_residual_width_is_offered_on_request(name):
    model, inputs = build_architecture(name)
    communities = discover(model, inputs, residual=True)
    (width,) = [c for c in communities.values() if c.kind == "channel"]
    assert (width.size, width.exact) == (WIDTHS[name], False), reasons(communities)
    assert "channel" not in {c.kind for c in discover(model, inputs).values()}
    survivors = communities.full()
    survivors[width.name] = torch.arange(width.size) % 4 != 1
    checked = natsel.Survivors(survivors, communities)
    small = natsel.extract(model, checked)
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in model.parameters())
    verification = natsel.verify(model, small, checked, inputs)
    assert verification.passed
    assert verification.inexact_rel_difference > 1e-3


def test_a_width_whose_channels_cannot_change_places_is_refused():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.norm, self.b = nn.Linear(5, 8), nn.LayerNorm(8), nn.Linear(8, 3)

        def forward(self, x):
            y = self.a(x)
            return self.b(self.norm(y * torch.linspace(1, 2, y.shape[1], dtype=y.dtype)))

    communities = found(Net(), torch.randn(2, 5), residual=True)
    assert offered(communities) == {}, reasons(communities)


def test_experts_of_which_a_router_takes_all_are_left_whole():
    config = transformers.MixtralConfig(
        vocab_size=20, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, intermediate_size=16, num_local_experts=2, num_experts_per_tok=2,
        max_position_embeddings=8,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.MixtralForCausalLM(config).eval()
    communities = discover(model, (torch.randint(1, 20, (2, 5)),))
    assert {c.kind for c in communities.values()} == {"head", "neuron"}
    assert "its router chooses all of them" in reasons(communities)


def test_a_number_in_a_module_of_ones_own_is_not_guessed_at():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.num_experts = 3
            self.scale = nn.Parameter(torch.ones(5))
            self.a, self.b = nn.Linear(5, 8), nn.Linear(8, 3)

        def forward(self, x):
            return self.b(self.a(x * self.scale).relu()) * self.num_experts

    communities = found(Net(), torch.randn(2, 5))
    assert offered(communities) == {"a": ("neuron", 8)}
    small = remove(communities.model, communities.values(), {"a": torch.arange(8) < 4})
    assert small.num_experts == 3
