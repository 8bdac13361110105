"""Those that stay take over what those that went did: exactly where they can, never for worse."""

from __future__ import annotations

import copy
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import natsel
from natsel.extraction.moments import Moments
from natsel.extraction.pairs import Pairs, regress
from natsel_bench.zoo import build_architecture

SMALL_RIDGE = 1e-9


def mlp(first, bias, second, last=None):
    """A network x -> second relu(first x + bias) + last with weights spelled out."""
    first, second = torch.tensor(first), torch.tensor(second)
    body = nn.Linear(first.shape[1], len(first))
    head = nn.Linear(second.shape[1], len(second), bias=last is not None)
    with torch.no_grad():
        body.weight.copy_(first)
        body.bias.copy_(torch.tensor(bias))
        head.weight.copy_(second)
        if last is not None:
            head.bias.copy_(torch.tensor(last))
    return nn.Sequential(body, nn.ReLU(), head)


def keep(model, inputs, *kept, name="0"):
    communities = natsel.discover(model, inputs)
    mask = torch.zeros(communities[name].size, dtype=torch.bool)
    mask[list(kept)] = True
    return natsel.Survivors({name: mask}, communities)


def compensated(model, survivors, data, **options):
    small = natsel.extract(model, survivors)
    return small, natsel.compensate(model, small, survivors, data, **options)


def gap(model, small, data):
    with torch.no_grad():
        return max(float((model(x) - small(x)).abs().max()) for x, *_ in data)


X = torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 1.0], [1.0, 3.0], [0.5, 0.25]])


# What it finds.


def test_a_duplicate_hands_its_weight_on():
    model = mlp(
        [[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]], [0.0, 0.0, 0.0], [[1.0, 2.0, 4.0]], [0.5]
    ).double()
    data = [(X.double(),)]
    small, told = compensated(model, keep(model, X[:1].double(), 0, 2), data, ridge=SMALL_RIDGE)
    torch.testing.assert_close(small[2].weight, torch.tensor([[3.0, 4.0]]).double())
    torch.testing.assert_close(small[2].bias, torch.tensor([0.5]).double())
    assert gap(model, small, data) < 1e-7
    (line,) = told.consumers
    assert (line.consumer, line.communities, line.kept, line.removed) == ("2.weight", ("0",), 2, 1)
    assert line.unexplained < 1e-12
    assert line.error_before > 0.01 > 1e-12 > line.error_fitted
    assert line.effective_rank == pytest.approx(2, abs=1e-6)
    assert (line.rows, told.tensors) == (5, ("2.weight", "2.bias"))


def test_a_combination_of_others_and_a_constant():
    # The third is 2 a + b + 3 of the first two, which are linear on these inputs.
    model = mlp(
        [[1.0, 0.0], [0.0, 1.0], [2.0, 1.0]], [0.0, 0.0, 3.0], [[1.0, 1.0, 10.0]], [0.5]
    ).double()
    data = [(X.double(),)]
    small, _ = compensated(model, keep(model, X[:1].double(), 0, 1), data, ridge=SMALL_RIDGE)
    torch.testing.assert_close(small[2].weight, torch.tensor([[21.0, 11.0]]).double())
    torch.testing.assert_close(small[2].bias, torch.tensor([30.5]).double())
    assert gap(model, small, data) < 1e-6


def test_a_dead_neuron_leaves_nothing_to_take_over():
    model = mlp([[1.0, 0.0], [0.0, 0.0]], [0.0, -1.0], [[1.0, 7.0]], [0.5])
    small, told = compensated(model, keep(model, X[:1], 0), [(X,)])
    assert small[2].weight.tolist() == [[1.0]]
    assert small[2].bias.tolist() == [0.5]
    assert told.consumers[0].error_before == told.consumers[0].error_after == 0


def test_where_only_a_dead_neuron_stays_the_bias_takes_the_mean():
    model = mlp([[1.0, 0.0], [0.0, 0.0]], [0.0, -1.0], [[2.0, 7.0]], [0.5])
    small, told = compensated(model, keep(model, X[:1], 1), [(X,)])
    assert small[2].weight.tolist() == [[7.0]]
    torch.testing.assert_close(small[2].bias, torch.tensor([0.5 + 2 * 0.9]))
    assert told.consumers[0].effective_rank == 0


