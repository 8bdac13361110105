"""Under the Trainer of transformers: what evolves is logged, kept, resumed and extracted."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file
from same import assert_same_runs
from tiny import Data, trainer_of, vit
from torch import nn

import natsel

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")
from natsel.integrations.transformers import EvolutionCallback, HoldCallback  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")
HARSH = {"rate": 0.5, "pressure": 3.0, "patience": 1, "horizon": 2}
SAVING = {"save_strategy": "steps", "save_steps": 3}
IMAGES = torch.stack([Data()[n]["pixel_values"] for n in range(4)])


class Kill(transformers.TrainerCallback):
    """Ends the training as a killed process would: the schedule is that of the whole run."""

    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **_):
        control.should_training_stop = state.global_step == self.step


def trained(folder, *others, resume=None, model=None, harsh=HARSH, **options):
    callback = EvolutionCallback(**harsh)
    trainer = trainer_of(model or vit(), folder, [callback, *others], **{**SAVING, **options})
    trainer.train(resume_from_checkpoint=resume)
    return callback, trainer


def outputs(model, images=IMAGES):
    training = model.training
    with torch.no_grad():
        found = model.eval()(images).logits
    model.train(training)
    return found


WAYS = {
    "plain": {},
    "accumulated and clipped": {"gradient_accumulation_steps": 2, "max_grad_norm": 0.1},
    "bf16": {"bf16": True},
    "checkpointed gradients": {"gradient_checkpointing": True},
    "sgd on a cosine": {"optim": "sgd", "lr_scheduler_type": "cosine"},
    "fused": {"optim": "adamw_torch_fused"},
}


@pytest.mark.parametrize("options", WAYS.values(), ids=WAYS)
def test_killed_and_resumed_is_bit_for_bit_the_same(tmp_path, options):
    whole, _ = trained(tmp_path / "whole", **options)
    trained(tmp_path / "half", Kill(3), **options)
    resumed, _ = trained(tmp_path / "half", resume=True, **options)
    assert whole.evolution.num_steps == 6
    assert_same_runs(whole, resumed)


@pytest.mark.slow
def test_a_compiled_model_evolves_and_resumes_as_it_does_without(tmp_path):
    options = {"torch_compile": True, "torch_compile_backend": "aot_eager"}
    whole, _ = trained(tmp_path / "whole", **options)
    trained(tmp_path / "half", Kill(3), **options)
    resumed, _ = trained(tmp_path / "half", resume=True, **options)
    assert_same_runs(whole, resumed)


def test_masses_are_those_of_the_same_steps_without_a_trainer(tmp_path):
    model = vit()
    model.config.hidden_dropout_prob = 0.0
    model = type(model)(model.config)
    start = {n: t.clone() for n, t in model.state_dict().items()}
    batches = []
    model.register_forward_pre_hook(
        lambda _, args, named: batches.append(named) if model.training else None, with_kwargs=True
    )
    options = {"optim": "sgd", "lr_scheduler_type": "constant", "max_grad_norm": 0.0}
    callback, _ = trained(tmp_path, model=model, save_strategy="no", **options)
    plain = type(vit())(model.config)
    plain.load_state_dict(start)
    optimizer = torch.optim.SGD(plain.parameters(), lr=5e-3)
    communities = natsel.discover(plain, (IMAGES[:2],))
    evolution = natsel.Evolution(communities, optimizer=optimizer, **HARSH)
    plain.train()
    for batch in [b for b in batches if "labels" in b]:
        optimizer.zero_grad()
        plain(**batch).loss.backward()
        optimizer.step()
    assert evolution.num_steps == 6
    for name, mass in evolution.masses.items():
        torch.testing.assert_close(mass, callback.evolution.masses[name], rtol=1e-5, atol=1e-6)


def test_what_evolves_is_in_the_logs_of_those_who_report(tmp_path):
    heard = []

    class Reporter(transformers.TrainerCallback):
        """Like those for TensorBoard and W&B, which the Trainer puts before all of the user's."""

        def on_log(self, args, state, control, logs, **_):
            heard.append(dict(logs))

    callback, trainer = EvolutionCallback(log_communities=True, **HARSH), None
    trainer = trainer_of(vit(), tmp_path, [Reporter(), callback])
    trainer.train()
    steps = [logs for logs in heard if "loss" in logs]
    assert len(steps) == 6
    evolution = callback.evolution
    assert steps[-1]["evolution/alive"] == evolution.num_alive
    assert steps[-1]["evolution/pressure"] == evolution.pressure
    mass = float(torch.cat(list(evolution.masses.values())).mean())
    assert steps[-1]["evolution/mass"] == mass
    name = "vit.layers.1.mlp.fc1"
    assert steps[-1][f"evolution/alive/{name}"] == int(evolution.alive[name].sum())
    assert steps[-1][f"evolution/mass/{name}"] == float(evolution.masses[name].mean())
    written = [row for row in trainer.state.log_history if "loss" in row]
    assert [row["evolution/mass"] for row in written] == [row["evolution/mass"] for row in steps]
    assert len({row["evolution/mass"] for row in steps}) == 6


