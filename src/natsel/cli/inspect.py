"""``natsel inspect``: what can be removed from a network, what each costs, what cannot and why."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from natsel.cli.console import Voice, clear_errors, parse_sizes
from natsel.common.errors import choose

if TYPE_CHECKING:
    from natsel.communities import Communities


def inspect(
    model: Annotated[str, typer.Argument(help="mlp, cnn, resnet20, vit, bert or llama.")] = "mlp",
    in_shape: Annotated[
        str, typer.Option(help="Shape of one input: C,H,W; T for text.")
    ] = "1,28,28",
    num_classes: Annotated[int, typer.Option(help="Number of outputs.")] = 10,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the communities of a reference network, with costs, gates and refusals."""
    voice = Voice(as_json=as_json)
    with clear_errors():
        import torch

        from natsel.communities import discover
        from natsel.models import MODELS, TASKS, build

        choose("model", model, MODELS)
        shape = parse_sizes("in-shape", in_shape)
        network = build(model, in_shape=shape, num_classes=num_classes)
        example = torch.zeros(2, *shape, dtype=torch.long if model in TASKS else None)
        communities = discover(network, (example,))
        voice.result(as_dict(communities))
        show(voice, communities)


def as_dict(communities: Communities) -> dict[str, Any]:
    """Return what ``inspect`` prints as plain data."""
    return {
        "num_populations": communities.num_populations,
        "macs": communities.macs,
        "communities": [
            {
                "name": c.name,
                "kind": c.kind,
                "size": c.size,
                "parameters_each": c.cost.parameters,
                "macs_each": c.cost.macs,
                "gates": [f"{s.tensor}[axis {s.axis}]" for s in c.gates],
                "removed_with_it": [f"{s.tensor}[axis {s.axis}]" for s in c.slices],
            }
            for c in communities.values()
        ],
        "refused": [
            {"name": r.name, "size": r.size, "reason": r.reason, "remedy": r.remedy}
            for r in communities.refused
        ],
        "barriers": list(communities.barriers),
    }


def show(voice: Voice, communities: Communities) -> None:
    """Print communities and refusals as tables."""
    words = voice.words
    table = Table(title="What can be removed", title_justify="left")
    for column in ("community", "kind", "size", "parameters each", "MACs each"):
        numeric = column not in ("community", "kind")
        table.add_column(column, justify="right" if numeric else "left", overflow="fold")
    table.add_column("mass gates at", overflow="fold")
    table.add_column("goes with it", overflow="fold")
    for c in communities.values():
        gates = dict.fromkeys(s.tensor for s in c.gates)
        others = dict.fromkeys(s.tensor for s in c.slices if s.role != "in")
        table.add_row(
            c.name,
            c.kind,
            f"{c.size}",
            f"{c.cost.parameters:,}",
            f"{c.cost.macs:,.0f}",
            _brief(list(gates), most=3),
            _brief(list(others), most=3),
        )
    words.print(table)
    words.print(
        f"{len(communities)} communities, {communities.num_populations} populations, "
        f"{communities.macs:,.0f} multiply-accumulates per sample."
    )
    reasons: dict[tuple[str, str], list[str]] = {}
    for refusal in communities.refused:
        where = f"{refusal.name} ({refusal.size})"
        reasons.setdefault((refusal.reason, refusal.remedy), []).append(where)
    if reasons:
        left = Table(title="What stays whole", title_justify="left")
        for column in ("where", "reason", "remedy"):
            left.add_column(column, overflow="fold")
        for (reason, remedy), places in reasons.items():
            left.add_row(_brief(places), reason, remedy or "-")
        words.print(left)


def _brief(names: list[str], most: int = 4) -> str:
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
