"""Single weights that are gone: layers in compressed rows, where that is measured to be faster."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import natsel
import natsel.extraction.unstructured as room
from natsel.extraction import Conversion, CsrLinear
from natsel.extraction.conversion import is_gain
from natsel.extraction.plan import _checksum, plan_of
from natsel.extraction.unstructured import with_dense

# The layer.


def test_the_arrays_of_a_layer_are_those_of_compressed_rows():
    linear = nn.Linear(3, 2)
    with torch.no_grad():
        linear.weight.copy_(torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]))
        linear.bias.copy_(torch.tensor([10.0, 20.0]))
    small = CsrLinear.of(linear, torch.tensor([[True, False, False], [False, True, True]]))
    assert small.crow_indices.tolist() == [0, 1, 3]
    assert small.col_indices.tolist() == [0, 1, 2]
    assert small.values.tolist() == [1.0, 5.0, 6.0]
    assert small.crow_indices.dtype == small.col_indices.dtype == torch.int32
    assert small.weight.tolist() == [[1.0, 0.0, 0.0], [0.0, 5.0, 6.0]]
    assert small(torch.tensor([1.0, 1.0, 1.0])).tolist() == [11.0, 31.0]


@given(
    rows=st.integers(0, 5),
    sizes=st.tuples(st.integers(1, 7), st.integers(1, 7)),
    share=st.sampled_from([0.0, 0.5, 1.0]),
    leading=st.sampled_from([(), (1,), (2,), (2, 3)]),
    bias=st.booleans(),
    double=st.booleans(),
    seed=st.integers(0, 99),
)
@settings(deadline=None, max_examples=80)
def test_a_layer_computes_what_the_masked_one_does(rows, sizes, share, leading, bias, double, seed):
    generator = torch.Generator().manual_seed(seed)
    linear = nn.Linear(*sizes, bias=bias)
    linear = linear.double() if double else linear
    mask = torch.rand(linear.weight.shape, generator=generator) >= share
    small = CsrLinear.of(linear, mask)
    with torch.no_grad():
        linear.weight.mul_(mask)
    x = torch.randn(*leading, rows, sizes[0], generator=generator).to(linear.weight)
    found, expected = small(x), linear(x)
    assert found.is_contiguous()
    torch.testing.assert_close(found, expected)
    # It trains like the masked layer.
    for y in (found, expected):
        y.square().sum().backward()
    torch.testing.assert_close(small.values.grad, linear.weight.grad[mask])
    if bias:
        torch.testing.assert_close(small.bias.grad, linear.bias.grad)


def test_a_weight_that_survives_with_the_value_0_stays_trainable():
    linear = nn.Linear(2, 1)
    nn.init.zeros_(linear.weight)
    assert CsrLinear.of(linear, torch.tensor([[True, False]])).num_weights == 1


# Which layers are converted.


class Several(nn.Module):
    """Layers that can and that cannot be converted."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv1d(1, 1, 1)
        self.first = nn.Linear(6, 8)
        self.second = nn.Linear(8, 8)
        self.tied = nn.Linear(8, 8)
        self.tied_too = nn.Linear(8, 8)
        self.tied_too.weight = self.tied.weight
        self.unused = nn.Linear(2, 2)

    def forward(self, x):
        x = self.first(self.stem(x[:, None])[:, 0]).relu()
        return self.tied_too(self.tied(self.second(x).relu()))


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Several().eval()


@pytest.fixture
def clock(monkeypatch):
    """A device on which a layer takes 1 ms, and 4 ms for each share of its weights as CSR."""
    seen = []

    def time_in_turn(models, inputs, *, repeats):
        seen.append((tuple(inputs[0].shape), repeats))
        csr = models["csr"]
        share = csr.num_weights / (csr.in_features * csr.out_features)
        return {"dense": [1.0] * repeats, "csr": [4 * share] * repeats}

    monkeypatch.setattr(room, "time_in_turn", time_in_turn)
    return seen


def keep(shape, share):
    """Keep the first weights."""
    mask = torch.zeros(shape, dtype=torch.bool)
    mask.view(-1)[: round(share * mask.numel())] = True
    return mask


def test_the_rule():
    assert is_gain(dense_ms=1.0, csr_ms=0.99)
    assert not is_gain(dense_ms=1.0, csr_ms=1.0)
    assert not is_gain(dense_ms=1.0, csr_ms=2.0)


