"""Who leaves among tokens leaves exactly: the rest computes what all places compute."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from vits import FAMILIES, NO_CLASS, images, vit

import natsel
from natsel.live_populations import TOKEN_METHODS, Held, Merges, TokenMethod, prove
from natsel.live_populations.tokens.moves import Move, dropped, fused, merged, moved, nearest
from natsel.live_populations.tokens.pace import spread_over

SHARE = natsel.Sparsity(0.4)
KINDS = {
    "dropped": ("received", {}),
    "by pairs": ("merge", {}),
    "fused": ("received", {"fuse": True}),
    "at one block": ("key-norm", {"blocks": [1], "spread": True}),
    "before the first": ("merge", {"blocks": [-1, 1]}),
    "nearest": ("received", {"merge": True, "pace": "share"}),
}
CASES = [
    (family, kind)
    for family in FAMILIES
    for kind in (KINDS if family.startswith("own") else list(KINDS)[:3])
]


@pytest.mark.parametrize(("family", "kind"), CASES)
def test_who_left_is_who_is_hidden_and_who_merged_is_duplicates(family, kind):
    method, options = KINDS[kind]
    found = prove(vit(family), method, SHARE, images(), **options)
    assert found.passed, found.reason
    assert found.max_abs_difference < 1e-10
    if kind == "by pairs":  # of the same shape as whole: the effect is seen
        assert found.effect > 1e-3


@pytest.mark.parametrize("name", TOKEN_METHODS)
def test_every_method_is_exact(name):
    found = prove(vit(), name, SHARE, images())
    assert found.passed
    assert found.effect > 1e-3


def by_hand(model, x, gone):
    """Return logits of natsel's own ViT where tokens that are gone after a block are hidden."""
    x = model.embedding(model.stem(x)).flatten(2).transpose(1, 2)
    x = torch.cat((model.cls.expand(len(x), -1, -1), x), 1) + model.positions
    hidden = torch.zeros(x.shape[:2], dtype=torch.bool)
    for index, block in enumerate(model.blocks):
        b, t, d = x.shape
        at = block.attention
        q, k, v = at.qkv(block.norm1(x)).reshape(b, t, 3, at.heads, -1).permute(2, 0, 3, 1, 4)
        logits = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
        weights = logits.masked_fill(hidden[:, None, None], -torch.inf).softmax(-1)
        x = x + at.proj((weights @ v).transpose(1, 2).reshape(b, t, d))
        hidden = hidden | gone[index]
        x = x + block.mlp(block.norm2(x))
    return model.head(model.norm(x)[:, 0])


@pytest.mark.parametrize("method", ["class-attention", "diversity", "random"])
def test_dropping_is_the_masked_model_spelled_out(method):
    model, x = vit().double(), images().double()
    with torch.no_grad():
        with natsel.live(model, method, SHARE) as handle:
            found = model(x)
        gone = [handle.owners(block) < 0 for block in range(3)]
        assert [int(g[0].sum()) for g in gone] == [3, 6, 7]
        torch.testing.assert_close(found, by_hand(model, x, gone), rtol=0, atol=1e-12)
        assert (found - model(x)).abs().max() > 1e-3


def test_dropping_is_the_masked_model_of_transformers():
    """The masks go through the library's own argument, not through natsel's."""
    model, x = vit("vit").double(), images().double()
    with torch.no_grad():
        with natsel.live(model, "received", SHARE) as handle:
            found = model(x).logits
        hooks = []
        for block, layer in enumerate(model.vit.layers):
            hidden = handle.owners(block - 1) < 0 if block else torch.zeros(2, 17).bool()
            mask = torch.zeros(2, 1, 1, 17).double().masked_fill(hidden[:, None, None], -torch.inf)

            def masked(module, args, named, mask=mask):
                return (args[0], mask, *args[2:]), named

            hooks.append(layer.register_forward_pre_hook(masked, with_kwargs=True))
        expected = model(x).logits
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_merging_is_the_law_on_the_simplex():
    """Masses add, features become their mean by mass; nobody is lost."""
    x = torch.tensor([[[9.0], [6.0], [3.0], [0.0]]]).double()
    mass = torch.tensor([[1, 1, 2, 4]])
    move = Move(torch.tensor([[0, 1]]), torch.tensor([[3, 2]]), torch.tensor([[1, 1]]))
    features, total = moved(x, mass, move)
    assert features.squeeze().tolist() == [9.0, (6 + 2 * 3) / 7]
    assert total.tolist() == [[1, 7]]
    assert total.sum() == mass.sum()
    assert move.slots(4).tolist() == [[0, 1, 1, 1]]


def test_log_mass_is_proportional_attention():
    """A token of mass m gets what m equal tokens get together."""
    model = vit("own-mean", depth=1).double()
    attention = model.blocks[0].attention
    x, mass = torch.randn(1, 3, 16).double(), torch.tensor([1, 3, 2])
    from natsel.live_populations.tokens.watching import Watching

    with Watching("", x, mass.double().log()[None], None):
        found = attention(x)
    copies = x.repeat_interleave(mass, 1)
    expected = attention(copies)[:, [0, 1, 4]]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("family", ["own", "own-mean"])
