from __future__ import annotations

import torch

from natsel.dynamics import competition, crowding


def test_two_alike_and_one_apart():
    matrix = competition(torch.tensor([[1.0, 0.0], [-2.0, 0.0], [0.0, 1.0]]))
    # Squared cosines 1, 0, 0; row sums 1, 1, 0 have mean 2/3, so the scale is 3/2.
    assert matrix.tolist() == [[0, 1.5, 0], [1.5, 0, 0], [0, 0, 0]]


def test_half_the_angle():
    features = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    # Squared cosines 1/2, 0, 1/2; row sums 1/2, 1, 1/2 have mean 2/3.
    expected = [[0, 0.75, 0], [0.75, 0, 0.75], [0, 0.75, 0]]
    torch.testing.assert_close(competition(features), torch.tensor(expected))


def test_crowding_has_mean_one_at_full_mass():
    features = torch.randn(2, 3, 16, 8, generator=torch.Generator().manual_seed(0))
    matrix = competition(features)
    assert matrix.shape == (2, 3, 16, 16)
    torch.testing.assert_close(matrix, matrix.mT)
    assert (matrix >= 0).all()
    full = crowding(torch.ones(2, 3, 16), matrix)
    torch.testing.assert_close(full.mean(-1), torch.ones(2, 3))


def test_each_community_has_its_own_scale():
    features = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0))
    features[1] *= 100.0
    for one, matrix in zip(features, competition(features), strict=True):
        torch.testing.assert_close(matrix, competition(one))


def test_a_row_of_zeros_resembles_nobody():
    matrix = competition(torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 0.0]]))
    assert matrix.tolist() == [[0, 0, 0], [0, 0, 1.5], [0, 1.5, 0]]


def test_nobody_resembles_anybody():
    assert competition(torch.zeros(3, 4)).eq(0).all()
    assert competition(torch.ones(1, 4)).tolist() == [[0]]
    # An orthogonal basis is orthogonal but for rounding, which must not become competition.
    basis = torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(0)))[0]
    assert competition(basis).max() < 1e-5


def test_features_are_left_alone():
    features = torch.randn(4, 3)
    copy = features.clone()
    competition(features)
    assert torch.equal(features, copy)


def test_uniform_crowding():
    assert crowding(torch.tensor([1.0, 0.5, 0.0])).tolist() == [0.25, 0.5, 0.75]
    assert crowding(torch.tensor([0.7])).tolist() == [0.0]
