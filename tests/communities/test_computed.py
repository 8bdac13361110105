"""Weights that are computed at every pass: each module is named, with what does it and helps."""

import pytest
import torch
import torch.nn.functional as F
from exactness import Net
from torch import nn
from torch.ao.nn.qat import Linear as QatLinear
from torch.ao.quantization import get_default_qat_qconfig
from torch.nn.utils import parametrizations, parametrize, prune

import natsel
from natsel.extraction.csr import CsrLinear

pytestmark = pytest.mark.filterwarnings("ignore:.*weight_norm.*deprecated:FutureWarning")
VEC, IMG, SEQ = torch.randn(2, 4), torch.randn(2, 3, 8, 8), torch.randn(2, 5, 4)
UNMASK = "torch.nn.utils.prune.remove(module, 'weight')"
UNPARAMETRIZE = "torch.nn.utils.parametrize.remove_parametrizations(module, 'weight')"


def mlp():
    return nn.Sequential(
        nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 5), nn.Linear(5, 3)
    )


class Signed(nn.Module):
    def forward(self, weight):
        return weight * weight.abs()


def masked(module):
    prune.l1_unstructured(module, "weight", 0.5)


def masked_twice(module):
    prune.l1_unstructured(module, "weight", 0.3)
    prune.ln_structured(module, "weight", 0.3, n=2, dim=0)


def signed(module):
    parametrize.register_parametrization(module, "weight", Signed())


def signed_then_normed(module):
    signed(module)
    parametrizations.spectral_norm(module)


WAYS = {
    "old weight_norm": (
        nn.utils.weight_norm,
        "torch.nn.utils.weight_norm",
        "torch.nn.utils.remove_weight_norm(module, 'weight')",
    ),
    "old spectral_norm": (
        nn.utils.spectral_norm,
        "torch.nn.utils.spectral_norm",
        "torch.nn.utils.remove_spectral_norm(module, 'weight')",
    ),
    "weight_norm": (parametrizations.weight_norm, "(WeightNorm)", UNPARAMETRIZE),
    "spectral_norm": (parametrizations.spectral_norm, "(SpectralNorm)", UNPARAMETRIZE),
    "orthogonal": (parametrizations.orthogonal, "(Orthogonal)", UNPARAMETRIZE),
    "a user's own": (signed, "(Signed)", UNPARAMETRIZE),
    "several": (signed_then_normed, "(Signed, SpectralNorm)", UNPARAMETRIZE),
}
ROWS_GO = ("old weight_norm", "weight_norm", "a user's own")
"""Ways in which each row is computed by itself; of the others nothing can go."""


def refused(communities):
    assert all(r.reason and "\n" not in r.reason + r.remedy for r in communities.refused)
    assert not any("tensor(" in r.reason + r.remedy for r in communities.refused)
    names = [r.name for r in communities.refused]
    assert len(set(names)) == len(names)
    return {r.name: r for r in communities.refused}


@pytest.mark.parametrize("name", [name for name in WAYS if name not in ROWS_GO])
def test_where_every_weight_is_computed_each_module_says_so(name):
    compute, what, remedy = WAYS[name]
    model = mlp()
    for place in (0, 2, 4, 5):
        compute(model[place])
    communities = natsel.discover(model, VEC)
    assert not communities
    found = refused(communities)
    assert {n: r.size for n, r in found.items()} == {"0": 8, "2": 6, "4": 5, "5": 3}
    for refusal in found.values():
        assert what in refusal.reason
        assert refusal.remedy == remedy
    for use in (natsel.Evolution, lambda c: natsel.score(c, "magnitude")):
        with pytest.raises(ValueError, match=r"communities='none' .*at least one") as error:
            use(communities)
        assert what in str(error.value)
        assert remedy in str(error.value)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ROWS_GO)
