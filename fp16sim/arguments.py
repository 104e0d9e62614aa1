"""Checks of arguments: an error names the argument, the value and what is allowed."""

from __future__ import annotations

import math
import numbers
import operator
from collections.abc import Iterable


def real(
    name: str,
    value: object,
    *,
    at_least: float = -math.inf,
    above: float = -math.inf,
    below: float = math.inf,
    at_most: float = math.inf,
) -> float:
    """A finite number in the interval, as a Python float; TypeError or ValueError otherwise."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a number, got {value!r}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    # No NaN or infinity passes.
    if not (at_least <= number <= at_most and above < number < below):
        limits = [f">= {at_least:g}"] * (at_least > -math.inf)
        limits += [f"> {above:g}"] * (above > -math.inf) + [f"< {below:g}"] * (below < math.inf)
        limits += [f"<= {at_most:g}"] * (at_most < math.inf)
        allowed = " and ".join(["finite", *limits])
        raise ValueError(f"{name}={value!r} is not allowed; it must be {allowed}")
    return number


def integer(name: str, value: object, *, at_least: int, at_most: int | None = None) -> int:
    """An integer in the range, as a Python int; TypeError or ValueError otherwise."""
    if isinstance(value, bool):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    try:
        number = operator.index(value)  # type: ignore[arg-type]  # this is the test
    except TypeError:
        raise TypeError(f"{name} must be an integer, got {value!r}") from None
    if number < at_least or (at_most is not None and number > at_most):
        allowed = f"at least {at_least}" if at_most is None else f"from {at_least} to {at_most}"
        raise ValueError(f"{name}={number} is not allowed; it must be {allowed}")
    return number


def one_of(name: str, value: object, allowed: Iterable[str]) -> str:
    """One of the allowed names; ValueError lists them, TypeError for anything but a string."""
    allowed = list(allowed)
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a name, got {value!r}; known are {', '.join(allowed)}")
    if value not in allowed:
        raise ValueError(f"{name}={value!r} is not known; allowed are {', '.join(allowed)}")
    return value
