"""What a selection leaves, counted by hand, and against models that were really cut."""

import pytest
import torch
import torch.nn.functional as F
from exactness import Net, found, parameter
from torch import nn

import natsel
from natsel.communities.surgery.surgery import remove
from natsel_bench.zoo import ARCHITECTURES, build_architecture


def mask(size, num_kept):
    return torch.arange(size) < num_kept


def costs(communities, **kept):
    """Price a selection that keeps the first so many of each community, all of the others."""
    known = {c.name: c for c in communities.values()}
    cost = communities.price({n: mask(known[n].size, k) for n, k in kept.items()})
    return cost.parameters, cost.macs


def test_a_linear_layer():
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3))
    communities = found(model, torch.randn(2, 4), proof=False)
    dense = 4 * 8 + 8 * 6 + 6 * 3
    assert costs(communities) == (dense + 8 + 6 + 3, dense)
    # The middle weight shrinks on both axes: 5 x 2, not 8 x 6 minus what each alone would save.
    small = 4 * 5 + 5 * 2 + 2 * 3
    assert costs(communities, **{"0": 5, "2": 2}) == (small + 5 + 2 + 3, small)
    assert costs(communities, **{"0": 5}) == (4 * 5 + 5 * 6 + 6 * 3 + 5 + 6 + 3, 4 * 5 + 30 + 18)


def test_a_linear_layer_over_many_places():
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    communities = found(model, torch.randn(2, 7, 4), proof=False)
    assert costs(communities, **{"0": 2}) == (4 * 2 + 2 + 2 * 3 + 3, 7 * (4 * 2 + 2 * 3))


def test_convolutions_plain_depthwise_and_transposed():
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False),
        nn.ConvTranspose2d(8, 4, 2, stride=2, bias=False),
        nn.Conv2d(4, 2, 1, bias=False),
    )
    communities = found(model, torch.randn(2, 3, 5, 5), proof=False)
    assert {c.name: c.size for c in communities.values()} == {"0": 8, "2": 4}
    parameters = 3 * 5 * 9 + 5 * 9 + 5 * 3 * 4 + 3 * 2
    macs = 25 * (3 * 5 * 9) + 25 * (5 * 9) + 25 * (5 * 3 * 4) + 100 * (3 * 2)
    assert costs(communities, **{"0": 5, "2": 3}) == (parameters, macs)


def test_a_grouped_convolution_loses_equal_places_in_every_group():
    model = nn.Sequential(
        nn.Conv2d(3, 8, 1, bias=False),
        nn.Conv2d(8, 6, 3, padding=1, groups=2, bias=False),
        nn.Conv2d(6, 2, 1, bias=False),
    )
    communities = found(model, torch.randn(2, 3, 5, 5), proof=False)
    assert {c.name: c.size for c in communities.values()} == {"0": 4, "1": 3}
    # Two groups of 3 inputs and 2 outputs are left.
    parameters = 3 * 6 + 2 * (3 * 2 * 9) + 4 * 2
    assert costs(communities, **{"0": 3, "1": 2}) == (parameters, 25 * parameters)


def fused(net, x):
    q, k, v = (p(x).view(*x.shape[:2], -1, 3).transpose(1, 2) for p in (net.q, net.k, net.v))
    y = F.scaled_dot_product_attention(q, k, v)
    return net.out(y.transpose(1, 2).flatten(2))


def written_out(net, x):
    q, k, v = (p(x).view(*x.shape[:2], -1, 3).transpose(1, 2) for p in (net.q, net.k, net.v))
    y = (q @ k.transpose(-2, -1) / 3**0.5).softmax(-1) @ v
    return net.out(y.transpose(1, 2).flatten(2))


@pytest.mark.parametrize("forward", [fused, written_out])
def test_attention_by_head(forward):
    maps = {name: nn.Linear(6, 12, bias=False) for name in ("q", "k", "v")}
    model = Net(forward, **maps, out=nn.Linear(12, 6, bias=False))
    communities = found(model, torch.randn(2, 5, 6), proof=False)
    (head,) = communities.values()
    assert (head.kind, head.size) == ("head", 4)
    for num_heads in (4, 1):
        # Four maps of 5 tokens; queries with keys, and weights with values, of 5 x 5 pairs.
        parameters = 4 * 6 * 3 * num_heads
        macs = 5 * parameters + num_heads * 2 * 5 * 5 * 3
        assert costs(communities, **{head.name: num_heads}) == (parameters, macs)


