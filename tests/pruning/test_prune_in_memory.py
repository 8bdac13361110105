"""One call prunes a model in memory, and the command line runs the same."""

import dataclasses
import json
import subprocess
import sys

import pytest
import torch
from torch import nn

import natsel
from natsel.cli.main import app
from natsel.runs.material import open_for
from natsel.runs.oneshot import calibration
from natsel.runs.prune import PruneConfig
from natsel.runs.prune import prune as run


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3))


X = torch.randn(60, 4, generator=torch.Generator().manual_seed(1))
Y = X[:, :3].argmax(1)
DATA = list(zip(X.split(20), Y.split(20), strict=True))


def weights_of(model):
    return {n: p.tolist() for n, p in model.state_dict().items()}


def test_it_is_the_calls_one_after_the_other():
    model = network()
    before = weights_of(model)
    pruned = natsel.prune(
        model, X[:2], natsel.Sparsity(0.5), scorer="taylor", data=DATA, scope="global"
    )
    communities = natsel.discover(model, X[:2])
    scores = natsel.score(communities, "taylor", data=DATA)
    survivors = natsel.select(scores, natsel.Sparsity(0.5), scope="global")
    small = natsel.extract(model, survivors, compensate=DATA)
    assert weights_of(pruned.small) == weights_of(small)
    assert {n: m.tolist() for n, m in pruned.survivors.items()} == {
        n: m.tolist() for n, m in survivors.items()
    }
    assert pruned.survivors.num_removed == 7
    assert pruned.verification.passed
    assert pruned.compensation == natsel.compensation_of(small)
    assert pruned.plan.survivors == {
        n: m.nonzero().flatten().tolist() for n, m in survivors.items()
    }
    prediction = natsel.preview(model, survivors)
    assert (pruned.cost.before, pruned.cost.after) == (prediction.dense, prediction.small)
    assert pruned.cost.after.parameters == sum(p.numel() for p in pruned.small.parameters())
    assert pruned.quality is None
    assert weights_of(model) == before
    with pytest.raises(dataclasses.FrozenInstanceError):
        pruned.quality = 1


def test_without_data_nothing_is_compensated_and_that_is_said():
    pruned = natsel.prune(network(), X[:2], natsel.MACs(0.7))
    assert pruned.compensation is None
    assert pruned.summary().endswith("not compensated: there are no data (data=)")
    assert "not compensated" in repr(pruned)
    assert pruned.cost.after.macs <= 0.7 * pruned.cost.before.macs
    assert "budget: MACs(0.7): keeps 70 % of the multiply-accumulates" in pruned.summary()
    pruned = natsel.prune(network(), X[:2], natsel.MACs(0.7), data=DATA, compensate=False)
    assert pruned.compensation is None
    assert pruned.summary().endswith("not compensated: compensate=False")


def test_a_repr_is_one_line_of_what_was_done():
    pruned = natsel.prune(network(), X[:2], natsel.Sparsity(0.5), data=DATA)
    assert repr(pruned).startswith(
        "Pruned(Sequential, 7 of 14 populations in 2 communities; parameters 115 -> 47 (40.9%); "
        "MACs 98 -> 37 (37.8%); verified: differs from the masked model by "
    )
    assert repr(pruned).endswith("; compensated)")
    assert "\n" not in repr(pruned)
    assert "compensated 2 of 2 consumers" in pruned.summary()


@pytest.mark.parametrize("scorer", ["magnitude", "V1", "of the user", "adaptive", "wanda"])
def test_every_kind_of_scorer(scorer):
    if scorer == "of the user":
        scorer = lambda parts: torch.arange(float(len(parts.mass)))  # noqa: E731
    pruned = natsel.prune(network(), X[:2], natsel.Sparsity(0.5), scorer=scorer, data=DATA)
    assert {n: int(m.sum()) for n, m in pruned.survivors.items()} == {"0": 4, "2": 3}
    assert (pruned.adapted is not None) is (scorer == "adaptive")
    if callable(scorer):
        assert pruned.survivors["0"].tolist() == [False] * 4 + [True] * 4


def test_adaptive_races_on_the_validation_split():
    def choose(**options):
        return natsel.prune(network(), X[:2], natsel.Sparsity(0.5), scorer="adaptive", **options)

    ours = choose(data=DATA, validation=[(X, Y)])
    adapted = natsel.adapt(
        natsel.discover(network(), X[:2]),
        natsel.Sparsity(0.5),
        X,
        Y,
        calibration=DATA,
        generator=torch.Generator().manual_seed(0),
    )
    assert ours.adapted.sentence == adapted.sentence
    assert ours.adapted.sentence in ours.summary()
    other = choose(data=DATA, generator=torch.Generator().manual_seed(5))
    assert other.adapted.num_images > 0


def test_options_of_the_selection_reach_it():
    pruned = natsel.prune(
        network(), X[:2], natsel.Sparsity(0.5), include="0", multiple_of=2, floor=3, verify=False
    )
    assert {n: int(m.sum()) for n, m in pruned.survivors.items()} == {"0": 4, "2": 6}
    assert pruned.verification is None
    assert "not verified" in repr(pruned)


