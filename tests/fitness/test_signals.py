"""Each signal against loops that a reader can check by eye."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import natsel

GRADIENTS = ("taylor", "alignment", "gradient")


@pytest.fixture
def dense():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    batches = [(torch.randn(6, 4).double(), torch.randint(3, (6,))) for _ in range(3)]
    return model, natsel.discover(model, (batches[0][0],)), batches


@pytest.fixture
def convolutional():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Conv2d(3, 4, 2), nn.ReLU(), nn.Flatten(), nn.Linear(36, 3)
    ).double()
    batches = [(torch.randn(2, 2, 6, 6).double(), torch.randint(3, (2,))) for _ in range(2)]
    return model, natsel.discover(model, (batches[0][0],)), batches


def close(ours, theirs):
    torch.testing.assert_close(
        ours, torch.as_tensor(theirs, dtype=torch.float32), rtol=1e-6, atol=1e-7
    )


def test_magnitudes_are_norms_of_rows_and_columns(dense):
    model, communities, _ = dense
    rows = [sum(w**2 for w in row) ** 0.5 for row in model[0].weight.tolist()]
    columns = [sum(w**2 for w in column) ** 0.5 for column in model[2].weight.T.tolist()]
    close(natsel.score(communities, "magnitude-in")["0"], rows)
    close(natsel.score(communities, "magnitude-out")["0"], columns)
    product = [a * b for a, b in zip(rows, columns, strict=True)]
    close(natsel.score(communities, "magnitude")["0"], product)


def test_norms_of_incoming_weights_by_name(dense):
    model, communities, _ = dense
    with torch.no_grad():
        model[0].weight[3] = 0
    rows = model[0].weight.tolist()
    squared = [sum(w**2 for w in row) ** 0.5 for row in rows]
    close(natsel.score(communities, "l1")["0"], [sum(abs(w) for w in row) for row in rows])
    close(natsel.score(communities, "l2")["0"], squared)
    close(natsel.score(communities, "log-l2")["0"], [math.log(1 + norm) for norm in squared])
    assert natsel.score(communities, "log-l2")["0"][3] == 0
    same = natsel.score(communities, "magnitude-in")
    assert torch.equal(natsel.score(communities, "l2")["0"], same["0"])


def test_a_filter_behind_flatten_owns_a_block_of_columns(convolutional):
    model, communities, _ = convolutional
    last = model[5].weight.detach().reshape(3, 4, 9)
    close(
        natsel.score(communities, "magnitude-out")["2"],
        [float(last[:, i].norm()) for i in range(4)],
    )
    close(
        natsel.score(communities, "magnitude-in")["2"],
        [float(model[2].weight[i].detach().norm()) for i in range(4)],
    )


def test_gradient_is_the_norm_of_the_incoming_gradient(dense):
    model, communities, batches = dense
    expected = torch.zeros(5, dtype=torch.float64)
    for x, y in batches:
        (gradient,) = torch.autograd.grad(F.cross_entropy(model(x), y), model[0].weight)
        expected += torch.stack([gradient[i].norm() for i in range(5)]) / len(batches)
    close(natsel.score(communities, "gradient", data=batches)["0"], expected.float())


@pytest.mark.parametrize("name", GRADIENTS)
def test_scores_by_gradient_are_averaged_over_batches(dense, name):
    _, communities, batches = dense
    each = [natsel.score(communities, name, data=[batch])["0"] for batch in batches]
    close(natsel.score(communities, name, data=batches)["0"], sum(each) / len(each))


def test_variance_is_over_all_samples_at_once(dense):
    model, communities, batches = dense
    hidden = torch.cat([torch.tanh(model[0](x)) for x, _ in batches])
    expected = [float(((h - h.mean()) ** 2).mean()) for h in hidden.T]
    close(natsel.score(communities, "variance", data=batches)["0"], expected)


def test_variance_survives_a_large_mean():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 3))
    nn.init.constant_(model[0].bias, 3000.0)
    communities = natsel.discover(model, (torch.randn(2, 4),))
    batches = [(torch.randn(64, 4),) for _ in range(3)]
    hidden = torch.cat([model[0](x) for (x,) in batches]).double()
    value = natsel.score(communities, "variance", data=batches)["0"]
    torch.testing.assert_close(value, hidden.var(0, correction=0).float(), rtol=1e-3, atol=0)


def test_variance_of_a_filter_is_over_samples_and_places(convolutional):
    model, communities, batches = convolutional
    maps = torch.cat([torch.relu(model[0](x)) for x, _ in batches])
    expected = [float(maps[:, i].var(correction=0)) for i in range(3)]
    close(natsel.score(communities, "variance", data=batches)["0"], expected)


def test_wanda_is_weight_times_root_mean_square_of_what_it_reads(dense, convolutional):
    model, communities, batches = dense
    hidden = torch.cat([torch.tanh(model[0](x)) for x, _ in batches])
    expected = []
    for i in range(5):
        norm = float((hidden[:, i] ** 2).mean() ** 0.5)
        expected.append(sum(abs(float(model[2].weight[o, i])) * norm for o in range(3)))
    close(natsel.score(communities, "wanda", data=batches)["0"], expected)

    model, communities, batches = convolutional
    maps = torch.cat([model[:5](x) for x, _ in batches])
    norms = (maps**2).mean(0).sqrt()
    terms = (model[5].weight.abs() * norms).sum(0).reshape(4, 9).sum(1)
    close(natsel.score(communities, "wanda", data=batches)["2"], terms.float())


def test_scores_of_a_gated_model_know_its_masses(dense):
    _model, communities, batches = dense
    plain = {n: natsel.score(communities, n, data=batches)["0"] for n in ("magnitude-out", "wanda")}
    spread = natsel.score(communities, "variance", data=batches)["0"]
    natsel.Evolution(communities, initial=0.5)
    for name, value in plain.items():
        close(natsel.score(communities, name, data=batches)["0"], value * 0.5)
    close(natsel.score(communities, "variance", data=batches)["0"], spread * 0.25)
