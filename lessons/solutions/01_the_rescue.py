"""Solution of the exercise of lesson 01."""

import sys
from pathlib import Path

import numpy as np

import fp16sim as fs

sys.path.insert(0, str(Path(__file__).parents[1]))  # where the checks are
from checks import check_flushed_share


def flushed_share(gradient: np.ndarray, scale: float) -> float:
    """Share (0 to 1) of all values that rounding to fp16 turns from something into zero."""
    scaled = gradient * np.float32(scale)
    flushed = (fs.round_to(scaled, "fp16") == 0) & (scaled != 0)
    return float(flushed.mean())


assert check_flushed_share(flushed_share)
