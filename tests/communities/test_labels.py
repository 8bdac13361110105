"""Union-find over labels, against a dictionary that does the same one pair at a time."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from natsel.communities.labels.labels import DATA, NONE, LabelSpace

NUM = 12
pairs = st.lists(st.tuples(st.integers(0, NUM + 1), st.integers(0, NUM + 1)), max_size=20)


class Slow:
    """Classes as a dictionary from label to set."""

    def __init__(self):
        self.classes = {i: {i} for i in range(2, NUM + 2)}
        self.fixed = set()

    def unite(self, a, b):
        if NONE in (a, b) or a == b:
            return
        if DATA in (a, b):
            self.fixed |= self.classes[max(a, b)]
            return
        merged = self.classes[a] | self.classes[b]
        if merged & self.fixed:
            self.fixed |= merged
        for member in merged:
            self.classes[member] = merged


@settings(max_examples=100, deadline=None)
@given(st.lists(pairs, max_size=4))
def test_unite_equals_a_dictionary(calls):
    space, slow = LabelSpace(), Slow()
    space.fresh(NUM)
    for call in calls:
        if call:
            first, second = torch.tensor(call).unbind(1)
            space.unite(first, second, "met data")
        for a, b in call:
            slow.unite(a, b)
    labels = torch.arange(2, NUM + 2)
    roots = space.roots(labels).tolist()
    assert roots == [min(slow.classes[i]) for i in labels.tolist()]
    fixed = space.is_fixed(labels).tolist()
    # One call sees its pairs at once: fixing spreads to what the same call unites.
    assert {i for i, f in zip(labels.tolist(), fixed, strict=True) if f} == {
        j for i in slow.fixed for j in slow.classes[i]
    }


@settings(max_examples=50, deadline=None)
@given(pairs, st.randoms(use_true_random=False))
def test_the_order_does_not_matter(calls, random):
    def classes(order):
        space = LabelSpace()
        space.fresh(NUM)
        for a, b in order:
            space.unite(torch.tensor([a]), torch.tensor([b]), "")
        labels = torch.arange(NUM + 2)
        return space.roots(labels).tolist(), space.is_fixed(labels).tolist()

    shuffled = list(calls)
    random.shuffle(shuffled)
    assert classes(calls) == classes(shuffled)
    assert classes(calls) == classes(calls + calls)


def test_none_never_merges():
    space = LabelSpace()
    a, b = space.fresh(2)
    none = torch.tensor(NONE)
    space.unite(a, none, "never")
    space.unite(none, b, "never")
    assert space.roots(torch.stack([none, a, b])).tolist() == [NONE, int(a), int(b)]
    assert not space.is_fixed(torch.stack([a, b])).any()


def test_meeting_data_fixes_with_the_reason_and_does_not_merge():
    space = LabelSpace()
    labels = space.fresh(3)
    space.unite(labels[:2], torch.tensor([DATA, DATA]), "it meets the input")
    assert space.is_fixed(labels).tolist() == [True, True, False]
    assert len(space.roots(labels).unique()) == 3
    assert space.reasons(labels[:1]) == ["it meets the input"]
    assert space.reasons(labels[2:]) == []


def test_a_reason_follows_its_class():
    space = LabelSpace()
    labels = space.fresh(3)
    space.fix(labels[:1], "first")
    space.unite(labels[:1], labels[1:2], "")
    assert space.is_fixed(labels).tolist() == [True, True, False]
    assert space.reasons(labels[1:2]) == ["first"]


def test_unite_along_ties_what_differs_only_there():
    space = LabelSpace()
    labels = space.fresh(2, 3)
    merged = space.unite_along(labels, (1,), "")
    assert merged.shape == (2, 1)
    roots = space.roots(labels)
    assert (roots == roots[:, :1]).all()
    assert roots[0, 0] != roots[1, 0]


def test_unite_along_steps_over_none():
    space = LabelSpace()
    labels = space.fresh(2)
    padded = torch.cat([torch.tensor([NONE]), labels])
    assert space.unite_along(padded, (0,), "").item() != NONE
    assert space.roots(labels).unique().numel() == 1


def test_loose_labels_hold_until_they_are_united():
    space = LabelSpace()
    labels, other = space.fresh(2, loose=True), space.fresh(2)
    assert space.is_loose(labels).all()
    assert not space.is_loose(other).any()
    space.unite(labels[:1], other[:1], "")
    assert space.is_loose(labels).tolist() == [False, True]


def test_changes_are_counted_only_when_something_changes():
    space = LabelSpace()
    a, b = space.fresh(2)
    space.unite(a, b, "")
    before = space.num_changes
    space.unite(b, a, "")
    assert space.num_changes == before


# The laws of the algebra, as docs/design.md states them.

LABELS = torch.arange(NUM + 2)


def state_after(calls, loose=0):
    space = LabelSpace()
    space.fresh(NUM - loose)
    space.fresh(loose, loose=True)
    for a, b in calls:
        space.unite(torch.tensor([a]), torch.tensor([b]), f"{a} met {b}")
    return space


def classes_of(space):
    return space.roots(LABELS).tolist(), space.is_fixed(LABELS).tolist()


@settings(max_examples=60, deadline=None)
@given(pairs, st.integers(0, NUM + 1), st.integers(0, 20))
def test_none_is_neutral(calls, label, place):
    among = [*calls[:place], (NONE, label), (label, NONE), *calls[place:]]
    assert classes_of(state_after(calls)) == classes_of(state_after(among))
    assert state_after(calls).is_loose(LABELS).equal(state_after(among).is_loose(LABELS))


@settings(max_examples=60, deadline=None)
@given(pairs)
def test_none_and_data_are_alone_and_roots_are_the_smallest(calls):
    roots = state_after(calls).roots(LABELS)
    assert (roots == NONE).sum() == 1
    assert (roots == DATA).sum() == 1
    assert (roots <= LABELS).all()
    assert roots[roots].equal(roots)


@settings(max_examples=60, deadline=None)
@given(pairs)
def test_fixed_holds_of_a_whole_class_and_stays(calls):
    space = LabelSpace()
    space.fresh(NUM)
    before = space.is_fixed(LABELS)
    for a, b in calls:
        space.unite(torch.tensor([a]), torch.tensor([b]), "")
        now = space.is_fixed(LABELS)
        assert now.equal(now[space.roots(LABELS)])
        assert (now | ~before).all()
        before = now


@settings(max_examples=60, deadline=None)
@given(pairs)
def test_a_class_is_fixed_exactly_if_one_of_it_met_data(calls):
    space = state_after(calls)
    roots = space.roots(LABELS)
    met = {max(a, b) for a, b in calls if DATA in (a, b) and max(a, b) > DATA}
    wanted = {int(roots[label]) for label in met} | {DATA}
    assert space.is_fixed(LABELS).tolist() == [int(r) in wanted for r in roots]


@settings(max_examples=60, deadline=None)
@given(pairs, st.integers(2, NUM + 1), st.integers(0, 20))
def test_fixing_early_and_late_is_the_same(calls, label, place):
    space = LabelSpace()
    space.fresh(NUM)
    for number, (a, b) in enumerate([*calls, (NONE, NONE)]):
        if number == min(place, len(calls)):
            space.fix(torch.tensor([label]), "now")
        space.unite(torch.tensor([a]), torch.tensor([b]), "")
    late = state_after(calls)
    late.fix(torch.tensor([label]), "now")
    assert classes_of(space) == classes_of(late)


@settings(max_examples=60, deadline=None)
@given(pairs)
def test_loose_is_made_so_and_alone(calls):
    space = state_after(calls, loose=5)
    roots = space.roots(LABELS).tolist()
    made = range(NUM + 2 - 5, NUM + 2)
    alone = [label in made and roots.count(roots[label]) == 1 for label in LABELS.tolist()]
    assert space.is_loose(LABELS).tolist() == alone


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, NUM + 1), min_size=12, max_size=12), st.sampled_from([0, 1, 2]))
def test_unite_along_is_the_union_of_what_differs_only_there(values, axis):
    labels = torch.tensor(values).view(2, 3, 2)
    space = LabelSpace()
    space.fresh(NUM)
    merged = space.unite_along(labels, (axis,), "")
    calls = [
        (a, b)
        for line in labels.movedim(axis, -1).reshape(-1, labels.shape[axis]).tolist()
        for a in line
        for b in line
    ]
    assert classes_of(space) == classes_of(state_after(calls))
    assert (merged == NONE).equal((labels == NONE).all(axis, keepdim=True))
    assert merged.shape[axis] == 1


@settings(max_examples=60, deadline=None)
@given(pairs)
def test_every_change_makes_the_partition_coarser_or_fixes_more(calls):
    space = LabelSpace()
    space.fresh(NUM)

    def size():
        return len(space.roots(LABELS).unique()) - int(space.is_fixed(LABELS).sum())

    for a, b in calls:
        before, changes = size(), space.num_changes
        space.unite(torch.tensor([a]), torch.tensor([b]), "")
        assert (size() < before) == (space.num_changes > changes)
        assert size() <= before
