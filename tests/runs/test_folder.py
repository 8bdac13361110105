"""A folder is of one run: held, taken once, and gone again where nothing came of it."""

import json
import os

import pytest

from natsel.common.locks import LOCK, hold
from natsel.runs.folder import CONFIG, claim, finished, take

RUN = {"kind": "test", "seed": 0, "widths": (8, 4)}


def test_what_came_to_nothing_is_gone(tmp_path):
    out = tmp_path / "a" / "b"
    with claim(out, RUN, False):
        assert os.listdir(out) == [LOCK]
    assert os.listdir(tmp_path) == []
    with pytest.raises(ZeroDivisionError), claim(out, RUN, False):
        raise ZeroDivisionError
    assert os.listdir(tmp_path) == []


def test_what_was_taken_stays_and_is_told(tmp_path):
    with claim(tmp_path, RUN, False):
        take(tmp_path, RUN)
    assert os.listdir(tmp_path) == [CONFIG]
    with pytest.raises(ValueError, match="--resume to go on"), claim(tmp_path, RUN, False):
        pass
    with claim(tmp_path, RUN, True):
        take(tmp_path, RUN)
    other = {**RUN, "seed": 1}
    with pytest.raises(ValueError, match="of other seed"), claim(tmp_path, other, True):
        pass
    with pytest.raises(ValueError, match="no other run has taken"):
        take(tmp_path, other)


def test_a_folder_in_use_is_refused_whatever_is_in_it(tmp_path):
    with hold(tmp_path, argument="out"):
        for resume in (False, True):
            with (
                pytest.raises(ValueError, match=f"process {os.getpid()} does"),
                claim(tmp_path, RUN, resume),
            ):
                pass


def test_strays_of_a_killed_run_go_and_nothing_else(tmp_path):
    with claim(tmp_path, RUN, False):
        take(tmp_path, RUN)
    (tmp_path / "cells" / "deep").mkdir(parents=True)
    strays = (LOCK, ".config.json.0123456789ab.tmp", "cells/deep/.x.json.0123456789ab.tmp")
    others = ("cells/.mine.tmp", "cells/x.json", ".x.0123456789zz.tmp", "notes.0123456789ab.tmp")
    for name in (*strays, *others):
        (tmp_path / name).write_text("x")
    with claim(tmp_path, RUN, True):
        take(tmp_path, RUN)
    left = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()}
    assert left == {CONFIG, *others}


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("[]", "no JSON object"),
        ("3", "no JSON object"),
        ("", "not valid JSON"),
        ("[" * 10**5, "nested deeper"),
        ({"kind": "other"}, "no result of natsel test"),
        ({"kind": "test"}, r"another run than config\.json beside it"),
        ({"kind": "test", "config": 3}, "another run"),
        ({"kind": "test", "config": {**RUN, "seed": 1}}, "of other seed"),
    ],
)
def test_a_result_that_is_not_of_this_run(tmp_path, content, told):
    path = tmp_path / "result.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(ValueError, match=told) as error:
        finished(path, RUN, "test")
    assert str(error.value).startswith(str(path))
    path.write_text(json.dumps({"kind": "test", "config": RUN, "a": 1}))
    assert finished(path, RUN, "test")["a"] == 1
