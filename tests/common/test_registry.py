"""One class for all tables: names taken once, near names told, entries for a while."""

from __future__ import annotations

import json
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from natsel.common.importing import importable_here, imported, names_own
from natsel.common.registry import Registry
from natsel.communities.kinds import KINDS
from natsel.data.sources import SOURCES
from natsel.dynamics import DYNAMICS
from natsel.dynamics import get as find_law
from natsel.features import CLASSES, FEATURES
from natsel.features import get as find_feature
from natsel.features.search import OPTIMIZERS
from natsel.fitness import FITNESS
from natsel.fitness import get as find_fitness
from natsel.models import MODELS
from natsel.runs.prune import BUDGETS

TABLES = {
    "dynamics": DYNAMICS,
    "fitness": FITNESS,
    "features": FEATURES,
    "classes": CLASSES,
    "optimizers": OPTIMIZERS,
    "models": MODELS,
    "sources": SOURCES,
    "budgets": BUDGETS,
    "kinds": KINDS,
}


@pytest.fixture(params=TABLES)
def table(request):
    """Each table of natsel; whatever a test adds is gone after it."""
    with TABLES[request.param].temporarily() as found:
        yield found


def test_every_table_is_one_and_refuses_a_taken_name(table):
    assert isinstance(table, Registry)
    name, entry = next(iter(table.items()))
    with pytest.raises(ValueError, match=rf"^{table.argument}='{name}' is already registered$"):
        table.add(name, entry)
    assert table.add("of-my-own", entry) is entry
    assert list(table)[-1] == "of-my-own"
    assert table.find("of-my-own") is entry


def test_every_table_tells_the_nearest_name(table):
    name = next(iter(table))
    with pytest.raises(ValueError, match=rf"\(did you mean '{name}'\?\)$") as told:
        table.find(name.upper() + "X")
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("name", ["", "  ", "a:b", None, 3])
def test_a_name_is_a_text_without_a_colon(name):
    with pytest.raises(ValueError, match="expected a name without a colon"):
        Registry("shape").add(name, 1)


@given(st.lists(st.text("abc", min_size=1), unique=True))
def test_entries_stand_in_the_order_in_which_they_were_added(names):
    table = Registry("shape")
    for number, name in enumerate(names):
        table.add(name, number)
    assert list(table) == names
    assert [table.find(name) for name in names] == list(range(len(names)))


def test_what_is_temporary_is_undone_whatever_happens():
    table = Registry("shape", {"a": 1, "b": 2, "c": 3})
    with table.temporarily({"b": 20, "d": 4}) as same:
        assert same is table
        assert table == {"a": 1, "b": 20, "c": 3, "d": 4}
        del table["a"]
        table.add("e", 5)
        with table.temporarily({"f": 6}):
            assert list(table) == ["b", "c", "d", "e", "f"]
        assert list(table) == ["b", "c", "d", "e"]
    assert list(table.items()) == [("a", 1), ("b", 2), ("c", 3)]
    with pytest.raises(KeyError), table.temporarily({"d": 4}):
        table["nothing"]
    assert list(table) == ["a", "b", "c"]


def test_a_callers_word_for_the_choice_is_used():
    with pytest.raises(ValueError, match=r"^scorer='l3' is not allowed"):
        FITNESS.find("l3", argument="scorer")


@pytest.mark.parametrize("value", [None, 3, ["logistic"], {"a": 1}])
def test_what_is_no_name_is_refused(value):
    for find in (find_law, find_fitness, find_feature):
        with pytest.raises(ValueError, match="is not allowed: expected one of"):
            find(value)


def test_only_what_has_a_colon_is_imported_and_only_where_that_is_asked(monkeypatch, tmp_path):
    (tmp_path / "spied.py").write_text("square = 4\nraise RuntimeError('imported')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    table = Registry("shape", {"spied": 4})
    assert table.find_or_import("spied") == 4
    for name in ("spied.square", "spied/square", "hf:spied"):
        with pytest.raises(ValueError, match="expected one of spied"):
            table.find_or_import(name)
    with pytest.raises(ValueError, match="expected one of spied"):
        table.find("spied:square")
    assert "spied" not in sys.modules
    with pytest.raises(ValueError, match=r"^shape='spied:square' .* \(RuntimeError: imported\)$"):
        table.find_or_import("spied:square")


def test_a_feature_is_looked_at_once_it_is_imported(monkeypatch, tmp_path):
    (tmp_path / "my_features.py").write_text(
        "from natsel.features import FEATURES\nrank = FEATURES['identity']\nnumber = 3\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert find_feature("my_features:rank") is FEATURES["identity"]
    with pytest.raises(ValueError, match="expected a Feature, this is of type int"):
        find_feature("my_features:number")


def test_the_cause_of_a_failed_import_is_kept():
    with pytest.raises(ValueError, match="no_such_module") as told:
        imported("dynamics", "no_such_module:mine")
    assert isinstance(told.value.__cause__, ModuleNotFoundError)
    with pytest.raises(ValueError, match="did you mean 'dumps'") as told:
        imported("dynamics", "json:dump_s")
    assert isinstance(told.value.__cause__, AttributeError)
    assert imported("dynamics", "json:JSONEncoder.encode") is json.JSONEncoder.encode


def test_the_current_folder_is_looked_into_from_the_first_import_on(monkeypatch, tmp_path):
    (tmp_path / "just_here.py").write_text("import json as library\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p])
    before = list(sys.path)
    with importable_here():
        assert sys.path == before
        assert imported("dynamics", "just_here:library") is json
        assert sys.path == [str(tmp_path), *before]
    assert sys.path == before
    with pytest.raises(ValueError, match="expected a name"):
        imported("dynamics", "just_here:nothing")  # it stays imported; the folder is gone


@pytest.mark.parametrize(
    ("text", "own"),
    [("a.b:c", True), ("a:b", True), (":", True), ("a", False), ("hf:a", False), (3, False)],
)
def test_what_is_meant_to_be_imported_is_told_by_its_colon(text, own):
    assert names_own(text) is own
