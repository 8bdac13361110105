"""Scorers of branches, each beside what one would compute by hand."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.func import functional_call

import natsel
from natsel.fitness.depth import BRANCH_SCORERS


class Block(nn.Module):
    """h + W2 relu(W1 h)."""

    def __init__(self, width=4):
        super().__init__()
        self.first = nn.Linear(width, 6)
        self.second = nn.Linear(6, width)

    def forward(self, h):
        return h + self.second(torch.relu(self.first(h)))


class Tower(nn.Module):
    """Blocks between an entry and an exit."""

    def __init__(self, *blocks):
        super().__init__()
        self.enter = nn.Linear(3, 4)
        self.blocks = nn.ModuleList(blocks or [Block() for _ in range(3)])
        self.leave = nn.Linear(4, 2)

    def forward(self, x):
        h = self.enter(x)
        for block in self.blocks:
            h = block(h)
        return self.leave(h)


G = torch.Generator().manual_seed(0)
BATCHES = [(torch.randn(n, 3, generator=G), torch.randint(2, (n,), generator=G)) for n in (5, 5, 7)]
NAME = "blocks:branches"


@pytest.fixture
def tower():
    torch.manual_seed(0)
    return Tower().eval()


def branches_of(model, inputs=BATCHES[0][0], **options):
    return natsel.discover(model, inputs, branches=True, **options).only("branch")


def streams_of(model, x):
    """Return the stream before each block, and after the last."""
    found = [model.enter(x)]
    for block in model.blocks:
        found.append(block(found[-1]))
    return found


def test_cosine_is_one_minus_the_mean_cosine_over_all_samples(tower):
    with torch.no_grad():
        streams = streams_of(tower, torch.cat([x for x, _ in BATCHES]))
    expected = [
        1 - nn.functional.cosine_similarity(s, t, dim=1).mean() for s, t in pairwise(streams)
    ]
    found = natsel.score(branches_of(tower), "cosine", data=BATCHES)[NAME]
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-5, atol=1e-6)


def test_relative_norm_is_what_is_added_over_what_was_there(tower):
    with torch.no_grad():
        streams = streams_of(tower, torch.cat([x for x, _ in BATCHES]))
    expected = [((t - s).norm(dim=1) / s.norm(dim=1)).mean() for s, t in pairwise(streams)]
    found = natsel.score(branches_of(tower), "relative-norm", data=[(x,) for x, _ in BATCHES])
    torch.testing.assert_close(found[NAME], torch.stack(expected), rtol=1e-5, atol=1e-6)


def loss_without(model, names, batches):
    closed = {n: torch.zeros_like(p) for n, p in model.named_parameters() if n in names}
    total = count = 0.0
    with torch.no_grad():
        for x, y in batches:
            output = functional_call(model, closed, (x,))
            total += float(nn.functional.cross_entropy(output, y, reduction="sum"))
            count += len(y)
    return total / count


def test_loss_is_what_the_loss_grows_by_when_the_branch_is_zero(tower):
    whole = loss_without(tower, (), BATCHES)
    expected = [
        loss_without(tower, (f"blocks.{i}.second.weight", f"blocks.{i}.second.bias"), BATCHES)
        - whole
        for i in range(3)
    ]
    found = natsel.score(branches_of(tower), "loss", data=BATCHES)[NAME]
    torch.testing.assert_close(found, torch.tensor(expected), rtol=1e-4, atol=1e-6)
    assert "forward" not in vars(tower.blocks[0])


def test_blocks_that_were_run_are_not_run_again(tower):
    communities = branches_of(tower)
    runs = [0, 0, 0]
    for i, block in enumerate(tower.blocks):

        def count(*_, i=i):
            runs[i] += 1

        block.first.register_forward_hook(count)
    natsel.score(communities, "loss", data=[(BATCHES[0][0][:1], BATCHES[0][1][:1])])
    # Once whole, once to find the chain; the first without itself and to be left; the last with
    # each of the three branches out.
    assert runs == [2 + 1 + 1, 2 + 2 + 1, 2 + 3]


def test_a_loss_of_ones_own_is_the_mean_over_batches(tower):
    def squared(output, labels):
        return (output[:, 0] - labels).square().mean()

    def mean(closed):
        values = [squared(functional_call(tower, closed, (x,)), y) for x, y in BATCHES]
        return float(torch.stack(values).mean())

    with torch.no_grad():
        expected = []
        for i in range(3):
            names = (f"blocks.{i}.second.weight", f"blocks.{i}.second.bias")
            closed = {n: torch.zeros_like(tower.get_parameter(n)) for n in names}
            expected.append(mean(closed) - mean({}))
    found = natsel.score(branches_of(tower), "loss", data=BATCHES, criterion=squared)[NAME]
    torch.testing.assert_close(found, torch.tensor(expected), rtol=1e-4, atol=1e-6)


def test_taylor_is_the_gradient_of_a_mass_in_front_of_the_branch(tower):
    mass = torch.ones(3, requires_grad=True)
    expected = torch.zeros(3)
    for x, y in BATCHES:
        h = tower.enter(x)
        for block, m in zip(tower.blocks, mass, strict=True):
            h = h + m * (block(h) - h)
        loss = nn.functional.cross_entropy(tower.leave(h), y)
        expected += torch.autograd.grad(loss, mass)[0].abs() / len(BATCHES)
    found = natsel.score(branches_of(tower), "taylor", data=BATCHES)[NAME]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    assert all(p.grad is None for p in tower.parameters())


class Parallel(nn.Module):
    """h + A h + B h: what each adds is seen where it leaves its module."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, h):
        return h + self.a(h) + self.b(torch.relu(h))


