"""The page of the zoo, from its result: one row a model.

``python -m natsel_bench.zoo.page results/zoo/zoo.json docs`` writes ``docs/zoo.md``.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from natsel.common.files import write_atomic
from natsel.common.json_data import read_json
from natsel.communities.community import OUTPUT
from natsel_bench.pictures import table
from natsel_bench.zoo.summary import OUTCOMES, afterwards, natsel_s

Row = Mapping[str, Any]

COMMANDS = """```sh
natsel bench zoo --out runs/zoo                          # all of it; --only timm/* for a part
python -m natsel_bench.zoo.page runs/zoo/zoo.json docs   # write this page
```"""
PLACES = 2
REASONS = 3


def page(result: Mapping[str, Any]) -> str:
    """Return the page, in markdown.

    Args:
        result: of :func:`natsel_bench.zoo.bench.bench_zoo`.
    """
    rows, said = result["rows"], result["summary"]
    versions, made = result["versions"], result["hardware"]
    named = ", ".join(
        f"{name} {version}" for name, version in versions.items() if name not in ("python",)
    )
    seen = [o for o in OUTCOMES if o in said["outcomes"]]
    return (
        "\n\n".join(
            [
                "# The zoo",
                f"{said['models']} of the {result['catalogue']} models of the catalogue, which are "
                "what people download of five libraries: each of its own class, small, of random "
                "weights. From each natsel removes half of every community, an uneven share of "
                "each, all populations but one, and one alone: four small models. "
                "What they compute is compared in float64, on inputs of another batch and, where "
                "the model allows it, another size, with the dense model that has zeros in place "
                "of what is gone; the reference uses nothing of natsel's proof. One is saved, "
                "loaded in another process, and trained a step; language models generate with "
                "their cache.",
                COMMANDS,
                "\n".join(f"- {sentence}" for sentence in sentences(said)),
                table(
                    ("how it ends", "models", "what that means"),
                    [(o, str(said["outcomes"][o]), OUTCOMES[o]) for o in seen],
                ),
                "## Model by model",
                "Removable is the share of parameters that goes when one population of each "
                "community stays. Seconds are of the processor, one thread, for discovery with "
                "its proof and one extraction; beside it torch-pruning's building and pruning of "
                "half, and how that ends by the same reference.",
                *_tables(rows),
                "## Why what stays whole does",
                "By how many models have such a place.",
                table(
                    ("models", "reason"),
                    [(str(count), _cell(reason)) for reason, count in said["reasons"]],
                ),
                f"Measured on {made['processor']}, {made['cores']} cores, beside other work; "
                f"{named}.",
            ]
        )
        + "\n"
    )


def sentences(said: Mapping[str, Any]) -> list[str]:
    """Return what the summary says, in sentences.

    Args:
        said: of :func:`natsel_bench.zoo.summary.summary`.
    """
    outcomes = said["outcomes"]
    found = [
        f"{outcomes.get('exact', 0)} of {said['judged']} models that can be judged are exact "
        f"({said['exact']:.1%}), {outcomes.get('wrong', 0)} silently wrong.",
        f"{said['all_the_way']} of them were also saved, loaded by another process, trained a step "
        "and, where they generate, gave the masked model's tokens with their cache.",
        f"More than half of the parameters is removable in {said['more_than_half']:.1%} of them.",
    ]
    if said["median_removable"] is not None:
        found.append(f"The median model can lose {said['median_removable']:.0%}.")
    if said["median_ratio"] is not None:
        found.append(
            f"Discovery and extraction take {said['median_ratio']:.1f} times torch-pruning's time, "
            "the median where that comes to an end."
        )
    if said["peer_outcomes"]:
        parts = ", ".join(f"{count} {outcome}" for outcome, count in said["peer_outcomes"].items())
        found.append(f"torch-pruning, told nothing: {parts}.")
    return found


def _tables(rows: Sequence[Row]) -> Iterable[str]:
    for library in dict.fromkeys(r["model"].split("/")[0] for r in rows):
        yield f"### {library}"
        yield table(
            ("model", "parameters", "ends", "removable", "what stays whole, and why", "s", "peer"),
            [line(r) for r in rows if r["model"].split("/")[0] == library],
        )


def line(row: Row) -> list[str]:
    """Return the cells of a model.

    Args:
        row: of the result.
    """
    parameters = f"{row['parameters'] / 1e6:.2f} M" if "parameters" in row else ""
    share = f"{row['removable']:.0%}" if "removable" in row else ""
    seconds = natsel_s(row)
    peer = row.get("peer", "")
    if row.get("peer_s") is not None:
        peer = f"{peer}, {row['peer_s']:.2f} s"
    return [
        row["model"].split("/", 1)[1],
        parameters,
        row["outcome"],
        share,
        _cell(why(row)),
        "" if seconds is None else f"{seconds:.1f}",
        peer,
    ]


def why(row: Row) -> str:
    """Return what stays whole and why, or why there is no such thing; and what else went wrong."""
    parts = [row["reason"]] if row.get("reason") else []
    told = [w for w in row.get("whole", ()) if w["reason"] != OUTPUT]
    for found in sorted(told, key=lambda w: -int(w["places"]))[:REASONS]:
        where = ", ".join(found["where"][:PLACES])
        more = found["places"] - len(found["where"][:PLACES])
        parts.append(f"{where}{f' and {more} more' if more > 0 else ''}: {found['reason']}")
    if len(told) > REASONS:
        parts.append(f"{len(told) - REASONS} more reasons")
    parts += afterwards(row)
    return "; ".join(parts)


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "/").split())[:400]


if __name__ == "__main__":
    target = Path(sys.argv[2]) / "zoo.md"
    write_atomic(target, page(read_json(sys.argv[1])).encode())
    print(target)