@pytest.mark.parametrize("method", ["merge", "received"])
def test_equal_tokens_merge_without_a_trace(family, method):
    """Patches that are equal and stand nowhere: one of mass m is m of them."""
    model = vit(family).double()
    with torch.no_grad():
        model.positions.zero_()
        x = images(2).double()
        x = x[:, :, :3, :3].tile(1, 1, 4, 4)
        whole = model(x)
        with natsel.live(model, method, natsel.Sparsity(0.7), merge=method != "merge") as handle:
            found = model(x)
    torch.testing.assert_close(found, whole, rtol=0, atol=1e-12)
    seen = handle.num_seen
    assert handle.num_held == seen - natsel.Sparsity(0.7).count(seen)
    assert handle.mass().sum(-1).tolist() == [seen, seen]
    assert handle.mass().max() > 1


@pytest.mark.parametrize("share", [0.1, 0.5, 0.8])
@pytest.mark.parametrize("method", ["merge", "class-attention", "random"])
def test_counts_are_exact(method, share):
    model = vit()
    budget = natsel.Sparsity(share)
    with natsel.live(model, method, budget) as handle:
        model(images(3))
    assert handle.num_seen == 17
    assert handle.num_held == 17 - budget.count(17)
    assert sum(handle.leaving.values()) == budget.count(17)
    positions = handle.positions()
    assert positions.shape == (3, handle.num_held)
    assert (positions[:, 0] == 0).all(), "the class token stays"
    assert (positions.diff(dim=-1) > 0).all()
    with natsel.live(model, method, Held(9)) as handle:
        model(images(1))
    assert [handle.held(b) for b in range(3)] == [14, 11, 9]


def test_ties_stay_by_the_lower_index():
    assert dropped(torch.tensor([[0.0, 2, 1, 1, 1]]), 2, 1).kept.tolist() == [[0, 1, 2]]
    flat = TokenMethod("flat", lambda tokens: torch.zeros(tokens.features.shape[:2]))
    model = vit()
    with natsel.live(model, flat, Held(5)) as handle:
        model(images(2))
    assert handle.positions().tolist() == [[0, 1, 2, 3, 4]] * 2


def test_moves_by_hand():
    scores = torch.tensor([[-torch.inf, 3.0, 1.0, 2.0]])
    assert fused(scores, 1, 1).kept.tolist() == [[0, 1, 3]]  # 3 is the fittest of the two fused
    x = torch.tensor([[[1.0], [10.0], [100.0], [1000.0]]])
    assert moved(x, None, fused(scores, 1, 1))[0].squeeze().tolist() == [1.0, 10.0, 2100.0]
    hosts = torch.tensor([[0, 0, 3, 0]])
    assert merged(scores, hosts, 1, 1).hosts.tolist() == [[2]]
    keys = F.normalize(torch.tensor([[[1.0, 0], [0, 1], [1, 0.1], [-1, 0]]]), dim=-1)
    move = nearest(scores, keys, 1, 1)  # the class token has the nearest key, and takes none
    assert (move.leaving.tolist(), move.hosts.tolist()) == ([[2]], [[1]])


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ((26, range(3), 65, 1), {0: 9, 1: 9, 2: 8}),
        ((26, (1,), 65, 1), {1: 26}),
        ((38, range(3), 65, 1, "share"), {0: 17, 1: 12, 2: 9}),
        ((0, range(2), 65, 1), {0: 0, 1: 0}),
        ((50, range(3), 65, 1, "even", lambda free: free // 2), {0: 18, 1: 18, 2: 14}),
    ],
)
def test_the_pace(given, expected):
    assert spread_over(*given) == expected


def test_the_map_back_to_places():
    model, x = vit("vit-eager"), images()
    with natsel.live(model, "merge", SHARE, spread=False) as handle:
        features = model(x).last_hidden_state
    places = handle.places()
    assert places.shape == (2, 10, 17)
    assert (places.sum(1) == 1).all()
    assert torch.equal(places.sum(-1), handle.mass())
    spread = handle.spread(features)
    assert spread.shape == (2, 17, 16)
    for row, place in ((0, 3), (1, 16)):
        assert torch.equal(spread[row, place], features[row, places[row, :, place].long().argmax()])
    with natsel.live(model, "merge", SHARE):
        assert torch.equal(model(x).last_hidden_state, spread)
    with natsel.live(model, "received", SHARE) as handle:
        features = model(x).last_hidden_state
    gone = handle.owners() < 0
    assert gone.sum(-1).tolist() == [7, 7]
    assert (handle.spread(features, fill=-7.0)[gone] == -7.0).all()


