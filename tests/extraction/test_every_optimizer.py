"""Every optimizer goes on with the small model, or is refused by name and stays as it was."""

from __future__ import annotations

import copy
import itertools
from collections import defaultdict

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import natsel
from natsel.communities.surgery.surgery import cut, kept_indices
from natsel.extraction.state_layouts import KNOWN, register_state

WIDTHS = (12, 10, 7, 3)
GONE = {"0": (1, 4, 5, 8), "2": (0, 6)}


def classes():
    base = torch.optim.Optimizer
    found = [value for value in vars(torch.optim).values() if isinstance(value, type)]
    return sorted((c for c in found if issubclass(c, base) and c is not base), key=str)


# What makes a step of a whole tensor (a clipped or scaled one) a step of each weight.
SETTINGS = {
    "Adafactor": [{"lr": 1e-5, "d": 1e9, "eps": (None, 1e3)}],
    "Adam": [{}, {"amsgrad": True}, {"foreach": True}, {"fused": True}, {"lr": torch.tensor(0.01)}],
    "AdamW": [{"amsgrad": True}, {"fused": True, "amsgrad": True}],
    "Adagrad": [{}, {"fused": True}],
    "LBFGS": [{"max_iter": 4, "lr": 0.1}, {"max_iter": 3, "line_search_fn": "strong_wolfe"}],
    "NAdam": [{}, {"momentum_decay": 0.1}],
    "RMSprop": [{}, {"momentum": 0.9, "centered": True}],
    "SGD": [
        {},
        {"momentum": 0.9, "nesterov": True, "weight_decay": 0.01},
        {"momentum": 0.9, "fused": True},
    ],
}  # fmt: skip
TABLE = [(c, settings) for c in classes() for settings in SETTINGS.get(c.__name__, [{}])]


def masks():
    return {
        name: torch.tensor([place not in gone for place in range(size)])
        for (name, gone), size in zip(GONE.items(), WIDTHS[1:], strict=False)
    }


def network(widths=WIDTHS, bias=True, idle=False):
    """A perceptron; with ``idle`` neurons that neither do nor learn anything."""
    torch.manual_seed(0)
    layers = []
    for given, made in itertools.pairwise(widths):
        layers += [nn.Linear(given, made, bias=bias), nn.ReLU()]
    model = nn.Sequential(*layers[:-1]).double()
    if idle:
        with torch.no_grad():
            for name, gone in GONE.items():
                for parameter in model[int(name)].parameters():
                    parameter[list(gone)] = 0.0
                model[int(name) + 2].weight[:, list(gone)] = 0.0
    return model


def batches():
    generator = torch.Generator().manual_seed(1)
    while True:
        x = torch.randn(16, WIDTHS[0], generator=generator).double()
        yield x, torch.randint(WIDTHS[-1], (16,), generator=generator)


def step(model, optimizer, batch):
    x, labels = batch
    sparse = isinstance(optimizer, torch.optim.SparseAdam)

    def loss():
        optimizer.zero_grad()
        value = F.cross_entropy(model(x), labels)
        value.backward()
        for parameter in model.parameters() if sparse else ():
            parameter.grad = parameter.grad.to_sparse()
        return value

    if isinstance(optimizer, torch.optim.LBFGS):
        optimizer.step(loss)
    else:
        loss()
        optimizer.step()


def holds(model, kind):
    """Return what an optimizer of a class takes of a model."""
    return [p for p in model.parameters() if kind is not torch.optim.Muon or p.dim() == 2]


def kept_of(model, communities):
    return kept_indices(communities.values(), masks(), dict(model.named_parameters()))


def same_where_kept(small, model, kept, **tolerance):
    theirs = dict(model.named_parameters())
    for name, parameter in small.named_parameters():
        expected = cut(theirs[name], kept.get(name, {}))
        torch.testing.assert_close(parameter.detach(), expected, **tolerance)


def idle_run(make, kind, **tolerance):
    """Remove what does nothing in the middle of a training: all goes on as if nothing was."""
    model = network(idle=True)
    optimizer = make(holds(model, kind))
    data = batches()
    for _ in range(3):
        step(model, optimizer, next(data))
    assert all(bool((p == 0).any()) for p in model.parameters() if p.dim() == 2)
    twin = copy.deepcopy(model)
    twins = make(holds(twin, kind))
    twins.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    communities = natsel.discover(model, (torch.randn(2, WIDTHS[0]).double(),))
    kept = kept_of(model, communities)
    small = natsel.extract(model, masks(), communities=communities, optimizer=optimizer)
    assert [small[0].out_features, small[2].out_features] == [6, 5]
    for _ in range(3):
        batch = next(data)
        step(small, optimizer, batch)
        step(twin, twins, batch)
        same_where_kept(small, twin, kept, **tolerance)
    return optimizer, small


