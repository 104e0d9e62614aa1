"""Solution of the exercise of lesson 12."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # where the checks are
from checks import check_speedup


def speedup(
    operations: float, numbers: float, peak32: float, peak16: float, bandwidth: float
) -> float:
    """The roofline's bound on the time in fp32 over the time in fp16."""
    time32 = max(operations / peak32, 4 * numbers / bandwidth)
    time16 = max(operations / peak16, 2 * numbers / bandwidth)
    return time32 / time16


assert check_speedup(speedup)
