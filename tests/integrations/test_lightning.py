"""Under Lightning's Trainer: what evolves is logged, kept, resumed bit for bit, and extracted."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from same import assert_same_runs
from torch import nn

import natsel

try:
    import lightning.pytorch as pl
except ImportError:
    pl = pytest.importorskip("pytorch_lightning")
from natsel.integrations.lightning import EvolutionCallback, HoldCallback

pytestmark = pytest.mark.filterwarnings("ignore")
HARSH = {"rate": 0.5, "pressure": 3.0, "patience": 1, "horizon": 2}


class Module(pl.LightningModule):
    def __init__(self, lr=1e-2):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU())
        self.head = nn.Linear(6, 2)
        self.example_input_array = torch.zeros(2, 4)
        self.lr = lr

    def forward(self, x):
        return self.head(self.net(x))

    def loss(self, batch):
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def training_step(self, batch, _):
        return self.loss(batch)

    def validation_step(self, batch, _):
        self.log("val", self.loss(batch))

    test_step = validation_step

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.lr)
        schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.9)
        return {"optimizer": optimizer, "lr_scheduler": schedule}


def loader():
    x = torch.randn(24, 4, generator=torch.Generator().manual_seed(1))
    data = torch.utils.data.TensorDataset(x, (x[:, 0] > 0).long())
    return torch.utils.data.DataLoader(data, 4)


def trainer_of(folder, callback, epochs, *others, **options):
    return pl.Trainer(
        max_epochs=epochs,
        callbacks=[callback, *others],
        default_root_dir=folder,
        **{
            **{"accelerator": "cpu", "devices": 1, "logger": False, "log_every_n_steps": 1},
            **{"enable_progress_bar": False, "enable_model_summary": False},
            **{"enable_checkpointing": bool(others), "num_sanity_val_steps": 0},
            **options,
        },
    )


def fitted(folder, epochs=2, ckpt=None, *others, **options):
    callback = EvolutionCallback(**HARSH)
    module = Module()
    trainer = trainer_of(folder, callback, epochs, *others, **options)
    trainer.fit(module, loader(), ckpt_path=ckpt)
    return callback, module, trainer


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({}, 12),
        ({"accumulate_grad_batches": 2, "gradient_clip_val": 0.1}, 6),
        ({"precision": "bf16-mixed"}, 12),
    ],
    ids=["plain", "accumulated and clipped", "bf16"],
)
def test_killed_and_resumed_is_bit_for_bit_the_same(tmp_path, options, steps):
    whole, _, _ = fitted(tmp_path, **options)
    half, _, trainer = fitted(tmp_path, 1, **options)
    assert whole.evolution.num_steps == steps
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    resumed, _, _ = fitted(tmp_path, 2, tmp_path / "half.ckpt", **options)
    assert half.evolution.num_steps == steps // 2
    assert_same_runs(whole, resumed)
    assert whole.evolution.num_alive < 14


def test_masses_are_those_of_the_same_loop_without_lightning(tmp_path):
    callback, _, _ = fitted(tmp_path, 1)
    module = Module()
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-2)
    communities = natsel.discover(module, module.example_input_array)
    evolution = natsel.Evolution(communities, optimizer=optimizer, **HARSH)
    for batch in loader():
        optimizer.zero_grad()
        module.loss(batch).backward()
        optimizer.step()
    for name, mass in evolution.masses.items():
        assert torch.equal(mass, callback.evolution.masses[name])


def test_a_checkpoint_loads_into_a_plain_module_that_computes_the_same(tmp_path):
    callback, module, trainer = fitted(tmp_path)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    plain = Module.load_from_checkpoint(tmp_path / "last.ckpt")
    x = torch.randn(5, 4)
    assert torch.equal(plain(x), module(x))
    assert type(plain.head) is nn.Linear
    assert callback.evolution.num_alive < 14


def test_the_best_checkpoint_is_tested_and_extracted_with_its_own_masses(tmp_path):
    saving = pl.callbacks.ModelCheckpoint(
        tmp_path, monitor="val", mode="max", filename="best", save_top_k=1
    )
    callback = EvolutionCallback(**HARSH)
    module = Module()
    trainer = trainer_of(tmp_path, callback, 3, saving)
    trainer.fit(module, loader(), loader())
    steps = callback.evolution.num_steps
    trainer.test(module, loader(), ckpt_path="best")
    kept = torch.load(saving.best_model_path, weights_only=True)
    assert callback.evolution.num_steps == kept["global_step"] < steps
    best = Module.load_from_checkpoint(saving.best_model_path)
    x = torch.randn(5, 4)
    assert torch.equal(best.eval()(x), module.eval()(x))


def test_what_evolves_is_among_the_metrics_of_the_trainer(tmp_path):
    callback, _, trainer = fitted(tmp_path)
    logged = trainer.logged_metrics
    assert logged["evolution/alive"] == callback.evolution.num_alive
    assert logged["evolution/pressure"] == pytest.approx(callback.evolution.pressure)
    assert logged["evolution/mass"] == pytest.approx(
        float(torch.cat(list(callback.evolution.masses.values())).mean())
    )


def test_the_small_module_is_extracted_with_its_optimizer(tmp_path):
    callback, module, _ = fitted(tmp_path)
    x = torch.randn(5, 4)
    before = module(x).detach()
    small = callback.extract()
    assert small.net[0].out_features + small.net[2].out_features == callback.evolution.num_alive
    torch.testing.assert_close(small(x), before)
    owned = {id(p) for g in callback.optimizer.param_groups for p in g["params"]}
    assert owned == {id(p) for p in small.parameters()}
    small.loss(next(iter(loader()))).backward()
    callback.optimizer.step()


def test_zeros_are_held_while_it_trains_and_in_its_checkpoint(tmp_path):
    module = Module()
    mask = torch.rand(8, 4, generator=torch.Generator().manual_seed(0)) > 0.5
    trainer = trainer_of(tmp_path, HoldCallback({"net.0.weight": mask}), 2)
    trainer.fit(module, loader())
    trainer.save_checkpoint(tmp_path / "held.ckpt")
    kept = torch.load(tmp_path / "held.ckpt", weights_only=True)["state_dict"]["net.0.weight"]
    assert torch.equal(kept == 0, ~mask)
    assert not torch.equal(kept, Module().net[0].weight * mask)  # it trained


def refusal(folder, callback, module=None, ckpt=None):
    trainer = trainer_of(folder, callback, 1)
    with pytest.raises(ValueError, match="is not allowed") as told, warnings.catch_warnings():
        trainer.fit(module or Module(), loader(), ckpt_path=ckpt)
    assert "\n" not in str(told.value)
    return str(told.value)


def test_a_checkpoint_without_an_evolution_is_refused_unless_a_new_one_is_asked_for(tmp_path):
    trainer = pl.Trainer(
        max_epochs=1,
        default_root_dir=tmp_path,
        logger=False,
        accelerator="cpu",
        enable_progress_bar=False,
    )
    trainer.fit(Module(), loader())
    trainer.save_checkpoint(tmp_path / "plain.ckpt")
    path = tmp_path / "plain.ckpt"
    told = refusal(tmp_path, EvolutionCallback(), ckpt=path)
    assert "plain.ckpt" in told
    assert "False begins one anew" in told
    callback = EvolutionCallback(resume=False)
    trainer_of(tmp_path, callback, 2).fit(Module(), loader(), ckpt_path=path)
    assert callback.evolution.num_steps == 6


def test_two_of_them_and_modules_without_inputs_are_refused(tmp_path):
    with pytest.raises(RuntimeError, match="more than one stateful callback of type `EvolutionC"):
        trainer_of(tmp_path, EvolutionCallback(), 1, EvolutionCallback())
    module = Module()
    module.example_input_array = None
    assert "Module.example_input_array" in refusal(tmp_path, EvolutionCallback(), module=module)


def test_several_optimizers_are_refused(tmp_path):
    class Two(Module):
        automatic_optimization = False

        def configure_optimizers(self):
            return [torch.optim.SGD(part.parameters(), 0.1) for part in (self.net, self.head)]

    assert "optimizers=2" in refusal(tmp_path, EvolutionCallback(), module=Two())


@pytest.mark.parametrize("strategy", ["FSDPStrategy", "DeepSpeedStrategy", "ModelParallelStrategy"])
def test_sharded_strategies_are_refused_by_name(strategy):
    from types import SimpleNamespace

    trainer = SimpleNamespace(strategy=type(strategy, (), {})(), callbacks=[])
    for callback in (EvolutionCallback(), HoldCallback({})):
        with pytest.raises(ValueError, match=f"strategy='{strategy}'.*'ddp'"):
            callback.setup(trainer, Module(), "fit")


def test_an_evolution_of_another_checkpoint_is_refused_and_the_module_is_left_plain(tmp_path):
    _, _, trainer = fitted(tmp_path, 1)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    kept = torch.load(tmp_path / "a.ckpt", weights_only=True)
    other = copy.deepcopy(kept)
    other["state_dict"]["head.weight"] += 1
    torch.save(other, tmp_path / "b.ckpt")
    module = Module()
    refusal(tmp_path, EvolutionCallback(**HARSH), module=module, ckpt=tmp_path / "b.ckpt")
    assert type(module.head) is nn.Linear
