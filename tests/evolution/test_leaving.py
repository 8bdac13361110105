"""Gates come off without a trace: for a while, for good, and where a constructor fails."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from networks import batch, draw_survivors, logits, loss_of, network, set_masses
from torch import nn
from torch.nn.utils import parametrizations, prune
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import natsel
from natsel.communities.gates import gates
from natsel.communities.gates.gates import is_gated

NAMES = ["mlp", "lstm", "transformer-encoder", "hf-mixtral"]


def run(model, inputs):
    with torch.no_grad():
        return logits(model, inputs)


def traces(model):
    """Everything about a model that gates might change."""
    return [
        (
            name,
            type(module),
            sorted(module.__dict__),
            list(module._parameters),
            list(module._buffers),
            sorted(module._non_persistent_buffers_set),
            [list(getattr(module, hooks)) for hooks in vars(module) if hooks.endswith("_hooks")],
            [id(p) for p in module._parameters.values()],
            [id(w) for w in module.__dict__.get("_flat_weights", [])],
        )
        for name, module in model.named_modules()
    ]


def values(model):
    return {n: t.detach().clone() for n, t in model.state_dict().items()}


def equal(a, b):
    return list(a) == list(b) and all(torch.equal(a[n], b[n]) for n in a)


def evolving(name, fitness="taylor"):
    communities = network(name)
    before = traces(communities.model), values(communities.model)
    evolution = natsel.Evolution(communities, fitness=fitness)
    generator = torch.Generator().manual_seed(2)
    masses = {
        n: 0.2 + 0.8 * torch.rand(c.size, generator=generator) for n, c in communities.items()
    }
    set_masses(evolution, masses)
    return communities, evolution, before


@pytest.mark.parametrize("name", NAMES)
def test_a_folded_model_computes_the_same_and_has_no_trace(name):
    communities, evolution, (trace, _) = evolving(name)
    model, inputs = communities.model, communities.example_inputs
    expected, acting = run(model, inputs), values(model)
    evolution.close(fold=True)
    assert traces(model) == trace
    assert equal(values(model), acting)
    torch.testing.assert_close(run(model, inputs), expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", NAMES)
def test_dropped_masses_leave_the_weights_as_they_were_trained(name):
    communities, evolution, (trace, state) = evolving(name)
    evolution.close(fold=False)
    assert traces(communities.model) == trace
    assert equal(values(communities.model), state)


def test_hooks_that_observe_activations_go_too():
    communities, evolution, (trace, _) = evolving("mlp", fitness="wanda")
    assert traces(communities.model) != trace
    evolution.close(fold=True)
    assert traces(communities.model) == trace


def test_a_closed_evolution_says_so_and_can_be_read(run):
    r = run().train(3)
    r.evolution.attach(r.optimizer)
    masses = r.evolution.masses
    for wrong in (None, 1, "yes"):
        with pytest.raises(ValueError, match="fold="):
            r.evolution.close(fold=wrong)
    r.evolution.close(fold=True)
    r.backward(4)
    r.optimizer.step()
    state = copy.deepcopy(r.evolution.masses)
    for call in (
        r.evolution.step,
        lambda: r.evolution.close(fold=False),
        lambda: r.evolution.attach(r.optimizer),
        lambda: r.evolution.load_state_dict({}),
        lambda: r.evolution.ungated().__enter__(),
    ):
        with pytest.raises(ValueError, match="this evolution is closed"):
            call()
    assert equal(state, masses)
    assert len(r.evolution.survivors()) == 2
    assert natsel.Evolution(natsel.discover(r.model, (torch.zeros(2, 6),))).num_alive == 13


@pytest.mark.parametrize("name", NAMES)
def test_ungated_it_is_plain_and_computes_the_same(name):
    communities, evolution, (trace, _) = evolving(name)
    model, inputs = communities.model, communities.example_inputs
    expected, acting = run(model, inputs), values(model)
    gated, raw = traces(model), [p.detach().clone() for p in model.parameters()]
    with evolution.ungated() as plain:
        assert plain is model
        assert traces(model) == trace
        assert equal(values(model), acting)
        torch.testing.assert_close(run(model, inputs), expected, rtol=1e-12, atol=1e-14)
        with pytest.raises(ValueError, match=r"inside evolution\.ungated"):
            evolution.step()
    assert traces(model) == gated
    assert all(torch.equal(p, r) for p, r in zip(model.parameters(), raw, strict=True))
    assert torch.equal(run(model, inputs), expected)
    loss_of(model, inputs).backward()
    evolution.step()


def test_gates_come_back_after_an_error_and_changed_weights_act_as_changed(run):
    r = run(initial=0.5)
    weight = r.model.layers[2]._parameters["weight"]
    raw = weight.detach().clone()

    def change():
        with r.evolution.ungated(), torch.no_grad():
            weight[0, 0] = 7.0
            raise KeyError

    with pytest.raises(KeyError):
        change()
    assert is_gated(r.model)
    assert float(r.model.layers[2].weight[0, 0].detach()) == 7.0
    assert float(weight[0, 0].detach()) == 14.0
    raw[0, 0] = 14.0
    assert torch.equal(weight, raw)


FAILING = {
    "signals": "natsel.evolution.loop.Signals",
    "populations": "natsel.evolution.loop.Populations",
    "writer": "natsel.evolution.loop.Writer",
    "trajectory": "natsel.evolution.loop.Trajectory",
    "attachment": "natsel.evolution.loop.Attachment",
    "classes": "natsel.communities.gates.modules._gated_class",
    "ways": "natsel.communities.gates.gates.Way",
}


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("where", FAILING)
def test_a_constructor_that_fails_leaves_the_model_as_it_was(where, error, monkeypatch):
    communities = network("hf-mixtral" if where == "ways" else "lstm")
    model = communities.model
    before = traces(model), values(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def fail(*_, **__):
        raise error("stop")

    monkeypatch.setattr(FAILING[where], fail)
    with pytest.raises(error, match="stop"):
        natsel.Evolution(communities, fitness="taylor", optimizer=optimizer)
    assert traces(model) == before[0]
    assert equal(values(model), before[1])
    assert not optimizer._optimizer_step_pre_hooks
    monkeypatch.undo()
    natsel.Evolution(communities, optimizer=optimizer)


def test_the_second_of_several_classes_may_fail_too(monkeypatch):
    communities = network("transformer-encoder")
    before = traces(communities.model)
    made, real = [], gates.gated_modules._gated_class

    def second_fails(*arguments):
        made.append(arguments)
        if len(made) == 2:
            raise RuntimeError("stop")
        return real(*arguments)

    monkeypatch.setattr(gates.gated_modules, "_gated_class", second_fails)
    with pytest.raises(RuntimeError, match="stop"):
        natsel.Evolution(communities)
    assert len(made) == 2
    assert traces(communities.model) == before


def perceptron():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))


REPLACED = {
    "prune": (lambda m: prune.l1_unstructured(m, "weight", 0.3), "torch.nn.utils.prune"),
    "weight_norm": (parametrizations.weight_norm, "_WeightNorm"),
    "spectral_norm": (parametrizations.spectral_norm, "_SpectralNorm"),
    "orthogonal": (parametrizations.orthogonal, "_Orthogonal"),
    "old weight_norm": (nn.utils.weight_norm, "torch.nn.utils.weight_norm"),
    "old spectral_norm": (nn.utils.spectral_norm, "spectral_norm"),
}


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("kind", REPLACED)
def test_a_weight_that_is_computed_from_others_is_refused_by_name(kind):
    replace, word = REPLACED[kind]
    model = perceptron()
    communities = natsel.discover(model, torch.zeros(1, 4))
    replace(model[2])
    before = traces(model)
    with pytest.raises(ValueError, match=rf"2\.weight .*{word}.*remedy: "):
        natsel.Evolution(communities)
    assert traces(model) == before


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("kind", REPLACED)
def test_a_gated_weight_cannot_be_made_one(kind):
    replace, _ = REPLACED[kind]
    model = perceptron()
    evolution = natsel.Evolution(natsel.discover(model, torch.zeros(1, 4)))
    before, state = traces(model), values(model)
    with pytest.raises(ValueError, match=r"weight of Linear .*under evolution.*close\(\)"):
        replace(model[2])
    assert traces(model) == before
    assert equal(values(model), state)
    evolution.close(fold=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        replace(model[2])


def test_another_tensor_of_the_module_may_be_parametrized():
    class Twice(nn.Module):
        def forward(self, x):
            return 2 * x

    model = perceptron()
    evolution = natsel.Evolution(natsel.discover(model, torch.zeros(1, 4)))
    bias = model[2].bias.detach().clone()
    nn.utils.parametrize.register_parametrization(model[2], "bias", Twice())
    assert torch.equal(model[2].bias, 2 * bias)
    weight = model[2].weight.detach().clone()
    evolution.close(fold=True)
    assert not is_gated(model)
    assert torch.equal(model[2].bias, 2 * bias)
    assert torch.equal(model[2].weight, weight)
    nn.utils.parametrize.remove_parametrizations(model[2], "bias")
    assert type(model[2]) is nn.Linear


@pytest.mark.parametrize("use_buffers", [False, True])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_moving_average_is_of_the_weights_as_they_act(when, use_buffers):
    """Compared with the average of what the states of the model were."""

    def average_of(model):
        return AveragedModel(
            model, multi_avg_fn=get_ema_multi_avg_fn(0.75), use_buffers=use_buffers
        )

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3))
    made = average_of(model) if when == "before" else None
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    evolution = natsel.Evolution(
        natsel.discover(model, torch.zeros(2, 4)), optimizer=optimizer, rate=0.5
    )
    average = made or average_of(model)
    expected = None
    for step in range(6):
        x = torch.randn(16, 4, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
        raw = [p.detach().clone() for p in model.parameters()]
        average.update_parameters(model)
        assert all(torch.equal(p, r) for p, r in zip(model.parameters(), raw, strict=True))
        state = values(model)
        if expected is None:
            expected = state
        for name, tensor in expected.items():
            if "num" in name or ("running" in name and not use_buffers):
                tensor.copy_(state[name])
            else:
                tensor.lerp_(state[name], 0.25)
    assert not is_gated(average)
    found = average.module.state_dict()
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        if "num" not in name:  # whole numbers are not averaged as others are
            torch.testing.assert_close(found[name], tensor, rtol=1e-5, atol=1e-6)
    assert natsel.extract(average.module, evolution.survivors()) is not None


def test_averages_of_plain_models_are_what_they_were():
    model = perceptron()
    natsel.Evolution(natsel.discover(perceptron(), torch.zeros(1, 4)))
    average = AveragedModel(model)
    average.update_parameters(model)
    with torch.no_grad():
        model[0].weight.add_(1.0)
    average.update_parameters(model)
    torch.testing.assert_close(average.module[0].weight, model[0].weight - 0.5)


def test_a_copy_of_the_model_is_a_model_of_its_own():
    communities, evolution, _ = evolving("transformer-encoder")
    twin = copy.deepcopy(communities.model)
    inputs = communities.example_inputs
    expected = run(communities.model, inputs)
    set_masses(evolution, {n: torch.ones(c.size) for n, c in communities.items()})
    assert torch.equal(run(twin, inputs), expected)
    evolution.close(fold=True)
    assert torch.equal(run(twin, inputs), expected)
    small = natsel.extract(twin, draw_survivors(communities))
    assert not is_gated(small)
    logits(small, batch(communities, 1))


def test_isinstance_name_and_words_are_those_of_the_class():
    communities, _, _ = evolving("transformer-encoder")
    plain = network("transformer-encoder").model
    assert repr(communities.model) == repr(plain)
    for gated, own in zip(communities.model.modules(), plain.modules(), strict=True):
        assert isinstance(gated, type(own))
        for word in ("__name__", "__qualname__", "__module__", "__doc__"):
            assert getattr(type(gated), word) == getattr(type(own), word)


def test_masses_move_with_the_model():
    communities, evolution, _ = evolving("lstm")
    model = communities.model.float()
    assert all(g.gate.mass.dtype == torch.float32 for g in evolution._gates)
    model.to("meta")
    assert all(g.gate.mass.device.type == "meta" for g in evolution._gates)


def test_function_calls_and_export_read_the_masses():
    communities, _, _ = evolving("mlp")
    model, inputs = communities.model, communities.example_inputs
    expected = run(model, inputs)
    called = torch.func.functional_call(model, dict(model.named_parameters()), inputs)
    assert torch.equal(called, expected)
    exported = torch.export.export(model, inputs, strict=False).module()
    torch.testing.assert_close(run(exported, inputs), expected, rtol=1e-12, atol=1e-14)
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    assert torch.equal(run(compiled, inputs), expected)
    program = natsel.as_program(model, inputs)
    assert list(dict(program.named_parameters())) == list(dict(model.named_parameters()))
    torch.testing.assert_close(run(program, inputs), expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", ["mlp", "lstm"])
def test_a_replica_of_data_parallel_reads_its_own_weights_with_the_masses(name):
    """As torch.nn.DataParallel makes one on each device: with plain tensors for parameters."""
    communities, _, _ = evolving(name)
    for module in communities.model.modules():
        replica = module._replicate_for_data_parallel()
        for attribute, parameter in module._parameters.items():
            setattr(replica, attribute, 2 * parameter.detach())
        for attribute in module._parameters:
            torch.testing.assert_close(
                getattr(replica, attribute), 2 * getattr(module, attribute).detach()
            )
