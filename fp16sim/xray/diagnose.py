"""What an X-ray means: findings, each with its evidence and a remedy. One rule, one function."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeAlias

from fp16sim.formats import BF16, FP16
from fp16sim.xray.record import Birth
from fp16sim.xray.watch import XRay

# Shares from which on a loss is worth a word: below, nothing was seen to suffer from them.
FLUSHED, SWAMPED, MOMENTS = 0.05, 0.2, 0.05
# Steps skipped one after the other that are no search for a scale any more: 2^16 is down at 2^8.
STUCK = 8


@dataclass(frozen=True)
class Finding:
    """Something that goes wrong, or looks as if it did."""

    #: short, for programs: "scale-falls"
    name: str
    #: what is wrong
    title: str
    #: what was seen, and where
    evidence: str
    #: what to do
    remedy: str
    #: module and operation, if it has one
    place: str = ""
    step: int | None = None
    #: False for what is as it should be, and asked about all the same
    wrong: bool = True

    def __str__(self) -> str:
        return f"{self.title}\n  seen: {self.evidence}\n  do:   {self.remedy}"


Rule: TypeAlias = Callable[[XRay], Finding | None]


def diagnose(xray: XRay, error: BaseException | None = None) -> list[Finding]:
    """All findings, what breaks training before what slows it. error: how the program ended."""
    found = [] if error is None else [_raised(error)]
    found += [rule(xray) for rule in RULES]
    return [one for one in found if one is not None]


def _raised(error: BaseException) -> Finding | None:
    text = f"{type(error).__name__}: {error}"
    if "fp16 gradient" in text:
        return Finding(
            "fp16-weights",
            "the weights themselves are in fp16, and a scaler cannot unscale their gradients",
            text,
            "keep parameters in fp32 (no model.to('fp16')) and compute inside fs.autocast('fp16')",
        )
    return Finding("raised", "the program raised an error", text, "see the error's own text")


# --- what breaks training ------------------------------------------------------------------------


def _forward_failure(xray: XRay) -> Finding | None:
    birth = next((b for b in xray.births if not b.in_gradient and b.key.role != "buffer"), None)
    if birth is None or birth.key.role in ("weight", "moment"):
        return None
    name, title, remedy = _explanation(birth)
    return Finding(name, title, str(birth), remedy, birth.key.place, birth.step)


def _explanation(birth: Birth) -> tuple[str, str, str]:
    op, role = birth.key.op, birth.key.role
    if role == "input" and birth.kind == "overflow":
        return (
            "constant",
            f"a constant or an input does not fit {birth.key.fmt}, and became infinite",
            "of a mask, give the booleans to the operation (scaled_dot_product_attention's "
            "attn_mask), or use -fmt.max/2, never -1e9; scale inputs into the format's range",
        )
    if op == "log" and birth.kind != "overflow":
        return (
            "log-of-zero",
            "a logarithm of zero: a probability was rounded to 0 or 1 before",
            "compute the loss from logits: binary_cross_entropy_with_logits, cross_entropy",
        )
    if op.endswith("softmax") or op == "scaled_dot_product_attention":
        return (
            "masked-row",
            "a softmax over nothing but -inf",
            "let every row of the mask allow at least one position",
        )
    if op in ("power", "multiply", "sum", "mean", "var") and birth.kind == "overflow":
        return (
            "square-overflow",
            f"squares or sums left the range of {birth.key.fmt}, whose largest is "
            f"{birth.key.fmt.max:g}",
            "take variances, norms and long sums in fp32: F.layer_norm and F.rms_norm do so inside",
        )
    if op == "divide" or birth.kind == "NaN":
        return (
            "division",
            "a division by what was rounded to zero, or 0/0",
            "add an eps that the format can hold: 1e-8 is 0 in fp16, whose smallest number is 6e-8",
        )
    wide = BF16 if birth.key.fmt == FP16 and birth.largest <= BF16.max else None
    return (
        "activation-overflow",
        f"activations left the range of {birth.key.fmt}, whose largest is {birth.key.fmt.max:g}",
        "compute in bf16, which has the range of fp32 (a network trained in bf16 is used to it)"
        if wide
        else "compute this part in fp32: with fs.autocast(enabled=False)",
    )


def _scale_falls(xray: XRay) -> Finding | None:
    streak = longest = last = 0
    for step in xray.finished_steps:
        streak = streak + 1 if step.taken is False else 0
        if streak > longest:
            longest, last = streak, step.index
    if longest < STUCK:
        return None
    forward = next((b for b in xray.births if not b.in_gradient), None)
    cause = (
        f"since a value is born infinite or NaN on the way forward, no scale can help: {forward}"
        if forward is not None
        else f"gradients are not finite at any scale: {xray.births[0]}"
        if xray.births
        else "gradients are not finite, and no operation made them so: look at data and weights"
    )
    first = xray.finished_steps[last - longest + 1]
    place = forward or (xray.births[0] if xray.births else None)
    return Finding(
        "scale-falls",
        f"the loss scale only falls: {longest} steps skipped one after the other",
        f"from {first.scale:g} in step {first.index} to {xray.finished_steps[last].scale:g}; "
        + cause,
        "mend the operation that is named; the scale is not at fault, and a floor for it would "
        "only hide this",
        place.key.place if place is not None else "",
        first.index,
    )


def _stepped_scaled(xray: XRay) -> Finding | None:
    for step in xray.finished_steps:
        kinds = [kind for kind, _ in step.log]
        if step.taken and step.scale != 1 and "scale" in kinds and "unscale" not in kinds:
            return Finding(
                "never-unscaled",
                "the optimiser stepped with gradients that still had the loss scale in them",
                f"step {step.index}: loss scale {step.scale:g}, and nothing was unscaled",
                "call scaler.step(optimizer), not optimizer.step()",
                step=step.index,
            )
    return None


def _clip_before_unscale(xray: XRay) -> Finding | None:
    for step in xray.finished_steps:
        scaled = [scale for kind, scale in step.log if kind == "clip" and scale != 1]
        if scaled:
            return Finding(
                "clip-before-unscale",
                "gradients were clipped while they still had the loss scale in them",
                f"step {step.index}: clipped at a loss scale of {scaled[0]:g}, so that the limit "
                f"was {scaled[0]:g} times as strict as it looks",
                "call scaler.unscale_(optimizer) before clipping",
                step=step.index,
            )
    return None


def _mixed_scales(xray: XRay) -> Finding | None:
    for step in xray.finished_steps:
        kinds = [kind for kind, _ in step.log]
        scales = {scale for kind, scale in step.log if kind == "scale"}
        unscaled = "unscale" in kinds and "scale" in kinds[kinds.index("unscale") :]
        if unscaled or len(scales) > 1:
            what = "unscaled between two backward passes" if unscaled else "scaled differently"
            return Finding(
                "mixed-scales",
                "gradients of different scales were added up",
                f"step {step.index}: gradients that accumulate were {what}",
                "accumulate with one scale: unscale_, step and update once, after the last "
                "backward of the step",
                step=step.index,
            )
    return None


def _gradients_kept(xray: XRay) -> Finding | None:
    """Every step adds to the gradients of the one before."""
    steps = [step for step in xray.finished_steps if step.log or step.counts]
    adding = [
        step
        for step in steps[1:]
        if sum(kind == "scale" for kind, _ in step.log) <= 1
        and any(key.op == "accumulate_grad" for key in step.counts)
    ]
    if len(steps) < 3 or len(adding) < len(steps) - 1:
        return None
    return Finding(
        "gradients-kept",
        "every step adds its gradients to those of the step before",
        f"step {adding[0].index}: a gradient was added to one that was there already",
        "call optimizer.zero_grad() before backward",
        step=adding[0].index,
    )


def _stepped_twice(xray: XRay) -> Finding | None:
    for step in xray.finished_steps:
        backward = any(key.role.endswith("gradient") for key in step.counts)
        if step.taken and not backward:
            return Finding(
                "stepped-twice",
                "the optimiser stepped again with the gradients of the step before",
                f"step {step.index}: a step without a backward pass",
                "step once per backward pass: scaler.step(optimizer) steps already",
                step=step.index,
            )
    return None


def _statistics_poisoned(xray: XRay) -> Finding | None:
    for step in xray.finished_steps:
        for key, (total, *fates) in step.counts.items():
            bad = sum(fates[-3:])  # overflowed, created, propagated
            if key.role == "buffer" and bad:
                return Finding(
                    "statistics-poisoned",
                    "running statistics took in infinities or NaN, and will keep them",
                    f"step {step.index}: {bad} of {total} values in {key.place}; skipping the step "
                    "keeps weights clean, not what forward has stored already",
                    "mend the overflow, and restore or reset the statistics; they cannot recover",
                    key.place,
                    step.index,
                )
    return None


def _weights_broken(xray: XRay) -> Finding | None:
    birth = next((b for b in xray.births if b.key.role in ("weight", "moment")), None)
    if birth is None:
        return None
    return Finding(
        "weights-broken",
        "the optimiser wrote infinities or NaN",
        str(birth),
        "keep the optimiser's state in fp32, and an eps that its format can hold",
        birth.key.place,
        birth.step,
    )


def _scale_lost(xray: XRay) -> Finding | None:
    steps = xray.finished_steps
    for one, following in pairwise(steps):
        scaled = any(kind == "scale" for kind, _ in following.log)
        if scaled and one.next_scale is not None and following.scale != one.next_scale:
            return Finding(
                "scale-lost",
                "the loss scale jumped: the scaler began anew, or was set by hand",
                f"step {one.index} left it at {one.next_scale:g}, step {following.index} used "
                f"{following.scale:g}",
                "save scaler.state_dict() in checkpoints, and load it",
                step=following.index,
            )
    return None


# --- what slows it, or is lost in silence ---------------------------------------------------------


def _swamped(xray: XRay) -> Finding | None:
    updates = xray.all_updates()
    share = updates.swamped / max(updates.total - updates.zero, 1)
    if share < SWAMPED:
        return None
    worst = max(xray.updates, key=lambda name: xray.updates[name].swamped)
    return Finding(
        "swamped",
        "updates are lost: too small to change the weights they are added to",
        f"{share:.0%} of the updates that are not zero left their weight as it was, most of them "
        f"in {worst or 'a parameter without a name'}",
        "keep fp32 master weights (master_weights=True), or round updates stochastically",
        worst,
    )


def _moments_flushed(xray: XRay) -> Finding | None:
    moments = xray.select(role="moment")
    lost = moments.flushed / max(moments.total - moments.zero, 1)
    if lost < MOMENTS:
        return None
    fmt = next(key.fmt for key in xray.counts if key.role == "moment")
    return Finding(
        "moments-flushed",
        f"the optimiser's moments are too small for {fmt}",
        f"{lost:.0%} of those that are not zero were rounded to zero; an update then is divided by "
        "eps alone, and is far too large",
        "keep the optimiser's state in fp32 (state_fmt=None)",
        "optimizer",
    )


def _underflow(xray: XRay) -> Finding | None:
    worst, share = None, 0.0
    for key, counts in xray.counts.items():
        lost = counts.flushed / max(counts.total - counts.zero, 1)
        if key.role.endswith("gradient") and lost > share and counts.total > 100:
            worst, share = key, lost
    if worst is None or share < FLUSHED:
        return None
    hint = xray.suggest_scale(worst.fmt)
    return Finding(
        "underflow",
        f"gradients are too small for {worst.fmt}, and are rounded to zero",
        f"{share:.0%} of the {worst.role}s other than zero in {worst.place}",
        f"scale the loss: by {hint.scale:g}, {hint.flushed:.1%} of all gradients would be lost "
        f"instead of {hint.flushed_without:.1%} without a scale",
        worst.place,
    )


def _shapes(xray: XRay) -> Finding | None:
    for key, (rows, columns) in xray.products.items():
        odd = [size for size in (rows, columns) if size % 8]
        if odd:
            return Finding(
                "odd-sizes",
                "matrix products have sizes that Tensor Cores do not like",
                f"{key.place} has a weight of {rows} x {columns} in {key.fmt}",
                "make widths, vocabularies and batches multiples of 8 (for fp16 and bf16); "
                "pad them if need be",
                key.place,
                wrong=False,
            )
    return None


def _schedule_runs_ahead(xray: XRay) -> Finding | None:
    steps = xray.finished_steps
    moved = sum(kind == "schedule" for step in steps for kind, _ in step.log)
    taken = sum(step.taken is True for step in steps)
    if moved <= taken or taken == len(steps):
        return None
    return Finding(
        "schedule-ahead",
        "the learning-rate schedule moved on in steps that were skipped",
        f"the schedule took {moved} steps, the optimiser {taken}",
        "step the schedule only if scaler.step(optimizer) says that it stepped",
    )


def _probing(xray: XRay) -> Finding | None:
    probing = [step for step in xray.finished_steps if step.probing]
    if not probing:
        return None
    return Finding(
        "probing",
        f"{len(probing)} steps were skipped while the scaler looked for its scale: that is normal",
        f"first: {probing[0].births[0]}",
        "nothing: skips at the start, and one now and then as the scale grows, are by design",
        probing[0].births[0].key.place,
        probing[0].index,
        wrong=False,
    )


RULES: tuple[Rule, ...] = (
    _forward_failure,
    _scale_falls,
    _statistics_poisoned,
    _weights_broken,
    _stepped_scaled,
    _stepped_twice,
    _gradients_kept,
    _mixed_scales,
    _clip_before_unscale,
    _scale_lost,
    _swamped,
    _moments_flushed,
    _underflow,
    _schedule_runs_ahead,
    _shapes,
    _probing,
)
