"""Programs: sizes written into forward follow a removal, exactly, or the removal is refused."""

# ruff: noqa: E501 - one network a line reads best

import copy
import re
from functools import cache

import pytest
import torch
from exactness import TOLERANCE, Net, assert_exact, found, offered, reasons, selections
from literal_nets import EXACT, IMG, VEC, L
from torch import nn

import natsel
from natsel.common.calls import outputs_of
from natsel.communities.surgery.surgery import remove, silence
from natsel_bench.zoo import build_architecture

OFFERED = {
    "vit": {"first": ("head", 4), "second": ("head", 4), "up": ("neuron", 10)},
    "perceptron": {"a": ("neuron", 8), "b": ("neuron", 6)},
    "flattened": {"a": ("filter", 8), "b": ("filter", 6)},
    "split": {"a": ("neuron", 6), "a#2": ("neuron", 8)},
    "joined": {"a": ("neuron", 10)},
    "gated": {"a": ("neuron", 7)},
    "groups": {"a": ("filter", 8)},
    "constants": {"a": ("filter", 4), "b": ("filter", 4)},
    "spread": {"a": ("neuron", 4)},
}


@cache
def exact(name):
    """The same for a network that others use too; nothing changes it."""
    model, x = EXACT[name]()
    return program_of(model, x)


def program_of(model, *inputs):
    """A model with telling weights, the program of it, and its communities, in float64."""
    found(model, *inputs, proof=False)
    inputs = tuple(x.double() if x.is_floating_point() else x for x in inputs)
    program = natsel.as_program(model, inputs)
    return model, program, natsel.discover(program, inputs)


@pytest.mark.parametrize("name", EXACT)
def test_what_python_code_forbids_a_program_allows_exactly(name):
    model, program, communities = exact(name)
    assert offered(communities) == OFFERED[name]
    assert set(natsel.discover(model, communities.example_inputs)) < set(communities)
    assert_exact(communities, 4)
    assert program.state_dict().keys() == model.state_dict().keys()


@pytest.mark.parametrize("name", ["vit", "flattened", "constants"])
def test_a_small_program_equals_the_masked_model_at_any_batch_size(name):
    model, program, communities = exact(name)
    for survivors in selections(communities, 2)[-2:]:
        small = remove(program, communities.values(), survivors)
        masked = silence(model, communities.values(), survivors)  # the Python code, not the graph
        for batch in (1, 2, 7):
            x = torch.randn(batch, *IMG.shape[1:], dtype=torch.float64)
            assert (program(x) - model(x)).abs().max() < TOLERANCE
            assert (small(x) - masked(x)).abs().max() < TOLERANCE


def test_a_small_perceptron_is_its_formula():
    model, _, communities = exact("perceptron")
    first, second = torch.tensor([0, 3, 7]), torch.tensor([1, 2])
    survivors = {
        "a": torch.isin(torch.arange(8), first),
        "b": torch.isin(torch.arange(6), second),
    }
    small = remove(communities.model, communities.values(), survivors)
    x = torch.randn(7, 5, dtype=torch.float64)
    y = (x @ model.a.weight[first].T + model.a.bias[first]).relu()
    y = (y @ model.b.weight[second][:, first].T + model.b.bias[second]).tanh()
    expected = y @ model.c.weight[:, second].T + model.c.bias
    torch.testing.assert_close(small(x), expected)


def test_a_part_may_lose_everything():
    _, _, communities = exact("joined")
    alive = torch.arange(10) >= 5
    small = remove(communities.model, communities.values(), {"a": alive})
    assert small.a.weight.shape == (5, 5)
    assert small(VEC.double()).shape == (2, 3)
    masked = silence(communities.model, communities.values(), {"a": alive})
    assert (small(VEC.double()) - masked(VEC.double())).abs().max() < TOLERANCE


REFUSED = {
    "roll": (lambda m, x: m.b(m.a(x).roll(3, 1)), VEC, "a roll, a shuffle"),
    "shuffle": (lambda m, x: m.b(m.a(x).view(-1, 2, 6).transpose(1, 2).reshape(-1, 12)), VEC, "a roll, a shuffle"),
    "every other": (lambda m, x: m.b(m.a(x)) + m.a(x)[:, ::4].sum(1, keepdim=True), VEC, "aten.slice.Tensor"),
    "part of the batch": (lambda m, x: m.b(_first_rows(m.a(x).view(-1, 3)).view(-1, 12)), VEC, "cannot follow"),
    "heads one by one": (lambda m, x: m.b(torch.cat([m.a(x).view(-1, 4, 3)[:, i].softmax(-1) for i in range(4)], 1)), VEC, "aten.select.int"),
    "mean": (lambda m, x: m.b(m.a(x) - m.a(x).mean(1, keepdim=True)), VEC, "reduced together"),
}  # fmt: skip