def test_what_is_faster_is_converted_and_the_rest_says_why_not(model, clock):
    weights = {n: p.clone() for n, p in model.named_parameters()}
    masks = {
        "stem.weight": keep((1, 1, 1), 0),
        "first.weight": keep((8, 6), 0.125),
        "second.weight": keep((8, 8), 0.25),
        "tied.weight": keep((8, 8), 0.125),
        "unused.weight": keep((2, 2), 0.25),
        "first.bias": keep((8,), 0.5),
    }
    x = torch.randn(5, 6)
    small = natsel.extract(model, masks, format="csr", example_inputs=x)
    conversion = natsel.conversion_of(small)
    assert [(layer.name, layer.reason) for layer in conversion.layers] == [
        ("stem.weight", "stays dense: not the weight of a Linear"),
        ("first", ""),
        ("second", "stays dense: that is faster"),
        ("tied", "stays dense: its weight is shared"),
        ("unused", "stays dense: the model does not call it"),
        ("first.bias", "stays dense: not the weight of a Linear"),
    ]
    first = conversion.layers[1]
    assert (first.dense_ms, first.csr_ms, first.rows) == (1.0, 0.5, 5)
    assert clock == [((5, 6), 30), ((5, 8), 30)]
    assert isinstance(small.first, CsrLinear)
    assert type(small.second) is nn.Linear
    assert "first: 87.5% removed, 1 ms dense, 0.5 ms as CSR on 5 rows; converted" in (
        conversion.summary()
    )
    # The given model is as it was; the small one is the masked one.
    assert all(torch.equal(p, weights[n]) for n, p in model.named_parameters())
    masked = copy.deepcopy(model)
    with torch.no_grad():
        for name, mask in masks.items():
            dict(masked.named_parameters())[name].mul_(mask)
        torch.testing.assert_close(small(x), masked(x))
    assert natsel.verify(model, small, masks, x).passed
    assert not natsel.verify(model, small, {**masks, "first.weight": keep((8, 6), 1)}, x).passed


def test_without_inputs_a_layer_is_timed_on_64_rows(clock):
    model = nn.Linear(4, 4)
    mask = torch.eye(4, dtype=torch.bool)
    mask[0, 0] = False
    small = natsel.extract(model, {"weight": mask}, format="csr")
    assert clock == [((64, 4), 30)]
    assert isinstance(small, CsrLinear)
    x = torch.randn(2, 4)
    expected = nn.functional.linear(x, model.weight * mask, model.bias)
    torch.testing.assert_close(small(x), expected)


def test_a_layer_that_keeps_all_is_not_timed(clock):
    model = nn.Sequential(nn.Linear(4, 4))
    small = natsel.extract(model, {"0.weight": keep((4, 4), 1)}, format="csr")
    assert natsel.conversion_of(small).layers[0].reason == "stays dense: nothing of it goes"
    assert clock == []


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_what_the_device_cannot_multiply_stays_dense(half):
    model = nn.Sequential(nn.Linear(4, 4)).to(half)
    small = natsel.extract(model, {"0.weight": keep((4, 4), 0.1)}, format="csr")
    (layer,) = natsel.conversion_of(small).layers
    assert layer.reason.startswith("stays dense: ")
    assert type(small[0]) is nn.Linear


def test_masses_are_folded_first(clock):
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    communities = natsel.discover(model, torch.randn(2, 4))
    natsel.Evolution(communities, initial=0.5)
    x = torch.randn(3, 4)
    masks = {"2.weight": keep((3, 6), 0.2)}
    small = natsel.extract(model, masks, format="csr", example_inputs=x)
    masked = copy.deepcopy(
        natsel.extract(
            model, natsel.select(natsel.score(communities, "magnitude"), natsel.Sparsity(0.0))
        )
    )
    with torch.no_grad():
        masked[2].weight.mul_(masks["2.weight"])
    torch.testing.assert_close(small(x), masked(x))


def test_a_selection_of_weights_serves(clock):
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    scores = {n: p.detach().abs() for n, p in model.named_parameters() if p.dim() > 1}
    survivors = natsel.select(scores, natsel.Sparsity(0.9), scope="global")
    small = natsel.extract(model, survivors, format="csr", example_inputs=torch.randn(2, 6))
    kept = sum(layer.kept for layer in natsel.conversion_of(small).layers)
    assert kept == 72 - 65


def test_attention_reads_weights_without_calling_their_layers(clock):
    torch.manual_seed(0)
    model = nn.TransformerEncoderLayer(8, 2, dim_feedforward=16, batch_first=True).eval()
    masks = {n: torch.rand(p.shape) < 0.1 for n, p in model.named_parameters() if p.dim() > 1}
    x = torch.randn(2, 3, 8)
    small = natsel.extract(model, masks, format="csr", example_inputs=x)
    found = {layer.name: layer.reason for layer in natsel.conversion_of(small).layers}
    assert found["self_attn.out_proj.weight"].endswith("not the weight of a Linear")
    assert natsel.verify(model, small, masks, x).passed


# Saved and loaded.