def test_without_a_bias_there_is_no_constant():
    model = mlp([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]], [0.0, 1.0, 0.0], [[1.0, 1.0, 1.0]])
    small, told = compensated(model, keep(model, X[:1], 0, 2), [(X,)], ridge=SMALL_RIDGE)
    assert small[2].bias is None
    assert told.tensors == ("2.weight",)
    h = model[1](model[0](X)).detach().double().numpy()
    expected = np.linalg.lstsq(h[:, [0, 2]], h[:, 1], rcond=None)[0] + 1
    np.testing.assert_allclose(small[2].weight[0].detach(), expected, rtol=1e-5)


# The mathematics, against others'.


@pytest.mark.parametrize("constant", [True, False])
@pytest.mark.parametrize("ridge", [1e-3, 1e-1])
def test_the_regression_is_that_of_scikit_learn(constant, ridge):
    linear_model = pytest.importorskip("sklearn.linear_model")
    z = np.random.default_rng(0).normal(3.0, 1.0, (40, 7)) @ np.diag(range(1, 8))
    given_, wanted = [0, 2, 3, 6], [1, 4, 5]
    pairs = Pairs()
    for part in np.array_split(z, 3):
        pairs.add(torch.from_numpy(part[:, given_]), torch.from_numpy(part[:, wanted]))
    found = regress(pairs, constant=constant, ridge=ridge)
    x = z[:, given_]
    spread = (x - x.mean(0) if constant else x).__pow__(2).mean(0).mean()
    theirs = linear_model.Ridge(alpha=ridge * spread * len(z), fit_intercept=constant)
    theirs.fit(x, z[:, wanted])
    np.testing.assert_allclose(found.weights, theirs.coef_, rtol=1e-8, atol=1e-10)
    if constant:
        np.testing.assert_allclose(found.constant, theirs.intercept_, rtol=1e-8)
    rest = z[:, wanted] - theirs.predict(x)
    error = pairs.error(found.weights, found.constant)
    assert error == pytest.approx((rest**2).sum() / len(z), rel=1e-9)
    assert pairs.lacking() == pytest.approx((z[:, wanted] ** 2).sum() / len(z), rel=1e-9)


def test_without_a_penalty_to_speak_of_it_is_least_squares():
    z = np.random.default_rng(1).normal(size=(50, 5))
    pairs = Pairs()
    pairs.add(torch.from_numpy(z[:, :3]), torch.from_numpy(z[:, 3:]))
    found = regress(pairs, constant=True, ridge=SMALL_RIDGE)
    x = np.hstack([z[:, :3], np.ones((50, 1))])
    theirs = np.linalg.lstsq(x, z[:, 3:], rcond=None)[0]
    np.testing.assert_allclose(found.weights, theirs[:3].T, atol=1e-7)
    np.testing.assert_allclose(found.constant, theirs[3], atol=1e-7)
    assert found.effective_rank == pytest.approx(3, abs=1e-6)