def test_every_checkpoint_loads_into_a_plain_model_that_computes_the_same(tmp_path):
    acting = {}

    class Look(transformers.TrainerCallback):
        def on_step_end(self, args, state, control, model, **_):
            acting[state.global_step] = outputs(model)

    callback, _ = trained(tmp_path, Look(), save_steps=2)
    for step in (2, 4, 6):
        folder = tmp_path / f"checkpoint-{step}"
        plain = type(vit()).from_pretrained(folder)
        torch.testing.assert_close(outputs(plain), acting[step], rtol=1e-6, atol=1e-6)
        summary = json.loads((folder / "evolution.json").read_text())
        assert summary["steps"] == step
        assert summary["communities"]["vit.layers.0.mlp.fc1"]["size"] == 24
        assert load_file(folder / "evolution.safetensors")
    assert summary["evolution/alive"] == callback.evolution.num_alive
    assert not torch.equal(acting[2], acting[6])


def test_the_best_model_comes_with_its_own_masses(tmp_path):
    def worse_and_worse(_):
        worse_and_worse.calls += 1
        return {"score": -worse_and_worse.calls}

    worse_and_worse.calls = 0
    callback = EvolutionCallback(**HARSH)
    trainer = trainer_of(
        vit(),
        tmp_path,
        [callback],
        **{**SAVING, "eval_strategy": "steps", "eval_steps": 3, "load_best_model_at_end": True},
        metric_for_best_model="score",
        greater_is_better=True,
    )
    trainer.compute_metrics = worse_and_worse
    trainer.train()
    best = tmp_path / "checkpoint-3"
    assert trainer.state.best_model_checkpoint == str(best)
    assert callback.evolution.num_steps == 3
    plain = type(vit()).from_pretrained(best)
    assert torch.equal(outputs(trainer.model), outputs(plain))
    small = callback.extract(optimizer=False)
    torch.testing.assert_close(outputs(small), outputs(plain), rtol=1e-5, atol=1e-6)


def test_the_small_model_is_extracted_with_its_optimizer_and_trains_on(tmp_path):
    harsh = {**HARSH, "rate": 2.0, "pressure": 4.0}
    callback, trainer = trained(tmp_path, harsh=harsh, bf16=True, steps=12)
    alive = callback.evolution.num_alive
    assert alive < 56
    before = outputs(trainer.model)
    small = callback.extract()
    sizes = [b.mlp.fc1.out_features for b in small.vit.layers]
    heads = sum(int(m.sum()) for n, m in callback.evolution.alive.items() if "attention" in n)
    assert sum(sizes) + heads == alive
    assert "forward" not in vars(small)
    assert torch.equal(outputs(trainer.model), before)  # which stays as it was
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(outputs(small).float(), before, rtol=0.02, atol=0.01)
    owned = {id(p) for g in callback.optimizer.param_groups for p in g["params"]}
    assert owned == {id(p) for p in small.parameters()}
    moments = {id(p): s["exp_avg"].shape for p, s in callback.optimizer.state.items()}
    assert all(moments[id(p)] == p.shape for p in small.parameters() if id(p) in moments)
    after = trainer_of(small, tmp_path / "after", None, steps=2)
    after.optimizer = callback.optimizer
    after.train()
    natsel.save(small, tmp_path / "small")
    assert torch.equal(outputs(natsel.load(tmp_path / "small", model=vit())), outputs(small))