@pytest.mark.parametrize(
    ("kind", "settings"), TABLE, ids=lambda v: v.__name__ if isinstance(v, type) else str(v)
)
def test_every_optimizer_of_torch_goes_on_as_if_the_idle_were_there(kind, settings):
    # Muon orthogonalises in bfloat16.
    tolerance = {"rtol": 0, "atol": 1e-4 if kind is torch.optim.Muon else 1e-9}
    optimizer, small = idle_run(lambda p: kind(p, **settings), kind, **tolerance)
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in holds(small, kind)}
    assert set(map(id, optimizer.state)) <= held
    assert isinstance(optimizer.state, defaultdict)


@pytest.mark.parametrize("beta1", [None, 0.9])
def test_adafactor_of_transformers_goes_on_as_if_the_idle_were_there(beta1):
    kind = pytest.importorskip("transformers.optimization").Adafactor

    def make(parameters):
        options = {"scale_parameter": False, "relative_step": False, "clip_threshold": 1e9}
        return kind(parameters, lr=1e-2, beta1=beta1, **options)

    # It computes in float32.
    idle_run(make, kind, rtol=0, atol=2e-5)


@pytest.mark.parametrize("square", [False, True])
def test_what_adafactor_takes_for_the_second_moment_of_a_kept_weight_stays(square):
    model = network((12, 10, 10, 3) if square else WIDTHS)
    optimizer = torch.optim.Adafactor(model.parameters())
    data = batches()
    for _ in range(3):
        step(model, optimizer, next(data))

    def moments(network):
        found = {}
        for name, parameter in network.named_parameters():
            if parameter.dim() == 2:
                state = optimizer.state[parameter]
                row, column = state["row_var"], state["col_var"]
                found[name] = row @ column / row.mean()
        return found

    before = moments(model)
    rows = {n: optimizer.state[p]["row_var"] for n, p in model.named_parameters() if p.dim() == 2}
    columns = {n: optimizer.state[p]["col_var"] for n, p in model.named_parameters() if n in rows}
    communities = natsel.discover(model, (torch.randn(2, WIDTHS[0]).double(),))
    wanted = {n: torch.arange(c.size) % 3 != 0 for n, c in communities.items()}
    kept = kept_indices(communities.values(), wanted, dict(model.named_parameters()))
    small = natsel.extract(model, wanted, communities=communities, optimizer=optimizer)
    after = moments(small)
    for name, moment in before.items():
        torch.testing.assert_close(after[name], cut(moment, kept[name]))
        # Over the kept columns alone a row's mean is what the product says of them.
        state = optimizer.state[dict(small.named_parameters())[name]]
        product = rows[name] @ columns[name] / rows[name].mean()
        torch.testing.assert_close(state["row_var"], cut(product, kept[name]).mean(1, keepdim=True))
        torch.testing.assert_close(state["col_var"], cut(product, kept[name]).mean(0, keepdim=True))
    step(small, optimizer, next(data))


def test_lbfgs_keeps_only_pairs_of_positive_curvature():
    model = network()
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=6, lr=0.1)
    data = batches()
    for _ in range(2):
        step(model, optimizer, next(data))
    communities = natsel.discover(model, (torch.randn(2, WIDTHS[0]).double(),))
    small = natsel.extract(model, masks(), communities=communities, optimizer=optimizer)
    (state,) = optimizer.state.values()
    size = sum(p.numel() for p in small.parameters())
    assert state["d"].shape == state["prev_flat_grad"].shape == (size,)
    assert state["old_dirs"]
    for y, s, ro in zip(state["old_dirs"], state["old_stps"], state["ro"], strict=True):
        assert y.shape == s.shape == (size,)
        assert float(ro * y.dot(s)) == pytest.approx(1.0)
    before = [p.clone() for p in small.parameters()]
    step(small, optimizer, next(data))
    assert all(not torch.equal(p, q) for p, q in zip(before, small.parameters(), strict=True))


# Optimizers that nobody knows.


class Own(torch.optim.Optimizer):
    """Plain gradient descent with state of one's own beside it."""

    def __init__(self, params, make, **defaults):
        super().__init__(params, {"lr": 0.01, **defaults})
        self.make = make

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                if not self.state[p]:
                    self.state[p].update(self.make(p))
                self.see(p, self.state[p])
                p.sub_(p.grad, alpha=group["lr"])

    def see(self, p, state):
        pass