@settings(deadline=None, max_examples=25)
@given(cuts=st.lists(st.integers(1, 59), max_size=5, unique=True), shift=st.sampled_from([0, 1e4]))
def test_streaming_gives_the_moments_of_the_whole(cuts, shift):
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(60, 4, generator=generator) + shift
    whole = rows.double().numpy()
    moments = Moments()
    for part in torch.tensor_split(rows, sorted(cuts)):
        moments.add(part)
    assert moments.count == 60
    np.testing.assert_allclose(moments.mean, whole.mean(0), rtol=1e-7, atol=1e-7)
    np.testing.assert_allclose(
        moments.second(about_mean=True), np.cov(whole.T, bias=True), rtol=1e-4, atol=1e-5
    )
    np.testing.assert_allclose(
        moments.second(about_mean=False), whole.T @ whole / 60, rtol=1e-6, atol=1e-6
    )


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 10_000),
    kept=st.lists(st.integers(0, 5), min_size=1, max_size=5, unique=True),
    bias=st.booleans(),
    ridge=st.sampled_from([1e-6, 1e-2, 1.0]),
    rows=st.integers(1, 12),
    sequential=st.booleans(),
)
def test_the_error_over_the_data_is_never_larger(seed, kept, bias, ridge, rows, sequential):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 2, bias=bias)).double()
        x = torch.randn(rows, 3).double()
        survivors = keep(model, torch.randn(64, 3).double(), *kept)
    plain = natsel.extract(model, survivors)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        small, told = compensated(model, survivors, [(x,)], ridge=ridge, sequential=sequential)
    with torch.no_grad():
        before, after = (float((m(x) - model(x)).square().mean(0).sum()) for m in (plain, small))
        output = float((model(x) - (model[2].bias if bias else 0)).square().mean(0).sum())
    assert after <= before + 1e-12
    (line,) = told.consumers
    assert line.error_fitted <= line.error_before + 1e-12
    assert (line.error_after is None) == (rows == 1)
    if output > 1e-12:
        assert line.error_before == pytest.approx(before / output, abs=1e-8)
        assert line.error_fitted == pytest.approx(after / output, abs=1e-8)


# Where it works.


def test_in_turn_each_makes_up_for_those_before(net, draw):
    model, communities, _ = net("mlp")
    model = copy.deepcopy(model)
    survivors = draw(communities, 0.5, 1)
    data = [(torch.randn(50, 1, 8, 8, generator=torch.Generator().manual_seed(i)),) for i in (1, 2)]
    errors = {}
    for sequential in (True, False):
        small, told = compensated(model, survivors, data, sequential=sequential, ridge=1e-4)
        assert [c.consumer for c in told.consumers] == ["layers.2.weight", "layers.4.weight"]
        with torch.no_grad():
            errors[sequential] = sum(float((model(x) - small(x)).square().sum()) for (x,) in data)
    plain = natsel.extract(model, survivors)
    with torch.no_grad():
        none = sum(float((model(x) - plain(x)).square().sum()) for (x,) in data)
    assert errors[True] < errors[False] < none


def test_heads_take_over_whole_slices(net):
    model, communities, _ = net("vit")
    model = copy.deepcopy(model).double()
    name = "blocks.0.attention"
    attention = model.get_submodule(name)
    with torch.no_grad():  # the last head does what the first does
        for part in communities[name].slices:
            tensor = dict(model.named_parameters())[part.tensor]
            if part.role != "in":
                values = tensor.index_select(part.axis, part.index[0])
                tensor.index_copy_(part.axis, part.index[3], values)
    x = torch.randn(20, 1, 8, 8).double()
    communities = natsel.discover(model, x[:2])
    mask = torch.tensor([True, True, True, False])
    survivors = natsel.Survivors({name: mask}, communities)
    small, told = compensated(model, survivors, [(x,)], ridge=SMALL_RIDGE)
    assert gap(model, small, [(x,)]) < 1e-6 < gap(model, natsel.extract(model, survivors), [(x,)])
    assert told.consumers[0].rows == 20 * 5  # four patches and the class token
    merged = attention.proj.weight[:, :4] + attention.proj.weight[:, 12:]
    torch.testing.assert_close(
        small.get_submodule(name).proj.weight[:, :4], merged, atol=1e-5, rtol=0
    )


@pytest.mark.parametrize(
    ("options", "constant"),
    [
        ({"padding": 1}, False),
        ({"padding": 0}, True),
        ({"padding": 1, "padding_mode": "circular"}, True),
        ({"padding": 0, "bias": False}, False),
    ],
)
def test_channels_of_a_convolution(options, constant):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 3, 3, **options), nn.Flatten(1)
    ).double()
    with torch.no_grad():  # the last is three times the second
        model[0].weight[3], model[0].bias[3] = model[0].weight[1] * 3, model[0].bias[1] * 3
        kernel = model[2].weight[:, 1] + 3 * model[2].weight[:, 3]
    x = torch.randn(6, 1, 8, 8).double()
    survivors = keep(model, x[:1], 0, 1, 2)
    small, told = compensated(model, survivors, [(x,)], ridge=SMALL_RIDGE)
    torch.testing.assert_close(small[2].weight[:, 1], kernel, atol=1e-5, rtol=0)
    assert gap(model, small, [(x,)]) < 1e-5
    assert told.consumers[0].rows == 6 * 36
    assert ("2.bias" in told.tensors) == constant


