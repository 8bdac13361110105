"""For all tests: no example has a deadline, and what a file's tests share is made once."""

from __future__ import annotations

from typing import Any

import hypothesis
import pytest

# How long an example takes says how busy the machine is.
hypothesis.settings.register_profile("natsel", deadline=None)
hypothesis.settings.load_profile("natsel")

# They are no modules to look for doctests in: several of them have one name.
collect_ignore_glob = ["*conftest.py"]

TOGETHER = ("tests/io/",)
"""Folders whose files share what takes long to make."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Schedule by file where nothing else was asked for."""
    if config.getoption("dist") != "load":
        return None
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            path = nodeid.split("::")[0]
            return next((folder for folder in TOGETHER if path.startswith(folder)), path)

    return ByFile(config, log)