def _first_rows(y):
    return torch.cat((y[:4] * 2, y[4:]))


@pytest.mark.parametrize("name", REFUSED)
def test_what_mixes_places_is_refused_by_name(name):
    forward, x, reason = REFUSED[name]
    _, _, communities = program_of(Net(forward, a=L(5, 12), b=L(12, 3)), x)
    assert not communities, offered(communities)
    assert reason in reasons(communities)


def test_a_number_computed_from_a_size_stays_what_it_is_in_the_masked_model():
    model, _, communities = program_of(
        Net(lambda m, x: m.b(m.a(x) / m.a(x).size(1)), a=L(5, 8), b=L(8, 3)), VEC
    )
    assert "outputs differ" in reasons(natsel.discover(model, (VEC.double(),)))
    survivors = {"a": torch.arange(8) < 3}
    small = remove(communities.model, communities.values(), survivors)
    masked = silence(model, communities.values(), survivors)
    assert (small(VEC.double()) - masked(VEC.double())).abs().max() < TOLERANCE


def test_refusals_of_python_code_name_the_remedy():
    model, x = EXACT["perceptron"]()
    assert {r.name: "natsel.as_program" in r.remedy for r in found(model, x).refused} == {
        "a": True,
        "b": True,
        "c": False,  # an output stays whole in a program, too
    }
    _, _, communities = program_of(Net(REFUSED["heads one by one"][0], a=L(5, 12), b=L(12, 3)), VEC)
    assert not any("as_program" in r.remedy for r in communities.refused)


def test_the_model_and_the_program_stay_as_they_are():
    model, program, communities = exact("split")
    x = VEC.double()
    before, result = copy.deepcopy(model.state_dict()), program(x)
    natsel.extract(program, {"a": torch.arange(6) < 3}, communities=communities)
    assert program(x).equal(result)
    for own in (model, program):
        assert all(tensor.equal(before[name]) for name, tensor in own.state_dict().items())
    other = natsel.as_program(model, (x,))
    with torch.no_grad():
        other.b.weight.zero_()
    assert model.b.weight.any()


def test_shared_frozen_and_unused_tensors_stay_so():
    model = Net(lambda m, x: m.c(m.b(m.a(x))), a=L(5, 5), b=L(5, 5), c=L(5, 2), spare=L(2, 2))
    model.b.weight = model.a.weight
    model.c.bias.requires_grad_(False)
    model.a.register_buffer("seen", torch.zeros(2), persistent=False)
    program = natsel.as_program(model, (VEC,))
    assert program.b.weight is program.a.weight
    assert not program.c.bias.requires_grad
    assert program.c.weight.requires_grad
    assert program.state_dict().keys() == model.state_dict().keys()
    assert dict(program.named_buffers()).keys() == dict(model.named_buffers()).keys()


def test_training_is_refused_only_where_it_differs():
    plain = natsel.as_program(Net(lambda m, x: m.a(x), a=L(5, 4)).train(), (VEC,))
    assert plain.training
    dropping = Net(lambda m, x: m.b(m.drop(m.a(x))), a=L(5, 4), b=L(4, 2), drop=nn.Dropout(0.5))
    program = natsel.as_program(dropping.train(), (VEC,))
    assert dropping.training
    assert not program.training
    with pytest.raises(ValueError, match="training differs in dropout"):
        program.train()
    program(VEC).sum().backward()
    assert program.a.weight.grad.any()


def test_inputs_of_other_shapes_or_names_are_refused():
    program = natsel.as_program(Net(lambda m, x: m.a(x), a=L(5, 4)), (VEC,))
    with pytest.raises(ValueError, match=r"input_0=\(2, 4\) is not allowed: expected the shape"):
        program(VEC[:, :4])
    with pytest.raises(ValueError, match="expected the program's inputs: input_0"):
        program(VEC, VEC)
    with pytest.raises(ValueError, match="expected shapes the model runs on"):
        natsel.discover(program, (VEC[:, :4],))


def test_a_batch_size_that_is_written_down_stays():
    model = Net(lambda m, x: m.b(m.a(x).view(2, 4)), a=L(5, 4), b=L(4, 3))
    _, program, communities = program_of(model, VEC)
    assert offered(communities) == {"a": ("neuron", 4)}
    assert_exact(communities, 2)
    with pytest.raises(ValueError, match=r"input_0=\(3, 5\)"):
        program(torch.zeros(3, 5))


