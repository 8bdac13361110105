"""How a number is printed for people."""

from __future__ import annotations

import json
from collections.abc import Callable

from natsel.communities.kinds import KINDS

NBSP = "\u00a0"


def percent(value: float) -> str:
    """Print a fraction in percent with two decimals.

    Example:
        >>> percent(0.98413).replace(NBSP, " ")
        '98.41 %'
    """
    return f"{100 * value:.2f}{NBSP}%"


def share(value: float) -> str:
    """Print a share in percent with one decimal.

    Example:
        >>> share(0.52345).replace(NBSP, " ")
        '52.3 %'
    """
    return f"{100 * value:.1f}{NBSP}%"


def sparsity_label(value: float) -> str:
    """Print a sparsity as a column heading, without idle zeros.

    Example:
        >>> [sparsity_label(v).replace(NBSP, " ") for v in (0.5, 0.667)]
        ['50 %', '66.7 %']
    """
    return f"{round(100 * value, 1):g}{NBSP}%"


def count(value: float) -> str:
    """Print a count; from ten million on, three significant digits and a prefix.

    Example:
        >>> [count(v).replace(NBSP, " ") for v in (768, 535818, 4_089_184_256)]
        ['768', '535,818', '4.09 G']
    """
    for size, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M")):
        if abs(value) >= max(size, 1e7):
            return f"{value / size:.3g}{NBSP}{prefix}"
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:,.2f}"


def milliseconds(value: float) -> str:
    """Print a duration in milliseconds with three significant digits.

    Example:
        >>> [milliseconds(v).replace(NBSP, " ") for v in (0.08125, 12.345, 1234.5)]
        ['0.0813 ms', '12.3 ms', '1234 ms']
    """
    return (f"{value:.0f}" if abs(value) >= 100 else f"{value:#.3g}") + f"{NBSP}ms"


def seconds(value: float) -> str:
    """Print a duration in seconds, minutes or hours.

    Example:
        >>> [seconds(v).replace(NBSP, " ") for v in (4.2, 192, 7260)]
        ['4.2 s', '3 min 12 s', '2 h 1 min']
    """
    if value < 60:
        return f"{value:.1f}{NBSP}s"
    minutes, rest = divmod(round(value), 60)
    if minutes < 60:
        return f"{minutes}{NBSP}min {rest}{NBSP}s"
    return f"{minutes // 60}{NBSP}h {minutes % 60}{NBSP}min"


def significant(value: float) -> str:
    """Print three significant digits.

    Example:
        >>> significant(1.1920929e-07), significant(1.3)
        ('1.19e-07', '1.3')
    """
    return f"{value:.3g}"


def four_digits(value: float) -> str:
    """Print four significant digits.

    Example:
        >>> four_digits(0.984123)
        '0.9841'
    """
    return f"{value:.4g}"


def factor(value: float) -> str:
    """Print a ratio.

    Example:
        >>> factor(2.1234), factor(12.345)
        ('2.1×', '12×')
    """
    return f"{value:.0f}×" if value >= 10 else f"{value:.2f}×" if value < 1.1 else f"{value:.1f}×"


def plural(kinds: set[str]) -> str:
    """Name many populations: by their kind if they share one, else as populations.

    Example:
        >>> plural({"neuron"}), plural({"neuron", "head"})
        ('neurons', 'populations')
    """
    rows = [KINDS[name].plural for name in kinds if name in KINDS]
    return rows[0] if len(kinds) == len(rows) == 1 else "populations"


STYLES: dict[str, Callable[[float], str]] = {
    "percent": percent,
    "share": share,
    "count": count,
    "ms": milliseconds,
    "seconds": seconds,
    "significant": significant,
    "significant4": four_digits,
    "plain": json.dumps,
}
