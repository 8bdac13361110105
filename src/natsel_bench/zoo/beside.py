"""torch-pruning on a model of the zoo, judged as natsel is."""

from __future__ import annotations

import copy
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from natsel.common.calls import Inputs
from natsel.common.errors import first_line
from natsel_bench.peers.reference import without_reference
from natsel_bench.peers.torch_pruning import TorchPruning
from natsel_bench.zoo.masked import (
    difference,
    gone_from,
    in_float64,
    is_exact,
    masked,
    outputs,
)

Row = dict[str, Any]
LIMIT = 30.0
"""Processor seconds for a peer, whose endless loops are not the model's."""


def words(error: Exception) -> str:
    """Return the kind of an error and the first line of what it says."""
    return f"{type(error).__name__}: {first_line(error)[:300]}"


def peer(dense: nn.Module, inputs: Inputs) -> Row:
    """Let torch-pruning remove half of everything: how long it takes, and how that ends."""
    tool = TorchPruning()
    model = copy.deepcopy(dense)
    start = time.process_time()
    try:
        with _at_most(LIMIT):
            tool.prepare()
            tool.pruner(model, inputs).step()
    except TimeoutError as error:
        return {"peer": "time-out", "peer_s": None, "peer_reason": str(error)}
    except Exception as error:  # noqa: BLE001 - how a peer fails is what is recorded
        return {"peer": "error", "peer_s": None, "peer_reason": words(error)}
    seconds = time.process_time() - start
    outcome, reason = _outcome(dense, model.eval(), inputs)
    return {"peer": outcome, "peer_s": seconds, "peer_reason": reason}


@contextmanager
def _at_most(seconds: float) -> Iterator[None]:
    def stop(*_: object) -> None:
        raise TimeoutError(f"stopped after {seconds:g} s")

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def _outcome(dense: nn.Module, small: nn.Module, inputs: Inputs) -> tuple[str, str]:
    """Say how a peer's model ends, in the words of ``natsel bench peers``."""
    try:
        gone = gone_from(dense, small)
    except KeyError as error:
        return "no reference", f"parameter {error} has another name"
    if not gone:
        return "nothing", ""
    try:
        ours = outputs(in_float64(small), inputs)
    except Exception as error:  # noqa: BLE001 - a broken forward is what is looked for
        return "broken", words(error)
    if (norm := without_reference(dense, small)) is not None:
        return "no reference", norm
    try:
        twin, closed = masked(dense, gone)
        theirs = outputs(twin, inputs, closed=closed)
        found = difference(ours, theirs, outputs(in_float64(dense), inputs))
    except ValueError as error:
        return "changed outputs", str(error)
    except Exception as error:  # noqa: BLE001 - there is nothing to compare with
        return "no reference", words(error)
    return ("exact" if is_exact(found) else "different"), ""
