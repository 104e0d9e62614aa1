"""Solution of the exercise of lesson 07."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # where the checks are
from checks import check_flushed


def flushed(counts: dict[int, int], k: int) -> int:
    """How many values are flushed; counts: {exponent: number}; k: the scale is 2^k."""
    # Up to 2^-25, half of the smallest number, all goes to zero.
    return sum(number for exponent, number in counts.items() if exponent + k < -25)


assert check_flushed(flushed)