def test_a_product_with_a_matrix_of_data_shrinks_with_what_it_carries():
    def forward(net, x, adjacency):
        return net.out(adjacency @ net.hidden(x))

    parts = {"hidden": nn.Linear(4, 8, bias=False), "out": nn.Linear(8, 2, bias=False)}
    communities = found(Net(forward, **parts), torch.randn(2, 5, 4), torch.rand(2, 5, 5))
    macs = 5 * 4 * 3 + 5 * 5 * 3 + 5 * 3 * 2
    assert costs(communities, hidden=3) == (4 * 3 + 3 * 2, macs)


def test_an_embedding_has_parameters_but_no_products():
    def forward(net, tokens):
        return net.out(net.table(tokens))

    parts = {"table": nn.Embedding(11, 8), "out": nn.Linear(8, 2, bias=False)}
    communities = found(Net(forward, **parts), torch.tensor([[1, 2, 3]]), proof=False)
    assert costs(communities, table=3) == (11 * 3 + 3 * 2, 3 * (3 * 2))


def test_a_tied_weight_counts_once_and_works_twice():
    def forward(net, x):
        return net.out(torch.relu(net.shared(torch.relu(net.shared(torch.relu(net.first(x)))))))

    parts = {n: nn.Linear(*s, bias=False) for n, s in {"first": (4, 8), "shared": (8, 8)}.items()}
    model = Net(forward, **parts, out=nn.Linear(8, 2, bias=False))
    model.alias = model.shared
    communities = found(model, torch.randn(2, 4), proof=False)
    (name,) = communities
    assert costs(communities, **{name: 3}) == (4 * 3 + 3 * 3 + 3 * 2, 4 * 3 + 2 * 3 * 3 + 3 * 2)


def test_parameters_that_the_graph_never_reads_cost_too():
    model = Net(lambda net, x: net.b(net.a(x)), a=nn.Linear(2, 4), b=nn.Linear(4, 1))
    model.idle = parameter(100)
    assert found(model, torch.randn(1, 2), proof=False).price().parameters == 12 + 5 + 100


def test_a_selection_of_another_model_has_no_price():
    communities = found(nn.Sequential(nn.Linear(2, 4), nn.Linear(4, 1)), torch.randn(1, 2))
    with pytest.raises(ValueError, match="survivors='1'"):
        communities.price({"1": mask(4, 2)})
    with pytest.raises(ValueError, match=r"survivors\['0'\]=\(3,\).*\(4,\)"):
        communities.price({"0": mask(3, 2)})


def draw(communities, generator):
    """Keep random populations, but neurons by fours: torch's product of experts needs that."""
    survivors = {}
    for c in communities.values():
        step = 4 if c.kind in ("neuron", "channel") else 1
        least = -(-c.minimum // step)
        num_kept = step * int(torch.randint(least, c.size // step + 1, (1,), generator=generator))
        survivors[c.name] = torch.zeros(c.size, dtype=torch.bool)
        survivors[c.name][torch.randperm(c.size, generator=generator)[:num_kept]] = True
    return survivors


@pytest.mark.parametrize(
    ("name", "residual"), [*((n, False) for n in ARCHITECTURES), ("hf-llama", True), ("vit", True)]
)
def test_prices_equal_what_a_cut_model_has(name, residual):
    model, inputs = build_architecture(name)
    communities = natsel.discover(model, inputs, residual=residual)
    assert residual == any(c.kind == "channel" for c in communities.values())
    assert communities.price().macs == communities.macs
    survivors = draw(communities, torch.Generator().manual_seed(0))
    small = remove(model, communities.values(), survivors)
    price = communities.price(survivors)
    assert price.parameters == sum(p.numel() for p in small.parameters())
    assert price.macs == natsel.discover(small, inputs, proof=False).macs
