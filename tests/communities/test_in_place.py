"""Operators that write into what nobody else holds become operators that give new values."""

import pytest
import torch
from torch import nn

from natsel import discover
from natsel.communities.programs.in_place import writes, written_anew


class Net(nn.Module):
    def __init__(self, forward):
        super().__init__()
        self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 3)
        self.between = forward

    def forward(self, x):
        return self.last(self.between(self.first(x)))


def relu(y):
    y.relu_()
    return y * 2


def chained(y):
    y.relu_()
    y.add_(torch.sigmoid(y))
    return y.mul_(y + 1)


def dropped(y):
    return nn.functional.dropout(y, 0.5, False, True)


def of_all_that_is_seen(y):
    part = torch.cat([y, y], 1)[:, :6]
    part += y
    return part


def of_one_result(y):
    values, places = y.topk(6, -1)
    values /= values.sum(-1, keepdim=True)
    inverse = torch.empty_like(places)
    inverse[:, places[0]] = torch.arange(6)
    return values * inverse


def of_a_part(y):
    both = torch.cat([y, y], 1)
    both[:, :6].mul_(2.0)
    return both[:, :6]


def through_view(y):
    part = y[:, :2]
    y.relu_()
    return y + part.sum()


def of_result(y):
    seen = y.relu_().view(-1, 6)
    y.mul_(3.0)
    return seen + 1


def two_names(y):
    same = nn.functional.dropout(y, 0.5, False)
    y.relu_()
    return same + y


def exported(forward):
    model = Net(forward).eval()
    x = torch.randn(2, 4)
    program = torch.export.export(model, (x,), strict=False)
    before = program.graph_module.print_readable(print_output=False)
    written_anew(program)
    program.graph_module.recompile()
    program.graph_module.graph.lint()
    return model, x, program, before


@pytest.mark.parametrize("forward", [relu, chained, dropped, of_all_that_is_seen, of_one_result])
def test_writes_into_fresh_results_are_replaced(forward):
    model, x, program, _ = exported(forward)
    assert not any(writes(node) for node in program.graph.nodes)
    assert torch.equal(program.module()(x), model(x))


@pytest.mark.parametrize("forward", [through_view, of_result, two_names, of_a_part])
def test_what_has_another_name_stays(forward):
    _, _, program, before = exported(forward)
    assert program.graph_module.print_readable(print_output=False) == before
    assert any(writes(node) for node in program.graph.nodes)


@pytest.mark.parametrize("forward", [relu, chained, two_names])
def test_neurons_behind_writes_are_found(forward):
    found = discover(Net(forward).eval(), (torch.randn(2, 4),))
    assert [c.size for c in found.values()] == [6]
