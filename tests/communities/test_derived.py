"""Weights computed from parameters: what follows is cut at the parameters, and equals the masked.

The masked network is made where the populations are read: what enters the reader is zero there.
"""

import pytest
import torch
import torch.nn.functional as F
from exactness import Net, found, offered, owned, parameter, reasons
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

import natsel
from natsel.communities.surgery.surgery import remove

pytestmark = pytest.mark.filterwarnings("ignore:.*weight_norm.*deprecated:FutureWarning")
VEC = torch.randn(2, 3, generator=torch.Generator().manual_seed(0))
IMG = torch.randn(2, 2, 6, 6)
SEQ = torch.randn(2, 3, 5)
L = nn.Linear


def assert_equals_masked_reader(model, x, name="a", reader="b", axis=-1):
    """Removing equals zeros in what enters the reader, and costs what was told."""
    communities = found(model, x)
    assert name in communities, reasons(communities)
    size = communities[name].size
    x = torch.randn_like(x.double())
    for kept in ([0], range(0, size, 2), range(1, size)):
        alive = torch.zeros(size, dtype=torch.bool)
        alive[list(kept)] = True
        small = remove(model, communities.values(), {name: alive})
        with torch.no_grad(), zeros_entering(model, reader, communities[name], alive, axis):
            expected = model(x)
        assert torch.allclose(small(x), expected, atol=1e-12, rtol=1e-10)
        cost = communities.price({name: alive})
        assert cost.parameters == sum(p.numel() for p in small.parameters())
    assert cost.macs == natsel.discover(small, (x,), proof=False).macs
    return communities


def zeros_entering(model, reader, community, alive, axis):
    (part,) = (s for s in community.slices if s.tensor.startswith(f"{reader}.") and s.role == "in")
    dead = part.index[~alive].reshape(-1)

    def hook(module, inputs):
        return (inputs[0].index_fill(axis, dead, 0),)

    return Hooked(model.get_submodule(reader).register_forward_pre_hook(hook))


class Hooked:
    def __init__(self, handle):
        self.handle = handle

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.handle.remove()


def masked(module):
    prune.l1_unstructured(module, "weight", 0.4)
    return module


def masked_bias(module):
    prune.random_unstructured(module, "bias", 0.5)
    return module


class Signed(nn.Module):
    def forward(self, weight):
        return weight * weight.abs()


class Scaled(nn.Module):
    """Each weight is multiplied by a learned number of its row."""

    def __init__(self, rows):
        super().__init__()
        self.scale = nn.Parameter(torch.rand(rows) + 0.5)

    def forward(self, weight):
        return -(weight.transpose(0, -1) * self.scale.exp()).transpose(0, -1)


def signed(module):
    parametrize.register_parametrization(module, "weight", Signed())
    return module


def scaled(module):
    parametrize.register_parametrization(module, "weight", Scaled(len(module.weight)))
    return module


ROWS = {
    "weight_norm": parametrizations.weight_norm,
    "old weight_norm": nn.utils.weight_norm,
    "a mask": masked,
    "a mask on a bias": masked_bias,
    "a user's own": signed,
    "a scale of each row": scaled,
    "two of them": lambda m: scaled(signed(m)),
}


@pytest.mark.parametrize("name", ROWS)
def test_rows_of_a_computed_weight_go(name):
    model = Net(lambda m, x: m.b(m.a(x).relu()), a=ROWS[name](L(3, 4)), b=L(4, 2))
    assert_equals_masked_reader(model, VEC)
    model = Net(
        lambda m, x: m.b(m.a(x).relu()), a=ROWS[name](nn.Conv2d(2, 4, 3)), b=nn.Conv2d(4, 2, 1)
    )
    communities = assert_equals_masked_reader(model, IMG, axis=1)
    assert offered(communities) == {"a": ("filter", 4)}


@pytest.mark.parametrize("compute", [masked, scaled], ids=["a mask", "a scale of each row"])
def test_columns_go_where_the_weight_is_linear_in_them(compute):
    model = Net(lambda m, x: m.b(m.a(x).relu()), a=L(3, 4), b=compute(L(4, 2)))
    assert_equals_masked_reader(model, VEC)


@pytest.mark.parametrize(
    "compute",
    [parametrizations.weight_norm, nn.utils.weight_norm, signed, parametrizations.spectral_norm],
)
def test_columns_stay_where_a_number_of_a_row_depends_on_all_or_the_weight_is_not_linear(compute):
    model = Net(lambda m, x: m.b(m.a(x).relu()), a=L(3, 4), b=compute(L(4, 2)))
    communities = found(model, VEC)
    assert not communities
    assert "a: it is read by b, whose weight is computed" in reasons(communities)


