"""Structure is tried on small pictures where a model takes them as it takes those given."""

import pytest
import torch
from exactness import Net, offered, reasons
from torch import nn

import natsel
from natsel.communities.proof.shrink import shrunk


def classifier(*more: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, stride=2),
        nn.ReLU(),
        nn.Conv2d(6, 4, 3, stride=2),
        *more,
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 3),
    ).eval()


def test_a_classifier_that_averages_over_places_takes_a_corner():
    x = torch.randn(2, 3, 224, 160)
    (few,) = shrunk(classifier(), (x,))
    assert torch.equal(few, x[..., :16, :16])


def test_named_inputs_keep_their_names_and_what_is_no_picture_stays():
    model = Net(lambda m, x, y: m.a(x).mean((2, 3)) + y, a=nn.Conv2d(3, 2, 3))
    x, y = torch.randn(1, 3, 256, 256), torch.randn(1, 2)
    few, other = shrunk(model, (x, y))
    assert few.shape == (1, 3, 16, 16)
    assert other is y


@pytest.mark.parametrize("side", [16, 31])
def test_pictures_that_are_small_already_stay(side):
    inputs = (torch.randn(1, 3, side, side),)
    assert shrunk(classifier(), inputs) is inputs


@pytest.mark.parametrize(("halvings", "side"), [(3, 16), (4, 24), (5, 48)])
def test_places_are_left_in_the_last_maps(halvings, side):
    halving = [nn.Conv2d(4, 4, 3, stride=2, padding=1) for _ in range(halvings - 2)]
    (few,) = shrunk(classifier(*halving), (torch.randn(1, 3, 192, 192),))
    assert few.shape[-1] == side


def test_one_that_changes_itself_on_small_pictures_keeps_the_size():
    def forward(m, x):
        m.window = min(m.window, x.shape[-1] // 4)
        return m.a(x).mean((2, 3)) / m.window

    model = Net(forward, a=nn.Conv2d(3, 2, 3))
    model.window = 7
    (few,) = shrunk(model, (torch.randn(1, 3, 64, 64),))
    assert few.shape[-1] == 32
    assert model.window == 7


def test_a_table_of_positions_and_maps_that_are_returned_keep_the_size():
    x = (torch.randn(1, 3, 224, 224),)
    assert shrunk(nn.Sequential(nn.Conv2d(3, 2, 3)), x) is x
    table = nn.Sequential(nn.Conv2d(3, 2, 16, stride=16), nn.Flatten(), nn.Linear(2 * 14 * 14, 3))
    assert shrunk(table, x) is x


def test_what_is_found_is_the_same_and_a_wrong_network_is_refused():
    x = torch.randn(1, 3, 160, 160)
    assert offered(natsel.discover(classifier(), x)) == {"0": ("filter", 6), "2": ("filter", 4)}
    divided = Net(
        lambda m, x: m.c((m.b(y) if (y := m.a(x)) is not None else y).mean((2, 3)) / y.size(1)),
        a=nn.Conv2d(3, 6, 3),
        b=nn.Conv2d(6, 4, 3),
        c=nn.Linear(4, 3),
    ).eval()
    communities = natsel.discover(divided, x)
    assert "a" not in communities
    assert "removing is not masking" in reasons(communities)
