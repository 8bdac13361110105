"""Experts of routers that choose groups of them first, or prefer some: who can go, exactly."""

import pytest
import torch
import torch.nn.functional as F
from tests.evolution.networks import set_masses
from tests.mixtures import MIXTURES, token_ids

import natsel
from natsel.communities.kinds import EXPERT, GROUP

NAME = "model.layers.0.mlp"
LAST = "model.layers.1.mlp"
WIDE = [
    ("deepseek-v3-wide", False),
    ("deepseek-v3-wide", True),
    ("deepseek-v2-wide", False),
    pytest.param("deepseek-v2-wide", True, marks=pytest.mark.slow),
]


@pytest.fixture(scope="module")
def found():
    """Communities of routers, found once for each model and option."""
    kept = {}

    def find(family, groups=False):
        if (family, groups) not in kept:
            ids = (token_ids(1, 5),)
            kept[family, groups] = natsel.discover(MIXTURES[family](), ids, expert_groups=groups)
        return kept[family, groups]

    return find


def by_hand(block, x, living, groups, num_groups_chosen, num_chosen):
    """What a mixture with some experts computes, token by token, with no tensor of all of them."""
    gate, out = block.gate, torch.zeros_like(x)
    bias = getattr(gate, "e_score_correction_bias", None)
    for token, h in enumerate(x):
        logits = {e: float(gate.weight[e] @ h) for e in living}
        if bias is None:
            total = sum(torch.tensor(z, dtype=x.dtype).exp() for z in logits.values())
            share = {
                e: float(torch.tensor(z, dtype=x.dtype).exp() / total) for e, z in logits.items()
            }
            choice, worth = share, lambda best: best[0]
        else:
            share = {e: float(torch.tensor(z, dtype=x.dtype).sigmoid()) for e, z in logits.items()}
            choice = {e: s + float(bias[e]) for e, s in share.items()}
            worth = lambda best: best[0] + best[1]  # noqa: E731
        worths = {}
        for g, members in enumerate(groups):
            best = sorted((choice[e] for e in members if e in living), reverse=True)
            if best:
                worths[g] = worth(best)
        open_groups = sorted(worths, key=worths.get)[-num_groups_chosen:]
        there = [e for g in open_groups for e in groups[g] if e in living]
        chosen = sorted(there, key=choice.get)[-num_chosen:]
        norm = sum(share[e] for e in chosen) + 1e-20 if bias is not None else 1.0
        for e in chosen:
            a, b = F.linear(h, block.experts.gate_up_proj[e]).chunk(2)
            answer = F.linear(F.silu(a) * b, block.experts.down_proj[e])
            out[token] += share[e] / norm * gate.routed_scaling_factor * answer
    return out + block.shared_experts(x)


