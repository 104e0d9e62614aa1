"""Comparisons: exact, whatever the formats."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike

from fp16sim import events
from fp16sim.arith.blockwise import broadcast
from fp16sim.formats import FP32
from fp16sim.rounding import count_signalling


class Comparison(Protocol):
    """``comparison(x, y)``: a bool for every pair of elements."""

    def __call__(self, x: ArrayLike, y: ArrayLike) -> Any: ...  # noqa: D102


def _comparison(ufunc: np.ufunc, quiet: bool) -> Comparison:
    def function(x: ArrayLike, y: ArrayLike) -> Any:
        (first, second), _ = broadcast([x, y], FP32)  # of different dtypes: NumPy widens exactly
        if events.observed():
            invalid = count_signalling(x) + count_signalling(y)
            if not quiet:
                invalid = int(np.count_nonzero(np.isnan(first) | np.isnan(second)))
            origin = events.Origin(events.current_scope(), ufunc.__name__, "value")
            events.announce(events.Exceptions(0, 0, 0, 0, 0, invalid, origin))
        with np.errstate(all="ignore"):
            return ufunc(first, second)

    function.__name__ = function.__qualname__ = ufunc.__name__
    quietness = "A NaN is no exception" if quiet else "A NaN raises invalid"
    function.__doc__ = (
        f"Exactly, whatever formats the operands are numbers of; NaN is unordered, -0 equals +0. "
        f"{quietness} (IEEE 754-2019, section 5.11)."
    )
    return function


equal = _comparison(np.equal, quiet=True)
not_equal = _comparison(np.not_equal, quiet=True)
less = _comparison(np.less, quiet=False)
less_equal = _comparison(np.less_equal, quiet=False)
greater = _comparison(np.greater, quiet=False)
greater_equal = _comparison(np.greater_equal, quiet=False)