def test_a_constant_channel_behind_no_padding_goes_into_the_bias():
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU(), nn.Conv2d(2, 1, 3), nn.Flatten(1))
    with torch.no_grad():
        model[0].weight[1], model[0].bias[1] = 0.0, 2.0
    x = torch.rand(3, 1, 5, 5)
    small, _ = compensated(model, keep(model, x[:1], 0), [(x,)])
    torch.testing.assert_close(
        small[2].bias, model[2].bias + 2 * model[2].weight[:, 1].sum((1, 2)), atol=1e-5, rtol=0
    )
    assert gap(model, small, [(x,)]) < 1e-5


def test_a_transposed_convolution():
    torch.manual_seed(1)
    model = nn.Sequential(
        nn.Conv1d(1, 3, 1), nn.ReLU(), nn.ConvTranspose1d(3, 2, 2, stride=2), nn.Flatten(1)
    ).double()
    with torch.no_grad():
        model[0].weight[2], model[0].bias[2] = model[0].weight[0], model[0].bias[0]
    x = torch.randn(4, 1, 6).double()
    small, told = compensated(model, keep(model, x[:1], 0, 1), [(x,)], ridge=SMALL_RIDGE)
    assert gap(model, small, [(x,)]) < 1e-6
    assert told.tensors == ("2.weight",)


MHA = "nn.MultiheadAttention reads this weight without calling its module"


