"""Solution of the exercise of lesson 18."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # where the checks are
from checks import check_diagnosis


def diagnosis(seen: dict[str, float]) -> str:
    """What a training suffers from, by its counts, a dictionary of numbers."""
    if seen["born_forward"]:
        return "forward"
    if seen["clipped_at"] != 1:
        return "order"
    # Only what is not zero can be lost.
    if seen["gradients_flushed"] >= 0.05 * (seen["gradients"] - seen["gradients_zero"]):
        return "underflow"
    if seen["updates_swamped"] >= 0.2 * (seen["updates"] - seen["updates_zero"]):
        return "swamped"
    return "well"


assert check_diagnosis(diagnosis)