def test_progress_goes_from_nothing_to_before_the_end():
    said = []
    natsel.prune(
        network(),
        X[:2],
        natsel.Sparsity(0.5),
        data=DATA,
        progress=lambda *told: said.append(told),
    )
    assert [what for what, _, _ in said] == [
        "prune: find communities",
        "prune: score",
        "prune: select",
        "prune: extract and verify",
        "prune: compensate",
    ]
    assert [(done, total) for _, done, total in said] == [(i, 5) for i in range(5)]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"scorer": "taylor"}, "^data=None is not allowed: expected batches of data"),
        ({"scorer": "adaptive"}, "^data=None is not allowed"),
        ({"scorer": "magnitud"}, "did you mean 'magnitude'"),
        ({"scorer": "adaptive", "data": DATA, "scope": "global"}, "scope='global' are not"),
        ({"validation": DATA}, "validation='given' are not allowed"),
        ({"generator": torch.Generator()}, "generator='given' are not allowed"),
        ({"data": 5}, "^data=5 is not allowed"),
        ({"data": []}, "^data='empty' is not allowed"),
        ({"scorer": "taylor", "data": [(X,)]}, "batches without labels"),
        ({"include": "nothing"}, "nothing"),
        ({"budget": 0.5}, "^budget=0.5 is not allowed"),
    ],
)
def test_wrong_input_is_told_in_one_line(options, told):
    budget = options.pop("budget", natsel.Sparsity(0.5))
    with pytest.raises(ValueError, match=told) as raised:
        natsel.prune(network(), X[:2], budget, **options)
    assert "\n" not in str(raised.value)


def test_a_model_without_communities_is_named():
    with pytest.raises(ValueError, match=r"^model='Linear' is not allowed"):
        natsel.prune(nn.Linear(4, 3), X[:2], natsel.Sparsity(0.5))


@pytest.mark.parametrize("scorer", ["magnitude", "taylor", "adaptive"])
def test_the_command_line_runs_the_same(tmp_path, scorer):
    config = PruneConfig("mlp", "parameters=0.5", scorer=scorer, data="digits", measure=False)
    result = run(config, tmp_path / "small")
    opened, splits = open_for("mlp", "digits", 0)
    generator = torch.Generator().manual_seed(0)
    more = {"validation": [splits.validation], "generator": generator}
    pruned = natsel.prune(
        opened.model,
        splits.test[0][:64],
        natsel.Parameters(0.5),
        scorer=scorer,
        data=calibration(splits, 0),
        **(more if scorer == "adaptive" else {}),
    )
    assert weights_of(natsel.load(tmp_path / "small")) == weights_of(pruned.small)
    assert result["verification"] == json.loads(json.dumps(dataclasses.asdict(pruned.verification)))
    assert result["compensation"]["summary"] == pruned.compensation.summary()
    assert result["parameters"] == [pruned.cost.before.parameters, pruned.cost.after.parameters]


def test_the_printed_line_says_which_way_a_budget_counts(tmp_path):
    from typer.testing import CliRunner

    told = CliRunner().invoke(
        app, ["prune", "mlp", "--sparsity", "0.7", "--out", str(tmp_path / "a"), "--no-measure"]
    )
    assert "Budget sparsity=0.7: removes 70 % of the populations" in told.output
    told = CliRunner().invoke(
        app, ["prune", "mlp", "--budget", "macs=0.7", "--out", str(tmp_path / "b"), "--no-measure"]
    )
    assert "Budget macs=0.7: keeps 70 % of the multiply-accumulates" in told.output
    told = CliRunner().invoke(
        app, ["prune", "mlp", "--budget", "mac=0.7", "--out", str(tmp_path / "c")]
    )
    assert told.exit_code == 2


LOADED = """
import sys
import natsel
loaded = {n.partition(".")[0] for n in sys.modules}
assert not loaded & {"torch", "numpy", "natsel_bench", "natsel_papers", "transformers"}, loaded
assert {n for n in sys.modules if n.startswith("natsel")} == {"natsel"}, sys.modules
from natsel import prune, Pruned
assert callable(prune) and prune.__name__ == "prune" and natsel.prune is prune
heavy = ("natsel.data", "natsel.models", "natsel.io", "natsel.runs", "natsel_", "natsel.report")
found = [n for n in sys.modules if n.startswith(heavy)]
assert not found, found
for name in natsel.__all__:
    assert getattr(natsel, name) is not None
assert natsel.prune is prune
assert not [n for n in sys.modules if n.startswith(("natsel_bench", "natsel_papers"))]
"""


def test_importing_loads_nothing_and_pruning_neither_data_nor_files():
    done = subprocess.run([sys.executable, "-c", LOADED], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "name",
    [
        *("Adapted", "Audit", "MissingExtraError", "NonFiniteError", "PartedError", "Prediction"),
        *("Pruned", "Scores", "Verification", "VerificationError", "adapter", "prune", "zero_"),
    ],
)
def test_results_and_errors_have_a_name_at_the_top(name):
    assert name in natsel.__all__
    assert getattr(natsel, name).__name__ == name
