"""The optimizer goes on: its next step on the small model is its next step on the masked one."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import natsel
from natsel.communities.surgery.surgery import kept_indices, silence
from natsel.communities.tensors import tensors_of

OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=1e-2),
    "adam": lambda p: torch.optim.Adam(p, lr=1e-2, amsgrad=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-2, weight_decay=0.1),
}


def one_step(model, optimizer, x, labels):
    optimizer.zero_grad()
    F.cross_entropy(model(x), labels).backward()
    optimizer.step()


@pytest.mark.parametrize("name", ["mlp", "cnn", "vit"])
@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_the_next_step_is_that_of_the_masked_model(net, draw, name, kind):
    model = copy.deepcopy(net(name)[0]).double().eval()
    communities = natsel.discover(model, (net(name)[2][0].double(),))
    parameters = list(model.parameters())
    groups = [{"params": parameters[:2], "lr": 0.03}, {"params": parameters[2:]}]
    optimizer = OPTIMIZERS[kind](groups)
    generator = torch.Generator().manual_seed(0)
    batches = [
        (
            torch.randn(8, 1, 8, 8, generator=generator).double(),
            torch.randint(10, (8,), generator=generator),
        )
        for _ in range(4)
    ]
    for x, labels in batches[:3]:
        one_step(model, optimizer, x, labels)
    survivors = draw(communities, 0.5, 0)
    masked = silence(model, communities.values(), survivors)
    twin = OPTIMIZERS[kind](
        [
            {"params": list(masked.parameters())[:2], "lr": 0.03},
            {"params": list(masked.parameters())[2:]},
        ]
    )
    twin.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    small = natsel.extract(model, survivors, optimizer=optimizer)
    assert [g["lr"] for g in optimizer.param_groups] == [g["lr"] for g in twin.param_groups]
    assert [len(g["params"]) for g in optimizer.param_groups] == [2, len(parameters) - 2]
    held = {id(p) for g in optimizer.param_groups for p in g["params"]}
    assert held == {id(p) for p in small.parameters()}
    assert set(map(id, optimizer.state)) == held
    one_step(small, optimizer, *batches[3])
    one_step(masked, twin, *batches[3])
    kept = kept_indices(communities.values(), survivors, tensors_of(masked))
    theirs = dict(masked.named_parameters())
    for path, parameter in small.named_parameters():
        expected = theirs[path].detach()
        for axis, index in kept.get(path, {}).items():
            expected = expected.index_select(axis, index)
        torch.testing.assert_close(parameter.detach(), expected, rtol=0, atol=1e-6)


def test_a_fresh_optimizer_follows(net, draw):
    model = copy.deepcopy(net("mlp")[0])
    communities = natsel.discover(model, net("mlp")[2])
    optimizer = torch.optim.Adam(model.parameters())
    small = natsel.extract(model, draw(communities, 0.5, 0), optimizer=optimizer)
    one_step(small, optimizer, torch.randn(4, 1, 8, 8), torch.zeros(4, dtype=torch.long))


def test_an_optimizer_of_another_model_is_refused_and_stays_as_it_was(net, draw):
    model, communities, _ = net("mlp")
    stranger = nn.Linear(2, 2)
    optimizer = torch.optim.SGD([*model.parameters(), *stranger.parameters()], lr=0.1)
    before = [id(p) for p in optimizer.param_groups[0]["params"]]
    with pytest.raises(ValueError, match="optimizer="):
        natsel.extract(model, draw(communities, 0.5, 0), optimizer=optimizer)
    assert [id(p) for p in optimizer.param_groups[0]["params"]] == before
