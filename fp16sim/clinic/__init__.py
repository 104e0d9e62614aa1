"""Failures of mixed precision that people ask about: small programs, broken and mended.

A case is a file with its two programs side by side; ``fp16sim clinic run N`` shows what the X-ray
says about each.
"""

from __future__ import annotations

from fp16sim.clinic import (
    c01_probing,
    c02_scale_falls,
    c03_growth,
    c04_clip_before_unscale,
    c05_mask,
    c06_variance,
    c07_log_of_zero,
    c08_schedule,
    c09_fp16_weights,
    c10_adam_eps,
    c11_sizes,
    c12_bf16_weights,
    c13_batch_statistics,
    c14_underflow,
    c15_resume,
    c16_accumulation,
)
from fp16sim.clinic.case import Case

CASES: tuple[Case, ...] = (
    c01_probing.CASE,
    c02_scale_falls.CASE,
    c03_growth.CASE,
    c04_clip_before_unscale.CASE,
    c05_mask.CASE,
    c06_variance.CASE,
    c07_log_of_zero.CASE,
    c08_schedule.CASE,
    c09_fp16_weights.CASE,
    c10_adam_eps.CASE,
    c11_sizes.CASE,
    c12_bf16_weights.CASE,
    c13_batch_statistics.CASE,
    c14_underflow.CASE,
    c15_resume.CASE,
    c16_accumulation.CASE,
)


def case(number: int) -> Case:
    """The case of that number; ValueError if there is none."""
    for one in CASES:
        if one.number == number:
            return one
    raise ValueError(f"number={number} is not known; there are the cases 1 to {len(CASES)}")


__all__ = ["CASES", "Case", "case"]