def test_training_again_goes_on_with_the_same_evolution(tmp_path):
    callback, trainer = trained(tmp_path)
    evolution = callback.evolution
    trainer.train()
    assert callback.evolution is evolution
    assert evolution.num_steps == 12


def test_zeros_are_held_while_it_trains_and_in_every_checkpoint(tmp_path):
    model = vit()
    name = "vit.layers.0.mlp.fc1.weight"
    mask = torch.rand(24, 16, generator=torch.Generator().manual_seed(0)) > 0.5
    trainer_of(model, tmp_path, [HoldCallback({name: mask})], weight_decay=0.1, **SAVING).train()
    for step in (3, 6):
        kept = type(model).from_pretrained(tmp_path / f"checkpoint-{step}").state_dict()[name]
        assert torch.equal(kept == 0, ~mask)
    assert not torch.equal(kept[mask], vit().state_dict()[name][mask])  # the others trained


def test_a_sparse_model_knows_its_zeros_itself_and_resumes(tmp_path):
    def run(folder, *others, resume=None):
        model = natsel.sparsify(vit(), natsel.Sparsity(0.5), scorer="magnitude").model
        masks = natsel.masks_of(model)
        trainer = trainer_of(model, folder, [HoldCallback(), *others], **SAVING)
        trainer.train(resume_from_checkpoint=resume)
        assert all(bool((model.get_parameter(n)[~m] == 0).all()) for n, m in masks.items())
        return model

    whole = run(tmp_path / "whole")
    run(tmp_path / "half", Kill(3))
    resumed = run(tmp_path / "half", resume=True)
    for mine, yours in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(mine, yours)
    assert sum(int((~m).sum()) for m in natsel.masks_of(whole).values()) > 1000


def refusal(trainer, **options):
    with pytest.raises(ValueError, match=r"not allowed|damaged") as told:
        trainer.train(**options)
    assert "\n" not in str(told.value)
    return str(told.value)


def test_a_checkpoint_without_an_evolution_is_refused_unless_a_new_one_is_asked_for(tmp_path):
    trainer_of(vit(), tmp_path, None, **SAVING).train()
    model = vit()
    callback = EvolutionCallback(**HARSH)
    trainer = trainer_of(model, tmp_path, [callback], **SAVING)
    told = refusal(trainer, resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert "checkpoint-3" in told
    assert "resume=False" in told
    assert type(model.classifier) is nn.Linear  # nothing was gated
    callback = EvolutionCallback(resume=False, **HARSH)
    trainer = trainer_of(vit(), tmp_path, [callback], **SAVING)
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert callback.evolution.num_steps == 3


def test_the_evolution_of_another_checkpoint_is_refused_and_the_model_is_left_plain(tmp_path):
    trained(tmp_path / "a")
    trained(tmp_path / "b", model=vit(1))
    model = vit()
    callback = EvolutionCallback(resume=tmp_path / "b" / "checkpoint-3", **HARSH)
    trainer = trainer_of(model, tmp_path / "a", [callback], **SAVING)
    told = refusal(trainer, resume_from_checkpoint=str(tmp_path / "a" / "checkpoint-3"))
    assert "the very checkpoint" in told
    assert [type(m) for m in model.modules()] == [type(m) for m in vit().modules()]


def test_a_checkpoint_elsewhere_is_taken_up_by_its_folder(tmp_path):
    whole, _ = trained(tmp_path / "whole")
    (tmp_path / "whole" / "checkpoint-3").rename(tmp_path / "moved")
    callback = EvolutionCallback(resume=tmp_path / "moved", **HARSH)
    trainer = trainer_of(vit(), tmp_path / "new", [callback], **SAVING)
    trainer.train(resume_from_checkpoint=str(tmp_path / "moved"))
    assert_same_runs(whole, callback)


def test_a_damaged_evolution_is_refused(tmp_path):
    trained(tmp_path)
    file = tmp_path / "checkpoint-3" / "evolution.safetensors"
    file.write_bytes(file.read_bytes()[:-7])
    trainer = trainer_of(vit(), tmp_path, [EvolutionCallback(**HARSH)], **SAVING)
    assert str(file) in refusal(trainer, resume_from_checkpoint=str(tmp_path / "checkpoint-3"))


def test_two_callbacks_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"callbacks='two EvolutionCallbacks' is not allowed"):
        trainer_of(vit(), tmp_path, [EvolutionCallback(), EvolutionCallback()])
    one = EvolutionCallback()
    with pytest.raises(ValueError, match=r"callbacks='two EvolutionCallbacks' is not allowed"):
        trainer_of(vit(), tmp_path, [one, one])


