"""The same small real work, and one thread, as for runs."""

from runs.conftest import _one_thread, _still_one_thread, config, digits

__all__ = ["_one_thread", "_still_one_thread", "config", "digits"]
