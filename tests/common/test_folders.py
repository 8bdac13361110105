"""Files replaced together: whatever fails, a reader finds all old ones or all new ones."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path

import pytest

from natsel.common.folders import Sealed, locate, replace_together

MANIFEST = "manifest.json"
OLD = {"a": b"old a", "b": b"old b", "gone": b"old"}
NEW = {"a": b"new a", "b": b"new b, longer", "c": b"new c"}


def write(folder, files):
    path = folder / MANIFEST
    held = (
        {n: Sealed(**s) for n, s in json.loads(path.read_text()).items()} if path.exists() else {}
    )
    writers = {n: lambda p, content=content: p.write_bytes(content) for n, content in files.items()}

    def seal(sealed):
        return json.dumps({n: asdict(s) for n, s in sealed.items()}).encode()

    replace_together(folder, writers, MANIFEST, seal, held=lambda: held)


def read(folder):
    sealed = json.loads((folder / MANIFEST).read_text())
    return {n: locate(folder, n, Sealed(**s)).read_bytes() for n, s in sealed.items()}


def test_files_are_replaced_and_others_stay(tmp_path):
    (tmp_path / "result.json").write_text("{}")
    write(tmp_path, OLD)
    assert read(tmp_path) == OLD
    write(tmp_path, NEW)
    assert read(tmp_path) == NEW
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b", "c", MANIFEST, "result.json"]


class Killed(BaseException):
    pass


def arm(patch, n, error, killed):
    """Let the n-th operation on files fail; after a kill nothing else happens either."""
    count = [0]

    def wrap(owner, name):
        real = getattr(owner, name)

        def wrapped(*args, **kwargs):
            count[0] += 1
            if count[0] == n or (killed and count[0] > n):
                raise error
            return real(*args, **kwargs)

        patch.setattr(owner, name, wrapped)

    for name in ("write_bytes", "unlink", "chmod", "touch"):
        wrap(Path, name)
    for name in ("replace", "fsync"):
        wrap(os, name)
    return count


@pytest.mark.parametrize("killed", [False, True])
@pytest.mark.parametrize("first", [False, True])
def test_a_failure_at_any_operation_leaves_all_old_or_all_new(tmp_path, monkeypatch, first, killed):
    monkeypatch.setattr(os, "fsync", lambda handle: None)  # a disk takes its time
    seen = set()
    for n in range(1, 100):
        folder = tmp_path / f"{n}"
        if not first:
            write(folder, OLD)
        error = Killed() if killed else OSError(28, "No space left on device")
        with monkeypatch.context() as patch:
            count = arm(patch, n, error, killed)
            try:
                write(folder, NEW)
                failed = False
            except (Killed, OSError):
                failed = True
        if count[0] < n:
            assert not failed
            break
        if first and not (folder / MANIFEST).exists():
            seen.add("nothing")
            if not killed:
                assert not folder.exists()
        else:
            found = read(folder)
            assert found in (OLD, NEW)
            seen.add("old" if found == OLD else "new")
        # What was left half done does not disturb the next one.
        write(folder, NEW)
        assert read(folder) == NEW
        assert {p.name for p in folder.iterdir()} <= {*NEW, MANIFEST, "gone"}
        assert not list(folder.glob(".*"))
    else:
        pytest.fail("it never succeeded")
    assert seen == ({"nothing", "new"} if first else {"old", "new"})


@pytest.mark.parametrize("name", ["a", "b"])
def test_a_file_that_is_not_in_the_manifest_is_never_overwritten(tmp_path, name):
    (tmp_path / name).write_bytes(b"precious")
    with pytest.raises(ValueError, match=f"a folder whose {name} was saved by natsel"):
        write(tmp_path, OLD)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {name: b"precious"}


def test_a_file_in_the_place_of_the_folder(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ValueError, match="is none"):
            write(folder, OLD)


def test_every_byte_is_checked_and_links_are_refused(tmp_path):
    write(tmp_path, OLD)
    for content in (b"old A", b"old", b"old a, longer"):
        (tmp_path / "a").write_bytes(content)
        with pytest.raises(ValueError, match="damaged"):
            read(tmp_path)
    (tmp_path / "a").unlink()
    with pytest.raises(ValueError, match="a folder with a"):
        read(tmp_path)
    (tmp_path / "elsewhere").write_bytes(OLD["a"])
    (tmp_path / "a").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="not a link"):
        read(tmp_path)
