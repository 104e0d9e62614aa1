"""Rules for what slows training, or is lost in silence; and for what only looks like a failure."""

from __future__ import annotations

from fp16sim.xray.finding import Finding
from fp16sim.xray.record import TALLIED, Key
from fp16sim.xray.watch import XRay

# Shares from which on a loss is worth a word: below, nothing was seen to suffer from them.
FLUSHED, SWAMPED, MOMENTS = 0.05, 0.2, 0.05


def swamped(xray: XRay) -> Finding | None:
    """Updates too small for the weights that they are added to."""
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


def moments_flushed(xray: XRay) -> Finding | None:
    """Moments of an optimiser that its format cannot hold."""
    moments = xray.select(role="moment")
    lost = moments.flushed / max(moments.total - moments.zero, 1)
    if lost < MOMENTS:
        return None
    key = next(key for key in xray.counts if key.role == "moment")
    return Finding(
        "moments-flushed",
        f"the optimiser's moments are too small for {key.fmt}",
        f"{lost:.0%} of those that are not zero were rounded to zero; an update then is divided by "
        "eps alone, and is far too large",
        "keep the optimiser's state in fp32 (state_fmt=None)",
        key.place,
        _first_flush(xray, key),
    )


def underflow(xray: XRay) -> Finding | None:
    """Gradients too small for their format, which a larger loss scale would save."""
    worst, share = None, 0.0
    for key, counts in xray.counts.items():
        lost = counts.flushed / max(counts.total - counts.zero, 1)
        if key.role.endswith("gradient") and lost > share and counts.total > 100:
            worst, share = key, lost
    if worst is None or share < FLUSHED:
        return None
    hint = xray.suggest_scale(worst.fmt, of=worst.fmt)
    scales = [scale for step in xray.steps for kind, scale in step.log if kind == "scale"]
    if hint.scale <= 2 * (scales or [1.0])[-1]:
        return None  # a larger one would overflow: what is lost here cannot be had
    return Finding(
        "underflow",
        f"gradients are too small for {worst.fmt}, and are rounded to zero",
        f"{share:.0%} of the {worst.role}s other than zero in {worst.place}",
        f"scale the loss: by {hint.scale:.10g}, {hint.flushed:.1%} of all gradients would be lost "
        f"instead of {hint.flushed_without:.1%} without a scale",
        worst.place,
        _first_flush(xray, worst),
    )


def _first_flush(xray: XRay, key: Key) -> int | None:
    place = TALLIED.index("flushed")
    return next((s.index for s in xray.steps if key in s.counts and s.counts[key][place]), None)


def shapes(xray: XRay) -> Finding | None:
    """Matrix products that do not fit the tiles of Tensor Cores."""
    odd = [(key, size) for key, size in xray.products.items() if any(length % 8 for length in size)]
    if not odd:
        return None
    key, (rows, columns) = odd[0]
    return Finding(
        "odd-sizes",
        "matrix products have sizes that Tensor Cores do not like",
        f"{key.place} has a weight of {rows} x {columns} in {key.fmt}"
        + (f", and {len(odd) - 1} others are like it" if len(odd) > 1 else ""),
        "make widths, vocabularies and batches multiples of 8 (for fp16 and bf16); "
        "pad them if need be",
        key.place,
        wrong=False,
    )


def probing(xray: XRay) -> Finding | None:
    """The scaler looks for its scale, and skips steps on the way."""
    skipped = [step for step in xray.finished_steps if step.probing]
    if not skipped:
        return None
    steps = "1 step was" if len(skipped) == 1 else f"{len(skipped)} steps were"
    return Finding(
        "probing",
        f"{steps} skipped while the scaler looked for its scale: that is normal",
        f"first: {skipped[0].births[0]}",
        "nothing: skips at the start, and one now and then as the scale grows, are by design",
        skipped[0].births[0].key.place,
        skipped[0].index,
        wrong=False,
    )