def test_what_cannot_be_a_program_is_refused_in_one_line():
    def decides(m, x):
        return m.a(x) if x.sum() > 0 else m.a(-x)

    place = r"test_programs.py:\d+ `return m.a\(x\) if x.sum\(\) > 0"
    with pytest.raises(ValueError, match=f"model=Net cannot be exported.*{place}"):
        natsel.as_program(Net(decides, a=L(5, 4)), (VEC,))
    with pytest.raises(ValueError, match="computes something else as a program"):
        natsel.as_program(Net(lambda m, x: m.a(x) + torch.rand(1), a=L(5, 4)), (VEC,))


def test_the_heads_of_torch_layers_need_no_adapter():
    model, inputs = build_architecture("transformer-encoder")
    _, _, communities = program_of(model, *inputs)
    heads = {f"encoder.layers.{i}.self_attn": ("head", 4) for i in (0, 1)}
    assert heads.items() <= offered(communities).items()
    assert_exact(communities, 1)


def test_named_inputs_and_outputs_of_transformers():
    model, (tokens,) = build_architecture("hf-bert")
    inputs = {"input_ids": tokens[:, :4], "attention_mask": torch.ones_like(tokens[:, :4])}
    program = natsel.as_program(model.double(), inputs)
    communities = natsel.discover(program, inputs)
    assert sum(c.kind == "head" for c in communities.values()) == 2
    survivors = {name: torch.arange(c.size) % 3 > 0 for name, c in communities.items()}
    small = natsel.extract(program, survivors, communities=communities)
    masked = silence(model, communities.values(), survivors)
    for ours, theirs in zip(outputs_of(small(**inputs)), outputs_of(masked(**inputs)), strict=True):
        assert (ours - theirs).abs().max() < TOLERANCE
    assert small(**inputs).logits.shape == (2, 3)


def test_a_residual_width_under_a_normalisation_equals_what_python_code_loses():
    model, inputs = build_architecture("convnext")
    found(model, *inputs, proof=False)
    inputs = tuple(x.double() for x in inputs)
    program = natsel.as_program(model, inputs)
    theirs = natsel.discover(model, inputs, residual=True)
    ours = natsel.discover(program, inputs, residual=True)
    assert offered(ours) == offered(theirs)
    assert offered(ours)["stem"] == ("channel", 16)
    survivors = {name: torch.arange(c.size) % 3 > 0 for name, c in ours.items()}
    small = [
        remove(m, c.values(), survivors)(*inputs) for m, c in ((model, theirs), (program, ours))
    ]
    assert (small[0] - small[1]).abs().max() < TOLERANCE


def reading(number, kind):
    """A perceptron with its width in its code, that multiplies by a number that it reads."""
    model = Net(
        lambda s, x: s.out(s.first(x).relu().view(-1, 8)) * number(s, x),
        first=nn.Linear(4, 8),
        out=nn.Linear(8, 3),
    )
    if kind is nn.Parameter:
        model.factor = nn.Parameter(torch.tensor(2.5))
    elif kind is not None:
        model.register_buffer("factor", torch.tensor(kind))
    return model.eval()


@pytest.mark.parametrize("kind", [2.5, nn.Parameter])
def test_a_number_that_is_read_of_the_models_own_tensors_stays_a_reading(kind):
    model = reading(lambda s, x: s.factor.item(), kind)
    program = natsel.as_program(model, torch.randn(2, 4))
    communities = natsel.discover(program, torch.randn(2, 4))
    assert offered(communities) == {"first": ("neuron", 8)}
    small = natsel.extract(program, {"first": torch.arange(8) < 5}, communities=communities)
    masked = copy.deepcopy(model)
    masked.out.weight.data[:, 5:] = 0
    for tensors in (small, masked):
        tensors.factor.data.fill_(-3.0)  # no number that was written down
    x = torch.randn(3, 4)
    torch.testing.assert_close(small(x), masked(x))


@pytest.mark.parametrize(
    ("number", "kind", "told"),
    [
        (lambda s, x: x.sum().item(), None, "it reads a number of what it computes by .item()"),
        (lambda s, x: s.factor.item(), 8, "it reads a whole number of factor by .item()"),
    ],
)
def test_a_number_of_data_or_one_that_may_be_a_size_is_refused(number, kind, told):
    with pytest.raises(ValueError, match=re.escape(told)):
        natsel.as_program(reading(number, kind), torch.randn(2, 4))


class Rest(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.out = nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, x, *rest):
        return self.out(self.first(x).relu().view(-1, 8)) + sum(rest)


@pytest.mark.parametrize("count", [0, 2])
def test_arguments_of_any_number(count):
    model = Rest().eval()
    inputs = (torch.randn(2, 4), *(torch.randn(2, 3) for _ in range(count)))
    program = natsel.as_program(model, inputs)
    assert offered(natsel.discover(program, inputs)) == {"first": ("neuron", 8)}
    wider = tuple(torch.cat((x, x, x)) for x in inputs)
    torch.testing.assert_close(program(*wider), model(*wider))