@pytest.fixture
def saved(clock, tmp_path):
    model = natsel.models.build("mlp", in_shape=(1, 4, 4), num_classes=3, hidden=(8, 6))
    masks = {"layers.0.weight": keep((8, 16), 0.1), "layers.2.weight": keep((6, 8), 0.5)}
    small = natsel.extract(model, masks, format="csr").eval()
    return model, small, natsel.save(small, tmp_path / "small")


def test_a_folder_gives_the_same_function(saved):
    model, small, folder = saved
    assert sorted(p.name for p in folder.iterdir()) == ["model.safetensors", "plan.json"]
    loaded = natsel.load(folder)
    assert isinstance(loaded.layers[0], CsrLinear)
    assert type(loaded.layers[2]) is nn.Linear
    x = torch.randn(3, 1, 4, 4)
    with torch.no_grad():
        assert torch.equal(loaded(x), small(x))
    assert natsel.conversion_of(loaded) == natsel.conversion_of(small)
    assert loaded.layers[0].values.requires_grad
    assert torch.equal(natsel.load(folder, model=model).layers[0].values, small.layers[0].values)
    assert "converted 1 of 2" in plan_of(loaded).summary()
    natsel.save(loaded, folder)
    with torch.no_grad():
        assert torch.equal(natsel.load(folder)(x), small(x))


def test_a_model_can_lose_populations_first_and_weights_then(clock, tmp_path):
    model = natsel.models.build("mlp", in_shape=(1, 4, 4), num_classes=3, hidden=(8, 6)).eval()
    communities = natsel.discover(model, torch.randn(2, 1, 4, 4))
    scores = natsel.score(communities, "magnitude")
    middle = natsel.extract(model, natsel.select(scores, natsel.Sparsity(0.5)))
    masks = {"layers.0.weight": keep((4, 16), 0.1)}
    small = natsel.extract(middle, masks, format="csr")
    loaded = natsel.load(natsel.save(small, tmp_path / "small"))
    x = torch.randn(3, 1, 4, 4)
    with torch.no_grad():
        assert torch.equal(loaded(x), small(x))
    assert (loaded.layers[0].in_features, loaded.layers[0].out_features) == (16, 4)
    plan = plan_of(loaded)
    assert {n: len(k) for n, k in plan.survivors.items()} == {"layers.0": 4, "layers.2": 3}
    assert "layers.2" in plan.summary()
    assert "converted 1 of 1" in plan.summary()


def rewritten(folder, change):
    """Change a plan, with a checksum that fits."""
    data = json.loads((folder / "plan.json").read_text())
    data.pop("sha256")
    change(data)
    (folder / "plan.json").write_text(json.dumps({**data, "sha256": _checksum(data)}))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda layer: layer.update(name="layers.1"), "an nn.Linear at layers.1"),
        (lambda layer: layer.update(kept=10**12), "plan layers.0"),
        (lambda layer: layer.update(out_features=10**9), "plan layers.0"),
        (lambda layer: layer.update(kept=-1), "a count of 'layers.0'"),
        (lambda layer: layer.update(kept="many"), "a count of 'layers.0'"),
        (lambda layer: layer.pop("kept"), "this is no conversion"),
        (lambda layer: layer.update(code="print()"), "this is no conversion"),
    ],
)
def test_a_plan_that_is_no_conversion_of_the_model(saved, change, told):
    _, _, folder = saved
    rewritten(folder, lambda data: change(data["conversion"]["layers"][0]))
    with pytest.raises(ValueError, match=told):
        natsel.load(folder)


@pytest.mark.parametrize(
    "spoil", [lambda c: c.fill_(10**6), lambda c: c.neg_(), lambda c: c.zero_()]
)
def test_indices_that_point_outside_are_refused(saved, tmp_path, spoil):
    _, small, _ = saved
    wrong = copy.deepcopy(small)
    spoil(wrong.layers[0].col_indices[:5])
    folder = natsel.save(wrong, tmp_path / "wrong")
    with pytest.raises(ValueError, match=r"layers\.0=.*expected those of a sparse matrix"):
        natsel.load(folder)


def test_a_plan_from_before_says_nothing_of_it(saved):
    _, _, folder = saved
    plan = plan_of(natsel.load(folder))
    assert Conversion.from_dict(plan.conversion).converted[0].name == "layers.0"
    data = json.loads(plan.to_json())
    data.pop("sha256")
    data.pop("conversion")
    content = json.dumps({**data, "sha256": _checksum(data)}).encode()
    assert type(plan).from_json(content, "plan.json").conversion is None


# What is refused.


