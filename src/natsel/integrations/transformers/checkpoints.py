"""The evolution in a checkpoint folder of the Trainer: a safetensors file, and JSON to read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from natsel.common.errors import refuse
from natsel.common.files import load_tree, save_tree, write_json
from natsel.evolution import Evolution

STATE = "evolution.safetensors"
"""What a resumed run needs, bit for bit."""

SUMMARY = "evolution.json"
"""What people want to know."""


def checkpoint_of(args: Any, step: int) -> Path:
    """Return the folder in which the Trainer keeps a step.

    Args:
        args: its ``TrainingArguments``.
        step: of the optimizer.

    Returns:
        The folder; in a search for hyperparameters the newest one of that step.
    """
    name = f"checkpoint-{step}"
    folder = Path(args.output_dir) / name
    if folder.is_dir():
        return folder
    trials = [path for path in Path(args.output_dir).glob(f"*/{name}") if path.is_dir()]
    return max(trials, key=lambda path: path.stat().st_mtime, default=folder)


def write_state(folder: Path, evolution: Evolution, readings: Mapping[str, float]) -> None:
    """Write an evolution into a checkpoint folder; the state appears whole or not at all.

    Raises:
        OSError: if it cannot be written.
    """
    masses, alive = evolution.masses, evolution.alive
    summary = {
        "steps": evolution.num_steps,
        "dynamics": evolution.dynamic.name,
        "fitness": evolution.fitness.name,
        "constants": evolution.ecology.constants(),
        **readings,
        "communities": {
            name: {
                "kind": community.kind,
                "size": community.size,
                "alive": int(alive[name].sum()),
                "mass": float(masses[name].mean()),
            }
            for name, community in evolution.communities.items()
        },
    }
    write_json(folder / SUMMARY, summary)
    save_tree(folder / STATE, evolution.state_dict())


def read_state(folder: Path) -> dict[str, Any]:
    """Read the evolution of a checkpoint folder.

    Raises:
        ValueError: if there is none, or it is damaged.
    """
    try:
        state = load_tree(folder / STATE)
    except FileNotFoundError:
        refuse(
            "resume",
            str(folder),
            f"a checkpoint with {STATE}, which is written last: resume from an earlier one, name "
            "its folder by resume=FOLDER, or begin a new evolution by resume=False",
        )
    if not isinstance(state, dict):
        raise ValueError(f"{folder / STATE} is damaged: it holds no evolution")
    return state
