"""What is saved of a model under evolution, in whatever way, is the plain model as it acts."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
import torch.nn.functional as F
from networks import batch, draw_survivors, logits, loss_of, network, set_masses
from safetensors.torch import load_model, save_model
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    set_model_state_dict,
)

import natsel

NAMES = ["mlp", "lstm", "transformer-encoder", "hf-gpt2", "hf-llama"]


def under_evolution(name):
    """A network that was trained for a step, with masses from 0 to 1, and a plain one like it."""
    communities = network(name)
    model = communities.model
    plain = copy.deepcopy(model)
    evolution = natsel.Evolution(communities)
    generator = torch.Generator().manual_seed(2)
    masses = {n: torch.rand(c.size, generator=generator) for n, c in communities.items()}
    for mass in masses.values():
        mass[0] = 0.0
    set_masses(evolution, masses)
    return communities, evolution, plain


def scrambled(model):
    with torch.no_grad():
        for tensor in {id(t): t for t in model.state_dict(keep_vars=True).values()}.values():
            if tensor.is_floating_point():
                tensor.add_(1.0)
    return model


def run(model, inputs):
    with torch.no_grad():
        return logits(model, inputs)


def same_outputs(found, expected):
    """The same weights give this: a recurrent layer may pack them in memory in another way."""
    torch.testing.assert_close(found, expected, rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize("name", NAMES)
def test_a_state_is_that_of_a_plain_model_that_computes_the_same(name):
    communities, _, plain = under_evolution(name)
    model, inputs = communities.model, communities.example_inputs
    state = model.state_dict()
    assert list(state) == list(plain.state_dict())
    assert [n for n, _ in model.named_parameters()] == [n for n, _ in plain.named_parameters()]
    assert [n for n, _ in model.named_buffers()] == [n for n, _ in plain.named_buffers()]
    assert not any(t.requires_grad for t in state.values())
    scrambled(plain).load_state_dict(state)
    same_outputs(run(plain, inputs), run(model, inputs))
    # A tensor that is read in several places is one in the state, too.
    for first, second in plain_ties(plain):
        assert state[first] is state[second] or state[first].data_ptr() == state[second].data_ptr()


def plain_ties(model):
    first = {}
    for name, p in model.named_parameters(remove_duplicate=False):
        if id(p) in first:
            yield first[id(p)], name
        first.setdefault(id(p), name)


def by_torch(model, plain, folder):
    torch.save(model.state_dict(), folder / "state.pt")
    plain.load_state_dict(torch.load(folder / "state.pt", weights_only=True))
    return plain


def by_safetensors(model, plain, folder):
    save_model(model, str(folder / "state.safetensors"))
    load_model(plain, str(folder / "state.safetensors"))
    return plain


def by_distributed(model, plain, folder):
    plain.load_state_dict(get_model_state_dict(model))
    return plain


def by_full_distributed(model, plain, folder):
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    plain.load_state_dict(get_model_state_dict(model, options=options))
    return plain


def by_pickle(model, plain, folder):
    return pickle.loads(pickle.dumps(model))


def by_whole(model, plain, folder):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize(
    "saved",
    [by_torch, by_safetensors, by_distributed, by_full_distributed, by_pickle, by_whole],
)
@pytest.mark.parametrize("name", ["mlp", "lstm", "hf-gpt2"])
def test_every_way_of_saving_gives_the_plain_model_that_computes_the_same(name, saved, tmp_path):
    communities, evolution, plain = under_evolution(name)
    model, inputs = communities.model, communities.example_inputs
    expected = run(model, inputs)
    kinds = [type(m) for m in plain.modules()]
    found = saved(model, scrambled(plain), tmp_path)
    assert [type(m) for m in found.modules()] == kinds
    same_outputs(run(found, inputs), expected)
    assert list(plain_ties(found)) == list(plain_ties(plain))
    assert torch.equal(run(model, inputs), expected)  # which goes on
    loss_of(model, inputs).backward()
    evolution.step()


@pytest.mark.parametrize("name", ["hf-gpt2", "hf-llama"])
def test_save_pretrained_writes_a_folder_that_loads(name, tmp_path):
    communities, _, plain = under_evolution(name)
    communities.model.save_pretrained(tmp_path)
    found = type(plain).from_pretrained(tmp_path, dtype=torch.float64).eval()
    inputs = communities.example_inputs
    torch.testing.assert_close(run(found, inputs), run(communities.model, inputs))


@pytest.mark.parametrize("name", NAMES)
def test_what_a_plain_model_saved_acts_as_it_did_where_there_is_mass(name):
    communities, evolution, plain = under_evolution(name)
    set_masses(evolution, {n: 0.1 + 0.9 * torch.rand(c.size) for n, c in communities.items()})
    model, inputs = communities.model, communities.example_inputs
    model.load_state_dict(scrambled(plain).state_dict())
    torch.testing.assert_close(run(model, inputs), run(plain, inputs))


@pytest.mark.parametrize("name", NAMES)
def test_its_own_state_comes_back_bit_for_bit(name):
    communities, _, _ = under_evolution(name)
    model = communities.model
    raw = [p.detach().clone() for p in model.parameters()]
    model.load_state_dict(copy.deepcopy(model.state_dict()))
    model.load_state_dict(model.state_dict())
    assert all(torch.equal(p, r) for p, r in zip(model.parameters(), raw, strict=True))


def tiny():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    evolution = natsel.Evolution(natsel.discover(model, torch.zeros(1, 4)))
    set_masses(evolution, {"0": torch.tensor([0.0, 0.25, 0.5, 0.75, 0.9, 1.0])})
    return model, evolution


def test_where_the_mass_is_0_a_loaded_number_is_taken_as_it_is_and_0_changes_nothing():
    model, _ = tiny()
    raw = model[2]._parameters["weight"].detach().clone()
    value = torch.full((3, 6), 3.0)
    value[0] = 0.0
    model.load_state_dict({"2.weight": value}, strict=False)
    now = model[2]._parameters["weight"]
    assert now[0].tolist() == [raw[0, 0], 0, 0, 0, 0, 0]
    torch.testing.assert_close(now[1], torch.tensor([3, 12, 6, 4, 3 / 0.9, 3]))
    assert (model[2].weight[:, 0] == 0).all()


def test_what_is_not_loaded_stays():
    model, _ = tiny()
    raw = model[2]._parameters["weight"].detach().clone()
    missing = model.load_state_dict({"2.bias": torch.zeros(3)}, strict=False)
    assert missing.missing_keys == ["0.weight", "0.bias", "2.weight"]
    with pytest.raises(RuntimeError, match=r"Missing key.*2\.weight"):
        model.load_state_dict({"2.bias": torch.zeros(3)})
    with pytest.raises(RuntimeError, match=r"size mismatch for 2\.weight"):
        model.load_state_dict({"2.weight": torch.zeros(3, 5)}, strict=False)
    set_model_state_dict(
        model,
        {"2.bias": torch.ones(3)},
        options=StateDictOptions(strict=False, full_state_dict=True),
    )
    assert torch.equal(model[2]._parameters["weight"], raw)


def test_an_assigned_state_is_not_written_to_and_is_what_evolves():
    model, evolution = tiny()
    state = {n: torch.ones_like(t) for n, t in model.state_dict().items()}
    model.load_state_dict(state, assign=True)
    assert all((t == 1).all() for t in state.values())
    assert model[0].weight.data_ptr() == state["0.weight"].data_ptr()
    torch.testing.assert_close(model[2].weight[:, 1:], torch.ones(3, 5))
    model(torch.ones(2, 4)).square().sum().backward()
    evolution.step()
    assert evolution.num_steps == 1


def test_keep_vars_keeps_the_gradient():
    model, _ = tiny()
    state = model.state_dict(keep_vars=True)
    state["2.weight"].sum().backward()
    mass = torch.tensor([0.0, 0.25, 0.5, 0.75, 0.9, 1.0])
    assert torch.equal(model[2]._parameters["weight"].grad, mass.expand(3, 6))


@pytest.mark.parametrize("order", ["model first", "evolution first"])
@pytest.mark.parametrize("dynamics", ["logistic", "participation", "replicator"])
def test_model_and_evolution_resume_in_either_order(run_of, dynamics, order, tmp_path):
    options = {"dynamics": dynamics, "rate": 0.3, "pressure": 2.0, "patience": 2}
    whole, half = run_of(**options).train(40), run_of(**options).train(25)
    parts = ("model", "optimizer", "evolution")
    torch.save({n: getattr(half, n).state_dict() for n in parts}, tmp_path / "state.pt")
    saved = torch.load(tmp_path / "state.pt", weights_only=True)
    resumed = run_of(**options, seed=9)
    scrambled(resumed.model)
    for name in parts if order == "model first" else reversed(parts):
        getattr(resumed, name).load_state_dict(saved[name])
    resumed.train(15, start=25)
    for a, b in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(a, b)
    for name, mass in whole.evolution.masses.items():
        assert torch.equal(resumed.evolution.masses[name], mass)


@pytest.fixture
def run_of(run):
    return run


def test_a_state_of_another_shape_is_refused_and_changes_nothing():
    model, evolution = tiny()
    state = evolution.state_dict()
    before = copy.deepcopy(model.state_dict())
    state["weights"] = {"2.weight": torch.zeros(3, 5)}
    with pytest.raises(ValueError, match=r"state\['weights'\]"):
        evolution.load_state_dict(state)
    after = model.state_dict()
    assert all(torch.equal(before[n], after[n]) for n in before)


def test_a_small_model_that_evolves_again_is_saved_as_it_acts(tmp_path):
    model, evolution = tiny()
    small = natsel.extract(model, evolution.survivors(natsel.Sparsity(0.3)))
    natsel.Evolution(natsel.discover(small, torch.zeros(1, 4)), initial=0.5)
    natsel.save(small, tmp_path / "small")
    found = natsel.load(tmp_path / "small", model=tiny()[0])
    x = torch.randn(5, 4)
    torch.testing.assert_close(found(x), small(x))


def test_single_weights_of_a_gated_layer_are_refused():
    model, _ = tiny()
    with pytest.raises(ValueError, match=r"2\.weight=.*computed"):
        natsel.weights(model)


def test_communities_of_a_gated_model_are_those_of_the_plain_one():
    communities, _, _ = under_evolution("transformer-encoder")
    model, inputs = communities.model, communities.example_inputs
    expected = run(model, inputs)
    found = natsel.discover(model, inputs)
    assert {n: c.size for n, c in found.items()} == {n: c.size for n, c in communities.items()}
    survivors = draw_survivors(found)
    small = natsel.extract(model, survivors, communities=found)
    assert natsel.verify(model, small, survivors, batch(communities, 3)).passed
    assert torch.equal(run(model, inputs), expected)


def test_training_goes_on_undisturbed_while_it_is_saved(run):
    plain, saved = run(rate=0.3), run(rate=0.3)
    for step in range(12):
        plain.train(1, start=step)
        saved.backward(step)
        saved.model.state_dict()
        pickle.dumps(saved.model)
        saved.evolution.step()
        with saved.evolution.ungated():
            saved.model.state_dict()
        saved.optimizer.step()
    for a, b in zip(plain.model.parameters(), saved.model.parameters(), strict=True):
        assert torch.equal(a, b)
    x, y = plain.batch(0)
    assert torch.equal(F.cross_entropy(plain.model(x), y), F.cross_entropy(saved.model(x), y))


def test_a_checkpoint_of_a_trainer_loads_into_a_plain_model(tmp_path):
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=50,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )
    model = transformers.LlamaForCausalLM(config)
    tokens = torch.randint(0, 50, (32, 12))
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    evolution = natsel.Evolution(
        natsel.discover(model, (tokens[:2],)), optimizer=optimizer, rate=0.3
    )
    arguments = transformers.TrainingArguments(
        str(tmp_path),
        max_steps=4,
        save_steps=4,
        per_device_train_batch_size=8,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
    )
    data = [{"input_ids": row, "labels": row} for row in tokens]
    transformers.Trainer(model, arguments, train_dataset=data, optimizers=(optimizer, None)).train()
    assert evolution.num_steps == 4
    assert torch.cat(list(evolution.masses.values())).max() < 1
    plain = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "checkpoint-4")
    with torch.no_grad():
        assert torch.equal(plain(tokens).logits, model.eval()(tokens).logits)
