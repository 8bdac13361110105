"""``natsel inspect``: what can be removed from a network, what each costs, what cannot and why."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from natsel.cli.commands import with_examples
from natsel.cli.console import Voice, clear_errors, parse_sizes

if TYPE_CHECKING:
    from natsel.communities import Communities
    from natsel.communities.branches.branch import Branch


@with_examples(
    "natsel inspect mlp",
    "natsel inspect resnet20 --in-shape 3,32,32 --residual",
    "natsel inspect ./smollm2 --branches",
    "natsel inspect run --json",
)
def inspect(
    model: Annotated[
        str, typer.Argument(help="A reference network, a folder, or hf:NAME.")
    ] = "mlp",
    in_shape: Annotated[
        str | None, typer.Option(help="Shape of one input of a reference network: C,H,W, or T.")
    ] = None,
    num_classes: Annotated[
        int | None, typer.Option(help="Outputs of a reference network; by default 10.")
    ] = None,
    residual: Annotated[
        bool, typer.Option(help="Also offer widths that a normalisation runs over.")
    ] = False,
    branches: Annotated[
        bool, typer.Option("--branches", help="Also offer attention and MLP branches.")
    ] = False,
    dims: Annotated[
        bool, typer.Option("--dims", help="Offer dimensions inside heads instead of heads.")
    ] = False,
    query_heads: Annotated[
        bool, typer.Option("--query-heads", help="Offer query heads that share keys and values.")
    ] = False,
    expert_groups: Annotated[
        bool, typer.Option("--expert-groups", help="Offer groups that a router chooses whole.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the communities of a network, with costs, gates and refusals."""
    voice = Voice(as_json=as_json)
    with clear_errors(voice=voice):
        from natsel.communities import discover
        from natsel.io import open_model

        shape = None if in_shape is None else parse_sizes("in-shape", in_shape)
        opened = open_model(model, in_shape=shape, num_classes=num_classes)
        communities = discover(
            opened.model,
            opened.example_inputs,
            residual=residual,
            branches=branches,
            dims=dims,
            query_heads=query_heads,
            expert_groups=expert_groups,
        )
        voice.result(as_dict(communities))
        voice.words.print(opened.description, markup=False)
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
                "exact": c.exact,
                "parameters_each": c.cost.parameters,
                "macs_each": c.cost.macs,
                "gates": [f"{s.tensor}[axis {s.axis}]" for s in c.gates],
                "removed_with_it": [f"{s.tensor}[axis {s.axis}]" for s in c.slices],
                **({"branches": [_branch(b) for b in c.branches]} if c.branches else {}),
            }
            for c in communities.values()
        ],
        "refused": [
            {"name": r.name, "size": r.size, "reason": r.reason, "remedy": r.remedy}
            for r in communities.refused
        ],
        "barriers": list(communities.barriers),
    }


def _branch(branch: Branch) -> dict[str, Any]:
    return {
        "name": branch.name,
        "block": branch.block,
        "parameters": branch.cost.parameters,
        "macs": branch.cost.macs,
        "gates": list(branch.gates),
        "mass_scales": branch.scale,
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
        whole = [name for b in c.branches for name in b.gates if b.scale]
        gates = dict.fromkeys([*(s.tensor for s in c.gates), *whole])
        goes = [name for b in c.branches for name in b.tensors if name not in whole]
        others = dict.fromkeys([*(s.tensor for s in c.slices if s.role != "in"), *goes])
        table.add_row(
            c.name,
            c.kind,
            f"{c.size}",
            f"{c.cost.parameters:,}",
            f"{c.cost.macs:,.0f}",
            _brief(list(gates), most=3, between="\n"),
            _brief(list(others), most=3, between="\n"),
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


def _brief(names: list[str], most: int = 4, between: str = ", ") -> str:
    shown = between.join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