def test_a_norm_of_each_column_lets_columns_go():
    model = Net(
        lambda m, x: m.b(m.a(x).relu()), a=L(3, 4), b=parametrizations.weight_norm(L(4, 2), dim=1)
    )
    communities = assert_equals_masked_reader(model, VEC)
    slices = owned(communities, "a")
    assert slices["b.parametrizations.weight.original0:1"] == [[0], [1], [2], [3]]
    assert slices["b.parametrizations.weight.original1:1"] == [[0], [1], [2], [3]]


def test_all_of_a_spectral_norm_stays_and_says_why():
    model = Net(
        lambda m, x: m.b(m.a(x).relu()), a=parametrizations.spectral_norm(L(3, 4)), b=L(4, 2)
    )
    communities = found(model, VEC)
    assert not communities
    assert "(SpectralNorm)" in reasons(communities)


class Standardised(nn.Conv2d):
    """As normaliser-free networks hold their weights: each row with mean 0, and a gain."""

    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.gain = nn.Parameter(torch.ones(self.out_channels, 1, 1, 1))

    def forward(self, x):
        rows = self.weight.reshape(1, self.out_channels, -1)
        gain = (self.gain * 0.7).view(-1)
        weight = F.batch_norm(rows, None, None, weight=gain, training=True, momentum=0.0, eps=1e-6)
        return F.conv2d(x, weight.reshape_as(self.weight), self.bias)


class Centred(nn.Conv2d):
    def forward(self, x):
        w = self.weight
        w = w - w.mean((1, 2, 3), keepdim=True)
        var, mean = torch.var_mean(w, (1, 2, 3), keepdim=True, correction=0)
        return F.conv2d(x, (w - mean) / (var + 1e-5).sqrt(), self.bias)


@pytest.mark.parametrize("kind", [Standardised, Centred])
def test_rows_of_a_standardised_weight_go(kind):
    model = Net(lambda m, x: m.b(m.a(x).relu()), a=kind(2, 4, 3), b=nn.Conv2d(4, 2, 1))
    assert_equals_masked_reader(model, IMG, axis=1)


def test_columns_of_a_standardised_weight_stay_where_its_code_takes_the_mean_itself():
    model = Net(lambda m, x: m.b(m.a(x).relu()), a=nn.Conv2d(2, 4, 3), b=Centred(4, 2, 1))
    assert "a: it is read by b, whose weight is computed" in reasons(found(model, IMG))


def test_biases_that_are_joined():
    def forward(m, x):
        B, T, _ = x.shape
        bias = torch.cat([m.q_bias, torch.zeros_like(m.v_bias), m.v_bias])
        q, k, v = F.linear(x, m.qkv, bias).view(B, T, 3, -1, 2).permute(2, 0, 3, 1, 4)
        return m.b(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))

    model = Net(forward, qkv=parameter(18, 5), q_bias=parameter(6), v_bias=parameter(6), b=L(6, 5))
    (name,) = offered(found(model, SEQ))
    communities = assert_equals_masked_reader(model, SEQ, name)
    assert communities[name].kind == "head"
    slices = owned(communities, name)
    assert slices["q_bias:0"] == slices["v_bias:0"] == [[0, 1], [2, 3], [4, 5]]


def test_weights_that_are_joined():
    def forward(m, x):
        y = F.linear(x, torch.cat([m.a.weight, m.c.weight]), torch.cat([m.a.bias, m.c.bias]))
        return m.b(y.relu())

    model = Net(forward, a=L(3, 4), c=L(3, 2), b=L(6, 2))
    communities = found(model, VEC)
    assert offered(communities) == {"a": ("neuron", 4), "c": ("neuron", 2)}
    for name in "ac":
        assert_equals_masked_reader(model, VEC, name)


@pytest.mark.parametrize(
    "compute", [parametrizations.weight_norm, nn.utils.weight_norm, masked, scaled]
)
def test_they_are_scored_evolved_and_saved(compute, tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(compute(L(3, 8)), nn.ReLU(), L(8, 6), nn.ReLU(), L(6, 2))
    x = torch.randn(16, 3)
    communities = natsel.discover(model, x)
    assert set(communities) == {"0", "2"}
    for scorer in ("magnitude", "taylor", "wanda"):
        scores = natsel.score(communities, scorer, data=[(x, torch.randint(2, (16,)))])
        assert all(s.isfinite().all() for s in scores.values())
    small = natsel.extract(model, natsel.select(scores, natsel.Sparsity(0.5)))
    natsel.save(small, tmp_path)
    loaded = natsel.load(tmp_path, model=model)
    assert torch.equal(loaded(x), small(x))
    F.cross_entropy(loaded(x), torch.zeros(16, dtype=torch.long)).backward()
    evolution = natsel.Evolution(communities, dynamics="logistic", fitness="taylor")
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for _ in range(2):
        F.cross_entropy(model(x), torch.randint(2, (16,))).backward()
        optimizer.step()
        evolution.step()
        optimizer.zero_grad()
    natsel.extract(model, evolution.survivors())
