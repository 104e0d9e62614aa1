"""Failures of mixed precision that people ask about: small programs, broken and mended.

A case is a file with its two programs side by side; ``fp16sim clinic run N`` shows what the X-ray
says about each.
"""

from __future__ import annotations

from fp16sim.clinic import c05_mask
from fp16sim.clinic.case import Case

CASES: tuple[Case, ...] = (c05_mask.CASE,)


def case(number: int) -> Case:
    """The case of that number; ValueError if there is none."""
    for one in CASES:
        if one.number == number:
            return one
    raise ValueError(f"there is no case {number}; there are 1 to {len(CASES)}")


__all__ = ["CASES", "Case", "case"]
