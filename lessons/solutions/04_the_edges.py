"""Solution of the exercise of lesson 04."""

import math
import sys
from pathlib import Path

import fp16sim as fs

sys.path.insert(0, str(Path(__file__).parents[1]))  # where the checks are
from checks import check_fate


def fate(x: float) -> str:
    """What becomes of a number that is rounded to fp16."""
    rounded = abs(fs.round_to(x, "fp16"))
    if math.isnan(x):
        return "nan"
    if x == 0:
        return "zero"
    if rounded == 0:
        return "flushed"
    if rounded < fs.FP16.smallest_normal:
        return "subnormal"
    return "overflow" if math.isinf(rounded) else "normal"


assert check_fate(fate)
