"""A small model learns from its teacher: what it learns, what it keeps, what it refuses."""

from __future__ import annotations

import copy
import re
import sys
import tomllib
from pathlib import Path

import pytest
import torch
from recovery_helpers import WORDS, batches, pair, same_bits
from torch import nn

import natsel
from natsel.quality import losses
from natsel.recovery.blocks import pairs_of
from natsel.recovery.objective import compare
from natsel.recovery.settings import usual

QUICK = {"batch": 8, "learning_rate": 5e-3, "rows": 8}


def kl_of(small, teacher, tokens):
    with torch.no_grad():
        q, p = (m(input_ids=tokens).logits.double().log_softmax(-1) for m in (small, teacher))
    return float((p.exp() * (p - q)).sum(-1).mean())


def test_distillation_lowers_the_divergence_and_changes_neither_model():
    teacher, small, tokens = pair()
    before = {name: value.clone() for name, value in small.state_dict().items()}
    done = natsel.recover(small, teacher, data=batches(tokens, labels=False), steps=40, **QUICK)
    assert kl_of(done.model, teacher, tokens) < 0.4 * kl_of(small, teacher, tokens)
    assert all(torch.equal(before[name], value) for name, value in small.state_dict().items())
    assert not done.model.training
    assert "there are no labels: the teacher alone is followed" in done.notes


def test_the_first_row_of_the_curve_is_what_the_small_model_loses():
    teacher, small, tokens = pair()
    done = natsel.recover(small, teacher, data=batches(tokens), steps=1, batch=24, rows=5)
    q, p = (m(input_ids=tokens).logits.double().log_softmax(-1) for m in (small, teacher))
    kl = (p.exp() * (p - q)).sum(-1)[:, :-1].mean()  # nothing is asked of the last token
    ce = losses(small, batches(tokens))
    row = done.curve[0]
    assert row["kl"] == pytest.approx(kl.item(), rel=1e-5)
    assert row["cross_entropy"] == pytest.approx(float(ce.total.sum() / ce.counted.sum()), rel=1e-5)
    assert row["places"] == done.places == 24 * 7


@pytest.mark.parametrize("blocks", [0.0, 0.5])
def test_samples_may_run_together_or_one_by_one(blocks):
    teacher, small, tokens = pair()
    labels = tokens.clone()
    labels[:, 5:] = -100
    labels[3] = -100
    data = [{"input_ids": tokens, "labels": labels}]
    options = {"data": data, "steps": 3, "batch": 12, "blocks": blocks, "cross_entropy": 0.5}
    one, other = (natsel.recover(small, teacher, rows=rows, **options) for rows in (1, 12))
    for name in ("kl", "cross_entropy", "blocks", "norm"):
        assert one.curve[0][name] == pytest.approx(other.curve[0][name], rel=1e-4), name
    for a, b in zip(one.model.parameters(), other.model.parameters(), strict=True):
        assert torch.allclose(a, b, atol=2e-4)


def test_the_gradient_is_that_of_the_loss_written_out():
    teacher, small, tokens = pair()
    settings = usual(kl=0.7, cross_entropy=0.3, blocks=0.2, temperature=2.0)
    labels = tokens.roll(-1, 1).clone()
    labels[:, -1] = -100
    objective = compare(small, teacher, {"input_ids": tokens[:1]}, labels[:1], settings)
    assert objective.heads == ("lm_head", "lm_head")
    counts = labels != -100
    loss, _ = objective(small, {"input_ids": tokens}, labels, counts)
    parameters = list(small.parameters())
    found = torch.autograd.grad(loss, parameters)
    mine = small(input_ids=tokens, output_hidden_states=True)
    with torch.no_grad():
        theirs = teacher(input_ids=tokens, output_hidden_states=True)
    p, q = ((x.logits[counts] / 2).log_softmax(-1) for x in (theirs, mine))
    wanted = 0.7 * 4 * (p.exp() * (p - q)).sum(-1).mean()
    wanted += 0.3 * nn.functional.cross_entropy(mine.logits[counts], labels[counts])
    # The last hidden state that is told has been normalised: the block itself is looked at.
    wanted += 0.2 * block_distance(small, teacher, tokens, counts)
    for a, b in zip(found, torch.autograd.grad(wanted, parameters), strict=True):
        assert torch.allclose(a, b, rtol=1e-3, atol=1e-6)


