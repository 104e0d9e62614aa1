"""A training step of a network of the zoo: its time, memory, energy and loss; and inference.

Batches are on the device before the clock runs: what is timed is forward, backward, unscaling and
the optimiser. On a GPU those are the steps of ``on_device``, which the host does not wait for.

On the host every precision but fp32 is emulated: its times say what the emulation costs, and
nothing about hardware that computes in that precision. Rows say which they are.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

from fp16sim.autograd import Tensor, no_grad
from fp16sim.backend import Array, storage, to_device
from fp16sim.bench.clock import Timing, time_call
from fp16sim.bench.energy import Energy, energy_of
from fp16sim.bench.plan import Plan
from fp16sim.models import Task, task
from fp16sim.models.task import Batch, tensor_for
from fp16sim.nn import Module
from fp16sim.on_device import Steps
from fp16sim.precision import autocast
from fp16sim.scaling import GradScaler
from fp16sim.training import Step, train_step
from fp16sim.xray import MemoryReport, memory_report

#: batches that a timed network goes round, so that it does not find one in a cache
BATCHES = 4

#: the policies of ``memory_report`` that keep what a precision keeps
_POLICIES = {"fp32": "fp32", "tf32": "fp32", "bf16": "amp_bf16", "fp16": "amp"}


@dataclass(frozen=True)
class StepRow:
    """A training step of one network in one precision."""

    network: str
    size: str
    #: one of ``plan.PRECISIONS``
    precision: str
    #: "native", where numbers are stored and computed in their own formats, or "emulated"
    storage: str
    #: in a batch
    samples: int
    timing: Timing
    energy: Energy
    #: bytes that were seen to be allocated at a time in two steps; see ``memory_report(measure=)``
    peak: int | None
    #: the most samples that fit into the device's memory: on paper, in native storage
    largest_batch: int | None
    #: how many steps were trained, and the loss of the last
    steps: int
    loss: float

    @property
    def samples_per_second(self) -> float:
        """Of training."""
        return self.samples / self.timing.median


@dataclass(frozen=True)
class RecordedRow:
    """The training step of a ``StepRow`` with forward and backward recorded as a CUDA graph."""

    network: str
    size: str
    precision: str
    samples: int
    timing: Timing


@dataclass(frozen=True)
class InferenceRow:
    """A forward pass in eval mode, without a tape."""

    network: str
    size: str
    precision: str
    storage: str
    #: what is counted: "images", or "tokens" of whole windows that are read at once
    unit: str
    #: units in a batch
    count: int
    timing: Timing

    @property
    def per_second(self) -> float:
        """Units a second."""
        return self.count / self.timing.median


@dataclass
class Trainer:
    """A network on a device, in a precision, with all that its steps need."""

    task: Task
    device: str
    precision: str
    region: autocast | None
    scaler: GradScaler | None
    steps: Iterator[int] = field(default_factory=itertools.count)

    @classmethod
    def of(cls, name: str, plan: Plan, device: str, precision: str, native: bool) -> Trainer:
        """A new one; every one of the same arguments starts from the same bits."""
        made = task(name, plan.size, plan.seed)
        made.model.to(device)
        # A GPU that stores natively multiplies fp32 numbers as TF32 if it is told to.
        plain = precision == "fp32" or (precision == "tf32" and native)
        scaler = GradScaler() if precision == "fp16" else None
        return cls(made, device, precision, None if plain else autocast(precision), scaler)

    def batch(self, step: int) -> Batch:
        """The batch of a step, on the device."""
        return tuple(to_device(array, self.device) for array in self.task.batch(step))

    def step(self, batch: Batch) -> Step:
        """One step on a batch."""
        return train_step(
            lambda: self.task.model.loss(*batch),
            self.task.optimizer,
            next(self.steps),
            precision=self.region,
            scaler=self.scaler,
        )

    def train(self, steps: int, start: int = 0) -> list[float]:
        """Steps from number ``start`` on, with the task's batches and schedule; their losses."""
        losses = []
        for index in range(start, start + steps):
            done = self.step(self.batch(index))
            if self.task.schedule is not None and not done.skipped:
                self.task.schedule.step()
            losses.append(done.loss)
        return losses

    def repeated(self) -> Callable[[], float | Tensor]:
        """A function that does one more step on one of ``BATCHES`` batches, and gives its loss.

        On a GPU nothing is waited for: it decides by itself what it leaves out.
        """
        batches = itertools.cycle([self.batch(i) for i in range(BATCHES)])
        if self.device == "cpu":
            return lambda: self.step(next(batches)).loss
        steps = Steps(self.task.optimizer, scaler=self.scaler, precision=self.region)
        return lambda: steps.step(partial(self.task.model.loss, *next(batches)))

    def recorded(self) -> Callable[[], Tensor]:
        """As ``repeated`` on a GPU, but recorded; batches are copied to where it reads."""
        batches = itertools.cycle([self.batch(i) for i in range(BATCHES)])
        place = tuple(array.copy() for array in next(batches))
        steps = Steps(self.task.optimizer, scaler=self.scaler, precision=self.region)
        recording = steps.record(partial(self.task.model.loss, *place), self.task.model)

        def step() -> Tensor:
            for array, new in zip(place, next(batches), strict=True):
                array[...] = new
            return recording.step()

        return step


