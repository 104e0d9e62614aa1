"""Solution of the exercise of lesson 02."""

import math
import sys
from pathlib import Path

import fp16sim as fs

sys.path.insert(0, str(Path(__file__).parents[1]))  # where the checks are
from checks import check_spacing


def spacing(x: float, fmt: fs.Format) -> float:
    """The distance from x, a positive number of the format, to the next larger one."""
    exponent = math.frexp(x)[1] - 1  # x is in [2^exponent, 2^(exponent + 1))
    return 2.0 ** (max(exponent, fmt.emin) - fmt.precision + 1)


assert check_spacing(spacing)
