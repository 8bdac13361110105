"""What elementwise arithmetic ties, with broadcasting; and where numbers may be rebound."""

import torch
from exactness import Net, found
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import fx, nn

from natsel.communities import Community, Cost, Rebinding, Slice
from natsel.communities.labels.labels import DATA, NONE, LabelSpace
from natsel.communities.labels.propagation import Propagation
from natsel.communities.proof.rebinding import attempts, candidates, conflict

NODE = fx.Graph().placeholder("x")
SHAPES = [(3,), (1,), (2, 1), (2, 3), (1, 3), (1, 1)]


def running():
    run = Propagation.__new__(Propagation)
    run.space = LabelSpace()
    run.axis_labels, run.roles = {}, {}
    return run


def operand(draw, kinds):
    shape = draw(st.sampled_from(SHAPES))
    size = torch.Size(shape).numel()
    return torch.tensor(draw(st.lists(st.sampled_from(kinds), min_size=size, max_size=size))).view(
        shape
    )


@st.composite
def operands(draw):
    return operand(draw, [NONE, DATA, 2, 3, 4, 5]), operand(draw, [NONE, DATA, 2, 3, 6, 7])


def after(first, second, times=1):
    run = running()
    run.space.fresh(4)
    run.space.fresh(2, loose=True)
    for _ in range(times):
        result = run.combine(NODE, first, second)
    labels = torch.arange(8)
    fixed = run.space.is_fixed(result)
    roots = torch.where(fixed, DATA, run.space.roots(result))
    return run.space.roots(labels).tolist(), run.space.is_fixed(labels).tolist(), roots.tolist()


@settings(max_examples=100, deadline=None)
@given(operands())
def test_operands_may_be_swapped(pair):
    first, second = pair
    assert after(first, second) == after(second, first)


@settings(max_examples=100, deadline=None)
@given(operands())
def test_nothing_that_is_a_population_becomes_plain_unless_it_is_fixed(pair):
    first, second = pair
    roots, fixed, result = after(first, second)
    free = {r for r, f in zip(roots[2:6], fixed[2:6], strict=True) if not f}
    met = {roots[i] for t in pair for i in t.reshape(-1).tolist() if 2 <= i < 6}
    assert free & met <= set(torch.tensor(result).reshape(-1).tolist())


POPULATIONS = [2, 3, 4, 5]


def fresh():
    run = running()
    run.space.fresh(4)
    run.space.fresh(2, loose=True)
    return run


def untouched(run):
    labels = torch.arange(8)
    alone = torch.equal(run.space.roots(labels), labels)
    return alone and not run.space.is_fixed(labels[2:]).any()


@st.composite
def of_populations(draw):
    return operand(draw, POPULATIONS)


@settings(max_examples=100, deadline=None)
@given(of_populations())
def test_what_meets_itself_ties_nothing(x):
    run = fresh()
    assert torch.equal(run.combine(NODE, x, x.clone()), x)
    assert untouched(run)


@settings(max_examples=100, deadline=None)
@given(of_populations(), st.sampled_from([DATA, 6]), st.sampled_from([(1,), (1, 1)]))
def test_a_scalar_ties_nothing(x, plain, shape):
    run = fresh()
    scalar = torch.full(shape, plain)
    whole = torch.broadcast_shapes(x.shape, scalar.shape)
    result = run.combine(NODE, x, scalar)
    if len(x.unique()) > 1:
        assert untouched(run)
    assert not run.space.is_fixed(x).any()
    assert torch.equal(run.space.roots(result), run.space.roots(x).expand(whole))


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_none_gives_way_to_the_other(data):
    run = fresh()
    x = operand(data.draw, [NONE, DATA, *POPULATIONS])
    assert torch.equal(run.combine(NODE, x, torch.full(x.shape, NONE)), x)
    assert untouched(run)