def test_where_columns_stay_the_readers_are_named(name):
    compute, _, remedy = WAYS[name]
    model = mlp()
    for place in (0, 2, 4, 5):
        compute(model[place])
    communities = natsel.discover(model, VEC)
    assert not communities
    found = refused(communities)
    for place, reader in (("0", "2"), ("2", "4"), ("4", "5")):
        assert f"it is read by {reader}, whose weight is computed" in found[place].reason
        assert found[place].remedy == remedy


@pytest.mark.parametrize("name", WAYS)
def test_where_a_part_is_computed_the_rest_is_offered(name):
    compute, what, remedy = WAYS[name]
    model = mlp()
    compute(model[2])
    communities = natsel.discover(model, VEC)
    assert list(communities) == (["2", "4"] if name in ROWS_GO else ["4"])
    found = refused(communities)
    assert found["0"].reason == "it is read by 2, whose weight is computed"
    assert found["0"].remedy == remedy
    if name not in ROWS_GO:
        assert what in found["2"].reason
        assert found["2"].remedy == remedy
    assert communities.barriers == ()


@pytest.mark.parametrize("name", WAYS)
def test_the_remedy_works(name):
    compute, _, remedy = WAYS[name]
    model = mlp()
    compute(model[2])
    exec(remedy, {"torch": torch, "module": model[2]})
    communities = natsel.discover(model, VEC)
    assert list(communities) == ["0", "2", "4"]
    natsel.extract(
        model, natsel.select(natsel.score(communities, "magnitude"), natsel.Sparsity(0.5))
    )


@pytest.mark.parametrize("mask", [masked, masked_twice])
def test_what_is_masked_is_offered(mask):
    model = mlp()
    for place in (0, 2, 4, 5):
        mask(model[place])
    assert list(natsel.discover(model, VEC)) == ["0", "2", "4"]
    net = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 5, 3), nn.ReLU(),
        nn.ConvTranspose2d(5, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1),
    ).eval()  # fmt: skip
    for place in (0, 3, 5):
        mask(net[place])
    assert list(natsel.discover(net, IMG)) == ["0", "3", "5"]
    words = nn.Sequential(nn.Embedding(10, 6), nn.Linear(6, 3))
    mask(words[0])
    assert list(natsel.discover(words, torch.zeros(2, 4, dtype=torch.long))) == ["0"]


def test_recurrent_layers_and_attention():
    def forward(self, x):
        return self.o(self.l(x)[0])

    net = Net(forward, l=nn.LSTM(4, 8, batch_first=True), o=nn.Linear(8, 3))
    nn.utils.weight_norm(net.l, "weight_hh_l0")
    found = refused(natsel.discover(net, SEQ))
    assert "weight_hh_l0 is computed by torch.nn.utils.weight_norm" in found["l"].reason
    assert found["l"].remedy == "torch.nn.utils.remove_weight_norm(module, 'weight_hh_l0')"
    net = Net(
        lambda s, x: s.o(s.a(x, x, x)[0]),
        a=nn.MultiheadAttention(4, 2, batch_first=True),
        o=nn.Linear(4, 3),
    )
    prune.l1_unstructured(net.a, "in_proj_weight", 0.5)
    assert "a" in natsel.discover(net, SEQ)


def test_fake_quantisation():
    config = get_default_qat_qconfig("x86")
    model = mlp()
    model[0], model[2] = QatLinear(4, 8, qconfig=config), QatLinear(8, 6, qconfig=config)
    found = refused(natsel.discover(model, VEC))
    for name in ("0", "2"):
        assert "quantised at every pass" in found[name].reason
        assert "prune before" in found[name].remedy


class Codes(nn.Module):
    """A weight of 8-bit codes and a scale, as quantisation libraries hold it."""

    def __init__(self, linear, product):
        super().__init__()
        self.product = product
        self.register_buffer("codes", (linear.weight * 100).to(torch.int8))
        self.register_buffer("scale", torch.full((len(linear.weight), 1), 0.01))

    def forward(self, x):
        weight = self.codes.float() * self.scale
        return F.linear(x, weight) if self.product == "linear" else x @ weight.t()


