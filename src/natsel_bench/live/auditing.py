"""Which methods are one criterion? Their scores of the same entries, audited text by text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

import natsel
from natsel.auditing.comparing import compared
from natsel.auditing.result import Audit
from natsel.common.errors import refuse
from natsel.common.intervals import mean_interval
from natsel.live_populations.allowances import allowed_of
from natsel.live_populations.floors import Floor
from natsel_bench.live.jury import Jury
from natsel_bench.live.tasks import Document
from natsel_bench.live.ways import Way

ALIKE = 0.9
"""Overlap above which, with its whole simultaneous interval, two methods select alike."""
ORDER, SURVIVORS, LIKE = "one order", "the same survivors", "alike"
UPSIDE_DOWN, CHANCE, LESS, ANOTHER = "upside down", "by chance", "less than chance", "another"


def audited(
    model: Any, cases: Sequence[Document], ways: Sequence[Way]
) -> Iterator[tuple[float, list[Audit]]]:
    """Read some texts once, and compare what all ways think of the entries.

    The entries that any of them keeps in any case (the first ones, the newest) are left out: the
    others compete for the places that are left, in each head of each layer.

    Args:
        model: a decoder of the transformers library.
        cases: texts of one length, side by side.
        ways: two or more at each share.

    Yields:
        A share, and an audit of each text, of the scores of its ways in their order.

    Raises:
        ValueError: if nobody is left to compete at a share.
    """
    prompt = torch.tensor([case.prompt for case in cases], device=next(model.parameters()).device)
    jury = Jury(ways)
    with torch.no_grad(), natsel.live(model, jury.method, natsel.Held(prompt.shape[1])):
        cache = model(prompt[:, :-1], use_cache=True).past_key_values
        model(prompt[:, -1:], past_key_values=cache, use_cache=True)
    for share in dict.fromkeys(way.share for way in ways):
        asked = {n: way for n, way in enumerate(ways) if way.share == share}
        free, sparsity = _free(asked.values(), share, prompt.shape[1])
        scores = {n: jury.scores(n) for n in asked}
        yield (
            share,
            [
                compared({str(n): _heads(scores[n], row, free) for n in asked}, [sparsity])
                for row in range(len(cases))
            ],
        )


def _free(ways: Any, share: float, num: int) -> tuple[slice, float]:
    """Return the entries that no way keeps in any case, and the share of them that goes."""
    allowed = allowed_of(natsel.Sparsity(share), num)
    floors = [Floor(way.sinks, way.window).within(allowed, num) for way in ways]
    sinks, window = (max(floor[i] for floor in floors) for i in range(2))
    free, stay = num - sinks - window, allowed - sinks - window
    if stay < 1:
        told = f"a share at which somebody stays of {num} entries beside {sinks + window}"
        refuse("share", share, f"{told} that stay in any case")
    return slice(sinks, num - window), (free - stay) / free


def _heads(scores: Mapping[int, Tensor], row: int, free: slice) -> dict[str, Tensor]:
    return {
        f"layer {layer}, head {head}": found[row, head, free].double().cpu()
        for layer, found in scores.items()
        for head in range(found.shape[1])
    }


def numbers_of(audit: Audit) -> dict[str, Any]:
    """Return what is kept of the audit of one text, as JSON holds it."""
    (cut,) = audit.overall.at
    same = [[any({a, b} <= set(c) for c in audit.classes) for b in audit.scorers]
            for a in audit.scorers]  # fmt: skip
    turned = [[(a, b) in audit.reversed for b in audit.scorers] for a in audit.scorers]
    return {
        "overlap": cut.agreement,
        "chance": cut.chance,
        "spearman": audit.overall.spearman,
        "same": same,
        "reversed": turned,
        "tied": cut.tied,
        "survivors": cut.num_survivors,
        "entries": audit.overall.size,
    }


def rows_of(
    methods: Sequence[str], share: float, texts: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Return each pair of methods at one share, with Student's intervals over texts.

    Example:
        >>> one = {"overlap": [[1, 1], [1, 1]], "chance": 0.5, "spearman": [[1, 1], [1, 1]],
        ...     "same": [[True, True]] * 2, "reversed": [[False, False]] * 2}
        >>> rows_of(["a", "b"], 0.5, [one, one])[0]["relation"]
        'one order'
    """
    pairs = list(combinations(range(len(methods)), 2))
    rows = []
    for i, j in pairs:
        overlaps = [text["overlap"][i][j] for text in texts]
        known = [r for text in texts if (r := text["spearman"][i][j]) is not None]
        chance = sum(text["chance"] for text in texts) / len(texts)
        # What is said of so many pairs at once has to hold of all of them (Bonferroni).
        sure = mean_interval(overlaps, 1 - 0.05 / len(pairs))
        if all(text["same"][i][j] for text in texts):
            relation = ORDER
        elif min(overlaps) == 1:
            relation = SURVIVORS
        elif all(text["reversed"][i][j] for text in texts):
            relation = UPSIDE_DOWN
        elif sure.low >= ALIKE:
            relation = LIKE
        elif sure.high < chance:
            relation = LESS
        else:
            relation = CHANCE if sure.low <= chance else ANOTHER
        rows.append(
            {
                "methods": [methods[i], methods[j]],
                "share": share,
                "overlap": _interval(overlaps, 0.0),
                "chance": chance,
                "spearman": _interval(known, -1.0) if known else None,
                "relation": relation,
            }
        )
    return rows


def _interval(values: Sequence[float], least: float) -> dict[str, float]:
    """Return a mean with its interval, as far as the measure itself goes."""
    found = mean_interval(values)
    ends = {"low": max(found.low, least), "high": min(found.high, 1.0)}
    return {"mean": found.mean, **ends, "n": found.n}
