"""Solution of the exercise of lesson 08."""

import math
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # where the checks are
from checks import check_window


def window(counts: dict[int, int], largest: float, bound: float, headroom: int) -> tuple[int, int]:
    """The exponents of the smallest and the largest power of two that will do as a loss scale."""
    # From the smallest values up: those that may go, and the first ones that may not.
    sizes = {exponent: number * 2.0**exponent for exponent, number in sorted(counts.items())}
    gone, total = 0.0, sum(sizes.values())
    for exponent, size in sizes.items():
        gone += size
        if gone > bound * total:
            lowest = -25 - exponent
            break
    return lowest, math.floor(math.log2(65504 / largest)) - headroom


assert check_window(window)
