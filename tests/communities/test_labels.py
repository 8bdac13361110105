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
