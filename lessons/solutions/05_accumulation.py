"""Solution of the exercise of lesson 05."""

import sys
from pathlib import Path

import fp16sim as fs

sys.path.insert(0, str(Path(__file__).parents[1]))  # where the checks are
from checks import check_stalls_at


def stalls_at(value: float, fmt: str) -> float:
    """The sum that does not change any more when the positive value is added, in this format."""
    total = 0.0
    while (larger := fs.arith.add(total, value, fmt)) != total:
        total = larger
    return float(total)


assert check_stalls_at(stalls_at)
