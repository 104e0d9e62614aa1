"""Rules for calls in the wrong order: scaler, clipping, optimiser, schedule, checkpoints."""

from __future__ import annotations

from itertools import pairwise

from fp16sim.xray.finding import Finding
from fp16sim.xray.record import Step
from fp16sim.xray.watch import XRay

# Steps that add to old gradients, from which on that is no accident at a start or an end.
KEPT = 3


def stepped_scaled(xray: XRay) -> Finding | None:
    """optimizer.step() instead of scaler.step(optimizer)."""
    for step in xray.finished_steps:
        kinds = [kind for kind, _ in step.log]
        if step.taken and step.scale != 1 and "scale" in kinds and "unscale" not in kinds:
            return Finding(
                "never-unscaled",
                "the optimiser stepped with gradients that still had the loss scale in them",
                f"step {step.index}: loss scale {step.scale:g}, and nothing was unscaled",
                "call scaler.step(optimizer), not optimizer.step()",
                "optimizer.step",
                step.index,
            )
    return None


def stepped_twice(xray: XRay) -> Finding | None:
    """optimizer.step() after scaler.step(optimizer)."""
    for before, step in pairwise(xray.finished_steps):
        if before.went_back and step.taken and not step.went_back:
            return Finding(
                "stepped-twice",
                "the optimiser stepped again with the gradients of the step before",
                f"step {step.index}: a step without a backward pass",
                "step once per backward pass: scaler.step(optimizer) steps already",
                "optimizer.step",
                step.index,
            )
    return None


def gradients_kept(xray: XRay) -> Finding | None:
    """Every step adds to the gradients of the one before."""
    kept = [step for step in xray.finished_steps if _adds_to_all(step)]
    if len(kept) < KEPT:
        return None
    return Finding(
        "gradients-kept",
        "steps add their gradients to those of the step before",
        f"step {kept[0].index}: a gradient was added to one that was there already, and so in "
        f"{len(kept)} steps",
        "call optimizer.zero_grad() before backward",
        "optimizer.zero_grad",
        kept[0].index,
    )


def _adds_to_all(step: Step) -> bool:
    """Whether all its gradients of weights were added to others, those of its first backward too.

    In a step of n backward passes that began with zero_grad(), n - 1 of n are.
    """
    fresh = added = 0
    for key, (total, *_) in step.counts.items():
        if key.role != "weight gradient" or key.op.startswith("clip_grad"):
            continue
        if key.op == "accumulate_grad":
            added += total
        else:  # "accumulate": two uses of a weight make one gradient
            fresh += -total if key.op == "accumulate" else total
    return added >= fresh > 0


def mixed_scales(xray: XRay) -> Finding | None:
    """Gradients accumulate that do not have the same scale."""
    for step in xray.finished_steps:
        kinds = [kind for kind, _ in step.log]
        scales = {scale for kind, scale in step.log if kind == "scale"}
        unscaled = "unscale" in kinds and "scale" in kinds[kinds.index("unscale") :]
        added = any(key.op == "accumulate_grad" for key in step.counts)
        if added and (unscaled or len(scales) > 1):
            what = "unscaled between two backward passes" if unscaled else "scaled differently"
            return Finding(
                "mixed-scales",
                "gradients of different scales were added up",
                f"step {step.index}: gradients that accumulate were {what}",
                "accumulate with one scale: unscale_, step and update once, after the last "
                "backward of the step",
                "scaler.unscale_" if unscaled else "scaler.scale",
                step.index,
            )
    return None


def clip_before_unscale(xray: XRay) -> Finding | None:
    """Clipping takes the loss scale for a part of the gradients."""
    for step in xray.finished_steps:
        scaled = [scale for kind, scale in step.log if kind == "clip" and scale != 1]
        if scaled:
            return Finding(
                "clip-before-unscale",
                "gradients were clipped while they still had the loss scale in them",
                f"step {step.index}: clipped at a loss scale of {scaled[0]:g}, so that the limit "
                f"was {scaled[0]:g} times as strict as it looks",
                "call scaler.unscale_(optimizer) before clipping",
                next(key.op for key in step.counts if key.op.startswith("clip_grad")),
                step.index,
            )
    return None


def scale_lost(xray: XRay) -> Finding | None:
    """The same optimiser goes on with another scale than the scaler had settled on."""
    for one, following in pairwise(xray.finished_steps):
        scaled = any(kind == "scale" for kind, _ in following.log)
        same = one.optimizer is following.optimizer
        if same and scaled and one.next_scale not in (None, following.scale):
            return Finding(
                "scale-lost",
                "the loss scale jumped: the scaler began anew",
                f"step {one.index} left it at {one.next_scale:g}, step {following.index} used "
                f"{following.scale:g}",
                "save scaler.state_dict() in checkpoints, and load it",
                "scaler.load_state_dict",
                following.index,
            )
    return None


def schedule_runs_ahead(xray: XRay) -> Finding | None:
    """The schedule counts steps that were skipped."""
    steps = xray.finished_steps
    moved = [step for step in steps if any(kind == "schedule" for kind, _ in step.log)]
    skipped = [step for step in moved if step.taken is False]
    taken = sum(step.taken is True for step in steps)
    if not skipped or len(moved) <= taken:
        return None
    return Finding(
        "schedule-ahead",
        "the learning-rate schedule moved on in steps that were skipped",
        f"the schedule took {len(moved)} steps, the optimiser {taken}; first in step "
        f"{skipped[0].index}",
        "step the schedule only if scaler.step(optimizer) says that it stepped",
        "schedule.step",
        skipped[0].index,
    )
