"""Solution of the exercise of lesson 15."""

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))  # where the checks are
from checks import check_dice


def dice(truth: np.ndarray, prediction: np.ndarray) -> float:
    """2 |A and B| / (|A| + |B|) of two float16 arrays of zeros and ones, as one number."""
    # In whole numbers, so that nothing is rounded; sums with dtype=np.float32 do as well.
    sizes = np.count_nonzero(truth) + np.count_nonzero(prediction)
    common = np.count_nonzero((truth == 1) & (prediction == 1))
    return 2 * common / sizes if sizes else 1.0


assert check_dice(dice)
