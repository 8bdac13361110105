"""The numbers of a graph before and after a removal, spelled out."""

import pytest
import torch
from exactness import Net
from literal_nets import EXACT, VEC, L

import natsel
from natsel.communities.programs.literals import FOLLOWERS, rewrite
from natsel.communities.programs.program import literals_of
from natsel.communities.surgery.surgery import remove

KEPT = {"a": [0, 2, 3], "a#2": [7]}
CASES = {
    # 3 of 8 neurons; b keeps all of its 6
    "perceptron": {"view.1.1": 3},
    # 3 of 6 in the first part, 1 of 8 in the second
    "split": {"split_with_sizes.1.0": 3, "split_with_sizes.1.1": 1},
    # all three are in the first half
    "joined": {"split.1.0": 3, "split.1.1": 0},
    # [:7] and [7:14] become [:3] and [3:6]
    "gated": {"slice_2.3": 3, "slice_4.2": 3, "slice_4.3": 6},
    # depthwise groups and the groups of the norm
    "groups": {"conv2d_1.6": 3, "group_norm.1": 3},
    # heads 0, 2 and 3 of 4 remain
    "spread": {
        "view.1.0": 3,
        "expand.1.0": 3,
        "reshape.1.0": 9,
        "unflatten.2.0": 3,
    },
}


@pytest.mark.parametrize("name", CASES)
def test_each_number_counts_what_remains(name):
    model, x = EXACT[name]()
    program = natsel.as_program(model, (x,))
    communities = natsel.discover(program, (x,))
    survivors = {n: torch.zeros(c.size, dtype=torch.bool) for n, c in communities.items()}
    for community, kept in KEPT.items():
        if community in survivors:
            survivors[community][kept] = True
    survivors = {n: mask for n, mask in survivors.items() if n in KEPT}
    small = remove(program, communities.values(), survivors)
    numbers = literals_of(small)
    numbers.pop("digest of the program")
    assert numbers == CASES[name]
    assert literals_of(program).keys() == {"digest of the program"}


def test_only_sizes_that_are_there_can_be_rewritten():
    program = natsel.as_program(Net(lambda m, x: m.a(x).view(-1, 4), a=L(5, 4)), (VEC,))
    graph = program._code.module.graph
    rewrite(graph, {"view.1.1": 2})
    view = next(node for node in graph.nodes if node.name == "view")
    assert view.args[1] == [-1, 2]
    for name in ("view", "view.1", "view.1.7", "view.0", "linear.1", "view.x", "view.1.1.0"):
        with pytest.raises(ValueError, match=f"the program has no size at {name}"):
            rewrite(graph, {name: 2})
    with pytest.raises(ValueError, match="the program has no size"):
        rewrite(graph, {"view.1.1": True})


def test_every_follower_is_an_operator_of_torch():
    for name in FOLLOWERS:
        packet, overload = name.removeprefix("aten.").split(".")
        assert overload in getattr(torch.ops.aten, packet).overloads()
