"""Solution of the exercise of lesson 17."""

import math
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # where the checks are
from checks import check_shared_exponent


def shared_exponent(values: list[float], emax: int) -> int:
    """The exponent of the scale that the values, a list of floats, share."""
    largest = max(map(abs, values))
    if largest == 0:
        return -127
    # frexp gives x = m 2^e with m from 1/2 to 1, so its e is one too large; unlike log2, exactly.
    exponent = math.frexp(largest)[1] - 1
    return max(-127, min(127, exponent - emax))


assert check_shared_exponent(shared_exponent)