def grams(p):
    sizes = p.shape if p.dim() == 2 else ()
    return {"axes": [torch.eye(size, dtype=p.dtype) for size in sizes]}


class Projector:
    """Something that no file format knows."""


def highest(p):
    return {"highest": p.abs().reshape(len(p), -1).amax(1)}


REFUSED = {
    "a matrix of each axis": (lambda p: grams(p), "axes[0]"),
    "a root of a matrix": (lambda p: {"root": torch.eye(p.shape[0])}, "root"),
    "eight bits": (lambda p: {"first": torch.zeros(p.shape, dtype=torch.uint8)}, "first"),
    "scales of blocks": (lambda p: {"scale": torch.zeros(p.numel() // 3 + 2)}, "scale"),
    "a sketch": (lambda p: {"sketch": torch.zeros(2, *p.shape[1:])}, "sketch"),
    "a maximum of each row": (highest, "highest"),
    "an object": (lambda p: {"projector": Projector()}, "projector"),
    "an object in a list": (lambda p: {"parts": [1, Projector()]}, "parts[1]"),
}  # fmt: skip


def snapshot(optimizer):
    groups = [(id(g), id(g["params"]), list(map(id, g["params"]))) for g in optimizer.param_groups]
    states = [
        (id(p), id(s), copy.deepcopy(dict(s)) if _plain(s) else None)
        for p, s in optimizer.state.items()
    ]
    return groups, states


def _plain(state):
    return all(isinstance(value, torch.Tensor) for value in state.values())


def refused(model, optimizer, wanted=None):
    """Return why an optimizer is refused; it stays as it was."""
    communities = natsel.discover(model, (torch.randn(2, WIDTHS[0]).double(),))
    before = snapshot(optimizer)
    with pytest.raises(ValueError, match="optimizer=") as caught:
        natsel.extract(model, wanted or masks(), communities=communities, optimizer=optimizer)
    after = snapshot(optimizer)
    assert after[0] == before[0]
    for (p, s, values), (q, t, others) in zip(before[1], after[1], strict=True):
        assert (p, s) == (q, t)
        torch.testing.assert_close(values, others, rtol=0, atol=0) if values else None
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", REFUSED)
def test_state_that_cannot_be_cut_for_sure_is_refused_by_name(name):
    make, key = REFUSED[name]
    model = network()
    optimizer = Own(model.parameters(), make)
    step(model, optimizer, next(batches()))
    words = refused(model, optimizer)
    assert "'Own'" in words
    assert repr(key) in words
    assert "0.weight" in words or "2.weight" in words


def test_a_square_matrix_of_one_number_per_weight_is_told_by_other_matrices():
    model = network((12, 10, 10, 3))
    optimizer = Own(model.parameters(), lambda p: {"momentum": torch.rand_like(p)})
    step(model, optimizer, next(batches()))
    before = {n: optimizer.state[p]["momentum"] for n, p in model.named_parameters()}
    communities = natsel.discover(model, (torch.randn(2, WIDTHS[0]).double(),))
    wanted = {n: torch.arange(10) % 3 != i for i, n in enumerate(communities)}
    kept = kept_indices(communities.values(), wanted, dict(model.named_parameters()))
    small = natsel.extract(model, wanted, communities=communities, optimizer=optimizer)
    for name, parameter in small.named_parameters():
        assert torch.equal(
            optimizer.state[parameter]["momentum"], cut(before[name], kept.get(name, {}))
        )


def test_squares_alone_are_not_guessed_and_can_be_told():
    class Lion(Own):
        pass

    def trained():
        model = network((12, 12, 12, 12), bias=False)
        optimizer = Lion(model.parameters(), lambda p: {"momentum": torch.rand_like(p)})
        step(model, optimizer, next(batches()))
        return model, optimizer

    wanted = {"0": torch.arange(12) > 2, "2": torch.arange(12) < 4}
    model, optimizer = trained()
    assert "either axis" in refused(model, optimizer, wanted)
    register_state(Lion, momentum="same")
    try:
        momentum = optimizer.state[model[2].weight]["momentum"]
        communities = natsel.discover(model, (torch.randn(2, WIDTHS[0]).double(),))
        small = natsel.extract(model, wanted, communities=communities, optimizer=optimizer)
    finally:
        (name,) = [name for name in KNOWN if name.endswith(".Lion")]
        del KNOWN[name]
    assert torch.equal(optimizer.state[small[2].weight]["momentum"], momentum[:4, 3:])


def test_matrices_of_axes_that_are_said_to_be_sums_are_cut_on_both_sides():
    class Shampoo(Own):
        def see(self, p, state):
            if p.dim() == 2:
                state["axes"][0] += p.grad @ p.grad.T
                state["axes"][1] += p.grad.T @ p.grad

    register_state(Shampoo, **{"axes[0]": "sum", "axes[1]": "sum"})
    try:
        optimizer, small = idle_run(lambda p: Shampoo(p, grams), Shampoo, rtol=0, atol=1e-12)
    finally:
        (name,) = [name for name in KNOWN if name.endswith(".Shampoo")]
        del KNOWN[name]
    left, right = optimizer.state[small[2].weight]["axes"]
    assert left.shape == (5, 5)
    assert right.shape == (6, 6)


def test_means_of_rows_and_columns_of_an_unknown_optimizer_are_told_by_their_means():
    class Factored(Own):
        def see(self, p, state):
            if p.dim() == 2:
                state["r"].lerp_(p.grad.square().mean(1), 0.1)
                state["c"].lerp_(p.grad.square().mean(0), 0.1)

    def make(p):
        empty = {"r": torch.zeros(p.shape[0]).double(), "c": torch.zeros(p.shape[-1]).double()}
        return empty if p.dim() == 2 else {"seen": torch.zeros(1)}

    optimizer, small = idle_run(lambda p: Factored(p, make), Factored, rtol=0, atol=1e-12)
    state = optimizer.state[small[2].weight]
    assert state["r"].shape == (5,)
    assert state["c"].shape == (6,)
    torch.testing.assert_close(state["r"].mean(), state["c"].mean())


def test_a_statistic_over_an_axis_that_stays_is_cut_along():
    model = network((12, 10, 3))
    optimizer = Own(model.parameters(), highest)
    step(model, optimizer, next(batches()))
    before = optimizer.state[model[0].weight]["highest"]
    optimizer.state.pop(model[2].weight)
    communities = natsel.discover(model, (torch.randn(2, WIDTHS[0]).double(),))
    wanted = {"0": torch.arange(10) > 3}
    small = natsel.extract(model, wanted, communities=communities, optimizer=optimizer)
    assert torch.equal(optimizer.state[small[0].weight]["highest"], before[4:])


def test_flat_state_over_all_parameters_is_refused():
    model = network()
    optimizer = Own(model.parameters(), lambda p: {})
    optimizer.state[model[4].bias]["flat"] = torch.zeros(sum(p.numel() for p in model.parameters()))
    assert "all parameters together" in refused(model, optimizer)


def test_lists_by_parameter_in_a_group_follow_and_other_tensors_are_refused():
    model = network()
    anchors = [torch.rand_like(p) for p in model.parameters()]
    optimizer = Own(model.parameters(), lambda p: {}, anchors=anchors)
    step(model, optimizer, next(batches()))
    before = list(anchors)
    communities = natsel.discover(model, (torch.randn(2, WIDTHS[0]).double(),))
    kept = kept_of(model, communities)
    small = natsel.extract(model, masks(), communities=communities, optimizer=optimizer)
    after = optimizer.param_groups[0]["anchors"]
    for (name, parameter), new, old in zip(small.named_parameters(), after, before, strict=True):
        assert new.shape == parameter.shape
        assert torch.equal(new, cut(old, kept.get(name, {})))
    model = network()
    optimizer = Own(model.parameters(), lambda p: {}, prior=torch.ones(10))
    assert "'prior'" in refused(model, optimizer)


def test_an_optimizers_own_list_of_parameters_follows_and_a_dictionary_is_refused():
    model = network()
    optimizer = Own(model.parameters(), lambda p: {})
    optimizer.mine = list(model.parameters())
    communities = natsel.discover(model, (torch.randn(2, WIDTHS[0]).double(),))
    small = natsel.extract(model, masks(), communities=communities, optimizer=optimizer)
    assert list(map(id, optimizer.mine)) == list(map(id, small.parameters()))
    model = network()
    optimizer = Own(model.parameters(), lambda p: {})
    optimizer.slow = {p: p.clone() for p in model.parameters()}
    assert "'slow'" in refused(model, optimizer)


@pytest.mark.parametrize("by", ["module", "name", "nothing"])
def test_tensors_that_an_optimizer_keeps_elsewhere_are_refused(by):
    model = network()
    optimizer = Own(model.parameters(), lambda p: {})
    factors = torch.eye(10)
    if by == "module":
        optimizer.factors = {model[0]: factors}
    elif by == "name":
        optimizer.factors = {"0": [factors]}
    else:
        optimizer.factors = factors
    assert "'factors'" in refused(model, optimizer)
    model = network()
    optimizer = Own(model.parameters(), lambda p: {})
    optimizer.state["factors"] = {"all": factors}
    before = optimizer.state["factors"]
    communities = natsel.discover(model, (torch.randn(2, WIDTHS[0]).double(),))
    with pytest.raises(ValueError, match=r"'Own'.*not 'factors'"):
        natsel.extract(model, masks(), communities=communities, optimizer=optimizer)
    assert optimizer.state["factors"] is before


# In the loops that people train with.


def test_a_wrapped_optimizer_is_followed_with_what_wraps_it():
    class Twice(torch.optim.Optimizer):
        """Shares its groups with another and has state of its own."""

        def __init__(self, params, base):
            super().__init__(params, {})
            self.base = base(self.param_groups, lr=0.01)
            self.param_groups = self.base.param_groups

    model = network()
    optimizer = Twice(model.parameters(), torch.optim.Adam)
    step(model, optimizer.base, next(batches()))
    for parameter in model.parameters():
        optimizer.state[parameter]["old"] = parameter.detach().clone()
    communities = natsel.discover(model, (torch.randn(2, WIDTHS[0]).double(),))
    small = natsel.extract(model, masks(), communities=communities, optimizer=optimizer)
    for parameter in small.parameters():
        assert optimizer.state[parameter]["old"].shape == parameter.shape
        assert optimizer.base.state[parameter]["exp_avg"].shape == parameter.shape
    step(small, optimizer.base, next(batches()))


def test_an_optimizer_of_accelerate_is_followed():
    accelerate = pytest.importorskip("accelerate")
    accelerator = accelerate.Accelerator(cpu=True)
    model = network()
    optimizer = accelerator.prepare_optimizer(torch.optim.Adam(model.parameters()))
    step(model, optimizer, next(batches()))
    communities = natsel.discover(model, (torch.randn(2, WIDTHS[0]).double(),))
    small = natsel.extract(model, masks(), communities=communities, optimizer=optimizer)
    step(small, optimizer, next(batches()))
    held = {id(p) for group in optimizer.optimizer.param_groups for p in group["params"]}
    assert held == set(map(id, small.parameters())) == set(map(id, optimizer.optimizer.state))


def test_schedulers_scalers_and_saved_states_go_on():
    model = network()
    optimizer = torch.optim.Adam(model.named_parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)
    scaler = torch.amp.GradScaler("cpu")
    data = batches()

    def scaled(network):
        x, labels = next(data)
        optimizer.zero_grad()
        scaler.scale(F.cross_entropy(network(x), labels)).backward()
        scaler.step(optimizer)
        scaler.update()
        scheduler.step()

    scaled(model)
    communities = natsel.discover(model, (torch.randn(2, WIDTHS[0]).double(),))
    small = natsel.extract(model, masks(), communities=communities, optimizer=optimizer)
    before = [p.clone() for p in small.parameters()]
    scaled(small)
    assert all(not torch.equal(p, q) for p, q in zip(before, small.parameters(), strict=True))
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.025)
    assert optimizer.param_groups[0]["param_names"] == [n for n, _ in small.named_parameters()]
    other = torch.optim.Adam(copy.deepcopy(small).named_parameters())
    other.load_state_dict(optimizer.state_dict())
    for mine, theirs in zip(
        optimizer.state_dict()["state"].values(), other.state_dict()["state"].values(), strict=True
    ):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=0)


def test_convolutions_of_both_sizes_of_kernel_are_cut_by_shape():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 1), nn.ReLU(),
        nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(8 * 16, 3),
    ).double()  # fmt: skip
    optimizer = Own(model.parameters(), lambda p: {"momentum": torch.rand_like(p)})
    x = torch.randn(4, 1, 6, 6).double()
    step(model, optimizer, (x, torch.zeros(4, dtype=torch.long)))
    communities = natsel.discover(model, (x,))
    assert len(communities) == 3
    wanted = {n: torch.arange(c.size) % 3 != i for i, (n, c) in enumerate(communities.items())}
    before = {n: optimizer.state[p]["momentum"] for n, p in model.named_parameters()}
    kept = kept_indices(communities.values(), wanted, dict(model.named_parameters()))
    small = natsel.extract(model, wanted, communities=communities, optimizer=optimizer)
    for name, parameter in small.named_parameters():
        momentum = optimizer.state[parameter]["momentum"]
        assert torch.equal(momentum, cut(before[name], kept.get(name, {})))
