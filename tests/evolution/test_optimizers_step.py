"""The signal is read where it is true: closures, wrapped optimizers, scaled gradients."""

from __future__ import annotations

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import natsel
from natsel.evolution.attachment import innermost


def same(a, b):
    return list(a) == list(b) and all(torch.equal(a[n], b[n]) for n in a)


def closure_of(r, step, num_calls=None):
    x, y = r.batch(step)

    def closure():
        r.optimizer.zero_grad()
        loss = F.cross_entropy(r.model(x), y)
        loss.backward()
        if num_calls is not None:
            num_calls.append(float(loss.detach()))
        return loss

    return closure


def attached(run, **options):
    r = run(**options)
    r.evolution.attach(r.optimizer)
    return r


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("fitness", ["taylor", "wanda"])
@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam, torch.optim.RMSprop])
def test_a_closure_gives_the_masses_of_the_plain_loop(run, optimizer, fitness, named):
    options = {"optimizer": optimizer, "fitness": fitness, "rate": 0.3}
    plain, closed = attached(run, **options), attached(run, **options)
    for step in range(6):
        plain.backward(step)
        plain.optimizer.step()
        closure = closure_of(closed, step)
        loss = closed.optimizer.step(closure=closure) if named else closed.optimizer.step(closure)
        assert loss is not None
    assert closed.evolution.num_steps == 6
    assert same(plain.evolution.masses, closed.evolution.masses)
    for a, b in zip(plain.model.parameters(), closed.model.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("search", [None, "strong_wolfe"])
def test_an_optimizer_that_evaluates_again_and_again_evolves_once(run, search):
    def lbfgs(parameters, lr):
        return torch.optim.LBFGS(parameters, lr=0.1, max_iter=4, line_search_fn=search)

    r = attached(run, optimizer=lbfgs, rate=0.5)
    first = attached(run, rate=0.5)
    first.backward(0)
    first.evolution.step()
    calls, seen = [], []
    closure = closure_of(r, 0, calls)

    def watched():
        seen.append(torch.cat([g.gate.mass.reshape(-1) for g in r.evolution._gates]))
        return closure()

    r.optimizer.step(watched)
    assert len(calls) > 2
    assert r.evolution.num_steps == 1
    # Of the first evaluation; the function that is searched stays one until the step is over.
    assert same(r.evolution.masses, first.evolution.masses)
    assert all(torch.equal(seen[0], s) for s in seen)
    gates = torch.cat([g.gate.mass.reshape(-1) for g in r.evolution._gates])
    assert not torch.equal(gates, seen[0])
    assert torch.equal(gates, torch.cat([g.gate.mass.reshape(-1) for g in first.evolution._gates]))
    assert calls[-1] < calls[0]


def test_a_closure_that_leaves_a_batch_out_evolves_nothing(run):
    r = attached(run)
    r.optimizer.step(lambda: None)
    assert r.evolution.num_steps == 0
    x, y = r.batch(0)

    def without_result():
        F.cross_entropy(r.model(x), y).backward()

    r.optimizer.step(without_result)
    assert r.evolution.num_steps == 1


def test_a_closure_that_fails_evolves_nothing(run):
    r = attached(run)

    def failing():
        raise KeyError("batch")

    with pytest.raises(KeyError, match="batch"):
        r.optimizer.step(failing)
    assert r.evolution.num_steps == 0
    r.optimizer.step(closure_of(r, 0))
    assert r.evolution.num_steps == 1


class Wrapper:
    """As accelerate, lightning and others keep an optimizer in their own."""

    def __init__(self, optimizer):
        self.optimizer = optimizer
        self.param_groups = optimizer.param_groups

    def step(self):
        self.optimizer.step()


@pytest.mark.parametrize("depth", [1, 2])
def test_a_wrapped_optimizer_is_looked_through(run, depth):
    plain, wrapped = attached(run), run()
    outer = wrapped.optimizer
    for _ in range(depth):
        outer = Wrapper(outer)
    assert innermost(outer) is wrapped.optimizer
    wrapped.evolution.attach(outer)
    for step in range(3):
        for r, optimizer in ((plain, plain.optimizer), (wrapped, outer)):
            r.backward(step)
            optimizer.step()
    assert wrapped.evolution.num_steps == 3
    assert same(plain.evolution.masses, wrapped.evolution.masses)


def test_the_optimizer_of_accelerate_is_looked_through(run):
    accelerate = pytest.importorskip("accelerate")
    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=2)
    r = run()
    model, optimizer = accelerator.prepare(r.model, r.optimizer)
    communities = natsel.discover(model, (torch.zeros(2, 6),))
    with pytest.raises(ValueError, match="already gated"):
        natsel.Evolution(communities, optimizer=optimizer)
    r.evolution.attach(optimizer)
    for step in range(4):
        x, y = r.batch(step)
        with accelerator.accumulate(model):
            accelerator.backward(F.cross_entropy(model(x), y))
            optimizer.step()
            optimizer.zero_grad()
    assert r.evolution.num_steps == 2


