"""Numbers that other methods than forward read, and those that no tensor tells."""

import warnings

import pytest
import torch
from exactness import found, selections
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
    communities = natsel.discover(model, images)
    assert {c.size for c in communities.values()} <= {8, 6}
    assert len(communities) >= 1
    masks = {n: torch.arange(c.size) % 4 < 3 for n, c in communities.items()}
    small = natsel.extract(model, natsel.Survivors(masks, communities)).double()
    twin, _ = masked(model, gone_from(model, small))
    with torch.no_grad():
        expected = twin.double()(images.double())
        fused = nn.Sequential(*(b.fused() for b in small[:5]), *small[5:])
        torch.testing.assert_close(fused(images.double()), expected)
    assert (small[1].in_chs, small[1].out_chs, small[1].groups) == (6, 6, 6)
    assert (small[2].in_chs, small[2].groups) == (6, 6)
    assert small[3].groups == 2
    assert model[1].in_chs == 8


@pytest.mark.parametrize("name", ["mobileone_s1", "fastvit_t8"])
def test_timm_makes_one_layer_of_several(name):
    prepare()
    timm = pytest.importorskip("timm")
    from timm.utils import reparameterize_model

    sizes = {"mobileone_s1": {}, "fastvit_t8": {"embed_dims": (8, 16, 24, 32)}}[name]
    if name == "fastvit_t8":
        sizes["layers"] = (1, 1, 1, 1)
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=3, **sizes).eval()
    images = torch.randn(1, 3, 64, 64)
    communities = natsel.discover(model, images)
    masks = {n: torch.arange(c.size) % 4 > 0 for n, c in communities.items()}
    small = natsel.extract(model, natsel.Survivors(masks, communities)).double()
    twin, _ = masked(model, gone_from(model, small))
    with torch.no_grad():
        fused = reparameterize_model(small.float()).double()
        expected = twin.double()(images.double())
        torch.testing.assert_close(fused(images.double()), expected, rtol=1e-4, atol=1e-4)


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
    images = torch.randn(2, 3, 8, 8)
    communities = found(model, images)
    (community,) = communities.values()
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        for survivors in selections(communities):
            small = natsel.extract(model, natsel.Survivors(survivors, communities))
            assert small(images).shape[1] == 4
            alive = int(survivors[community.name].sum())
            assert small.get_submodule(path).num_features == width * alive
            twin, _ = masked(model, gone_from(model, small))
            with torch.no_grad():
                expected = twin.double()(images.double())
                torch.testing.assert_close(small.double()(images.double()), expected)
