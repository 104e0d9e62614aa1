"""Updates too small for the weight: a classifier trained with and without master weights.

Micikevicius et al., "Mixed Precision Training" (ICLR 2018), section 3.1 and figure 2a. An update u
to a weight w is swamped, that is lost in rounding w - u, if it is below half the spacing of numbers
at w: in fp16, of precision 11, if |w/u| is above 2^11 to 2^12, depending on where in its binade w
lies; in bf16, of precision 8, above 2^8 to 2^9. Adam makes updates of about the learning rate,
whatever the gradient, so a small learning rate is enough to stop a network from learning.

Two cures: an fp32 master copy of the weights, which the paper has, or to round weights
stochastically, so that an update of a tenth of the spacing moves the weight one time in ten (Gupta
et al., "Deep Learning with Limited Numerical Precision", ICML 2015, section 3).

Weights, activations and gradients are in the variant's format in every run, and Adam's moments in
fp32: the runs of one format differ in nothing but where updates are added.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from fp16sim import data, events, metrics
from fp16sim.arguments import integer
from fp16sim.autograd import Tensor, no_grad
from fp16sim.counts import UpdateCounts
from fp16sim.experiments.spread import checked_seeds, spread
from fp16sim.formats import BF16, FP16, FP32, Format
from fp16sim.models import MLP
from fp16sim.optim import Adam
from fp16sim.precision import autocast
from fp16sim.training import train_step

SIZES = (64, 32, 10)
BATCH_SIZE = 64
LEARNING_RATES = (1e-3, 1e-4, 3e-5)
EPOCHS = 60
# Accuracy is measured after every so many epochs.
MEASURED_EVERY = 4


@dataclass(frozen=True)
class Variant:
    """One way to keep weights."""

    label: str
    #: of weights, activations and gradients
    fmt: Format
    master_weights: bool = False
    stochastic: bool = False


VARIANTS: dict[str, Variant] = {
    "fp32": Variant("fp32", FP32),
    "fp16_master": Variant("fp16 + master weights", FP16, master_weights=True),
    "fp16": Variant("fp16 weights", FP16),
    "fp16_stochastic": Variant("fp16, stochastic", FP16, stochastic=True),
    "bf16_master": Variant("bf16 + master weights", BF16, master_weights=True),
    "bf16": Variant("bf16 weights", BF16),
    "bf16_stochastic": Variant("bf16, stochastic", BF16, stochastic=True),
}


@dataclass(frozen=True)
class Run:
    """What came out of training one variant with one seed."""

    seed: int
    #: on the test images, after each of ``Swamping.epochs``
    accuracies: list[float]
    #: of the updates that were not zero, the share that left the weight as it was
    swamped: float

    @property
    def accuracy(self) -> float:
        """After the last epoch."""
        return self.accuracies[-1]

    def to_dict(self) -> dict[str, Any]:
        """The numbers for ``--json``, all from 0 to 1."""
        return {
            "seed": self.seed,
            "accuracy": self.accuracy,
            "swamped": self.swamped,
            "accuracies": self.accuracies,
        }


@dataclass(frozen=True)
class Swamping:
    """All runs, by variant and learning rate and then in the order of the seeds."""

    #: after how many epochs accuracy was measured
    epochs: list[int]
    runs: dict[str, dict[float, list[Run]]]

    def to_dict(self) -> dict[str, Any]:
        """The record that ``fp16sim swamping --json`` prints."""
        return {
            "epochs": self.epochs,
            "batch_size": BATCH_SIZE,
            "sizes": list(SIZES),
            "runs": {
                name: {
                    f"{rate:g}": [run.to_dict() for run in runs] for rate, runs in by_rate.items()
                }
                for name, by_rate in self.runs.items()
            },
        }

    def median(self, name: str, rate: float, of: str) -> float:
        """The median over the seeds of an attribute of ``Run``: "accuracy" or "swamped"."""
        return float(np.median([getattr(run, of) for run in self.runs[name][rate]]))


def swamping(
    seeds: Sequence[int] = range(5),
    epochs: int = EPOCHS,
    *,
    executor: Executor | None = None,
    on_run: Callable[[str, float, Run], object] | None = None,
) -> Swamping:
    """Train every variant at every learning rate with every seed.

    executor: any ``concurrent.futures`` executor to spread the runs over; None runs them here, one
    after another. on_run: called with variant, learning rate and run as each ends.
    Raises ValueError for no seeds, negative or repeated ones, or epochs below 1; ImportError if
    scikit-learn is missing.
    """
    seeds = checked_seeds(seeds)
    epochs = integer("epochs", epochs, at_least=1)
    data.digits()  # if it is missing, say so before any work
    runs = spread(
        partial(_run_job, epochs=epochs),
        [(name, rate, seed) for seed in seeds for name in VARIANTS for rate in LEARNING_RATES],
        executor=executor,
        on_result=None if on_run is None else lambda job, run: on_run(*job[:2], run),
    )
    return Swamping(
        measured(epochs),
        {
            name: {rate: [runs[name, rate, seed] for seed in seeds] for rate in LEARNING_RATES}
            for name in VARIANTS
        },
    )


def measured(epochs: int) -> list[int]:
    """After how many of so many epochs accuracy is measured; the last is always among them."""
    return [*range(0, epochs, MEASURED_EVERY), epochs]


def _run_job(job: tuple[str, float, int], epochs: int) -> Run:
    return run_variant(*job, epochs)


def run_variant(name: str, rate: float, seed: int, epochs: int) -> Run:
    """Train one variant. The seed decides weights, the order of batches and stochastic rounding."""
    variant = VARIANTS[name]
    digits = data.digits()
    model = MLP(SIZES, rng=seed).to(variant.fmt)
    optimizer = Adam(model.parameters(), lr=rate, **_storage(variant, seed))
    # All weights are in one format already: autocast only keeps losses in fp32, as PyTorch does.
    precision = autocast(variant.fmt)

    def accuracy() -> float:
        with no_grad(), precision:
            logits = model(Tensor(digits.test_images)).numpy()
        return metrics.accuracy(logits, digits.test_labels)

    updates = UpdateCounts()

    def see(event: events.Event) -> None:
        if isinstance(event, events.Updated):
            updates.add(event)

    per_epoch = len(digits.train_images) // BATCH_SIZE
    order = data.batches(len(digits.train_images), BATCH_SIZE, epochs * per_epoch, rng=seed)
    accuracies = []
    for step, batch in enumerate(order):
        if step % (MEASURED_EVERY * per_epoch) == 0:
            accuracies.append(accuracy())
        loss = partial(model.loss, digits.train_images[batch], digits.train_labels[batch])
        with events.observe(see):  # updates alone: an X-ray of everything takes its time
            train_step(loss, optimizer, step, precision=precision)
    accuracies.append(accuracy())
    moved = updates.total - updates.zero
    return Run(seed, accuracies, updates.swamped / moved if moved else float("nan"))


def _storage(variant: Variant, seed: int) -> dict[str, Any]:
    """How the optimiser keeps weights."""
    if variant.stochastic:
        return {"rounding": "stochastic", "rng": seed}
    return {"master_weights": variant.master_weights}


def explain(result: Swamping) -> str:
    """Two sentences on what happened, from the runs' numbers: medians over the seeds."""

    def worst(name: str) -> str:
        """What a format's weights lost, at the learning rate where accuracy suffers most."""
        rate = max(
            LEARNING_RATES,
            key=lambda r: result.median("fp32", r, "accuracy") - result.median(name, r, "accuracy"),
        )
        return (
            f"{result.median(name, rate, 'swamped'):.0%} of the updates of "
            f"{VARIANTS[name].label} at a learning rate of {rate:g} (accuracy "
            f"{result.median(name, rate, 'accuracy'):.3f}, fp32's "
            f"{result.median('fp32', rate, 'accuracy'):.3f})"
        )

    def furthest(kind: str) -> str:
        """How far from fp32's accuracy a cure leaves a format, in any run."""
        gaps = [
            abs(run.accuracy - fp32.accuracy)
            for name in (f"fp16_{kind}", f"bf16_{kind}")
            for rate, runs in result.runs[name].items()
            for run, fp32 in zip(runs, result.runs["fp32"][rate], strict=True)
        ]
        return f"{max(gaps):.3f}"

    return (
        f"Without master weights, rounding swamped {worst('fp16')}, and {worst('bf16')}. With "
        f"fp32 master weights the accuracy after {result.epochs[-1]} epochs was in no run more "
        f"than {furthest('master')} away from fp32's, and with stochastic rounding in none more "
        f"than {furthest('stochastic')}."
    )
