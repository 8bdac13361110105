"""A plan from elsewhere, well sealed: it cannot touch a file, fill the memory, or loop for ever."""

from __future__ import annotations

import hashlib
import json
import resource
import shutil

import pytest
import torch
from torch import nn

import natsel
from natsel.extraction.plan import _checksum
from natsel.models import build


class Own(nn.Module):
    def __init__(self, width=8, depth=1):
        super().__init__()
        self.first = nn.Linear(4, width)
        self.layers = nn.ModuleList([nn.Linear(width, width) for _ in range(depth)])
        self.last = nn.Linear(width, 3)

    def forward(self, x):
        x = self.first(x)
        for layer in self.layers:
            x = layer(x).relu()
        return self.last(x)


def saved(model, inputs, folder, **options):
    communities = natsel.discover(model.eval(), inputs)
    survivors = natsel.select(natsel.score(communities, "magnitude"), natsel.Sparsity(0.5))
    return natsel.save(natsel.extract(model, survivors), folder, **options)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A small model of each kind of constructor."""
    root = tmp_path_factory.mktemp("plans")
    image, text = torch.zeros(2, 1, 8, 8), torch.zeros(2, 16, dtype=torch.long)
    few = {"dim": 16, "depth": 1, "heads": 2}
    made = {
        "mlp": (build("mlp", in_shape=(1, 8, 8), num_classes=10, hidden=(16, 8)), image),
        "resnet20": (build("resnet20", in_shape=(1, 8, 8), num_classes=10, num_blocks=1), image),
        "vit": (build("vit", in_shape=(1, 8, 8), num_classes=10, **few), image),
        "bert": (build("bert", in_shape=(16,), num_classes=10, hidden=16, **few), text),
    }
    found = {name: saved(*case, root / name) for name, case in made.items()}
    constructor = ((8,), {"depth": 1})
    found["own"] = saved(Own(), torch.zeros(2, 4), root / "own", constructor=constructor)
    return found


@pytest.fixture
def sealed(folders, tmp_path):
    """Copy a folder, change its plan, and seal it as one would who knows how."""

    def make(name, **changes):
        folder = shutil.copytree(folders[name], tmp_path / "plan")
        data = json.loads((folder / "plan.json").read_text())
        data.pop("sha256")
        data |= {k: v(data[k]) if callable(v) else v for k, v in changes.items()}
        (folder / "plan.json").write_text(json.dumps({**data, "sha256": _checksum(data)}))
        return folder

    return make


@pytest.mark.parametrize(
    ("name", "argument", "value"),
    [
        ("mlp", "hidden", [10**9, 8]),
        ("mlp", "hidden", [10**7] * 2),
        ("mlp", "hidden", [1] * 10**5),
        ("mlp", "hidden", [10**30]),
        ("mlp", "num_classes", 10**12),
        ("mlp", "in_shape", [1, 10**6, 10**6]),
        ("mlp", "in_shape", [[1]]),
        ("mlp", "seed", 10**40),
        ("mlp", "generator", 3),
        ("resnet20", "num_blocks", 10**9),
        ("resnet20", "width", 10**6),
        ("vit", "depth", 10**9),
        ("vit", "dim", 10**7),
        ("vit", "mlp_ratio", 1e300),
        ("vit", "mlp_ratio", "x"),
        ("bert", "depth", 10**9),
        ("bert", "num_classes", 10**9),
        ("bert", "in_shape", [10**9]),
    ],
)
def test_a_reference_network_that_is_not_what_is_stored(sealed, name, argument, value):
    def change(constructor):
        return {**constructor, "arguments": {**constructor["arguments"], argument: value}}

    folder = sealed(name, constructor=change)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match=r"not followed|not allowed") as told:
        natsel.load(folder)
    assert "\n" not in str(told.value)
    assert len(str(told.value)) < 1000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 600_000  # kilobytes


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        *(([8], {"depth": 10**9}), ([10**9], {}), ([10**30], {}), ([-1], {})),
        *((["wide"], {}), ([[1]], {}), ([8], {"deep": 1}), ({"width": 8}, [])),
    ],
)
def test_arguments_for_a_class_of_the_users_own(sealed, args, kwargs):
    folder = sealed("own", constructor={"args": args, "kwargs": kwargs})
    with pytest.raises(ValueError, match=r"not followed|not allowed") as told:
        natsel.load(folder, constructor=Own)
    assert "\n" not in str(told.value)


def test_an_image_that_no_tensor_depends_on(sealed):
    def change(constructor):
        large = {"in_shape": [1, 10**5, 10**5]}
        return {**constructor, "arguments": {**constructor["arguments"], **large}}

    folder = sealed("resnet20", constructor=change)
    with pytest.raises(ValueError, match=r"^in_shape=.*at most 16,777,216 numbers"):
        natsel.open_model(folder)


def _wrong_values():
    fields = ("survivors", "sizes", "attributes", "tensors", "tied", "frozen", "files")
    values = (None, [], "x", 3, {"a": None}, [None], {"a": {"b": 1}}, 10**4000, {"a": [-1]})
    return [(field, value) for field in fields for value in values]


@pytest.mark.parametrize(("field", "value"), _wrong_values())
def test_a_value_of_another_type(sealed, field, value):
    folder = sealed("own", **{field: value})
    try:
        natsel.load(folder, constructor=Own)
    except ValueError as error:
        assert "\n" not in str(error)  # noqa: PT017 - what needs no such field loads


@pytest.mark.parametrize("content", ["[" * 10**5, '{"a":' * 10**5 + "1" + "}" * 10**5, "[1e400]"])
def test_a_plan_that_is_no_plan(sealed, content):
    folder = sealed("own")
    (folder / "plan.json").write_text(content)
    with pytest.raises(ValueError, match=r"plan\.json") as told:
        natsel.load(folder, constructor=Own)
    assert "\n" not in str(told.value)


def entry(content=b"", sha256=None):
    return {"bytes": len(content), "sha256": sha256 or hashlib.sha256(content).hexdigest()}


@pytest.fixture
def small(folders):
    return natsel.load(folders["own"], constructor=Own)


@pytest.mark.parametrize("listed", [entry(b"x", "0" * 64), entry(b"mine", "0" * 64), entry(b"x")])
def test_a_file_of_the_users_that_the_plan_lists_stays(sealed, small, listed):
    folder = sealed("own", files=lambda files: {**files, "notes.txt": listed})
    (folder / "notes.txt").write_text("mine")
    natsel.save(small, folder)
    assert (folder / "notes.txt").read_text() == "mine"
    natsel.load(folder, constructor=Own)


def test_not_even_a_half_done_save_takes_its_place(sealed, small):
    new = entry(b"theirs")
    folder = sealed("own", files=lambda files: {**files, "notes.txt": new})
    (folder / f".notes.txt.{new['sha256'][:12]}.pending").write_bytes(b"theirs")
    (folder / "notes.txt").write_text("mine")
    natsel.save(small, folder)
    assert (folder / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("name", ["../notes.txt", "/tmp/notes.txt", "..", ".", "", "a\0b", "a\\b"])
def test_a_name_outside_the_folder_is_no_plan(sealed, small, name):
    folder = sealed("own", files=lambda files: {**files, name: entry(b"mine")})
    (folder.parent / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="is not a plan"):
        natsel.save(small, folder)
    assert (folder.parent / "notes.txt").read_text() == "mine"


def test_a_folder_and_a_link_that_the_plan_lists_stay(sealed, small):
    mine = {"sub": entry(b""), "link": entry(b"mine")}
    folder = sealed("own", files=lambda files: {**files, **mine})
    (folder / "sub").mkdir()
    (folder.parent / "notes.txt").write_text("mine")
    (folder / "link").symlink_to(folder.parent / "notes.txt")
    natsel.save(small, folder)
    assert (folder / "sub").is_dir()
    assert (folder / "link").read_text() == "mine"


def test_a_model_that_is_not_the_one_that_was_saved_is_not_written_over(sealed, small):
    folder = sealed("own")
    (folder / "model.safetensors").write_bytes(b"mine")
    with pytest.raises(ValueError, match=r"model\.safetensors is the one that was saved there"):
        natsel.save(small, folder)
    assert (folder / "model.safetensors").read_bytes() == b"mine"
