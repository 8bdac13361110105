"""Numbers that other methods than forward read, and those that no tensor tells."""

import warnings

import pytest
import torch
from exactness import apart, found, selections
from torch import nn

import natsel
from natsel_bench.peers.reference import distinct_
from natsel_bench.zoo.catalog.libraries import prepare
from natsel_bench.zoo.masked import gone_from, masked


class Branches(nn.Module):
    """A layer of several that become one, as MobileOne's and FastViT's blocks are."""

    def __init__(self, width, made, groups, conv=True):
        super().__init__()
        self.in_chs, self.out_chs, self.groups = width, made, groups
        if conv:
            self.conv = nn.Conv2d(width, made, 3, padding=1, groups=groups, bias=False)
        self.skip = nn.BatchNorm2d(width) if width == made else None

    def forward(self, x):
        y = self.skip(x) if self.skip is not None else 0
        return y + self.conv(x) if hasattr(self, "conv") else y

    def fused(self):
        """Return the one layer, built of the numbers that the block has."""
        layer = nn.Conv2d(self.in_chs, self.out_chs, 3, padding=1, groups=self.groups).double()
        weight = torch.zeros_like(layer.weight)
        bias = torch.zeros_like(layer.bias)
        if hasattr(self, "conv"):
            weight += self.conv.weight
        if self.skip is not None:
            scale = self.skip.weight / (self.skip.running_var + self.skip.eps).sqrt()
            for i in range(self.in_chs):
                weight[i, i % (self.in_chs // self.groups), 1, 1] += scale[i]
            bias += self.skip.bias - self.skip.running_mean * scale
        layer.weight.data, layer.bias.data = weight, bias
        return layer


def halved(model, images):
    """Return a model in float64 without half of each community, and what the masked one gives."""
    communities = natsel.discover(model, images)
    assert communities
    masks = {n: torch.arange(c.size) % 2 > 0 for n, c in communities.items()}
    small = natsel.extract(model, natsel.Survivors(masks, communities))
    twin, _ = masked(model, gone_from(model, small))
    with torch.no_grad():
        return small.double(), twin(images.double())


def test_blocks_say_what_their_layers_are():
    blocks = [
        Branches(3, 8, 1),
        Branches(8, 8, 8),
        Branches(8, 8, 8, conv=False),
        Branches(8, 6, 2),
        Branches(6, 6, 1),
    ]
    model = nn.Sequential(*blocks, nn.Flatten(), nn.Linear(6 * 16, 2)).eval()
    distinct_(model, seed=0)
    images = torch.randn(2, 3, 4, 4)
    small, expected = halved(model, images)
    with torch.no_grad():
        fused = nn.Sequential(*(b.fused() for b in small[:5]), *small[5:])
        torch.testing.assert_close(fused(images.double()), expected)
    assert (small[1].in_chs, small[1].out_chs, small[1].groups) == (4, 4, 4)
    assert (small[2].in_chs, small[2].groups) == (4, 4)
    assert small[3].groups == 2
    assert model[1].in_chs == 8


def mobileone():
    from timm.models.byobnet import MobileOneBlock

    return [MobileOneBlock(3, 8), MobileOneBlock(8, 8, group_size=1), MobileOneBlock(8, 6, 1)]


def fastvit():
    from timm.models.fastvit import PatchEmbed, RepMixerBlock

    return [nn.Conv2d(3, 4, 1), PatchEmbed(3, 1, 4, 8), RepMixerBlock(8), nn.Conv2d(8, 6, 1)]


@pytest.mark.parametrize("blocks", [mobileone, fastvit])
def test_timm_makes_one_layer_of_several(blocks):
    prepare()
    pytest.importorskip("timm")
    from timm.utils import reparameterize_model

    torch.manual_seed(0)
    model = nn.Sequential(*blocks(), nn.Flatten(), nn.LazyLinear(2)).eval()
    images = torch.randn(2, 3, 6, 6)
    model(images)
    distinct_(model, seed=0)
    small, expected = halved(model, images)
    fused = reparameterize_model(small)
    assert len(list(fused.modules())) < len(list(small.modules()))
    with torch.no_grad():
        torch.testing.assert_close(fused(images.double()), expected)


NORMED = {
    "one": ((nn.Conv2d(3, 8, 3), nn.InstanceNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3)), "1", 1),
    "several places each": (
        (nn.Conv2d(3, 8, 3), nn.PixelUnshuffle(2), nn.InstanceNorm2d(32), nn.Conv2d(32, 4, 1)),
        "2",
        4,
    ),
    "with parameters": (
        (nn.Conv2d(3, 8, 3), nn.InstanceNorm2d(8, affine=True), nn.Conv2d(8, 4, 3)),
        "1",
        1,
    ),
}


@pytest.mark.parametrize("name", NORMED)
def test_instance_norms_say_how_many_channels_they_have(name):
    layers, path, width = NORMED[name]
    model = nn.Sequential(*layers).eval()
    images = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        communities = found(model, images)
        (community,) = communities.values()
        for survivors in selections(communities):
            small = natsel.extract(model, natsel.Survivors(survivors, communities))
            assert small(images).shape[1] == 4
            alive = int(survivors.get(community.name, torch.ones(8)).sum())
            assert small.get_submodule(path).num_features == width * alive
            assert apart(communities, survivors, images) < 1e-9


def test_a_program_has_no_instance_norms():
    images = torch.randn(2, 3, 8, 8)
    program = natsel.as_program(nn.Sequential(*NORMED["one"][0]).float().eval(), images)
    (community,) = natsel.discover(program, images).values()
    assert (community.size, community.rebindings) == (8, ())