@pytest.mark.parametrize(
    ("name", "num_compensated", "reasons"),
    [
        ("hf-llama", 4, set()),  # key/value groups of heads, and gated units
        ("hf-gpt2", 4, set()),
        ("mobile-unet", 11, {"it is a grouped convolution"}),
        ("transformer-encoder", 2, {MHA}),
        ("hf-mixtral", 2, {"its populations are experts, which a router chooses"}),
        ("lstm", 1, {"its module is a LSTM, not a Linear or a convolution"}),
    ],
)
def test_architectures(name, num_compensated, reasons):
    if name.startswith("hf-"):
        pytest.importorskip("transformers")
    model, inputs = build_architecture(name)
    communities = natsel.discover(model, inputs)
    generator = torch.Generator().manual_seed(0)
    masks = {}
    for community in communities.values():
        order = torch.rand(community.size, generator=generator).argsort()
        masks[community.name] = torch.zeros(community.size, dtype=torch.bool)
        masks[community.name][order[: max(community.minimum, community.size // 2)]] = True
    batch = (inputs,) if isinstance(inputs, dict) else tuple(inputs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        survivors = natsel.Survivors(masks, communities)
        _, told = compensated(model, survivors, [(*batch, None)], ridge=1e-2)
    assert told.num_compensated == num_compensated
    assert {c.reason for c in told.consumers if c.reason} == reasons
    for line in told.consumers:
        assert line.error_fitted < line.error_before or line.reason
        assert (line.consumer in told.tensors) == (not line.reason)


# What is told, and what stays.


@pytest.fixture
def pair(net, draw):
    model, communities, _ = net("cnn")
    generator = torch.Generator().manual_seed(3)
    data = [(torch.randn(8, 1, 8, 8, generator=generator), torch.zeros(8)) for _ in range(3)]
    return copy.deepcopy(model), draw(communities, 0.5, 0), data


def state_of(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(model, before):
    return all(torch.equal(t, before[n]) for n, t in model.state_dict().items())


@pytest.mark.parametrize("options", [{}, {"sequential": False}, {"batch_norm": True}])
def test_twice_is_the_same_and_all_else_stays(pair, options):
    model, survivors, data = pair
    model.train()
    model.head.eval()
    modes = [m.training for m in model.modules()]
    before, numbers = state_of(model), torch.random.get_rng_state()
    shuffled = torch.utils.data.DataLoader(data, batch_size=None, shuffle=True)
    torch.random.set_rng_state(numbers)
    smalls = [compensated(model, survivors, d, **options) for d in (data, iter(data), data)]
    natsel.compensate(model, natsel.extract(model, survivors), survivors, shuffled, **options)
    assert torch.equal(torch.random.get_rng_state(), numbers)
    assert same(model, before)
    for small, told in smalls:
        assert same(small, state_of(smalls[0][0]))
        assert told == smalls[0][1]
        assert [m.training for m in small.modules()] == modes
    assert not any(m._forward_pre_hooks for m in (*model.modules(), *smalls[0][0].modules()))
    assert all(p.grad is None for p in smalls[0][0].parameters())


def test_batch_norm_is_measured_behind_what_changed(pair):
    model, survivors, data = pair
    names = [n for n, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)]
    assert names == ["features.1", "features.5"]
    small, told = compensated(model, survivors, data, batch_norm=True)
    assert told.renormalized == 1
    assert {"features.5.running_mean", "features.5.running_var"} <= set(told.tensors)
    plain = natsel.extract(model, survivors)
    assert torch.equal(small.features[1].running_var, plain.features[1].running_var)
    with torch.no_grad():
        parts = [small.eval().features[:5](x) for x, _ in data]
    torch.testing.assert_close(
        small.features[5].running_mean, torch.stack([p.mean((0, 2, 3)) for p in parts]).mean(0)
    )
    torch.testing.assert_close(
        small.features[5].running_var, torch.stack([p.var((0, 2, 3)) for p in parts]).mean(0)
    )
    assert small.features[5].momentum == model.features[5].momentum


def test_without_rows_that_pair_up_the_dense_model_alone_is_read(pair, monkeypatch):
    import natsel.extraction.in_turn as module

    model, survivors, data = pair
    expected, _ = compensated(model, survivors, data, sequential=False)
    monkeypatch.setattr(module, "_paired", lambda *_: None)
    monkeypatch.setattr(module, "shared_chains", lambda *_: [])
    small, _ = compensated(model, survivors, data)
    assert same(small, state_of(expected))


def test_the_masses_of_a_gated_model_count(net, draw):
    model = copy.deepcopy(net("mlp")[0])
    communities = natsel.discover(model, net("mlp")[2])
    natsel.Evolution(communities, initial=0.5)
    survivors = draw(communities, 0.5, 0)
    data = [(torch.randn(60, 1, 8, 8),)]
    small = natsel.extract(model, survivors, compensate=data)
    plain = natsel.extract(model, survivors)
    assert gap(model.eval(), small.eval(), data) < gap(model, plain.eval(), data)


def test_a_shared_weight_is_left(net):
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.one, self.two = nn.Linear(3, 6), nn.Linear(6, 2), nn.Linear(6, 2)
            self.two.weight = self.one.weight

        def forward(self, x):
            h = torch.relu(self.inner(x))
            return self.one(h) + self.two(torch.tanh(h))

    model = Twice()
    x = torch.randn(9, 3)
    survivors = keep(model, x, 0, 1, 2, name="inner")
    small, told = compensated(model, survivors, [(x,)])
    assert [c.reason for c in told.consumers] == ["its weight is shared with another module"]
    assert told.tensors == ()
    assert same(small, state_of(natsel.extract(model, survivors)))
    assert told.summary() == (
        "compensated 0 of 1 consumers; 1 left as they are: one.weight (its weight is shared with "
        "another module)"
    )


def test_the_optimizer_holds_what_was_compensated(pair):
    model, survivors, data = pair
    optimizer = torch.optim.Adam(model.parameters())
    model(data[0][0]).sum().backward()
    optimizer.step()
    small = natsel.extract(model, survivors, optimizer=optimizer, compensate=data)
    held = [p for group in optimizer.param_groups for p in group["params"]]
    assert {id(p) for p in held} == {id(p) for p in small.parameters()}
    assert all(optimizer.state[p]["exp_avg"].shape == p.shape for p in held)
    assert same(small, state_of(natsel.extract(model, survivors, compensate=data)))


def test_it_is_saved_and_loaded_with_what_was_done(pair, tmp_path):
    model, survivors, data = pair
    small = natsel.extract(model, survivors, compensate=data).eval()
    loaded = natsel.load(natsel.save(small, tmp_path))
    assert natsel.compensation_of(loaded) == natsel.compensation_of(small)
    assert natsel.compensation_of(loaded).num_compensated == 2
    assert gap(small, loaded, data) == 0
    assert natsel.compensation_of(natsel.extract(model, survivors)) is None
    assert not natsel.verify(model, small, survivors, data[0][:1]).passed


def test_few_rows_are_told_in_one_line(net, draw):
    model, communities, _ = net("mlp")
    mask = torch.arange(9) < 8
    survivors = natsel.Survivors({"layers.0": mask}, communities)
    data = [(torch.randn(2, 1, 8, 8),)]
    with pytest.warns(UserWarning, match="2 calibration rows for 8 kept") as told:
        compensated(model, survivors, data, ridge=1e-2)
    assert len(told) == 1
    assert "effective rank 1" in str(told[0].message)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "data='empty'"),
        (iter(()), "data='empty'"),
        ([torch.randn(2, 1, 8, 8)], "batches of type Tensor"),
        ([()], "batches of type tuple"),
        ([(torch.randn(2, 3, 8, 8),)], r"data='\(2, 3, 8, 8\)'.*inputs that the model runs on"),
        ([("text", 1)], "data='str'"),
        ([(torch.full((2, 1, 8, 8), float("nan")),)], "NaN or infinity"),
        ([(torch.randn(2, 1, 8, 8),), (torch.full((2, 1, 8, 8), float("inf")),)], "NaN or inf"),
    ],
)
def test_bad_data_is_one_clear_line_and_nothing_changes(pair, data, message):
    model, survivors, _ = pair
    before = state_of(model)
    small = natsel.extract(model, survivors)
    cut = state_of(small)
    with pytest.raises(ValueError, match=message) as told:
        natsel.compensate(model, small, survivors, data)
    assert "\n" not in str(told.value)
    assert same(model, before)
    assert same(small, cut)
    assert not any(m._forward_pre_hooks for m in (*model.modules(), *small.modules()))
    with pytest.raises(ValueError, match=message):
        natsel.extract(model, survivors, compensate=data)


def test_a_batch_too_small_for_a_variance_changes_nothing():
    model = nn.Sequential(
        nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2)
    ).eval()
    survivors = keep(model, torch.randn(2, 3), 0, 1)
    small = natsel.extract(model, survivors)
    cut = state_of(small)
    data = [(torch.randn(9, 3),), (torch.randn(1, 3),)]
    with pytest.raises(ValueError, match="BatchNorm takes a variance"):
        natsel.compensate(model, small, survivors, data, batch_norm=True)
    assert same(small, cut)
    assert not small.training
    assert not small[3].training
    with pytest.raises(ValueError, match="ridge=0"):
        natsel.compensate(model, small, survivors, data, ridge=0)


def test_on_real_data_most_of_the_loss_comes_back():
    pytest.importorskip("sklearn")
    from natsel.runs.measure import num_correct
    from natsel.runs.splits import load_splits

    splits = load_splits("digits")
    inputs, labels = splits.train
    model = natsel.models.build("mlp", in_shape=(1, 8, 8), num_classes=10, seed=0, hidden=(64, 32))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(15):
        for chosen in torch.randperm(len(inputs), generator=generator).split(50):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs[chosen]), labels[chosen]).backward()
            optimizer.step()
    communities = natsel.discover(model.eval(), inputs[:2])
    survivors = natsel.select(natsel.score(communities, "magnitude"), natsel.Sparsity(0.7))
    plain = natsel.extract(model, survivors)
    small = natsel.extract(model, survivors, compensate=[(inputs[:500],)])
    right = [num_correct(m, *splits.test) / len(splits.test[1]) for m in (model, plain, small)]
    dense, without, with_it = right
    assert dense > 0.95
    assert with_it > dense - 0.1
    assert dense - with_it < 0.4 * (dense - without)
