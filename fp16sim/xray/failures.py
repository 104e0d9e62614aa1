"""Rules for what breaks training: infinities and NaN, where they come from and where they stay."""

from __future__ import annotations

from fp16sim.formats import BF16, FP16
from fp16sim.xray.finding import Finding
from fp16sim.xray.record import Birth, Step
from fp16sim.xray.watch import XRay

# Steps skipped one after the other that are no search for a scale any more: 2^16 is down at 2^8.
STUCK = 8
# Steps that an operation was finite in, after which its overflow is no fault of its own.
STEADY = 10


def forward_failure(xray: XRay) -> Finding | None:
    """An infinity or a NaN is born on the way forward, where no loss scale reaches."""
    birth = next((b for b in xray.births if not b.in_gradient and b.key.role != "buffer"), None)
    if birth is None or birth.key.role in ("weight", "moment"):
        return None
    before = sum(birth.key in step.counts for step in xray.steps[: birth.step])
    name, title, remedy = _explanation(birth, before)
    evidence = f"{birth}, after {before} steps without" if before else str(birth)
    return Finding(name, title, evidence, remedy, birth.key.place, birth.step)


def _explanation(birth: Birth, before: int) -> tuple[str, str, str]:
    """Name, title and remedy; before: how many steps it had gone well in."""
    op, fmt, overflow = birth.key.op, birth.key.fmt, birth.kind == "overflow"
    if birth.key.role == "input" and overflow:
        return (
            "constant",
            f"a constant or an input does not fit {fmt}, and became infinite",
            "of a mask, give the booleans to the operation (scaled_dot_product_attention's "
            "attn_mask), or use -fmt.max/2, never -1e9; scale inputs into the format's range",
        )
    if op == "log" and not overflow:
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
    if overflow and before >= STEADY:
        return (
            "activations-grow",
            f"activations grew until they left the range of {fmt}, whose largest is {fmt.max:g}",
            "normalise in front of the layer, or lower the learning rate; in fp32 they grow as "
            "well, only unseen",
        )
    if op in ("power", "multiply", "sum", "mean", "var") and overflow:
        return (
            "square-overflow",
            f"squares or sums left the range of {fmt}, whose largest is {fmt.max:g}",
            "take variances, norms and long sums in fp32: F.layer_norm and F.rms_norm do so inside",
        )
    if op == "divide" or birth.kind == "NaN":
        return (
            "division",
            "a division by what was rounded to zero, or 0/0",
            "add an eps that the format can hold: 1e-8 is 0 in fp16, whose smallest number is 6e-8",
        )
    return (
        "activation-overflow",
        f"activations left the range of {fmt}, whose largest is {fmt.max:g}",
        "compute in bf16, which has the range of fp32 (a network trained in bf16 is used to it)"
        if fmt == FP16 and birth.largest <= BF16.max
        else "compute this part in fp32: with fs.autocast(enabled=False)",
    )


def scale_falls(xray: XRay) -> Finding | None:
    """Every step is skipped, and the scale halved, without an end."""
    streak = _longest_streak(xray)
    if streak is None:
        return None
    births = [birth for step in streak for birth in step.births] or xray.births
    forward = next((birth for birth in births if not birth.in_gradient), None)
    born = forward or next(iter(births), None)
    cause = (
        f"since a value is born infinite or NaN on the way forward, no scale can help: {forward}"
        if forward is not None
        else f"gradients are not finite at any scale: {born}"
        if born is not None
        else "gradients are not finite, and no operation made them so: look at data and weights"
    )
    return Finding(
        "scale-falls",
        f"the loss scale only falls: {len(streak)} steps skipped one after the other",
        f"from {streak[0].scale:g} in step {streak[0].index} to {streak[-1].scale:g}; {cause}",
        "mend the operation that is named; the scale is not at fault, and a floor for it would "
        "only hide this",
        born.key.place if born is not None else "",
        streak[0].index,
    )


def _longest_streak(xray: XRay) -> list[Step] | None:
    """The most steps skipped one after the other, unless they were a search that came to an end."""
    longest: list[Step] = []
    streak: list[Step] = []
    for step in xray.finished_steps:
        streak = [*streak, step] if step.taken is False else []
        longest = streak if len(streak) > len(longest) else longest
    found = longest is not streak and all(step.probing for step in longest)
    return None if len(longest) < STUCK or found else longest


def gradients_overflowed(xray: XRay) -> Finding | None:
    """An optimiser took gradients that nobody had checked."""
    for step in xray.finished_steps:
        checked = any(kind == "unscale" for kind, _ in step.log)
        birth = next((birth for birth in step.births if birth.in_gradient), None)
        if step.taken and birth is not None and not checked:
            return Finding(
                "gradient-overflow",
                "gradients became infinite or NaN, and the optimiser took them",
                str(birth),
                "scale the loss with a GradScaler, which leaves such steps out; if there is no "
                "scale to lower, look at the operation",
                birth.key.place,
                step.index,
            )
    return None


def statistics_poisoned(xray: XRay) -> Finding | None:
    """Running statistics have taken in what is not finite."""
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


def weights_broken(xray: XRay) -> Finding | None:
    """The optimiser itself made infinities or NaN."""
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