def block_distance(small, teacher, tokens, counts):
    hidden = []
    for model in (small, teacher):
        held = []
        handles = [
            layer.register_forward_hook(
                lambda _, __, left, held=held: held.append(
                    left if torch.is_tensor(left) else left[0]
                )
            )
            for layer in model.model.layers
        ]
        model(input_ids=tokens)
        for handle in handles:
            handle.remove()
        hidden.append(held)
    each = [
        ((s - t).square().sum(-1) / t.square().sum(-1))[counts].mean()
        for s, t in zip(*hidden, strict=True)
    ]
    return sum(each) / len(each)


def test_block_outputs_are_followed():
    teacher, small, tokens = pair()
    options = {"data": batches(tokens), "steps": 40, "kl": 0.0, "blocks": 1.0, **QUICK}
    done = natsel.recover(small, teacher, **options)
    assert done.curve[-1]["blocks"] < 0.5 * done.curve[0]["blocks"]
    assert done.curve[-1]["kl"] < done.curve[0]["kl"]


class Blocks(nn.Module):
    """Two blocks of a width."""

    def __init__(self, width):
        super().__init__()
        blocks = (nn.Sequential(nn.Linear(width, 3), nn.Linear(3, width)) for _ in range(2))
        self.first, self.blocks = nn.Linear(2, width), nn.ModuleList(blocks)
        self.last = nn.Linear(width, 3)

    def forward(self, x):
        x = self.first(x)
        for block in self.blocks:
            x = block(x)
        return self.last(x)


def test_blocks_of_other_widths_are_left_out_and_said():
    x = (torch.ones(2, 2),)
    found = pairs_of(Blocks(4), Blocks(5), x, x)
    assert found.student == ()
    assert found.left_out == (
        "block outputs are compared at 0 of 2 blocks: elsewhere widths differ (4 and 5 at blocks.0)"
    )
    done = natsel.recover(Blocks(4), Blocks(5), data=[x], steps=1, blocks=1.0)
    assert found.left_out in done.notes
    none = pairs_of(nn.Linear(2, 3), Blocks(5), x, x)
    assert none.left_out == "block outputs are not compared: no chain of blocks in the small model"


def test_padding_never_counts():
    teacher, small, tokens = pair()
    mask = torch.ones_like(tokens)
    mask[:, 6:] = 0
    other = tokens.clone()
    other[:, 6:] = 7
    rows = [
        natsel.recover(
            small, teacher, data=[{"input_ids": x, "attention_mask": mask}], steps=1, batch=24
        ).curve[0]
        for x in (tokens, other)
    ]
    assert rows[0]["kl"] == pytest.approx(rows[1]["kl"], rel=1e-5)
    assert rows[0]["places"] == 24 * 6


def test_classifiers_of_images_learn_with_and_without_labels():
    torch.manual_seed(0)

    def network(width):
        return nn.Sequential(
            nn.Conv2d(1, width, 3),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(width * 16, 4),
        )

    teacher = network(6)
    x, y = torch.randn(40, 1, 6, 6), torch.randint(0, 4, (40,))
    small = network(3)
    for data in ([(x,)], [(x[:20], y[:20]), (x[20:], y[20:])]):
        done = natsel.recover(small, teacher, data=data, steps=60, batch=20, learning_rate=0.02)
        assert done.curve[-1]["kl"] < 0.5 * done.curve[0]["kl"]
        assert done.settings.rows == 20
        assert done.places == 60 * 20


