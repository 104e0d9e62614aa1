"""What an X-ray means: findings, each with its evidence and a remedy. One rule, one function."""

from __future__ import annotations

from traceback import extract_tb

from fp16sim.events import program_of
from fp16sim.xray import failures, misuse, wear
from fp16sim.xray.finding import Finding, Rule
from fp16sim.xray.watch import XRay

#: what breaks training before what slows it
RULES: tuple[Rule, ...] = (
    failures.forward_failure,
    failures.scale_falls,
    failures.statistics_poisoned,
    failures.weights_broken,
    failures.gradients_overflowed,
    misuse.stepped_scaled,
    misuse.stepped_twice,
    misuse.gradients_kept,
    misuse.mixed_scales,
    misuse.clip_before_unscale,
    misuse.scale_lost,
    wear.swamped,
    wear.moments_flushed,
    wear.underflow,
    misuse.schedule_runs_ahead,
    wear.shapes,
    wear.probing,
)


def diagnose(xray: XRay, error: BaseException | None = None) -> list[Finding]:
    """All findings, what breaks training before what slows it. error: how the program ended."""
    found = [] if error is None else [_raised(xray, error)]
    found += [one for one in (rule(xray) for rule in RULES) if one is not None]
    return found


def _raised(xray: XRay, error: BaseException) -> Finding:
    text, step = f"{type(error).__name__}: {error}", xray.steps[-1].index
    if "fp16 gradient" in text.lower():
        return Finding(
            "fp16-weights",
            "the weights themselves are in fp16, and a scaler cannot unscale their gradients",
            text,
            "keep parameters in fp32 (no model.to('fp16')) and compute inside fs.autocast('fp16')",
            "scaler.unscale_",
            step,
        )
    lines = [(program_of(one.filename), one.lineno) for one in extract_tb(error.__traceback__)]
    line = next((f"{name}:{number}" for name, number in reversed(lines) if name), "")
    title = "the program raised an error"
    return Finding("raised", title, text, "see the error's own text", line, step)
