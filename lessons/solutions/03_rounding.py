"""Solution of the exercise of lesson 03."""

import math
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # where the checks are
from checks import check_round_even


def round_even(x: float, spacing: float) -> float:
    """The multiple of the spacing that is nearest to x; of two equally near, the even one."""
    below = math.floor(x / spacing)
    rest = x / spacing - below
    up = rest > 0.5 or (rest == 0.5 and below % 2 == 1)
    return (below + up) * spacing


assert check_round_even(round_even)