def test_places_of_an_image_may_be_classified():
    torch.manual_seed(0)
    teacher, small = nn.Conv2d(2, 5, 1), nn.Conv2d(2, 5, 1)
    x = torch.randn(6, 2, 3, 4)
    y = torch.randint(0, 5, (6, 3, 4))
    with torch.no_grad():
        q, p = (m(x).double().movedim(1, -1).log_softmax(-1) for m in (small, teacher))
    wanted = float((p.exp() * (p - q)).sum(-1).mean())
    for data in ([(x,)], [(x, y)]):
        row = natsel.recover(small, teacher, data=data, steps=1, batch=6).curve[0]
        assert row["kl"] == pytest.approx(wanted, rel=1e-5)
        assert row["places"] == 6 * 12


def test_adapters_are_merged_and_the_rest_is_as_it_was():
    pytest.importorskip("peft")
    teacher, small, tokens = pair()
    options = {"data": batches(tokens), "steps": 60, "lora": 4, **QUICK}
    done = natsel.recover(small, teacher, **options)
    assert kl_of(done.model, teacher, tokens) < 0.8 * kl_of(small, teacher, tokens)
    mine, theirs = done.model.state_dict(), small.state_dict()
    assert mine.keys() == theirs.keys()
    changed = {name for name in mine if not torch.equal(mine[name], theirs[name])}
    assert changed == {name for name in mine if "_proj" in name}
    for name in changed:
        assert torch.linalg.matrix_rank((mine[name] - theirs[name]).double(), rtol=1e-4) <= 4
    assert [type(m) for m in done.model.modules()] == [type(m) for m in small.modules()]
    assert all(p.requires_grad for p in done.model.parameters())