@settings(max_examples=100, deadline=None)
@given(st.permutations(POPULATIONS), st.permutations(POPULATIONS))
def test_what_meets_is_tied(first, second):
    run = fresh()
    run.combine(NODE, torch.tensor(first), torch.tensor(second))
    for a, b in zip(first, second, strict=True):
        assert run.space.roots(torch.tensor(a)) == run.space.roots(torch.tensor(b))
    assert not run.space.is_fixed(torch.tensor(POPULATIONS)).any()


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from(POPULATIONS), min_size=2, max_size=4, unique=True))
def test_data_that_tells_populations_apart_fixes_them(members):
    run = fresh()
    run.combine(NODE, torch.tensor(members), torch.full((len(members),), DATA))
    fixed = run.space.is_fixed(torch.tensor(POPULATIONS)).tolist()
    assert fixed == [label in members for label in POPULATIONS]


def test_a_parameter_with_a_value_for_each_population_goes_with_them():
    run = fresh()
    run.combine(NODE, torch.tensor([2, 3]), torch.tensor([6, 7]))
    assert run.space.roots(torch.tensor([6, 7])).tolist() == [2, 3]
    assert not run.space.is_fixed(torch.tensor([2, 3])).any()


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from([3, 4, 5]), min_size=2, max_size=3, unique=True))
def test_a_population_repeated_over_others_is_fixed_and_they_are_free(others):
    run = fresh()
    result = run.combine(NODE, torch.tensor([2]), torch.tensor(others))
    assert run.space.is_fixed(torch.tensor([2])).all()
    assert not run.space.is_fixed(torch.tensor(others)).any()
    assert result.tolist() == others


def test_broadcasting_by_hand():
    run = running()
    a, c = run.space.fresh(3), run.space.fresh(1)
    full = a.expand(2, 3)
    mask = torch.full((2, 1), DATA)
    assert torch.equal(run.combine(NODE, full, mask), full)
    assert not run.space.is_fixed(a).any()
    assert torch.equal(run.combine(NODE, full, c.expand(2, 1)), full)
    assert run.space.is_fixed(c).all(), "one population repeated over others"
    assert not run.space.is_fixed(a).any()
    other = run.space.fresh(3)
    run.combine(NODE, full, other)
    assert torch.equal(run.space.roots(other), run.space.roots(a))
    run.combine(NODE, full, torch.full((3,), DATA))
    assert run.space.is_fixed(a).all()


def community(name, size, width=1, rebindings=()):
    index = torch.arange(size * width).view(size, width)
    part = Slice(f"{name}.weight", 0, index, "out")
    return Community(name, "neuron", size, Cost(1, 1.0), (part,), rebindings)


def test_numbers_are_looked_for_around_the_slices():
    model = nn.Module()
    model.part = Net(None, a=nn.Linear(2, 8), pad=Net(None), other=nn.Linear(2, 2))
    model.part.heads, model.part.dim, model.part.depth = 4, 8, 3
    model.part.pad.num_new, model.part.flag = 4, True
    model.part.other.unseen = 4
    bounds = candidates(model, community("part.a", 4, width=2))
    assert set(bounds) == {
        Rebinding("part", "heads", 1),
        Rebinding("part", "dim", 2),
        Rebinding("part.pad", "num_new", 1),
    }


def test_the_fewest_rebindings_come_first():
    first, second = Rebinding("", "heads", 1), Rebinding("", "width", 2)
    tried = [
        [c.rebindings for c in alike] for alike in attempts(community("a", 4), (first, second))
    ]
    assert tried == [[()], [(first,), (second,)], [(first, second)]]


def test_two_communities_may_not_set_one_number():
    same = (Rebinding("block", "width", 1),)
    pair = [community("a", 4, rebindings=same), community("b", 4, rebindings=same)]
    assert conflict(pair) == "block.width"
    assert conflict(pair[:1]) is None


def test_the_order_of_use_does_not_matter():
    def early(m, x):
        y = m.a(x)
        z = m.c(x)
        return m.b(y) + m.d(z) + m.e(y + z)

    def late(m, x):
        y, z = m.a(x), m.c(x)
        tied = m.e(y + z)
        return m.b(y) + m.d(z) + tied

    sizes = {"a": (5, 4), "b": (4, 3), "c": (5, 4), "d": (4, 3), "e": (4, 3)}
    x = torch.randn(2, 5)
    tied = []
    for forward in (early, late):
        model = Net(forward, **{k: nn.Linear(*s) for k, s in sizes.items()})
        (only,) = found(model, x).values()
        tied.append({(s.tensor, s.axis, str(s.index.tolist())) for s in only.slices})
    assert tied[0] == tied[1]
