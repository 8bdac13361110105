"""Half precision whose scaled gradients overflow: a step that the scaler skips evolves nothing.

On a processor none of the libraries makes a scaler by itself; each is given torch's.
"""

from __future__ import annotations

import pytest
import torch
from tiny import trainer_of, vit
from torch import nn

import natsel

pytestmark = pytest.mark.filterwarnings("ignore")
HARSH = {"rate": 0.5, "pressure": 3.0, "patience": 1, "horizon": 2}
SPOILT = (1, 2, 4)
"""Steps whose loss is made infinite; what half precision rounds is for the others to survive."""


def scaler():
    return torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=2)


def spoilt(loss, step):
    return loss * torch.inf if step in SPOILT else loss


class Steps:
    """Masses before each step, for those who look at one step after the other."""

    def __init__(self):
        self.seen = []

    def look(self, evolution):
        self.seen.append(torch.cat([m.clone() for m in evolution.masses.values()]))

    def check(self):
        moved = [not torch.equal(a, b) for a, b in zip(self.seen, self.seen[1:], strict=False)]
        assert moved == [step not in SPOILT for step in range(6)]


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2))


def batch(step):
    x = torch.randn(4, 4, generator=torch.Generator().manual_seed(step))
    return x, (x[:, 0] > 0).long()


def without(spoilt_ones, fitness):
    """Return the masses of a run that never meets the steps that are spoilt."""
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    communities = natsel.discover(model, torch.zeros(2, 4))
    evolution = natsel.Evolution(communities, optimizer=optimizer, fitness=fitness, **HARSH)
    scale = scaler()
    for step in (s for s in range(6) if s not in spoilt_ones):
        x, y = batch(step)
        with torch.autocast("cpu", torch.float16):
            loss = nn.functional.cross_entropy(model(x), y)
        scale.scale(loss).backward()
        scale.step(optimizer)
        scale.update()
        optimizer.zero_grad()
    return evolution.masses


@pytest.mark.parametrize("order", ["before", "after"])
def test_accelerate(order):
    accelerate = pytest.importorskip("accelerate")
    accelerate.state.AcceleratorState._reset_state(True)
    accelerator = accelerate.Accelerator(cpu=True)
    accelerator.scaler = scaler()
    model, steps = network(), Steps()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)

    def evolve():
        communities = natsel.discover(model, torch.zeros(2, 4))
        return natsel.Evolution(communities, optimizer=optimizer, **HARSH)

    evolution = evolve() if order == "before" else None
    model, optimizer = accelerator.prepare(model, optimizer)
    evolution = evolution or evolve()
    skipped = []
    for step in range(6):
        steps.look(evolution)
        x, y = batch(step)
        with torch.autocast("cpu", torch.float16):
            loss = nn.functional.cross_entropy(model(x), y)
        accelerator.backward(spoilt(loss, step))
        optimizer.step()
        skipped.append(optimizer.step_was_skipped)
        optimizer.zero_grad()
    steps.look(evolution)
    assert [n for n, was in enumerate(skipped) if was] == list(SPOILT)
    steps.check()
    assert evolution.num_steps == 3
    for name, mass in without(SPOILT, "taylor").items():
        torch.testing.assert_close(evolution.masses[name], mass, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("fused", [False, True], ids=["unscaled-before", "unscaled-inside"])
def test_the_trainer_of_transformers(tmp_path, fused):
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    from natsel.integrations.transformers import EvolutionCallback

    steps, calls = Steps(), []

    class Look(transformers.TrainerCallback):
        def on_step_begin(self, args, state, control, **_):
            steps.look(callback.evolution)

        def on_train_end(self, args, state, control, **_):
            steps.look(callback.evolution)

    class Autocast(transformers.TrainerCallback):
        def on_train_begin(self, args, state, control, **_):
            model.forward = forward

    model = vit()
    inner = model.forward

    def forward(*args, **named):
        with torch.autocast("cpu", torch.float16):
            found = inner(*args, **named)
        found.loss = spoilt(found.loss, len(calls))
        calls.append(1)
        return found

    callback = EvolutionCallback(**HARSH)
    more = {"optim": "adamw_torch_fused" if fused else "adamw_torch"}
    trainer = trainer_of(model, tmp_path, [callback, Look()], logging_steps=1, **more)
    trainer.accelerator.scaler = scaler()
    trainer.add_callback(Autocast())  # after the discovery, which would not see through it
    trainer.train()
    steps.check()
    assert callback.evolution.num_steps == 3
    told = [row["evolution/skipped"] for row in trainer.state.log_history if "loss" in row]
    assert told == [0, 1, 2, 2, 3, 3]


@pytest.mark.parametrize("fitness", ["taylor", "wanda"])
def test_lightning(tmp_path, fitness):
    try:
        import lightning.pytorch as pl
    except ImportError:
        pl = pytest.importorskip("pytorch_lightning")
    from natsel.integrations.lightning import EvolutionCallback

    steps = Steps()

    class Module(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = network()
            self.example_input_array = torch.zeros(2, 4)

        def forward(self, x):
            return self.net(x)

        def training_step(self, given, number):
            steps.look(callback.evolution)
            return spoilt(nn.functional.cross_entropy(self(given[0]), given[1]), number)

        def configure_optimizers(self):
            return torch.optim.AdamW(self.parameters(), lr=1e-2)

    data = [batch(step) for step in range(6)]
    callback = EvolutionCallback(fitness=fitness, **HARSH)
    from lightning.pytorch.plugins import MixedPrecision

    trainer = pl.Trainer(
        max_epochs=1,
        callbacks=[callback],
        default_root_dir=tmp_path,
        accelerator="cpu",
        devices=1,
        logger=False,
        log_every_n_steps=1,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        plugins=[MixedPrecision("16-mixed", "cpu", scaler())],
    )
    trainer.fit(Module(), torch.utils.data.DataLoader(data, batch_size=None))
    steps.look(callback.evolution)
    steps.check()
    assert callback.evolution.num_steps == 3
    assert callback.evolution.num_skipped == len(SPOILT)
    assert float(trainer.callback_metrics["evolution/skipped"]) == len(SPOILT)
    for (name, mass), found in zip(
        without(SPOILT, fitness).items(), callback.evolution.masses.values(), strict=True
    ):
        torch.testing.assert_close(found, mass, rtol=1e-3, atol=1e-4, msg=name)