def test_merged_adapters_say_what_they_said_beside_the_weights():
    pytest.importorskip("peft")
    from natsel.communities.copies import copied
    from natsel.recovery.low_rank import adapted, merged

    _, small, tokens = pair()
    model = adapted(copied(small, {}), 2, skip="lm_head", seed=0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(generator=torch.Generator().manual_seed(1))
        beside = model(input_ids=tokens).logits
        assert not torch.allclose(beside, small(input_ids=tokens).logits, atol=1e-2)
        assert torch.allclose(merged(model)(input_ids=tokens).logits, beside, atol=1e-4)


def sparse(model, share):
    """Return a copy of a model with the smallest weights of its linear layers at zero."""
    from natsel.communities.copies import copied

    model = copied(model, {})
    with torch.no_grad():
        for name, module in model.named_modules():
            if isinstance(module, nn.Linear) and "_proj" in name:
                size = module.weight.abs().flatten().sort().values
                module.weight[module.weight.abs() <= size[int(share * len(size))]] = 0.0
    return model


def test_weights_that_are_zero_stay_zero_and_the_others_learn():
    teacher, _, tokens = pair()
    small = sparse(teacher, 0.5)
    done = natsel.recover(small, teacher, data=batches(tokens), steps=30, **QUICK)
    for name, module in small.named_modules():
        if isinstance(module, nn.Linear) and "_proj" in name:
            weight = done.model.get_submodule(name).weight
            assert torch.equal(weight == 0, module.weight == 0), name
    assert done.curve[-1]["kl"] < 0.7 * done.curve[0]["kl"]
    assert "weights in 14 tensors are zero and stay it" in done.notes[-1]


def test_few_zeros_stay_only_where_that_is_asked():
    teacher, _, tokens = pair()
    small = sparse(teacher, 0.1)
    where = small.model.layers[0].mlp.down_proj.weight == 0
    kept = {}
    for keep in (None, True, False):
        options = {"data": batches(tokens), "steps": 2, "keep_zeros": keep}
        done = natsel.recover(small, teacher, **options)
        kept[keep] = bool((done.model.model.layers[0].mlp.down_proj.weight[where] == 0).all())
    assert kept == {None: False, True: True, False: False}


def test_the_control_is_the_same_shape_from_its_first_weights():
    teacher, small, tokens = pair()
    data = batches(tokens)
    options = {"data": data, "held_out": data, "steps": 5, "control": True, **QUICK}
    done = natsel.recover(small, teacher, **options)
    plain = natsel.recover(small, teacher, **{**options, "control": False})
    assert same_bits(done.model, plain.model)
    assert len(done.control) == 5
    assert done.control[0]["kl"] != done.curve[0]["kl"]
    assert [row["places"] for row in done.control] == [row["places"] for row in done.curve]
    assert list(done.losses) == ["before", "after", "teacher", "control"]
    assert plain.control is None


def test_first_weights_are_those_of_the_class():
    from natsel.recovery.fresh import fresh

    _, small, _ = pair()
    first = fresh(small, {}, seed=0)
    assert same_bits(first, fresh(small, {}, seed=0))
    assert not same_bits(first, fresh(small, {}, seed=1))
    assert [tuple(p.shape) for p in first.parameters()] == [
        tuple(p.shape) for p in small.parameters()
    ]
    assert first.lm_head.weight is first.model.embed_tokens.weight
    assert torch.equal(first.model.norm.weight, torch.ones(16))
    assert first.model.layers[0].mlp.up_proj.weight.std().item() == pytest.approx(0.2, rel=0.2)
    assert first.lm_head.weight.std().item() == pytest.approx(0.2, rel=0.2)
    torch.manual_seed(0)
    wanted = nn.Linear(3, 2)
    assert torch.equal(fresh(nn.Linear(3, 2), {}, seed=0).weight, wanted.weight)


class Owner(nn.Module):
    """Owns a parameter that nothing begins anew."""

    def __init__(self):
        super().__init__()
        self.layer, self.scale = nn.Linear(2, 3), nn.Parameter(torch.ones(3))

    def forward(self, x):
        return self.layer(x) * self.scale


def test_a_model_that_cannot_begin_anew_is_refused_before_anything_is_trained():
    told = r"^control=True is not allowed: .* nothing says how scale begins"
    with pytest.raises(ValueError, match=told):
        natsel.recover(Owner(), Owner(), data=[(torch.ones(2, 2),)], steps=1, control=True)


def test_held_out_data_are_measured_on_the_way():
    teacher, small, tokens = pair()
    data = batches(tokens)
    done = natsel.recover(small, teacher, data=data, held_out=data, steps=6, look_every=4)
    assert [row["step"] for row in done.curve if "held_out" in row] == [4, 6]
    after = losses(done.model, data)
    assert done.curve[-1]["held_out"] == float(after.total.sum() / after.counted.sum())
    assert torch.equal(done.losses["after"].total, after.total)
    assert torch.equal(done.losses["before"].total, losses(small, data).total)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (
            {"tokens": 3},
            "tokens=3 is not allowed: expected a whole number of at least one sample: 7",
        ),
        ({"tokens": 70, "steps": 3}, "tokens=70, steps=3 are not allowed: expected one of them"),
        ({"steps": 0}, "steps=0 is not allowed: expected a whole number >= 1"),
        ({"rows": 0}, "rows=0 is not allowed: expected a whole number >= 1"),
        ({"look_every": 0}, "look_every=0 is not allowed: expected a whole number >= 1, or None"),
        (
            {"save_every": 1.5},
            "save_every=1.5 is not allowed: expected a whole number >= 1, or None",
        ),
        ({"data": []}, "data='empty' is not allowed: expected at least one batch"),
        ({"data": 3}, "data=3 is not allowed: expected an iterable of batches"),
    ],
)
def test_wrong_input_is_told_in_one_line(options, told):
    teacher, small, tokens = pair()
    with pytest.raises(ValueError, match="^" + re.escape(told)) as caught:
        natsel.recover(small, teacher, **{"data": batches(tokens), **options})
    assert "\n" not in str(caught.value)


def test_labels_are_asked_for_where_they_are_needed():
    teacher, small, tokens = pair()
    with pytest.raises(ValueError, match=r"batches without labels.*or cross_entropy=0"):
        natsel.recover(small, teacher, data=batches(tokens, labels=False), cross_entropy=1.0)


def test_a_teacher_of_another_vocabulary_is_refused():
    transformers = pytest.importorskip("transformers")
    _, small, tokens = pair()
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1}
    config = transformers.LlamaConfig(**sizes, num_attention_heads=2, vocab_size=WORDS + 1)
    other = transformers.LlamaForCausalLM(config)
    with pytest.raises(ValueError, match=r"^teacher=.*\(1, 8, 41\).*same vocabulary"):
        natsel.recover(small, other, data=batches(tokens))


