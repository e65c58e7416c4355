"""What a value in a plan may be: each check returns it or raises PlanError with one sentence. Standard library only."""

from __future__ import annotations

import math

HUGE = 1e300

# Ceilings far beyond anything physical: what lies above is a slip of the pen, and would overflow or never end.
FASTEST_PER_DAY = 100.0
WIDEST_MM2_PER_DAY = 1000.0
LARGEST_DOSE_GY = 1000.0
LONGEST_MM = 200.0
LAST_DAY = 36525.0
SHORTEST_DAYS = 0.001


class PlanError(ValueError):
    """A plan that cannot be run; the text is the sentence the user reads."""


def shown(value) -> str:
    """A value as a refusal quotes it: short, whatever was given."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def number(value, what: str, low: float = -math.inf, high: float = math.inf) -> float:
    # the comparison also refuses NaN and whole numbers too large for a float
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not -HUGE <= value <= HUGE:
        raise PlanError(f"{what} must be a finite number, not {shown(value)}")
    if not low <= value <= high:
        if high == math.inf:
            raise PlanError(f"{what} must be at least {low:g}, not {value:g}")
        raise PlanError(f"{what} must lie between {low:g} and {high:g}, not {value:g}")
    return float(value)


def whole(value, what: str, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise PlanError(f"{what} must be a whole number from {low} to {high}, not {shown(value)}")
    return value


def text(value, what: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise PlanError(f"{what} must be a non-empty text, not {shown(value)}")
    if any("\ud800" <= c <= "\udfff" for c in value):      # half a character: JSON can hold it, no file can
        raise PlanError(f"{what} is not valid text: {ascii(value)[:60]}")
    return value


def optional_text(value, what: str) -> None:
    if value is not None:
        text(value, what)


def flag(value, what: str) -> None:
    if not isinstance(value, bool):
        raise PlanError(f"{what} must be true or false, not {shown(value)}")


def numbers(values, what: str, low: float = 0.0, high: float = math.inf) -> tuple[float, ...]:
    if not isinstance(values, (list, tuple)) or not values:
        raise PlanError(f"{what} must be a list of at least one number, not {shown(values)}")
    return tuple(number(v, f"each of {what}", low, high) for v in values)
