"""Solution of the exercise of lesson 06."""

import sys
from pathlib import Path

import fp16sim as fs

sys.path.insert(0, str(Path(__file__).parents[1]))  # where the checks are
from checks import check_master_step


def master_step(master: float, update: float) -> tuple[float, float]:
    """The new master weight, in fp32, and the fp16 weight that is computed with."""
    master = fs.arith.subtract(master, update, "fp32")
    return master, fs.round_to(master, "fp16")


assert check_master_step(master_step)
