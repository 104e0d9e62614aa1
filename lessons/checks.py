"""Checks of the exercises: each prints what is wrong, or that all is well, and returns which."""

from collections.abc import Callable

import numpy as np


def check_flushed_share(function: Callable[[np.ndarray, float], float]) -> bool:
    """Lesson 01: the share of values that are not zero, and would be zero after rounding."""

    def share(values: list[float], scale: float) -> float:
        return function(np.array(values, dtype=np.float32), scale)

    first = share([1.0, 2.0], 1.0)
    if first is ...:
        print("Not written yet: flushed_share returns `...`.")
        return False
    if first is None:
        print("flushed_share returns None. Does it end with `return`?")
        return False
    if not isinstance(first, int | float | np.number) or isinstance(first, complex):
        print(f"flushed_share returns {first!r}, but a share is one number. Is a .mean() missing?")
        return False
    tiny = 2.0**-30
    cases = [
        (
            ([tiny, 1.0, 1.0, 1.0], 1.0),
            0.25,
            "Of [2^-30, 1, 1, 1] one value in four is flushed. Is your result a share of all?",
        ),
        (
            ([0.0, 0.0, tiny, 1.0], 1.0),
            0.25,
            "Zeros that were there before rounding are not flushed: nothing was lost. "
            "Count the values that are zero after rounding and were not before.",
        ),
        (
            ([2.0**-20, 1.0], 1.0),
            0.0,
            "2^-20 is subnormal in fp16, not zero: it is below 2^-14, the smallest *normal* "
            "number, but above 2^-24, the smallest of all.",
        ),
        (
            ([tiny, tiny * 4], 2.0**10),
            0.0,
            "With scale 1024, 2^-30 becomes 2^-20, which fp16 holds. Is the gradient scaled "
            "before it is rounded?",
        ),
        (
            ([1.5 * 2.0**-25, 1.0], 1.0),
            0.0,
            "1.5 x 2^-25 is below 2^-24, but nearer to it than to 0, so it is rounded up. Let "
            "fs.round_to decide instead of comparing with a limit.",
        ),
        (
            ([2.0**-25, -(2.0**-26), 1.0, -1.0], 1.0),
            0.5,
            "2^-25 is halfway between 0 and 2^-24 and goes to the even one, 0; negative values are "
            "flushed like positive ones.",
        ),
        (
            ([70000.0, tiny], 1.0),
            0.5,
            "70000 overflows to infinity in fp16: not zero, and no reason to miscount.",
        ),
    ]
    for arguments, expected, hint in cases:
        result = share(*arguments)
        if not np.isclose(result, expected):
            values, scale = arguments
            print(f"Not yet. flushed_share({values}, {scale:g}) gives {result}, not {expected:g}.")
            print(hint)
            return False
    print("Right: flushed_share tells what rounding loses from what was never there.")
    return True
