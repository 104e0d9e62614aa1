"""The rescue: one deep autoencoder, trained four times from the same weights on the same batches.

In fp32; all in fp16; in fp16 with fp32 master weights; and with master weights and dynamic loss
scaling. Everything else is equal, so whatever differs is what half precision did. ("All in fp16"
means weights, activations and gradients. Adam's moments and its arithmetic are fp32 in every run:
in fp16 its eps of 1e-8 would be zero, which is another failure, and not this one.)

The network is that of Hinton and Salakhutdinov (Science 313, 2006) for 8x8 digits. The loss is the
mean over pixels, so every gradient starts at 2 / (512·64) = 2^-14 at most, the end of fp16's normal
range; sigmoid layers, whose derivative is at most 1/4, shrink it further on the way down.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from fp16sim import data, functional
from fp16sim.autograd import Tensor, no_grad
from fp16sim.backend import Array
from fp16sim.counts import FATES, Counts
from fp16sim.experiments.spread import checked_seeds, spread
from fp16sim.formats import FP16, FP32, Format
from fp16sim.models import Autoencoder
from fp16sim.optim import Adam
from fp16sim.precision import autocast
from fp16sim.scaling import GradScaler
from fp16sim.training import train
from fp16sim.xray import XRay, watch

BATCH_SIZE = 512
LEARNING_RATE = 3e-3
STEPS = 600
SHOWN_DIGITS = 10  # reconstructed in the figure: the first test image of each class


@dataclass(frozen=True)
class Variant:
    """One way to train."""

    label: str
    #: the format of the weights and the images
    weights: Format
    #: the format in which activations and their gradients are stored
    compute: Format
    loss_scaling: bool = False


VARIANTS: dict[str, Variant] = {
    "fp32": Variant("fp32", FP32, FP32),
    "fp16": Variant("all fp16", FP16, FP16),
    "fp16_master": Variant("fp16 + master weights", FP32, FP16),
    "fp16_scaled": Variant("fp16 + loss scaling", FP32, FP16, loss_scaling=True),
}

#: the layers from the loss down: the order in which a gradient passes them
LAYERS = ("decoder.2", "decoder.1", "decoder.0", "encoder.2", "encoder.1", "encoder.0")


@dataclass
class Run:
    """What came out of training one variant with one seed."""

    seed: int
    #: mean squared error per pixel on the test images
    test_mse: float
    #: training loss of every step
    losses: list[float]
    steps_skipped: int
    #: the loss scale after the last step; 1 without scaling
    final_scale: float
    #: what became of all gradient values that were stored, over all steps
    gradients: Counts
    #: of the weights' gradients among them
    weight_gradients: Counts
    #: share of all weight updates that left the weight as it was
    updates_unchanged: float
    #: by layer: what became of activation gradients and of weight gradients
    layers: dict[str, dict[str, Counts]]
    #: (SHOWN_DIGITS, 64), from 0 to 1
    reconstructions: Array = field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        """The numbers for ``--json``; shares are of all stored gradient values, from 0 to 1."""
        return {
            "seed": self.seed,
            "test_mse": self.test_mse,
            "train_loss": self.losses[-1],
            "gradients": shares(self.gradients),
            "weight_gradients": shares(self.weight_gradients),
            "updates_unchanged": self.updates_unchanged,
            "steps_skipped": self.steps_skipped,
            "final_scale": self.final_scale,
            "layers": {
                layer: {role: shares(counts) for role, counts in roles.items()}
                for layer, roles in self.layers.items()
            },
        }


@dataclass
class Rescue:
    """All runs, and what they are compared with."""

    #: test error of predicting the mean training image for everything
    baseline_mse: float
    steps: int
    runs: dict[str, list[Run]]
    #: (SHOWN_DIGITS, 64): the originals of the reconstructions
    originals: Array = field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        """The record that ``fp16sim rescue --json`` prints."""
        return {
            "baseline_mse": self.baseline_mse,
            "steps": self.steps,
            "batch_size": BATCH_SIZE,
            "learning_rate": LEARNING_RATE,
            "runs": {name: [run.to_dict() for run in runs] for name, runs in self.runs.items()},
        }


def shares(counts: Counts) -> dict[str, float]:
    """The disjoint fates of values, each as a share of all."""
    return {fate: counts.share(fate) for fate in FATES}


def rescue(
    seeds: Sequence[int] = range(5),
    steps: int = STEPS,
    *,
    executor: Executor | None = None,
    on_run: Callable[[str, Run], None] | None = None,
) -> Rescue:
    """Train every variant with every seed.

    executor: any ``concurrent.futures`` executor to spread the runs over; None runs them here, one
    after another. on_run: called as each run ends.
    Raises ValueError for no seeds, negative or repeated ones, or steps below 1; ImportError if
    scikit-learn is missing.
    """
    seeds = checked_seeds(seeds)
    if steps < 1:
        raise ValueError(f"steps={steps!r} is not allowed; it must be at least 1")
    digits = data.digits()
    baseline = float(np.square(digits.test_images - digits.train_images.mean(axis=0)).mean())
    jobs = [(name, seed) for seed in seeds for name in VARIANTS]
    runs = spread(
        partial(_run_job, steps=steps),
        jobs,
        executor=executor,
        on_result=None if on_run is None else lambda job, run: on_run(job[0], run),
    )
    by_variant = {name: [runs[name, seed] for seed in seeds] for name in VARIANTS}
    return Rescue(baseline, steps, by_variant, digits.test_images[_shown(digits)])


def _run_job(job: tuple[str, int], steps: int) -> Run:
    return run_variant(*job, steps)


def run_variant(name: str, seed: int, steps: int) -> Run:
    """Train one variant. The seed decides the initial weights and the order of the batches."""
    variant = VARIANTS[name]
    digits = data.digits()
    model = Autoencoder(rng=seed).to(variant.weights)
    optimizer = Adam(model.parameters(), lr=LEARNING_RATE)
    precision = autocast(variant.compute, enabled=variant.compute != variant.weights)
    scaler = GradScaler(enabled=variant.loss_scaling)

    def reconstruct(images: Array) -> tuple[Tensor, Tensor]:
        x = Tensor(images, fmt=variant.weights)
        return model(x), x

    def loss_of(batch: Array) -> Tensor:
        return functional.mse_loss(*reconstruct(digits.train_images[batch]))

    order = data.batches(len(digits.train_images), BATCH_SIZE, steps, rng=seed)
    with watch(model) as xray:
        history = train(loss_of, order, optimizer, precision=precision, scaler=scaler)
    with no_grad(), precision:
        drawn = reconstruct(digits.test_images)[0].numpy().astype(np.float64)

    select = partial(xray.select, fmt=variant.compute)
    return Run(
        seed=seed,
        test_mse=float(np.square(drawn - digits.test_images).mean()),
        losses=[step.loss for step in history],
        steps_skipped=sum(step.skipped for step in history),
        final_scale=scaler.get_scale(),
        gradients=select(role="gradient"),
        weight_gradients=select(role="weight gradient"),
        updates_unchanged=xray.all_updates().unchanged_share,
        layers=_by_layer(xray, variant.compute),
        reconstructions=drawn[_shown(digits)],
    )


def _by_layer(xray: XRay, fmt: Format) -> dict[str, dict[str, Counts]]:
    return {
        layer: {
            role: xray.select(scope=layer, role=role, fmt=fmt)
            for role in ("activation gradient", "weight gradient")
        }
        for layer in LAYERS
    }


def _shown(digits: data.Digits) -> Array:
    """Positions of the first test image of every class."""
    return np.array([int(np.argmax(digits.test_labels == label)) for label in range(SHOWN_DIGITS)])


def explain(result: Rescue) -> str:
    """Two sentences on what happened, from the runs' numbers: medians over the seeds."""

    def error(name: str) -> float:
        return float(np.median([run.test_mse for run in result.runs[name]]))

    fp32, scaled = error("fp32"), error("fp16_scaled")
    unscaled, pure = error("fp16_master"), error("fp16")
    if not fp32 < 0.9 * result.baseline_mse:
        return (
            f"After {result.steps} steps even fp32 has hardly learned to draw: its error is "
            f"{fp32:.4f}, the mean image's {result.baseline_mse:.4f}. Train longer to see more."
        )

    def share(layer: str, role: str, fate: str) -> float:
        return float(
            np.median([run.layers[layer][role].share(fate) for run in result.runs["fp16_master"]])
        )

    worst = max(LAYERS, key=lambda layer: share(layer, "activation gradient", "flushed"))
    flushed = share(worst, "activation gradient", "flushed")
    silent = share(LAYERS[-1], "weight gradient", "zero")
    runs = result.runs["fp16_scaled"]
    scale = np.median([run.final_scale for run in runs])
    still_flushed = np.median([run.gradients.share("flushed") for run in runs])
    return (
        f"Without loss scaling, fp16 rounded {flushed:.1%} of the gradients of {worst}'s "
        f"activations to zero, which left {silent:.1%} of the weight gradients in {LAYERS[-1]} "
        f"exactly zero before any rounding of their own, and the test error ended at "
        f"{unscaled:.4f} with fp32 master weights and {pure:.4f} without (fp32: {fp32:.4f}; the "
        f"mean image: {result.baseline_mse:.4f}; all are medians over the seeds). With the loss "
        f"multiplied by {scale:.0f} only {still_flushed:.2%} of all gradient values were flushed, "
        f"and the error, {scaled:.4f}, was in no seed more than {_largest_gap(result):.1%} away "
        f"from fp32's."
    )


def _largest_gap(result: Rescue) -> float:
    """The largest relative difference in test error between fp32 and the scaled run of a seed."""
    pairs = zip(result.runs["fp16_scaled"], result.runs["fp32"], strict=True)
    return max(abs(scaled.test_mse / fp32.test_mse - 1) for scaled, fp32 in pairs)