@contextmanager
def trainer(name: str, plan: Plan, precision: str) -> Iterator[tuple[Trainer, str]]:
    """A network as it is trained on the plan's device, and "native" or "emulated"."""
    native = plan.device == "cuda"
    with stored(precision, native):
        label = "native" if native or precision == "fp32" else "emulated"
        yield Trainer.of(name, plan, plan.device, precision, native), label


def stored(precision: str, native: bool) -> storage:
    """The region in which a network is trained; TF32 is what a GPU makes of stored fp32."""
    return storage("native" if native else "emulated", tf32=native and precision == "tf32")


def measure_step(name: str, plan: Plan, precision: str, memory: int | None = None) -> StepRow:
    """Train ``plan.steps`` steps, then time more of them, count their energy and their bytes.

    memory: bytes of the device, for the largest batch; None: not told.
    """
    with trainer(name, plan, precision) as (network, storage):
        batch = network.batch(0)
        loss = network.train(plan.steps)[-1]
        step = network.repeated()
        timing = time_call(step, plan.device, repeats=plan.repeats, seconds=plan.seconds)
        energy = energy_of(step, plan.device, seconds=plan.energy_seconds, calls=timing.calls)
        report = memory_report(
            network.task.model,
            batch,
            _POLICIES[precision],
            optimizer=network.task.optimizer,
            measure=True,
        )
    return StepRow(
        name, plan.size, precision, storage, len(batch[0]), timing, energy, report.measured,
        _largest_batch(report, memory), plan.steps, loss,
    )  # fmt: skip


def measure_recorded(name: str, plan: Plan, precision: str) -> RecordedRow:
    """Time recorded steps of a network on a GPU, after a few that are not."""
    with trainer(name, plan, precision) as (network, _):
        network.train(2)
        step = network.recorded()
        timing = time_call(step, plan.device, repeats=plan.repeats, seconds=plan.seconds)
        return RecordedRow(name, plan.size, precision, len(network.batch(0)[0]), timing)


def _largest_batch(report: MemoryReport, memory: int | None) -> int | None:
    try:
        return None if memory is None else report.largest_batch(memory)
    except ValueError:  # a larger batch would be computed in another way
        return None


#: networks that are also timed in use
IN_USE = {"yolo": "images", "gpt": "tokens"}


def measure_inference(name: str, plan: Plan, precision: str) -> InferenceRow:
    """Time forward passes of one of ``IN_USE`` over batches of training's size."""
    with trainer(name, plan, precision) as (network, storage):
        model = network.task.model
        inputs = [network.batch(i)[0] for i in range(BATCHES)]
        turn = itertools.cycle(inputs)
        region = network.region or autocast(enabled=False)

        def call() -> Tensor:
            with region:  # anew for every batch, weights are cast anew
                return _forward(model, next(turn))

        with no_grad(), model.evaluating():
            timing = time_call(call, plan.device, repeats=plan.repeats, seconds=plan.seconds)
    unit = IN_USE[name]
    count = inputs[0].size if unit == "tokens" else len(inputs[0])
    return InferenceRow(name, plan.size, precision, storage, unit, int(count), timing)


def _forward(model: Module, inputs: Array) -> Tensor:
    said: Tensor = model(inputs if inputs.dtype.kind in "iu" else tensor_for(model, inputs))
    return said
