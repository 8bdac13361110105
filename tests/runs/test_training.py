"""A run that was stopped is the run that was not, bit for bit."""

import pytest
import torch

from natsel.common.errors import NonFiniteError
from natsel.common.files import load_tree
from natsel.runs.networks import network, put_under_selection
from natsel.runs.training import Recipe, make_optimizer, train
from runs.helpers import FAST

RECIPE = Recipe(epochs=3, batch_size=64, learning_rate=0.01)


class Stopped(Exception):
    pass


def start(digits, dynamics):
    model = network("mlp", digits, seed=0, options={"hidden": [16, 8]})
    optimizer = make_optimizer(model, RECIPE)
    evolution = None
    if dynamics is not None:
        evolution = put_under_selection(
            model, optimizer, digits, dynamics=dynamics, seed=0, constants=FAST
        )
    return model, optimizer, evolution


def run(digits, dynamics, *, checkpoint=None, stop_at=None):
    model, optimizer, evolution = start(digits, dynamics)

    def progress(what, done, total):
        if stop_at is not None and done >= stop_at:
            raise Stopped

    trained = train(
        model,
        optimizer,
        digits,
        RECIPE,
        seed=0,
        evolution=evolution,
        checkpoint=checkpoint,
        progress=progress,
    )
    state = {
        "model": {k: v.clone() for k, v in model.state_dict().items()},
        "optimizer": optimizer.state_dict(),
        "evolution": evolution.state_dict() if evolution is not None else None,
        "history": trained.history,
    }
    return state, trained


def assert_same(first, second, where="state"):
    if isinstance(first, torch.Tensor):
        assert first.dtype == second.dtype, where
        assert torch.equal(first, second), where
    elif isinstance(first, dict):
        assert list(first) == list(second), where
        for key in first:
            assert_same(first[key], second[key], f"{where}/{key}")
    elif isinstance(first, list | tuple):
        assert len(first) == len(second), where
        for index, (a, b) in enumerate(zip(first, second, strict=True)):
            assert_same(a, b, f"{where}/{index}")
    else:
        assert first == second, where


@pytest.mark.parametrize("dynamics", [None, "logistic", "wright-fisher", "lotka-volterra"])
def test_resumed_at_any_epoch_equals_never_stopped(digits, tmp_path, dynamics):
    whole, _ = run(digits, dynamics)
    again, _ = run(digits, dynamics)
    assert_same(whole, again)
    if dynamics == "logistic":
        assert whole["history"][-1]["alive"] < 24
    for number, stop_at in enumerate((25, 45)):  # within the second and the third epoch
        checkpoint = tmp_path / f"{number}.safetensors"
        with pytest.raises(Stopped):
            run(digits, dynamics, checkpoint=checkpoint, stop_at=stop_at)
        resumed, trained = run(digits, dynamics, checkpoint=checkpoint)
        assert trained.resumed_from == number + 1
        assert_same(whole, resumed)


def test_stopped_twice(digits, tmp_path):
    whole, _ = run(digits, "logistic")
    for stop_at in (10, 25, 45):
        with pytest.raises(Stopped):
            run(digits, "logistic", checkpoint=tmp_path / "c.safetensors", stop_at=stop_at)
    resumed, _ = run(digits, "logistic", checkpoint=tmp_path / "c.safetensors")
    assert_same(whole, resumed)


def test_the_learning_rate_falls_to_nothing(digits):
    model, optimizer, _ = start(digits, None)
    rates = []
    optimizer.register_step_pre_hook(lambda *_: rates.append(optimizer.param_groups[0]["lr"]))
    train(model, optimizer, digits, RECIPE, seed=0)
    assert rates[0] == RECIPE.learning_rate
    steps = torch.tensor(rates).diff()
    assert torch.allclose(steps, torch.full_like(steps, -RECIPE.learning_rate / len(rates)))
    assert len(rates) == 3 * 20  # 1437 - 200 samples in batches of 64


def test_it_learns_where_gradients_are_switched_off(digits):
    expected = run(digits, None)[0]
    with torch.no_grad():
        assert_same(run(digits, None)[0], expected)


class Poisoned(torch.nn.Module):
    """A network whose output, or the gradient behind it, is NaN from one step on."""

    def __init__(self, inner, at, *, backward):
        super().__init__()
        self.inner, self.at, self.backward, self.calls = inner, at, backward, 0

    def forward(self, x):
        out = self.inner(x)
        if self.training:
            self.calls += 1
            if self.calls >= self.at:
                if self.backward:
                    out.register_hook(lambda g: g * float("nan"))
                else:
                    out = out * float("nan")
        return out


@pytest.mark.parametrize("value", ["loss", "gradient"])
def test_not_a_number_stops_and_the_last_good_checkpoint_stays(digits, tmp_path, value):
    model = network("mlp", digits, seed=0, options={"hidden": [16, 8]})
    # The last step of the second epoch: its loss is finite, what it leaves behind is not.
    at = 40 if value == "gradient" else 31
    poisoned = Poisoned(model, at, backward=value == "gradient")
    checkpoint = tmp_path / "c.safetensors"
    with pytest.raises(NonFiniteError, match=rf"step {at} \(epoch 2\).*learning_rate"):
        train(
            poisoned,
            make_optimizer(poisoned, RECIPE),
            digits,
            RECIPE,
            seed=0,
            checkpoint=checkpoint,
        )
    state = load_tree(checkpoint)
    assert len(state["history"]) == 1
    assert all(torch.isfinite(t).all() for t in state["model"].values())
    assert [p.name for p in tmp_path.iterdir()] == ["c.safetensors"]


def test_a_fitness_that_is_not_a_number_names_step_and_community(digits, tmp_path):
    model, optimizer, evolution = start(digits, "logistic")
    calls = 0

    def spoil(gradient):
        nonlocal calls
        calls += 1
        return gradient * float("nan") if calls == 25 else gradient

    model.layers[2].register_full_backward_pre_hook(lambda module, out: (spoil(out[0]),))
    checkpoint = tmp_path / "c.safetensors"
    with pytest.raises(NonFiniteError, match=r"step 25 in community 'layers\.0'"):
        train(
            model,
            optimizer,
            digits,
            RECIPE,
            seed=0,
            evolution=evolution,
            checkpoint=checkpoint,
        )
    assert len(load_tree(checkpoint)["history"]) == 1


def test_a_damaged_checkpoint_is_named(digits, tmp_path):
    checkpoint = tmp_path / "c.safetensors"
    with pytest.raises(Stopped):
        run(digits, "logistic", checkpoint=checkpoint, stop_at=25)
    checkpoint.write_bytes(checkpoint.read_bytes()[:-7])
    with pytest.raises(ValueError, match=r"c\.safetensors is damaged"):
        run(digits, "logistic", checkpoint=checkpoint)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", 0),
        ("epochs", 1.5),
        ("epochs", True),
        ("batch_size", -1),
        ("learning_rate", 0.0),
        ("learning_rate", float("nan")),
        ("learning_rate", float("inf")),
    ],
)
def test_recipe_refuses(name, value):
    with pytest.raises(ValueError, match=f"^{name}={value} is not allowed"):
        Recipe(**{name: value})