@pytest.mark.parametrize(("family", "groups"), WIDE)
def test_what_is_left_computes_what_a_loop_over_the_living_does(found, family, groups):
    communities = found(family, groups)
    community = communities[NAME]
    assert (community.kind, community.size) == (GROUP.name if groups else EXPERT.name, 4)
    assert community.minimum == 2  # of two groups four are chosen; two groups are chosen
    runs = [list(range(4 * g, 4 * g + 4)) for g in range(4)]
    owned = community.slices[0].index.tolist()
    assert owned == (runs if groups else [list(column) for column in zip(*runs, strict=True)])
    model = communities.model
    for alive in ([0, 2], [1, 2, 3]):
        mask = torch.zeros(4, dtype=torch.bool)
        mask[alive] = True
        small = natsel.extract(model, natsel.Survivors({NAME: mask}, communities))
        block = small.model.layers[0].mlp
        assert block.gate.weight.shape[0] == len(block.experts.down_proj) == 4 * len(alive)
        assert block.gate.num_group == (len(alive) if groups else 4)
        x = torch.randn(7, 16, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
        living = [e for place in alive for e in owned[place]]
        with torch.no_grad():
            want = by_hand(model.model.layers[0].mlp.double(), x, living, runs, 2, 4)
            model.float()
            got = block.float()(x[None].float())[0]
        torch.testing.assert_close(got, want.float(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", ["minimax-m2", pytest.param("ernie", marks=pytest.mark.slow)])
def test_a_preference_opens_no_way_to_who_is_gone(found, family):
    """A closed expert of high preference would take the place of one that counts."""
    communities = found(family)
    roles = {s.role: s for s in communities[LAST].slices}
    model = communities.model
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    with torch.no_grad():
        tensors[roles["preference"].tensor].view(-1)[0] = 9.0  # always chosen
    mask = torch.ones(8, dtype=torch.bool)
    mask[[0, 5]] = False
    small = natsel.extract(model, natsel.Survivors({LAST: mask}, communities))
    assert small(token_ids()).logits.shape == (2, 9, 64)


@pytest.mark.parametrize("groups", [False, True])
def test_they_are_scored_pruned_saved_and_generate(found, groups, tmp_path):
    communities = found("deepseek-v3-wide", groups)
    pruned = natsel.prune(
        *(communities.model, (token_ids(1, 5),), natsel.Sparsity(0.5)),
        scorer={communities[NAME].kind: "reap"},
        data=[{"input_ids": token_ids()}],
        include=NAME,
        expert_groups=groups,
    )
    assert pruned.verification.passed
    natsel.save(pruned.small, tmp_path / "small")
    back = natsel.load(tmp_path / "small")
    ids = token_ids(1, 5)
    made = [m.generate(ids, max_new_tokens=4, do_sample=False) for m in (pruned.small, back)]
    assert torch.equal(*made)
    pruned.small.save_pretrained(tmp_path / "hub")
    hub = type(communities.model).from_pretrained(tmp_path / "hub")
    config = hub.config
    assert (config.n_routed_experts, config.n_group) == ((8, 2) if groups else (8, 4))
    assert torch.equal(hub(ids).logits, pruned.small(ids).logits)


def test_reap_of_several_is_their_mean(found):
    communities = found("deepseek-v3-wide")
    ids = [{"input_ids": token_ids()}]
    mixed = natsel.score(communities.only("expert"), "reap", data=ids)[NAME]
    groups = found("deepseek-v3-wide", True)
    whole = natsel.score(groups.only("expert group"), "reap", data=ids)[NAME]
    torch.testing.assert_close(mixed.mean(), whole.mean())
    assert not torch.equal(mixed, whole)


@pytest.mark.parametrize("family", ["deepseek-v3-wide", "minimax-m2"])
def test_a_mass_of_0_closes_what_a_router_prefers(found, family):
    """One preference is held beside the router's weight, the other in the block around it."""
    communities = found(family)
    path = next(n for n, c in communities.items() if c.kind == EXPERT.name)
    community, model = communities[path], communities.model
    preferred = next(s for s in community.slices if s.role == "preference")
    with torch.no_grad():
        dict(model.named_buffers())[preferred.tensor].view(-1)[preferred.index[0]] = 9.0
    chosen = []
    handle = model.get_submodule(path).gate.register_forward_hook(
        lambda m, i, out: chosen.append(set(out[2].flatten().tolist()))
    )
    evolution = natsel.Evolution(communities.only(EXPERT.name))
    one = {n: torch.ones(c.size) for n, c in communities.items() if c.kind == EXPERT.name}
    dead = set(preferred.index[0].tolist())
    for mass in (1.0, 0.0, 0.5):
        one[path][0] = mass
        set_masses(evolution, one)
        model(token_ids())
    evolution.close()
    handle.remove()
    assert [bool(dead & found) for found in chosen] == [True, False, True]


def test_too_few_experts_to_choose_from_are_told(found):
    """Two of each group, of which the sum of the two best is what a group is worth."""
    told = [r for r in found("deepseek-v3").refused if r.name == f"{LAST}.gate"]
    assert [r.reason for r in told] == ["its router chooses all of them"]


def test_sorted_within_its_groups_each_loses_its_own_least(found):
    """Sorting changes nothing; what goes then is the least of each group, not of one place."""
    communities = found("deepseek-v3-wide")
    ids = [{"input_ids": token_ids()}]
    aligned = natsel.extraction.align(communities.model, communities.only("expert"), ids)
    model = aligned.model
    torch.testing.assert_close(model(token_ids()).logits, communities.model(token_ids()).logits)
    worth = aligned.scores[NAME]
    assert torch.equal(worth, worth.sort(descending=True).values)
    before = natsel.score(communities.only("expert"), "reap", data=ids)[NAME]
    assert worth[:2].sum() / 4 > before.sort(descending=True).values[:2].sum()
    mask = torch.tensor([True, True, False, False])
    again = natsel.discover(model, (token_ids(1, 5),))
    after = natsel.score(again.only("expert"), "reap", data=ids)[NAME]
    torch.testing.assert_close(after.double(), worth / 4)
    small = natsel.extract(model, natsel.Survivors({NAME: mask}, again))
    assert small.model.layers[0].mlp.gate.weight.shape[0] == 8