@pytest.mark.parametrize("callback", [EvolutionCallback(), HoldCallback({})])
@pytest.mark.parametrize("name", ["fsdp", "deepspeed"])
def test_sharding_is_refused_by_name(tmp_path, name, callback):
    arguments = transformers.TrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    object.__setattr__(arguments, name, "full_shard" if name == "fsdp" else {"stage": 2})
    with pytest.raises(ValueError, match=rf"{name}=.* is not allowed: .*small model"):
        callback.on_init_end(arguments, None, None)


def test_wrong_options_are_refused_where_they_are_written():
    with pytest.raises(ValueError, match=r"presure=1.*did you mean 'pressure'"):
        EvolutionCallback(presure=1.0)
    with pytest.raises(ValueError, match="fitness='tailor'"):
        EvolutionCallback(fitness="tailor")
    with pytest.raises(ValueError, match="dynamics='logistics'"):
        EvolutionCallback(dynamics="logistics")
    with pytest.raises(ValueError, match="discovery='loras'"):
        EvolutionCallback(discovery={"loras": True})
    with pytest.raises(ValueError, match="kinds='neuron'"):
        EvolutionCallback(kinds="neuron")
    with pytest.raises(ValueError, match="it begins when the trainer trains"):
        EvolutionCallback().extract()


def test_a_model_without_a_configuration_asks_for_example_inputs(tmp_path):
    class Plain(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.net = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 2))

        def forward(self, pixel_values, labels=None):
            logits = self.net(pixel_values)
            if labels is None:
                return {"logits": logits}
            return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}

    told = refusal(trainer_of(Plain(), tmp_path, [EvolutionCallback()]))
    assert "example_inputs=None" in told
    callback = EvolutionCallback(example_inputs={"pixel_values": IMAGES[:2]}, **HARSH)
    trainer_of(Plain(), tmp_path, [callback]).train()
    assert [c.size for c in callback.communities.values()] == [8]
    assert callback.evolution.num_steps == 6


def test_kinds_choose_who_evolves(tmp_path):
    callback = EvolutionCallback(kinds=("head",), **HARSH)
    trainer_of(vit(), tmp_path, [callback]).train()
    assert {c.kind for c in callback.communities.values()} == {"head"}


def test_where_some_layers_are_frozen_only_the_others_evolve(tmp_path):
    model = vit()
    model.vit.layers[0].requires_grad_(False)
    callback, _ = trained(tmp_path, model=model)
    assert list(callback.communities) == ["vit.layers.1.attention", "vit.layers.1.mlp.fc1"]
    frozen = [r for r in callback.communities.refused if "frozen" in r.reason]
    assert {r.name for r in frozen} == {"vit.layers.0.attention", "vit.layers.0.mlp.fc1"}
    everything = vit().requires_grad_(False)
    everything.classifier.requires_grad_(True)
    told = refusal(trainer_of(everything, tmp_path / "all", [EvolutionCallback()]))
    assert "magnitude" in told


def adapted():
    peft = pytest.importorskip("peft")
    return peft.get_peft_model(vit(), peft.LoraConfig(r=4, target_modules=["fc1", "fc2"]))


def test_under_adapters_frozen_populations_are_refused_and_ranks_evolve(tmp_path):
    for fitness in ("taylor", "magnitude"):
        callback = EvolutionCallback(fitness=fitness)
        told = refusal(trainer_of(adapted(), tmp_path, [callback]))
        assert "merge_and_unload" in told
        assert "'lora': True" in told

    def run(folder, *others, resume=None):
        callback = EvolutionCallback(discovery={"lora": True}, **HARSH)
        trainer_of(adapted(), folder, [callback, *others], **SAVING).train(
            resume_from_checkpoint=resume
        )
        return callback

    whole = run(tmp_path / "whole")
    assert [c.size for c in whole.communities.values()] == [4, 4, 4, 4]
    run(tmp_path / "half", Kill(3))
    assert_same_runs(whole, run(tmp_path / "half", resume=True))
