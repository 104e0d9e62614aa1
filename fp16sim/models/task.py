"""A network with all that it takes to train it: data, optimiser, schedule, metric."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from fp16sim import nn
from fp16sim.arguments import integer
from fp16sim.autograd import Tensor, no_grad
from fp16sim.backend import Array
from fp16sim.data import batches
from fp16sim.optim import Optimizer, Schedule
from fp16sim.precision import autocast
from fp16sim.scaling import GradScaler
from fp16sim.training import Run, Step, train_step

#: what one training step learns from: arrays whose first axis counts samples
Batch = tuple[Array, ...]

#: small enough for tests; a minute on two cores; enough to fill a large GPU
SIZES = ("tiny", "laptop", "gpu")


class Network(nn.Module):
    """A module that knows what it is trained to do."""

    @abstractmethod
    def loss(self, *batch: Array) -> Tensor:
        """The loss of a batch, a single value; the arrays go where the parameters are."""


@dataclass(frozen=True)
class Task:
    """A network of the zoo, ready to be trained.

    ::

        task = fs.models.task("gpt", "laptop", seed=0)
        for step in range(task.steps):
            task.train_step(step, precision=fs.autocast("fp16"), scaler=scaler)
        task.evaluate()
    """

    name: str
    size: str
    model: Network
    optimizer: Optimizer
    #: how many steps it is meant to be trained for
    steps: int
    #: the batch of a step: the same for the same step, whatever came before
    batch: Callable[[int], Batch]
    #: metrics on data that is not trained on, by name
    evaluate: Callable[[], dict[str, float]]
    schedule: Schedule | None = None
    #: something that shows what it has learned, to be read
    sample: Callable[[], str] | None = None

    def train_step(
        self,
        step: int,
        *,
        precision: autocast | None = None,
        scaler: GradScaler | None = None,
    ) -> Step:
        """One step on the batch of that number: loss, backward, update, schedule."""
        batch = self.batch(step)
        loss = partial(self.model.loss, *batch)
        done = train_step(loss, self.optimizer, step, precision=precision, scaler=scaler)
        if self.schedule is not None and not done.skipped:
            self.schedule.step()
        return done

    def run(self, *, precision: autocast | None = None, scaler: GradScaler | None = None) -> Run:
        """The task as a ``training.Run``, which can be saved and continued."""
        return Run(
            self.model,
            self.optimizer,
            lambda step: self.model.loss(*self.batch(step)),
            precision=precision,
            scaler=scaler,
            schedule=self.schedule,
        )


def epochs(count: int, batch_size: int, seed: int) -> Callable[[int], Array]:
    """From a step to the indices (batch_size,) of its samples: a new permutation every epoch."""
    per_epoch = count // batch_size
    kept: dict[int, list[Array]] = {}

    def of(step: int) -> Array:
        epoch, place = divmod(integer("step", step, at_least=0), per_epoch)
        if epoch not in kept:
            kept.clear()
            random = np.random.default_rng([seed, epoch])
            kept[epoch] = list(batches(count, batch_size, per_epoch, random))
        return kept[epoch][place]

    return of


def tensor_for(model: nn.Module, array: Array) -> Tensor:
    """The array as a Tensor where the model's parameters are."""
    first = next(model.parameters(), None)
    return Tensor(array, device=None if first is None else first.device)


def predictions(model: nn.Module, inputs: Iterable[Array]) -> list[Any]:
    """The model's outputs for inputs one after the other, in eval mode and without a tape.

    inputs: arrays; they go where the model is, and the outputs come to the host.
    """
    with no_grad(), model.evaluating():
        return [model(tensor_for(model, x)).numpy() for x in inputs]


def in_parts(array: Array, size: int) -> list[Array]:
    """Consecutive parts of at most ``size`` samples."""
    return [array[start : start + size] for start in range(0, len(array), size)]