def test_what_is_no_optimizer_is_refused(run):
    for wrong in ("adam", object(), Wrapper(Wrapper(torch.optim.SGD([torch.zeros(1)], lr=1)))):
        with pytest.raises(ValueError, match="optimizer="):
            run().evolution.attach(wrong)


def scaled_run(run, *, fused, spoil=(), scale=1024.0, num_steps=6, **options):
    def make(parameters, lr):
        return torch.optim.Adam(parameters, lr=lr, fused=fused)

    r = attached(run, optimizer=make, rate=0.3, **options)
    scaler = torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=2)
    for step in range(num_steps):
        x, y = r.batch(step)
        r.optimizer.zero_grad()
        loss = scaler.scale(F.cross_entropy(r.model(x), y))
        (loss * torch.inf if step in spoil else loss).backward()
        scaler.step(r.optimizer)
        scaler.update()
    return r


@pytest.mark.parametrize("fused", [False, True], ids=["unscaled-before", "unscaled-inside"])
@pytest.mark.parametrize("fitness", ["taylor", "gradient", "alignment", "wanda"])
def test_a_scaled_loss_gives_the_masses_of_one_that_is_not(run, fitness, fused):
    """The scale doubles twice on the way: what is averaged over steps must not carry it."""
    plain = attached(run, rate=0.3, fitness=fitness)
    for step in range(6):
        plain.backward(step)
        plain.optimizer.step()
    scaled = scaled_run(run, fused=fused, fitness=fitness)
    for name, mass in plain.evolution.masses.items():
        torch.testing.assert_close(scaled.evolution.masses[name], mass, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("fused", [False, True], ids=["unscaled-before", "unscaled-inside"])
def test_a_step_that_a_scaler_skips_evolves_nothing(run, fused):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        r = scaled_run(run, fused=fused, spoil=(2, 3))
    assert r.evolution.num_steps == 4
    # An optimizer that unscales before is not called at all, and nobody is told.
    assert r.evolution.num_skipped == (2 if fused else 0)
    kept = attached(run, rate=0.3)
    for step in (0, 1, 4, 5):
        kept.backward(step)
        kept.optimizer.step()
    for name, mass in kept.evolution.masses.items():
        torch.testing.assert_close(r.evolution.masses[name], mass, rtol=1e-3, atol=1e-4)


@pytest.mark.filterwarnings("ignore:fitness")
def test_an_explicit_step_before_the_scaler_sees_the_overflow_too(run):
    r = run(rate=0.3)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**126)
    for step in range(8):
        x, y = r.batch(step)
        r.optimizer.zero_grad()
        scaler.scale(F.cross_entropy(r.model(x) * 100, y)).backward()
        r.evolution.step()
        scaler.step(r.optimizer)
        scaler.update()
    assert r.evolution.num_skipped >= 1
    assert r.evolution.num_steps == 8 - r.evolution.num_skipped
    assert all(torch.isfinite(p).all() for p in r.model.parameters())


def test_what_a_skipped_step_saw_is_forgotten(run):
    """Activations of a step that overflowed must not spoil the average of the next."""
    r = scaled_run(run, fused=True, fitness="wanda", spoil=(1,), num_steps=3)
    kept = attached(run, rate=0.3, fitness="wanda")
    for step in (0, 2):
        kept.backward(step)
        kept.optimizer.step()
    for name, mass in kept.evolution.masses.items():
        torch.testing.assert_close(r.evolution.masses[name], mass, rtol=1e-3, atol=1e-4)


def test_lightning_calls_its_optimizer_with_a_closure(run):
    lightning = pytest.importorskip("lightning.pytorch")
    plain, r = attached(run, rate=0.3), run(rate=0.3)

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = r.model

        def training_step(self, batch, _):
            x, y = batch
            return F.cross_entropy(self.net(x), y)

        def configure_optimizers(self):
            r.evolution.attach(r.optimizer)
            return r.optimizer

    batches = [r.batch(step) for step in range(5)]
    trainer = lightning.Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(Module(), torch.utils.data.DataLoader(batches, batch_size=None))
    for step in range(5):
        plain.backward(step)
        plain.optimizer.step()
    assert same(plain.evolution.masses, r.evolution.masses)


def test_two_models_under_one_optimizer_evolve_each(run):
    a, b = run(rate=0.3), run(rate=0.3)
    both = torch.optim.SGD(nn.ModuleList([a.model, b.model]).parameters(), lr=0.1)
    for r in (a, b):
        r.evolution.attach(both)

    def closure():
        both.zero_grad()
        x, y = a.batch(0)
        loss = F.cross_entropy(a.model(x), y) + F.cross_entropy(b.model(x), y)
        loss.backward()
        return loss

    both.step(closure)
    assert (a.evolution.num_steps, b.evolution.num_steps) == (1, 1)
    assert same(a.evolution.masses, b.evolution.masses)
