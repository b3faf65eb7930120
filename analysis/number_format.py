"""How numbers are written, in tables, figures, reports and on the command line: one place for all of them.

A zero stands before the point, rates have two decimals (three below 0.01 and above 0.99, where the interval is that narrow too), counts are
whole, an interval follows its estimate in brackets: `0.31 [0.24, 0.39]`. What is undefined is a dash.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

DASH = "–"
MINUS = "−"
_SMALL = 0.01
"""Below it, and as near to 1, numbers have three decimals."""
_TINY = 0.0005
"""Below it three decimals would show nothing."""
_LARGE = 100.0
"""From it on numbers are whole."""


def format_number(value: float | None, decimals: int | None = None, *, signed: bool = False) -> str:
    """Return a number as text.

    Args:
        value: The number; None or NaN gives a dash.
        decimals: Digits after the point; by the rules of the module without it.
        signed: Whether a plus is written.

    Returns:
        For example `0.31`, `1.00`, `−0.04`, `0.006`, `12 400`.
    """
    if value is None or math.isnan(value):
        return DASH
    if math.isinf(value):
        return "∞" if value > 0 else f"{MINUS}∞"
    if decimals is None:
        size = abs(value)
        if isinstance(value, int):
            decimals = 0
        elif 0 < size < _TINY:
            return f"{value:.1e}".replace("e-0", "e-").replace("-", MINUS)
        else:
            decimals = _decimals((value,))
    text = f"{abs(value):,.{decimals}f}".replace(",", " ")
    zero = float(text.replace(" ", "")) == 0
    if value < 0 and not zero:
        return MINUS + text
    return f"+{text}" if signed and not zero else text


def _decimals(values: tuple[float, ...]) -> int:
    """Return how many decimals numbers need that are written together; the first of them is the one that counts."""
    largest = max((abs(value) for value in values if math.isfinite(value)), default=0.0)
    if largest >= _LARGE:
        return 0
    first, smallest = abs(values[0]), min((abs(value) for value in values if math.isfinite(value)), default=0.0)
    near_zero = 0 < largest < _SMALL or (0 < first < _SMALL and largest < 10 * _SMALL)
    near_one = 1 - _SMALL < first < 1 and smallest > 1 - 10 * _SMALL
    return 3 if near_zero or near_one else 2


def format_interval(estimate: float, low: float, high: float, *, signed: bool = False, decimals: int | None = None) -> str:
    """Return an estimate with its interval.

    Args:
        estimate: The estimate.
        low: Lower bound.
        high: Upper bound.
        signed: Whether pluses are written, for differences.
        decimals: Digits after the point; by the rules of the module without it.

    Returns:
        For example `0.56 [0.48, 0.64]`; a dash when nothing is defined, `0.50 [–, –]` when the interval is not, and the number
        alone where it was counted rather than estimated (all three are equal).
    """
    if math.isnan(estimate) and math.isnan(low) and math.isnan(high):
        return DASH
    if estimate == low == high:
        return format_number(estimate, decimals, signed=signed)
    shown = _decimals((estimate, low, high)) if decimals is None else decimals
    words = [format_number(value, shown, signed=signed) for value in (estimate, low, high)]
    return f"{words[0]} [{words[1]}, {words[2]}]"


def format_probability(value: float) -> str:
    """Return a probability that never reads as certain: `>0.999` and `<0.001` at the ends, and `1` and `0` only where it is."""
    if math.isnan(value):
        return DASH
    if value in (0.0, 1.0):
        return f"{value:.0f}"
    if value > 1 - _TINY:
        return ">0.999"
    if value < _TINY:
        return "<0.001"
    return format_number(value, 3 if value < _SMALL or value > 1 - _SMALL else 2)


def short_number(value: float, digits: int = 3) -> str:
    """Return a number for a tick or a label in a figure, with at most that number of significant digits."""
    return f"{value:.{digits}g}".replace("-", MINUS) if math.isfinite(value) else DASH


def number(row: Mapping[str, Any], key: str) -> float:
    """Return a number of a row; NaN where it is absent or null."""
    value = row.get(key)
    return math.nan if value is None else float(value)
