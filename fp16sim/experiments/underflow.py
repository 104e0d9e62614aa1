"""Gradients below fp16's range: a U-Net trained under one loss scale after the other.

Micikevicius et al., "Mixed Precision Training" (ICLR 2018), section 3.2 and figure 3: of the
activation gradients of a detector (Multibox SSD) most were below fp16's range; it did not train
until the loss was multiplied by 8, which lifted just those values that mattered. Here it is a
segmentation network, on images of heads, whose loss is a mean over pixels, in fp32 and in fp16
(``autocast``) under static scales and a dynamic one.

The loss of a batch of N pixels gives each of them a gradient in proportion to 1/N. So a scale of
2^-k does to gradients of activations what 2^k times as many pixels would do, at no cost: scales
below 1 show when larger images and batches need scaling. (Gradients of weights are sums over the
pixels and would not shrink, but they are far above fp16's lower edge: lesson 08. Weights and their
updates are fp32 in every run, and AdamW divides by the size of the gradients, so nothing else
changes with the scale.)

The run in fp32 predicts, from a histogram of its gradients, what fp16 flushes under every scale.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from fp16sim import events
from fp16sim.arguments import integer
from fp16sim.counts import FATES, Counts
from fp16sim.experiments.spread import checked_seeds, spread
from fp16sim.formats import FP16, Format
from fp16sim.models import unet
from fp16sim.precision import autocast
from fp16sim.scaling import GradScaler
from fp16sim.xray import XRay

#: between "tiny" and "laptop": it learns to find lesions in seconds, and half way through
SETTINGS: dict[str, Any] = {
    "width": 8, "depth": 2, "image": 48, "images": 96, "batch": 2, "lr": 2e-2,
}  # fmt: skip
STEPS = 250

#: pixels that the loss is a mean over
PIXELS: int = SETTINGS["batch"] * SETTINGS["image"] ** 2
#: the same in the zoo's U-Net of size "gpu"
GPU_PIXELS: int = unet.SETTINGS["gpu"]["batch"] * unet.SETTINGS["gpu"]["image"] ** 2

#: static scales are 2 to these
EXPONENTS = (-12, -10, -8, -5, 0, 3, 7, 10, 15)
#: scales of the prediction are 2 to these
PREDICTED = tuple(range(-16, 25))

# Counting takes as long as training, and a tenth of the steps tells as much.
WATCHED_EVERY = 10

#: a run trains as fp32 does if in no seed its mean Dice ends further below fp32's than this
TOLERANCE = 0.02

# fp32 as it is, but for numbers from 2^127 on, which do not occur: where autocast is told to store
# this, values stay as they are, and are counted where it would store fp16.
WATCHED_FP32 = Format(name="fp32 where autocast narrows", precision=24, emin=-126, emax=126)


@dataclass(frozen=True)
class Variant:
    """One way to train."""

    label: str
    #: what autocast stores activations and their gradients in
    compute: Format = FP16
    #: what the loss is multiplied by, or at first
    scale: float = 1.0
    dynamic: bool = False


def _variants() -> dict[str, Variant]:
    static = {f"fp16_{e}": Variant(f"fp16, loss x 2^{e}", scale=2.0**e) for e in EXPONENTS}
    return {
        "fp32": Variant("fp32", WATCHED_FP32),
        **static,
        "fp16_dynamic": Variant("fp16, dynamic", scale=2.0**16, dynamic=True),
    }


VARIANTS = _variants()


@dataclass(frozen=True)
class Run:
    """What came out of training one variant with one seed."""

    seed: int
    #: Dice on test images: the mean over the classes, and that of lesions
    mean_dice: float
    lesion_dice: float
    #: training loss of every step
    losses: list[float]
    steps_skipped: int
    #: the loss scale after the last step
    final_scale: float
    #: what became of activation gradients where autocast narrows, in the steps that were watched
    gradients: Counts = field(repr=False)
    #: for fp32: the share of them that fp16 would flush under the scales 2^PREDICTED
    predicted: list[float] | None = field(default=None, repr=False)

    @property
    def zero_in_all(self) -> float:
        """The share that was zero when it was stored, by this rounding or before."""
        return self.gradients.share("zero") + self.gradients.share("flushed")

    def to_dict(self) -> dict[str, Any]:
        """The numbers for ``--json``; shares are of all activation gradients, from 0 to 1."""
        return {
            "seed": self.seed,
            "mean_dice": self.mean_dice,
            "lesion_dice": self.lesion_dice,
            "train_loss": self.losses[-1],
            "steps_skipped": self.steps_skipped,
            "final_scale": self.final_scale,
            "activation_gradients": {fate: self.gradients.share(fate) for fate in FATES},
            "predicted_flushed": self.predicted,
        }


@dataclass(frozen=True)
class Underflow:
    """All runs, by variant and then in the order of the seeds."""

    steps: int
    runs: dict[str, list[Run]]

    def to_dict(self) -> dict[str, Any]:
        """The record that ``fp16sim underflow --json`` prints."""
        return {
            "steps": self.steps,
            **SETTINGS,
            "pixels": PIXELS,
            "predicted_scales": self.predicted_scales,
            "scales": {name: variant.scale for name, variant in VARIANTS.items()},
            "enough": self.enough,
            "runs": {name: [run.to_dict() for run in runs] for name, runs in self.runs.items()},
        }

    @property
    def predicted_scales(self) -> list[float]:
        """The scales for which ``predicted_flushed`` knows an answer."""
        return [2.0**e for e in PREDICTED]

    def predicted_flushed(self, scale: float) -> float:
        """The share that fp32's gradients would lose under one of the scales 2^PREDICTED.

        The median over the seeds.
        """
        place = PREDICTED.index(int(np.log2(scale)))
        return float(
            np.median([run.predicted[place] for run in self.runs["fp32"] if run.predicted])
        )

    def behind(self, name: str) -> float:
        """How far a variant's mean Dice is below fp32's, in the seed where it is furthest."""
        pairs = zip(self.runs["fp32"], self.runs[name], strict=True)
        return max(fp32.mean_dice - run.mean_dice for fp32, run in pairs)

    @property
    def enough(self) -> float | None:
        """The least static scale from which on fp16 trains as fp32 does; None if the last fails."""
        found = None
        for exponent in reversed(EXPONENTS):
            if not self.behind(f"fp16_{exponent}") <= TOLERANCE:
                break
            found = 2.0**exponent
        return found


def underflow(
    seeds: Sequence[int] = range(5),
    steps: int = STEPS,
    *,
    executor: Executor | None = None,
    on_run: Callable[[str, Run], object] | None = None,
) -> Underflow:
    """Train every variant with every seed.

    executor: any ``concurrent.futures`` executor to spread the runs over; None runs them here, one
    after another. on_run: called as each run ends.
    Raises ValueError for no seeds, negative or repeated ones, or steps below 1.
    """
    seeds = checked_seeds(seeds)
    steps = integer("steps", steps, at_least=1)
    runs = spread(
        partial(_run_job, steps=steps),
        [(name, seed) for seed in seeds for name in VARIANTS],
        executor=executor,
        on_result=None if on_run is None else lambda job, run: on_run(job[0], run),
    )
    return Underflow(steps, {name: [runs[name, seed] for seed in seeds] for name in VARIANTS})


def _run_job(job: tuple[str, int], steps: int) -> Run:
    return run_variant(*job, steps)


def run_variant(name: str, seed: int, steps: int) -> Run:
    """Train one variant. The seed decides the initial weights and the order of the batches."""
    variant = VARIANTS[name]
    task = unet.phantoms_task("underflow", {**SETTINGS, "steps": steps}, seed)
    precision = autocast(variant.compute)
    scaler = GradScaler(variant.scale, dynamic=variant.dynamic)
    xray = XRay(task.model)
    history = []
    for step in range(steps):
        watched = step % WATCHED_EVERY == 0
        with events.observe(xray) if watched else nullcontext():
            history.append(task.train_step(step, precision=precision, scaler=scaler))
    with precision:
        dice = task.evaluate()
    return Run(
        seed=seed,
        mean_dice=dice["mean Dice"],
        lesion_dice=dice["Dice lesion"],
        losses=[step.loss for step in history],
        steps_skipped=sum(step.skipped for step in history),
        final_scale=scaler.get_scale(),
        gradients=xray.select(role="activation gradient", fmt=variant.compute),
        predicted=_predicted(xray) if variant.compute == WATCHED_FP32 else None,
    )


def _predicted(xray: XRay) -> list[float]:
    """The share that fp16 would have flushed, for every scale of PREDICTED."""
    return [
        xray.what_if(FP16, 2.0**e, role="activation gradient", of=WATCHED_FP32).share("flushed")
        for e in PREDICTED
    ]


def explain(result: Underflow) -> str:
    """Two sentences on what happened, from the runs' numbers."""

    def median(name: str, of: Callable[[Run], float]) -> float:
        return float(np.median([of(run) for run in result.runs[name]]))

    lesion = {name: median(name, lambda run: run.lesion_dice) for name in VARIANTS}
    if not lesion["fp32"] > 0.3:
        return (
            f"After {result.steps} steps even fp32 hardly finds a lesion: its Dice is "
            f"{lesion['fp32']:.2f}. Train longer to see more."
        )
    plain = median("fp16_0", lambda run: run.zero_in_all)
    first = (
        f"At this size, a loss that is a mean over {PIXELS} pixels, fp16 without loss scaling "
        f"makes {plain:.1%} of all activation gradients zero ({result.predicted_flushed(1.0):.1%}, "
        f"says the histogram of fp32's), and the lesions' Dice ends at {lesion['fp16_0']:.3f} "
        f"(fp32: {lesion['fp32']:.3f}; medians over the seeds). "
    )
    if result.enough is not None:
        return first + _verdict(result.enough, lesion)
    trained = [e for e in EXPONENTS if result.behind(f"fp16_{e}") <= TOLERANCE]
    if not trained:
        return first + "No scale makes it train as fp32 does in every seed."
    return first + (
        f"It trains as fp32 does with the loss times 2^{trained[-1]}, and not with the largest "
        f"scale that was tried, 2^{EXPONENTS[-1]}."
    )


def _verdict(enough: float, lesion: dict[str, float]) -> str:
    """A sentence on the scale that is enough, and the largest that is not."""
    text = f"It trains as fp32 does with the loss times 2^{np.log2(enough):.0f} or more"
    failing = [e for e in EXPONENTS if 2.0**e < enough]
    if not failing:
        return text + ", and nothing smaller was tried."
    last = failing[-1]
    text += f" and not times 2^{last} (lesions: {lesion[f'fp16_{last}']:.3f}), "
    if enough > 1:
        return text + "so it needs scaling."
    return text + (
        f"so it needs no scaling yet, but 2^{-last} times as many pixels, which make gradients as "
        f"small as that, would; the zoo's U-Net for a GPU has {GPU_PIXELS // PIXELS} times "
        "as many."
    )