def test_branches_side_by_side_are_told_apart():
    torch.manual_seed(0)
    model = Tower(Parallel(), Parallel()).eval()
    communities = branches_of(model)
    ((name, community),) = communities.items()
    assert [b.name for b in community.branches][:2] == ["blocks.0.a", "blocks.0.b"]
    x = BATCHES[0][0]
    with torch.no_grad():
        h = model.enter(x)
        block = model.blocks[0]
        expected = [
            1 - nn.functional.cosine_similarity(h, h + added, dim=1).mean()
            for added in (block.a(h), block.b(torch.relu(h)))
        ]
    found = natsel.score(communities, "cosine", data=[(x,)])[name][:2]
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-5, atol=1e-6)


class Convolved(nn.Module):
    """relu(h + norm(conv(h))): the stream of images lies along channels."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.relu = nn.ReLU()

    def forward(self, h):
        return self.relu(h + self.norm(self.conv(h)))


def test_images_are_compared_place_by_place_along_channels():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 1), Convolved(), Convolved(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    ).eval()
    x = torch.randn(2, 3, 4, 4, generator=G)
    ((name, community),) = branches_of(model, x).items()
    assert [b.axis for b in community.branches] == [-3, -3]
    with torch.no_grad():
        h = model[0](x)
        after = h + model[1].norm(model[1].conv(h))
    expected = 1 - nn.functional.cosine_similarity(h, after, dim=1).mean()
    found = natsel.score(branches_of(model, x), "cosine", data=[(x,)])[name][0]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_whole_blocks_are_populations_of_their_own(tower):
    communities = natsel.discover(tower, BATCHES[0][0], branches="blocks").only("branch")
    ((name, community),) = communities.items()
    assert name == "blocks:blocks"
    assert [b.name for b in community.branches] == ["blocks.0", "blocks.1", "blocks.2"]
    survivors = natsel.Survivors({name: torch.tensor([True, False, True])}, communities)
    small = natsel.extract(tower, survivors)
    assert len(small.blocks) == 2
    assert communities.price(survivors).parameters == sum(p.numel() for p in small.parameters())


def test_each_kind_has_a_scorer_of_its_own(tower):
    communities = natsel.discover(tower, BATCHES[0][0], branches=True)
    scorers = {"branch": "loss", "neuron": "magnitude"}
    scores = natsel.score(communities, scorers, data=BATCHES)
    assert list(scores) == list(communities)
    for name, community in communities.items():
        alone = communities.only(community.kind)
        expected = natsel.score(alone, scorers[community.kind], data=BATCHES)
        assert torch.equal(scores[name], expected[name])
    survivors = natsel.select(scores, natsel.Sparsity(0.34))
    assert int((~survivors[NAME]).sum()) == 1


def test_one_pass_serves_signals_of_branches_and_of_others(tower):
    communities = natsel.discover(tower, BATCHES[0][0], branches=True)
    with pytest.warns(UserWarning, match="'loss' says nothing of neuron communities"):
        together = natsel.score_all(communities, ["taylor", "fisher", "loss"], data=BATCHES)
    for name, scores in together.items():
        known = communities.only("branch") if name == "loss" else communities
        expected = natsel.score(known, name, data=BATCHES)
        assert all(torch.equal(scores[n], expected[n]) for n in expected)


def test_what_knows_no_branches_leaves_them_whole_and_says_so(tower):
    communities = natsel.discover(tower, BATCHES[0][0], branches=True)
    with pytest.warns(UserWarning, match="'magnitude' says nothing of branch communities") as said:
        scores = natsel.score(communities, "magnitude")
    assert NAME not in scores
    assert said[0].filename == __file__
    with pytest.warns(UserWarning, match="'cosine' says nothing of neuron communities"):
        assert list(natsel.score(communities, "cosine", data=BATCHES)) == [NAME]


@pytest.mark.parametrize(
    ("scorer", "told"),
    [
        ("magnitude", "for branches one of loss, cosine, relative-norm, taylor, fisher"),
        ("wanda", "for branches one of"),
        ("cosinus", "did you mean 'cosine'"),
        ({"neuron": "l1"}, "kinds that the model has: branch"),
        ({}, "a scorer for at least one kind"),
    ],
)
def test_what_does_not_score_branches_is_refused_by_name(tower, scorer, told):
    with pytest.raises(ValueError, match=told):
        natsel.score(branches_of(tower), scorer, data=BATCHES)


@pytest.mark.parametrize("scorer", list(BRANCH_SCORERS))
def test_data_are_needed_and_there(tower, scorer):
    communities = branches_of(tower)
    with pytest.raises(ValueError, match=f"scorer '{scorer}' reads them"):
        natsel.score(communities, scorer)
    with pytest.raises(ValueError, match="at least one batch"):
        natsel.score(communities, scorer, data=[])


def test_a_scorer_of_branches_alone_needs_some():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    communities = natsel.discover(model, BATCHES[0][0])
    with pytest.raises(ValueError, match=r"it scores branches alone .*branches=True"):
        natsel.score(communities, "cosine", data=BATCHES)


def test_language_models_are_read_without_their_padding():
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            hidden_size=16,
            intermediate_size=24,
            num_attention_heads=4,
            num_key_value_heads=2,
            num_hidden_layers=3,
            vocab_size=50,
        )
    ).eval()
    tokens = torch.randint(3, 50, (2, 8), generator=G)
    mask = torch.ones(2, 8, dtype=torch.long)
    mask[1, 5:] = 0
    labels = tokens.masked_fill(mask == 0, -100)
    data = [{"input_ids": tokens, "attention_mask": mask, "labels": labels}]
    communities = natsel.discover(model, {"input_ids": tokens}, branches=True).only("branch")
    ((name, community),) = communities.items()
    with torch.no_grad():
        hidden = model(tokens, attention_mask=mask, output_hidden_states=True).hidden_states
        whole = model(tokens, attention_mask=mask, labels=labels).loss
        first = model.model.layers[0]
        entered = hidden[0]
    seen = {}
    first.post_attention_layernorm.register_forward_pre_hook(
        lambda _, args: seen.__setitem__("h", args[0])
    )
    with torch.no_grad():
        model(tokens, attention_mask=mask)
    real = mask.bool()
    expected = 1 - nn.functional.cosine_similarity(entered[real], seen["h"][real], dim=1).mean()
    found = natsel.score(communities, "cosine", data=data)[name][0]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-7)
    losses = natsel.score(communities, "loss", data=data)[name]
    for place, branch in enumerate(community.branches):
        closed = {n: torch.zeros_like(model.get_parameter(n)) for n in branch.gates}
        with torch.no_grad():
            named = {"input_ids": tokens, "attention_mask": mask, "labels": labels}
            without = functional_call(model, closed, (), named).loss
        assert float(losses[place]) == pytest.approx(float(without - whole), abs=1e-5)
