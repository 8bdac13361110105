"""A run tells the graph that export tells, or says that it does not."""

import copy

import pytest
import torch
from torch import nn

from natsel.communities.copies import copied
from natsel.communities.programs.recording import Unrecorded, recorded


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(4, 8), nn.Linear(8, 4)
        self.norm = nn.LayerNorm(4)
        self.scale = torch.tensor(0.5)

    def forward(self, x):
        a, b = self.first(self.norm(x)).chunk(2, dim=-1)
        return x + self.last(torch.cat((a.relu(), b * self.scale), -1))


class Net(nn.Module):
    def __init__(self, decide=None):
        super().__init__()
        self.blocks = nn.ModuleList([Block(), Block()])
        self.decide = decide

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return x if self.decide is None else self.decide(x)


def test_the_graph_is_that_of_export():
    model, x = Net().eval(), torch.randn(2, 4)
    exported = torch.export.export(model, (x,), strict=False)
    ours = [entry for entry in recorded(model, (x,)).graph.nodes if entry.op == "call_function"]
    theirs = [entry for entry in exported.graph.nodes if entry.op == "call_function"]
    assert [str(n.target) for n in ours] == [str(n.target) for n in theirs]
    for mine, other in zip(ours, theirs, strict=True):
        paths = [
            [path for path, _ in n.meta.get("nn_module_stack", {}).values()] for n in (mine, other)
        ]
        assert paths[0] == paths[1]
        shapes = [
            [tuple(v.shape) for v in n.meta["val"]]
            if isinstance(n.meta["val"], list | tuple)
            else tuple(n.meta["val"].shape)
            for n in (mine, other)
        ]
        assert shapes[0] == shapes[1]
    line = ours[-1].meta["stack_trace"]
    assert "return x + self.last" in line


def test_parameters_have_the_names_of_the_model():
    model = Net().eval()
    signature = recorded(model, (torch.randn(2, 4),)).graph_signature
    assert set(signature.inputs_to_parameters.values()) == set(dict(model.named_parameters()))
    assert len(signature.user_inputs) == 1


@pytest.mark.parametrize(
    "decide",
    [
        lambda x: x if x.sum() > 0 else -x,
        lambda x: x * x.max().item(),
        lambda x: x * len(x.tolist()),
        lambda x: x + torch.from_numpy(x.numpy() * 2),
        lambda x: x[x > 0],
        lambda x: x.data * 2,
        lambda x: x.nonzero(),
        lambda x: torch.equal(x, x) * x,
    ],
)
def test_what_depends_on_values_is_left_to_export(decide):
    with pytest.raises(Unrecorded):
        recorded(Net(decide).eval(), (torch.randn(2, 4),))


def test_nothing_is_heard_afterwards():
    model, x = Net(lambda x: x * x.max().item()).eval(), torch.randn(2, 4)
    with pytest.raises(Unrecorded):
        recorded(model, (x,))
    assert not torch.compiler.is_exporting()
    assert model(x).shape == x.shape
    assert float(x.sum().item()) == float(x.sum())


def test_a_copy_is_a_deep_copy():
    model = Net()
    model.own = {"list": [1, {"deep": torch.zeros(2)}], "same": model.blocks[0]}
    model.again = model.blocks[1]
    ours, theirs = copied(model, {}), copy.deepcopy(model)
    assert ours.again is ours.blocks[1]
    assert ours.own["same"] is ours.blocks[0]
    assert ours.own["list"] is not model.own["list"]
    assert ours.own["list"][1]["deep"] is not model.own["list"][1]["deep"]
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert vars(ours).keys() == vars(theirs).keys()
    x = torch.randn(2, 4)
    assert torch.equal(ours(x), model(x))