def test_a_loss_that_becomes_nan_ends_the_run_in_one_line():
    teacher, small, tokens = pair()
    with pytest.raises(natsel.NonFiniteError, match=r"at step \d+ of 50.*learning_rate below") as e:
        natsel.recover(small, teacher, data=batches(tokens), steps=50, learning_rate=1e30)
    assert "\n" not in str(e.value)


def test_tokens_say_how_many_places_are_read():
    teacher, small, tokens = pair()
    done = natsel.recover(small, teacher, data=batches(tokens), tokens=150, batch=2)
    # 150 tokens are 21 windows of 7 and a bit: the last of the steps of two has one.
    assert (done.settings.steps, done.places) == (11, 147)
    assert done.curve[-1]["places"] - done.curve[-2]["places"] == 7
    assert done.summary().splitlines()[0] == "11 steps over 147 tokens"
    assert "150 tokens were asked, 147 read: windows are read whole" in done.notes


def test_fewer_tokens_than_a_batch_has_are_no_whole_batch():
    teacher, small, tokens = pair()
    done = natsel.recover(small, teacher, data=batches(tokens), tokens=21)
    assert (done.settings.steps, done.settings.batch, done.places) == (1, 3, 21)
    assert not any("asked" in note for note in done.notes)
    told = "tokens=21, batch=4 .* a batch of at most 3"
    with pytest.raises(ValueError, match=told):
        natsel.recover(small, teacher, data=batches(tokens), tokens=21, batch=4)


def test_a_missing_library_of_adapters_is_named_with_its_extra(monkeypatch):
    teacher, small, tokens = pair()
    monkeypatch.setitem(sys.modules, "peft", None)
    told = re.escape("peft is not installed: pip install 'natsel[lora]'")
    with pytest.raises(natsel.MissingExtraError, match=told):
        natsel.recover(small, teacher, data=batches(tokens), steps=1, lora=2)
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    extras = project["project"]["optional-dependencies"]
    assert any(name.startswith("peft") for name in extras["lora"])


def test_a_step_reads_512_places_unless_it_is_said():
    teacher, small, tokens = pair()
    text = natsel.recover(small, teacher, data=batches(tokens), steps=1)
    assert text.settings.batch == 32  # windows of 8 tokens, and no more than that
    long = tokens.repeat(1, 16)
    assert natsel.recover(small, teacher, data=batches(long), steps=1).settings.batch == 4


@pytest.mark.parametrize("which", [0, 1], ids=["teacher", "small"])
def test_a_weight_that_was_no_number_is_named_and_no_checkpoint_is_made_up(which, tmp_path):
    models = copy.deepcopy(pair())
    name, weight = next(iter(models[which].named_parameters()))
    with torch.no_grad():
        weight[0, 0] = float("nan")
    tokens = torch.zeros_like(models[2])
    with pytest.raises(ArithmeticError, match=re.escape(name)) as told:
        natsel.recover(models[1], models[0], data=batches(tokens), steps=2, checkpoint=tmp_path)
    assert ("teacher", "small")[which] in str(told.value)
    assert "checkpoint" not in str(told.value)
    assert "learning_rate" not in str(told.value)


def test_tokens_and_labels_that_are_not_the_models_are_refused():
    teacher, small, tokens = pair()
    beyond = [*batches(tokens), {"input_ids": torch.full_like(tokens, WORDS)}]
    with pytest.raises(ValueError, match=f"data='tokens {WORDS} to {WORDS}' is not"):
        natsel.recover(small, teacher, data=beyond, steps=1)
    with pytest.raises(ValueError, match="held_out='tokens"):
        natsel.recover(small, teacher, data=batches(tokens), held_out=beyond, steps=1)
    shorter = [{"input_ids": tokens, "labels": tokens[:, 1:]}]
    with pytest.raises(ValueError, match="one label for each token"):
        natsel.recover(small, teacher, data=shorter, steps=1)
