"""Names get a did-you-mean, and options that exclude each other are refused together."""

import pytest

PRUNE = ("prune", "mlp")
SPECTRUM = ("spectrum", "mlp", "--data", "digits")


def line(result):
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert result.stderr.startswith("natsel: ")
    assert result.stderr.count("\n") == 1
    assert "tensor(" not in result.stderr
    return result.stderr.removeprefix("natsel: ").strip()


@pytest.fixture
def refused(natsel, tmp_path):
    def call(*arguments):
        out = tmp_path / "out"
        needs_out = arguments[0] not in ("inspect", "audit") and arguments[:2] not in (
            ("bench", "search"),
            ("bench", "step"),
        )
        told = line(natsel(*arguments, *(("--out", out) if needs_out else ())))
        assert not out.exists()
        return told

    return call


@pytest.mark.parametrize(
    ("arguments", "start", "meant"),
    [
        ((*PRUNE, "--budget", "mac=0.5"), "budget='mac=0.5'", "macs"),
        ((*PRUNE, "--budget", "MACS=0.5"), "budget='MACS=0.5'", "macs"),
        ((*PRUNE, "--budget", "param=0.5"), "budget='param=0.5'", "parameters"),
        ((*PRUNE, "--budget", "latensy=0.5"), "budget='latensy=0.5'", "latency"),
        ((*PRUNE, "--budget", "sparse"), "budget='sparse'", "sparsity"),
        ((*PRUNE, "--scorer", "magnitud"), "scorer='magnitud'", "magnitude"),
        ((*PRUNE, "--data", "cifar"), "data='cifar'", "cifar10"),
        ((*PRUNE, "--scope", "globl"), "scope='globl'", "global"),
        ((*PRUNE, "--normalize", "meen"), "normalize='meen'", "mean"),
        ((*PRUNE, "--multiple-of", "autp"), "multiple_of='autp'", "auto"),
        (("prune", "mpl"), "model='mpl'", "mlp"),
        (("inspect", "resnet"), "model='resnet'", "resnet20"),
        (("inspect", "resnet", "--in-shape", "3,32,32"), "model='resnet'", "resnet20"),
        (("audit", "mlp", "--scorers", "magnitud,l1"), "scorer='magnitud'", "magnitude"),
        (("audit", "mlp", "--scorers", "l1,l2", "--data", "cifar"), "data='cifar'", "cifar10"),
        (("spectrum", "mlp", "--data", "mnst"), "data='mnst'", "mnist"),
        ((*SPECTRUM, "--kinds", "neurn"), "kinds='neurn'", "neuron"),
        ((*SPECTRUM, "--optimizer", "cmaes"), "optimizer='cmaes'", "cma"),
        ((*SPECTRUM, "--classes", "V1,bump"), "classes='bump'", "Bump"),
        ((*SPECTRUM, "--device", "cpuu"), "device='cpuu'", "cpu"),
        (("bench", "search", "mlp", "--data", "cifar"), "data='cifar'", "cifar10"),
        (("bench", "step", "--network", "vti"), "network='vti'", "vit"),
        (("bench", "all", "--only", "step,selct"), "only='selct'", "select"),
        (("bench", "peers", "--tool", "torchpruning"), "tools='torchpruning'", "torch-pruning"),
        (("reproduce", "plateau", "--preset", "cpi"), "preset='cpi'", "cpu"),
        (("reproduce", "evolution", "--dataset", "mnst"), "dataset='mnst'", "mnist"),
        (("evolve", "--set", "presure=2"), "presure=2", "pressure"),
        (("evolve", "--dynamics", "participatio"), "dynamics='participatio'", "participation"),
    ],
)
def test_the_nearest_name_is_told(refused, arguments, start, meant):
    told = refused(*arguments)
    assert told.startswith(f"{start} is not allowed: expected ")
    assert told.endswith(f"(did you mean {meant!r}?)")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (
            (*PRUNE, "--budget", "macs=0.5", "--sparsity", "0.5"),
            "budget='macs=0.5', sparsity=0.5 are not allowed: expected one of them",
        ),
        (
            (*PRUNE, "--include", "layers.*", "--exclude", "layers.*"),
            "include=('layers.*',), exclude=('layers.*',) are not allowed: expected a pattern that",
        ),
        (
            (*PRUNE, "--scorer", "adaptive", "--data", "digits", "--scope", "global"),
            "scorer='adaptive', scope='global' are not allowed: expected adaptive alone",
        ),
        (
            (*PRUNE, "--normalize", "mean"),
            "scope='community', normalize='mean' are not allowed: expected scope global",
        ),
        (
            ("evolve", "--capacity", "0.3", "--set", "capacity=0.5"),
            "capacity=0.3, ecology['capacity']=0.5 are not allowed: expected one of them",
        ),
        (
            ("bench", "all", "--model", "mlp"),
            "model='mlp', data=None are not allowed: expected both or neither of them",
        ),
        (
            ("bench", "all", "--only", "step", "--model", "mlp", "--data", "digits"),
            "only='step', model='mlp' are not allowed: expected search among them",
        ),
        (
            ("inspect", "hf:some/name", "--in-shape", "3,8,8", "--num-classes", "7"),
            "in_shape=(3, 8, 8), num_classes=7 are not allowed: expected no in_shape, num_classes",
        ),
    ],
)
def test_what_excludes_another_is_refused_together(refused, arguments, told):
    assert refused(*arguments).startswith(told)


def test_a_floor_under_which_nobody_can_go_extinct(natsel, fast, tmp_path):
    result = natsel("evolve", "--out", tmp_path / "run", *fast, "--set", "floor=16")
    told = line(result)
    assert told.startswith("floor=16 is not allowed: expected less than 16")
    assert not (tmp_path / "run").exists()


def test_a_warning_is_one_line_on_standard_error(natsel, fast, tmp_path):
    result = natsel(
        "evolve",
        "--out",
        tmp_path / "run",
        *fast,
        "--set",
        "floor=9",
        "--sparsity",
        "0.2",
        "--json",
        "--no-report",
    )
    assert result.exit_code == 0
    told = "natsel: warning: floor=9 is above the size of 'layers.2' (8): it stays whole"
    assert result.stderr.splitlines() == [told]