def test_what_a_scorer_sees_is_the_attention_of_the_block():
    seen = {}

    def look(tokens):
        seen["rows"], seen["received"] = tokens.of_class(), tokens.received()
        return tokens.features.norm(dim=-1)

    for family in ("vit", "spelled-out"):
        model = vit(family, **({"attn_implementation": "eager"} if family == "vit" else {}))
        with natsel.live(model, look, Held(10), blocks=[0]):
            model(images())
        assert torch.allclose(seen["rows"].sum(-1), torch.ones(2))
        assert torch.allclose(seen["received"].sum(-1), torch.ones(2))
        if family == "vit":
            weights = model(images(), output_attentions=True).attentions[0]
            assert torch.allclose(seen["rows"], weights.mean(1)[:, 0], atol=1e-6)
            assert torch.allclose(seen["received"], weights.mean((1, 2)), atol=1e-6)


def test_fused_and_spelled_out_attention_choose_the_same():
    sdpa, eager = vit("vit"), vit("vit", attn_implementation="eager")
    eager.load_state_dict(sdpa.state_dict())
    for method in TOKEN_METHODS:
        with natsel.live(sdpa, method, SHARE) as one, natsel.live(eager, method, SHARE) as other:
            a, b = sdpa(images()).logits, eager(images()).logits
        assert torch.equal(one.owners(), other.owners())
        assert torch.allclose(a, b, atol=1e-5)


def test_nothing_is_left_of_it():
    model, x = vit("vit"), images()
    before = model(x).logits
    for method in ("merge", "class-attention"):
        with natsel.live(model, method, natsel.Sparsity(0)) as handle:
            assert torch.equal(model(x).logits, before), "at share 0 nothing changes"
        assert handle.num_held == 17
        with natsel.live(model, method, SHARE) as handle:
            assert not torch.equal(model(x).logits, before)
        assert handle.is_closed
        assert torch.equal(model(x).logits, before)
        handle.close()
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_an_error_in_the_middle_leaves_nothing_behind():
    model, x = vit(), images()
    before = model(x)

    class Broken(nn.Module):
        def forward(self, x):
            raise RuntimeError("broken")

    good, model.blocks[1].mlp = model.blocks[1].mlp, Broken()
    with natsel.live(model, "merge", SHARE):
        with pytest.raises(RuntimeError, match="broken"):
            model(x)
        assert torch.overrides._get_current_function_mode() is None
        model.blocks[1].mlp = good
        after = model(x)
    with natsel.live(model, "merge", SHARE):
        assert torch.equal(model(x), after)
    assert torch.equal(model(x), before)


def test_gradients_go_through_who_lives():
    model = vit().train()
    with natsel.live(model, "merge", SHARE):
        model(images()).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_chance_is_the_seed():
    model, x = vit(), images()

    def drawn(seed):
        with natsel.live(model, "random", SHARE, seed=seed) as handle:
            model(x)
        return handle.positions()

    assert torch.equal(drawn(3), drawn(3))
    assert not torch.equal(drawn(3), drawn(4))


def test_a_method_of_ones_own():
    """One function; here one that merges everybody who leaves into the first place."""

    def into_the_first(tokens):
        scores = tokens.features.norm(dim=-1)
        scores[:, tokens.num_prefix] = torch.inf
        return Merges(scores, torch.full(scores.shape, tokens.num_prefix))

    model = vit()
    with natsel.live(model, into_the_first, SHARE) as handle:
        model(images())
    assert handle.mass().tolist() == [[1, 8, *[1] * 8]] * 2
    assert prove(model, into_the_first, SHARE, images(), spread=True).passed


def test_families_without_a_class_token_are_known():
    for family in FAMILIES:
        with natsel.live(vit(family), "random", SHARE) as handle:
            expected = {"deit": 2, "registers": 5}.get(family, 0 if family in NO_CLASS else 1)
            assert handle.num_prefix == expected, family


@pytest.mark.parametrize("average", [True, False])
def test_multihead_attention_gives_its_weights_where_asked(average):
    model, seen = vit("multihead"), {}
    block = model.blocks[0]
    block.asked.update(need_weights=True, average_attn_weights=average)
    block.attention.register_forward_hook(lambda m, args, out: seen.update(found=out[1]))
    plain = model(images())
    expected = seen["found"]
    with natsel.live(model, "class-attention", SHARE, blocks=[0], merge=False):
        assert not torch.equal(model(images()), plain)
    torch.testing.assert_close(seen["found"], expected)
    assert expected.dim() == (3 if average else 4)


TIMM = {"img_size": 12, "patch_size": 3, "embed_dim": 16, "depth": 3, "num_heads": 2}
NAMES = {
    "vit_tiny_patch16_224": 1,
    "deit_tiny_distilled_patch16_224": 2,
    "vit_small_patch14_reg4_dinov2": 5,
    "vit_base_patch16_clip_224": 1,
    "vit_base_patch16_siglip_224": 0,
}


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_models_of_timm(name, fused):
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    model = timm.create_model(name, **TIMM).eval()
    for module in model.blocks.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = fused
    for method in ("merge", "received"):
        found = prove(model, method, SHARE, images())
        assert found.passed, found.reason
    with natsel.live(model, "merge", SHARE) as handle:
        model(images())
    assert handle.num_prefix == NAMES[name]
