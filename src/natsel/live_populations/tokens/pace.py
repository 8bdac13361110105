"""How what has to leave spreads over the blocks of a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from natsel.common.errors import choose, refuse, refuse_together
from natsel.common.numbers import is_whole
from natsel.live_populations.allowances import Bytes, Held
from natsel.selection import Sparsity

PACES = ("even", "share")


def num_leaving(budget: Sparsity | Held, num_tokens: int, num_prefix: int) -> int:
    """Return how many tokens of an input leave on the whole.

    Args:
        budget: a share of all tokens that goes, or how many stay.
        num_tokens: of an input, with those that stand for no place.
        num_prefix: how many of them stand for no place; they stay, and one more.

    Raises:
        ValueError: if more would have to leave than can.

    Example:
        >>> num_leaving(Sparsity(0.4), 65, 1), num_leaving(Held(40), 65, 1)
        (26, 25)
    """
    most = num_tokens - num_prefix - 1
    if isinstance(budget, Held):
        if budget.value <= num_prefix:
            stay = f"{num_prefix} stay that stand for no place"
            refuse("held", budget.value, f"at least {num_prefix + 1} of {num_tokens}: {stay}")
        return max(num_tokens - budget.value, 0)
    found: int = budget.count(num_tokens)
    if found > most:
        stay = f"{num_prefix} stand for no place and stay, and one place stays"
        refuse("sparsity", budget.value, f"at most {most} of {num_tokens} tokens: {stay}")
    return found


def check_budget(budget: object) -> Sparsity | Held:
    """Return what is a budget of tokens.

    Raises:
        ValueError: if it is none.
    """
    if isinstance(budget, Sparsity | Held) and not isinstance(budget, Bytes):
        return budget
    refuse("budget", budget, "natsel.Sparsity(share) or natsel.Held(tokens) for tokens")


def check_blocks(blocks: object, depth: int) -> tuple[int, ...]:
    """Return the blocks at which tokens leave, ascending; None stands for all from 0 on.

    -1 is before the first block.

    Raises:
        ValueError: if one is not there or named twice.
    """
    if blocks is None:
        return tuple(range(depth))
    allowed = f"indices of {depth} blocks, 0 to {depth - 1}, or -1 for before them, each once"
    if not isinstance(blocks, Sequence) or isinstance(blocks, str) or not blocks:
        refuse("blocks", blocks, allowed)
    if not all(is_whole(b, -1) and b < depth for b in blocks) or len(set(blocks)) < len(blocks):
        refuse("blocks", blocks, allowed)
    return tuple(sorted(blocks))


def spread_over(
    total: int,
    blocks: Sequence[int],
    num_tokens: int,
    num_prefix: int,
    pace: str = "even",
    most: Callable[[int], int] | None = None,
) -> dict[int, int]:
    """Return how many tokens leave at each block; together exactly ``total``.

    Args:
        total: how many leave on the whole.
        blocks: at which.
        num_tokens: before the first.
        num_prefix: how many of them stay in any case.
        pace: "even": the same number at each, as ToMe does, the last ones less. "share": the same
            share of who is left, as EViT does.
        most: how many can leave of so many at one block; None for all but one.

    Raises:
        ValueError: if they cannot, or the pace has no such name.

    Example:
        >>> spread_over(26, range(3), 65, 1), spread_over(26, range(3), 65, 1, "share")
        ({0: 9, 1: 9, 2: 8}, {0: 10, 1: 9, 2: 7})
        >>> spread_over(50, range(3), 65, 1, most=lambda free: free // 2)
        {0: 18, 1: 18, 2: 14}
    """
    choose("pace", pace, PACES)

    def limit(left: int) -> int:
        free = left - num_prefix
        return min(free - 1, most(free) if most is not None else free)

    def tried(step: Callable[[int, int], int]) -> dict[int, int]:
        found, left = {}, num_tokens
        for place, block in enumerate(blocks):
            leaves = min(step(place, left), limit(left), total - (num_tokens - left))
            found[block] = max(leaves, 0)
            left -= found[block]
        return found

    if pace == "even":
        for each in range(-(-total // len(blocks)), total + 1):
            found = tried(_always(each))
            if sum(found.values()) == total:
                return found
    else:
        stays = 1 - total / num_tokens
        ends = [round(num_tokens * stays ** ((i + 1) / len(blocks))) for i in range(len(blocks))]
        ends[-1] = num_tokens - total
        found = tried(lambda place, left: left - ends[place])
        if sum(found.values()) == total:
            return found
    together = sum(tried(lambda place, left: total).values())
    given = {"blocks": tuple(blocks), "pace": pace}
    refuse_together(given, f"blocks at which {total} of {num_tokens} can leave (not {together})")


def _always(number: int) -> Callable[[int, int], int]:
    return lambda place, left: number