@pytest.mark.parametrize("product", ["linear", "matmul"])
def test_codes_are_told_as_quantised(product):
    model = mlp()
    for place in (0, 2, 4, 5):
        model[place] = Codes(model[place], product)
    found = refused(natsel.discover(model, VEC))
    assert {n: r.size for n, r in found.items()} == {"0": 8, "2": 6, "4": 5, "5": 3}
    for name, refusal in found.items():
        assert refusal.reason.startswith("its weight is quantised: computed at every pass from ")
        assert f"{name}.codes" in refusal.reason
        assert "prune the floating-point model" in refusal.remedy


def test_what_forward_computes_is_told_with_its_line():
    def forward(self, x):
        weight = self.a.weight - self.a.weight.mean(1, keepdim=True)
        return self.b(F.linear(x, weight).relu())

    net = Net(forward, a=nn.Linear(4, 8), b=nn.Linear(8, 3))
    communities = natsel.discover(net, VEC)
    assert list(communities) == ["a"]
    net = Net(forward, a=nn.Linear(4, 8), b=nn.Linear(8, 3))

    def placed(self, x):
        weight = self.a.weight - self.a.weight.tril()
        return self.b(F.linear(x, weight).relu())

    net.function = placed
    communities = natsel.discover(net, VEC)
    refusal = next(r for r in communities.refused if "is computed" in r.reason)
    assert "its weight is computed at every pass from a.weight" in refusal.reason
    assert ".py:" in refusal.reason
    assert refusal.remedy == "hold what is computed as a parameter of its own"


def test_a_weight_that_depends_on_the_input_is_no_operator_without_a_rule():
    def forward(self, x):
        weight = self.w(x.mean(0)).view(3, 8)
        return F.linear(self.a(x).relu(), weight)

    communities = natsel.discover(Net(forward, a=nn.Linear(4, 8), w=nn.Linear(4, 24)), VEC)
    refusal = {r.name: r for r in communities.refused}["a"]
    assert "whose weight is computed" in refusal.reason
    assert "natsel.rule" not in refusal.remedy
    assert communities.barriers == ()


def test_weights_that_are_only_seen_otherwise_are_not_computed():
    shared = nn.Linear(4, 8)

    def forward(self, x):
        y = F.linear(F.linear(x, self.a.weight, self.a.bias).relu(), self.a.weight.t())
        return y @ self.b.weight.t() + self.b.weight[:, 0]

    communities = natsel.discover(Net(forward, a=shared, b=nn.Linear(4, 3)), VEC)
    assert not any("is computed" in r.reason for r in communities.refused)


def test_learned_tokens_are_activations():
    def forward(self, x):
        q, k = self.q(self.tokens), self.k(x)
        return self.o((q @ k.transpose(-1, -2)).softmax(-1) @ self.v(x))

    net = Net(
        forward,
        tokens=nn.Parameter(torch.randn(3, 4)),
        **{name: nn.Linear(4, 4) for name in "qkvo"},
    )
    communities = natsel.discover(net, SEQ)
    assert not any("is computed" in r.reason for r in communities.refused)


def test_compressed_rows():
    model = mlp()
    for place in (0, 2, 4, 5):
        model[place] = CsrLinear.of(model[place], model[place].weight > 0)
    found = refused(natsel.discover(model, VEC))
    assert {n: r.size for n, r in found.items()} == {"0": 8, "2": 6, "4": 5, "5": 3}
    for refusal in found.values():
        assert "compressed rows" in refusal.reason
        assert "module.dense()" in refusal.remedy


def test_a_model_without_weights_says_so():
    communities = natsel.discover(nn.Sequential(nn.Flatten(), nn.Softmax(-1)), VEC)
    (refusal,) = communities.refused
    assert refusal.name == "Sequential"
    assert "no layer" in refusal.reason