@pytest.mark.parametrize(
    ("masks", "options", "told"),
    [
        ({"0.weight": keep((8, 6), 0.5)}, {"format": "cs"}, r"format='cs'.*did you mean 'csr'"),
        ({"0.weight": keep((6, 8), 0.5)}, {}, r"survivors\['0.weight'\]=\(6, 8\).*\(8, 6\)"),
        ({"0.weigth": keep((8, 6), 0.5)}, {}, r"'0.weigth'.*did you mean '0.weight'"),
        ({"0": keep((8,), 0.5)}, {}, r"survivors='0'.*one of 0.bias, 0.weight"),
        ({"0.weight": torch.ones(8, 6)}, {}, r"torch.float32.*a tensor of booleans"),
        ({"0.weight": [True]}, {}, r"'list'.*a tensor of booleans"),
        ({}, {}, r"survivors=\{\}.*at least one parameter"),
        ({"0.bias": keep((8,), 0.5)}, {}, r"survivors='0.bias'.*at least one nn.Linear"),
        ({"0.weight": keep((8, 6), 0.5)}, {"compensate": []}, r"compensate=.*format='csr'"),
        ({"0.weight": keep((8, 6), 0.5)}, {"example_inputs": 3}, r"example_inputs='int'"),
    ],
)
def test_refuses(masks, options, told):
    model = nn.Sequential(nn.Linear(6, 8))
    with pytest.raises(ValueError, match=told) as error:
        natsel.extract(model, masks, **{"format": "csr", **options})
    assert "\n" not in str(error.value)


def test_an_optimizer_is_refused():
    model = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    masks = {"weight": torch.eye(2, dtype=torch.bool)}
    with pytest.raises(ValueError, match=r"optimizer='SGD'.*None where format='csr'"):
        natsel.extract(model, masks, format="csr", optimizer=optimizer)


def test_inputs_are_for_single_weights_only():
    with pytest.raises(ValueError, match=r"example_inputs='given'.*format='csr'"):
        natsel.extract(nn.Linear(2, 2), {}, example_inputs=torch.zeros(1, 2))


@pytest.mark.parametrize("first", ["weights alone", "populations first"])
def test_a_pretrained_model_is_read_by_transformers_and_by_natsel(first, clock, tmp_path):
    transformers = pytest.importorskip("transformers")
    model = natsel.models.build("bert", in_shape=(8,), num_classes=9).eval()
    x = torch.randint(9, (2, 8))
    if first == "populations first":  # a layer has other sizes than its configuration says then
        scores = natsel.score(natsel.discover(model, x), "magnitude")
        model = natsel.extract(model, natsel.select(scores, natsel.Sparsity(0.25)))
    shapes = {n: p.shape for n, p in model.named_parameters()}
    names = [n for n in shapes if n.endswith(("query.weight", "output.dense.weight"))]
    small = natsel.extract(model, {n: keep(shapes[n], 0.1) for n in names}, format="csr")
    assert len(natsel.conversion_of(small).converted) == len(names) > 1
    del small.constructor
    folder = natsel.save(small, tmp_path / "hub")
    with torch.no_grad():
        expected = small(x).logits
        assert torch.equal(natsel.load(folder)(x).logits, expected)
    kind = transformers.AutoModelForMaskedLM
    read, told = kind.from_pretrained(folder, trust_remote_code=True, output_loading_info=True)
    assert not any(told.values())
    with torch.no_grad():
        assert torch.equal(read.eval()(x).logits, expected)
    base = transformers.AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
    hidden = small.bert(x).last_hidden_state
    with torch.no_grad():
        assert torch.equal(base(x).last_hidden_state, hidden)
    # Without its code a class would fill the missing layers with noise.
    for plain in (kind, transformers.BertForMaskedLM, transformers.AutoModel):
        with pytest.raises(RuntimeError, match="mismatch"):
            plain.from_pretrained(folder)
    assert read.state_dict().keys() == small.state_dict().keys()
    again = natsel.save(natsel.load(folder), tmp_path / "again")
    with torch.no_grad():
        assert torch.equal(natsel.load(again)(x).logits, expected)


def test_what_knows_no_sparse_matrices_gets_dense_ones(clock, tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4, bias=False)).eval()
    masks = {"0.weight": keep((8, 6), 0.2), "2.weight": keep((4, 8), 0.1)}
    small = natsel.extract(model, masks, format="csr")
    assert isinstance(small[0], CsrLinear)
    x = torch.randn(3, 6)
    dense = with_dense(small)
    assert [type(layer) for layer in dense] == [nn.Linear, nn.ReLU, nn.Linear]
    assert torch.equal(dense[0].weight, small[0].weight)
    assert isinstance(small[0], CsrLinear)
    assert with_dense(model) is model
    with torch.no_grad():
        torch.testing.assert_close(dense(x), small(x))
        exported = torch.export.export(small, (x,))
        torch.testing.assert_close(exported.module()(x), small(x))
    # The populations of a compressed layer cannot be told apart by its tensors: none are offered.
    assert not natsel.discover(small, (x,))
    pytest.importorskip("onnxruntime")
    assert natsel.export_onnx(small, tmp_path / "small.onnx", (x,)) < 1e-6
