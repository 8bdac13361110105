"""The public names and signatures are those of the list, and the API page shows each of them.

``python tests/docs/test_public_names.py`` writes the list anew.
"""

from __future__ import annotations

import inspect
import re
from difflib import unified_diff
from pathlib import Path
from typing import Any

import pytest

import natsel

ROOT = Path(__file__).parents[2]
LIST = Path(__file__).with_name("public_names.txt")
ADDRESS = re.compile(r" at 0x[0-9a-f]+")


def signature_of(thing: Any) -> str:
    """Return a signature as it stands in the code, which every Python writes alike."""
    try:
        return ADDRESS.sub("", str(inspect.signature(thing))).replace(" -> 'None'", " -> None")
    except (TypeError, ValueError):
        return ""


def members_of(owner: type) -> dict[str, str]:
    """Return the public methods and properties that a class of natsel adds to its bases."""
    found: dict[str, str] = {}
    for base in reversed(owner.__mro__):
        if not base.__module__.startswith("natsel"):
            continue
        for name, member in vars(base).items():
            if name.startswith("_"):
                continue
            if isinstance(member, staticmethod | classmethod):
                found[name] = signature_of(member.__func__)
            elif inspect.isfunction(member):
                found[name] = signature_of(member)
            elif isinstance(member, property) or hasattr(member, "__set_name__"):
                found[name] = " (attribute)"
    return found


def listed() -> list[str]:
    """Return one line for every public name, and for what a public class offers."""
    lines = []
    for name in sorted(natsel.__all__):
        thing = getattr(natsel, name)
        if not inspect.isclass(thing):
            lines.append(f"{name}{signature_of(thing)}")
            continue
        lines.append(f"class {name}{signature_of(thing)}")
        lines += [f"{name}.{member}{how}" for member, how in sorted(members_of(thing).items())]
    return lines


def advice(found: list[str], frozen: list[str]) -> str:
    """Say what changed, and what a change of it asks for."""
    changed = "\n".join(
        list(unified_diff(frozen, found, "as listed", "as it is", "", "", 0, ""))[2:]
    )
    return (
        f"public names or signatures changed:\n{changed}\n"
        "If that is meant: (1) say it in CHANGELOG.md; (2) where a name or an argument went, let "
        "the old one work with natsel.common.deprecation.renamed for one more minor version; "
        "(3) put a new name on docs/api.md; (4) write the list anew with "
        "`python tests/docs/test_public_names.py`."
    )


def test_public_names_and_signatures_are_those_of_the_list():
    frozen = LIST.read_text(encoding="utf-8").splitlines()
    assert listed() == frozen, advice(listed(), frozen)


def test_a_change_is_told_with_what_it_asks_for():
    words = advice(["score(communities, scorer)"], ["score(communities, fitness)"])
    assert "-score(communities, fitness)\n+score(communities, scorer)" in words
    assert "CHANGELOG.md" in words
    assert "docs/api.md" in words


@pytest.mark.parametrize("name", natsel.__all__)
def test_the_page_shows_every_public_name_once(name):
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    assert re.findall(r"(?m)^::: natsel\.(\w+)$", page).count(name) == 1


def test_the_page_shows_no_other_name():
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    assert set(re.findall(r"(?m)^::: natsel\.(\w+)$", page)) <= set(natsel.__all__)


@pytest.mark.parametrize("name", natsel.__all__)
def test_every_public_name_says_what_it_is(name):
    assert inspect.getdoc(getattr(natsel, name))


if __name__ == "__main__":
    LIST.write_text("\n".join(listed()) + "\n", encoding="utf-8")
