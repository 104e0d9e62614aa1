"""What all of arith shares: operands, blocks of results, and what observers are told."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from fp16sim import events
from fp16sim.backend import Array, carrier_of
from fp16sim.formats import Format
from fp16sim.kernels import reference
from fp16sim.rounding import Rounding, count_signalling, float_array
from fp16sim.status import exceptions, exceptions_of_one

# Values a block: more would fill the caches with intermediate results, fewer cost calls.
BLOCK = 2**15


class Results(NamedTuple):
    """A block of results, and what there is to say about them."""

    rounded: Array
    #: float64, on the same side as the exact ones of all numbers and midpoints of the format
    exact: Array
    #: infinite results of finite operands
    poles: Array
    #: results that observers know of already
    announced: Array


def in_blocks(
    operands: list[Any], how: Rounding, name: str, compute: Callable[..., Results]
) -> Any:
    """Broadcast the operands, compute block by block, tell observers."""
    arrays, dtype = broadcast(operands, how.fmt)
    result = np.empty(arrays[0].shape, dtype)
    flat = [a.reshape(-1) for a in arrays]
    origin = events.Origin(events.current_scope(), name, "value")
    with np.errstate(all="ignore"):
        for start in range(0, result.size, BLOCK):
            block = slice(start, start + BLOCK)
            doubles = [a[block].astype(np.float64) for a in flat]
            results = compute(*doubles)
            result.reshape(-1)[block] = results.rounded
            if events.observed():
                _announce(doubles, results, how, origin)
        if events.observed() and (signalling := sum(count_signalling(x) for x in operands)):
            events.announce(events.Exceptions(0, 0, 0, 0, 0, signalling, origin))
    return result[()] if result.ndim == 0 else result


def broadcast(operands: list[ArrayLike], fmt: Format) -> tuple[list[Array], np.dtype[Any]]:
    """Operands as arrays of one shape, and the dtype of the result."""
    names = ("x", "y", "z")
    arrays = [float_array(x, name)[0] for x, name in zip(operands, names, strict=False)]
    try:
        shape = np.broadcast_shapes(*(a.shape for a in arrays))
    except ValueError:
        shapes = ", ".join(f"{n} {a.shape}" for n, a in zip(names, arrays, strict=False))
        raise ValueError(f"operands have shapes that do not broadcast: {shapes}") from None
    dtype = np.result_type(carrier_of(fmt), *arrays)
    return [np.broadcast_to(a, shape) for a in arrays], dtype


def flat64(x: Array) -> Array:
    """In float64, 1-d and contiguous."""
    with np.errstate(invalid="ignore"):  # signalling NaNs
        return np.ascontiguousarray(x, np.float64).reshape(-1)


def round_one(exact: Fraction, how: Rounding, zero: float, origin: events.Origin) -> float:
    """An exact result rounded, and announced; ``zero`` is what it looks like if it is zero."""
    draw = None if how.draw is None else Fraction(int(how.draw(1)[0]), 2**32)
    result = reference.round_to(exact or zero, how.fmt, how.mode, how.saturate, draw)
    if not how.subnormals and abs(result) < how.fmt.smallest_normal:
        result = result * 0.0 if how.fmt.signed_zero else 0.0
    if events.observed():
        events.announce(exceptions_of_one(exact, result, how.fmt, how.mode, origin))
    return result


def _announce(
    operands: list[Array], results: Results, how: Rounding, origin: events.Origin
) -> None:
    """Tell observers about a block of results."""
    rounded, exact, poles, announced = results
    judged = ~announced & ~poles
    raised = exceptions(exact[judged], rounded[judged], how.fmt, how.mode, origin)
    no_nan = ~np.logical_or.reduce([np.isnan(a) for a in operands])
    invalid = raised.invalid + int(np.count_nonzero(np.isnan(exact) & no_nan & judged))
    raised = raised._replace(invalid=invalid, divide_by_zero=int(np.count_nonzero(poles)))
    events.announce(raised)
    events.announce(events.Rounded(exact, rounded, how.fmt, origin))
