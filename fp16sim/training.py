"""The training loop: one for all precisions, since a disabled scaler steps plainly.

``train_step`` is what happens in a step; ``train`` repeats it; a ``Run`` can be stopped at any time
and continued later, bit for bit as if it had not been.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from fp16sim import checkpoint
from fp16sim.arguments import integer
from fp16sim.autograd import Tensor
from fp16sim.backend import Array, to_host
from fp16sim.nn import Module
from fp16sim.optim import Optimizer, Schedule
from fp16sim.precision import autocast
from fp16sim.recipes import Recipe
from fp16sim.scaling import GradScaler


@dataclass(frozen=True)
class Step:
    """What one training step did."""

    index: int
    #: the loss before scaling
    loss: float
    #: the scale that the loss was multiplied by; 1 without scaling
    scale: float
    #: whether the update was left out because a gradient was not finite
    skipped: bool


def train_step(
    loss_of: Callable[[], Tensor],
    optimizer: Optimizer,
    index: int = 0,
    *,
    precision: autocast | None = None,
    scaler: GradScaler | None = None,
) -> Step:
    """Forward, backward, update.

    loss_of: computes a loss of one value. index: the step's number, for the record. precision: the
    autocast region to compute the loss in; None for none. scaler: None for no loss scaling.
    """
    _check_settings(optimizer, precision, scaler)
    scaler = scaler or GradScaler(enabled=False)
    optimizer.zero_grad()
    with precision or autocast(enabled=False):
        loss = loss_of()
    scale = scaler.get_scale()
    scaler.scale(loss).backward()
    stepped = scaler.step(optimizer)
    scaler.update()
    return Step(index, loss.item(), scale, not stepped)


def train(
    loss_of: Callable[[Array], Tensor],
    batches: Iterable[Array],
    optimizer: Optimizer,
    *,
    precision: autocast | None = None,
    scaler: GradScaler | None = None,
    on_step: Callable[[Step], None] | None = None,
) -> list[Step]:
    """Train over all batches and return what each step did.

    loss_of: from a batch to a loss of one value. on_step: called after every step. The others as
    for ``train_step``.
    """
    history: list[Step] = []
    for index, batch in enumerate(batches):
        loss = partial(loss_of, batch)
        step = train_step(loss, optimizer, index, precision=precision, scaler=scaler)
        history.append(step)
        if on_step is not None:
            on_step(step)
    return history


class Run:
    """A training run with all its state in one place, so that it can be saved and continued.

    ::

        run = Run(model, optimizer, lambda step: model.loss(*batch_of(step)), scaler=scaler)
        run.train(1000, path="run.safetensors")    # Ctrl-C: stops after this step, and saves
        run.load("run.safetensors")                # in another process, set up in the same way
        run.train(1000, path="run.safetensors")    # the steps that are left

    loss_of: from the number of a step to its loss. It must depend on that number, on the model and
    on the generators only, so that a continued run is the same run: draw the batches of a step
    from ``np.random.default_rng([seed, step])``, or take ``Task.batch``.
    schedule: an ``optim.Schedule``, stepped after every step that was taken.
    generators: random generators by name, to be saved besides those that modules (dropout) hold.
    """

    def __init__(
        self,
        model: Module,
        optimizer: Optimizer,
        loss_of: Callable[[int], Tensor],
        *,
        precision: autocast | None = None,
        scaler: GradScaler | None = None,
        schedule: Schedule | None = None,
        generators: dict[str, np.random.Generator] | None = None,
    ) -> None:
        self.model, self.optimizer, self.loss_of = model, optimizer, loss_of
        self.precision, self.scaler, self.schedule = precision, scaler, schedule
        if not isinstance(model, Module):
            raise TypeError(f"model must be a Module, got {model!r}")
        _check_settings(optimizer, precision, scaler)
        if not isinstance(schedule, Schedule | None):
            raise TypeError(f"schedule must be an optim.Schedule or None, got {schedule!r}")
        for name, rng in (generators or {}).items():
            if not isinstance(rng, np.random.Generator):
                raise TypeError(f"generators[{name!r}] must be a np.random.Generator, got {rng!r}")
        self.generators = {f"model.{path}": rng for path, rng in model.named_generators()} | (
            generators or {}
        )
        #: what sort of run this is, in plain values; files of other sorts are refused
        self.about: dict[str, Any] = {}
        #: what every step so far did
        self.history: list[Step] = []
        #: what was measured on the way: dicts of numbers, each with the number of steps before it
        self.metrics: list[dict[str, float]] = []

    def train(
        self,
        steps: int,
        *,
        path: str | Path | None = None,
        every: int = 100,
        on_step: Callable[[Step], None] | None = None,
        evaluate: Callable[[], dict[str, float]] | None = None,
    ) -> list[Step]:
        """Train until ``steps`` steps are done in all, and return the history.

        path: where to save after every ``every`` steps and at the end. Ctrl-C lets the step that
        is being done finish, saves, and raises KeyboardInterrupt; a second one does not wait.
        evaluate: measures whenever the run would be saved.
        """
        steps = integer("steps", steps, at_least=0)
        every = integer("every", every, at_least=1)
        if path is not None:
            _check_place(path)
        with _interrupts() as interrupted:
            while len(self.history) < steps:
                self._step()
                done = len(self.history)
                if on_step is not None:
                    on_step(self.history[-1])
                if done % every == 0 or done == steps:
                    if evaluate is not None:
                        self.metrics.append({"steps": done, **_numbers(evaluate())})
                    if path is not None:
                        self.save(path)
                if interrupted:
                    if path is not None:
                        self.save(path)
                    raise KeyboardInterrupt(f"stopped after step {done} of {steps}")
        return self.history

    def _step(self) -> None:
        index = len(self.history)
        step = train_step(
            lambda: self.loss_of(index),
            self.optimizer,
            index,
            precision=self.precision,
            scaler=self.scaler,
        )
        if self.schedule is not None and not step.skipped:
            self.schedule.step()
        self.history.append(step)

    @property
    def _recipe(self) -> Recipe | None:
        return None if self.precision is None else self.precision.recipe

    def save(self, path: str | Path) -> None:
        """Write everything to a file, whole or not at all; see ``checkpoint.save``."""
        model = self.model.state_dict()
        checkpoint.save(
            path,
            {
                "about": self.about,
                "model": {name: value.numpy() for name, value in model.items()},
                "formats": {name: str(value.fmt) for name, value in model.items()},
                "optimizer": _on_host(self.optimizer.state_dict()),
                "scaler": None if self.scaler is None else self.scaler.state_dict(),
                "recipe": None if self._recipe is None else self._recipe.state_dict(),
                "schedule": None if self.schedule is None else self.schedule.state_dict(),
                "generators": {
                    name: random.bit_generator.state for name, random in self.generators.items()
                },
                "history": [asdict(step) for step in self.history],
                "metrics": self.metrics,
            },
        )

    def load(self, path: str | Path) -> None:
        """Continue from a file that a run like this one saved.

        Raises ``checkpoint.CheckpointError`` for files that are broken or foreign, ValueError for
        those of runs that were set up differently; the run should not be used then.
        """
        state = checkpoint.load(path)
        history = _check_like(path, state, self)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.scaler is not None:
            self.scaler.load_state_dict(state["scaler"])
        if self._recipe is not None:
            self._recipe.load_state_dict(state["recipe"])
        if self.schedule is not None:
            self.schedule.load_state_dict(state["schedule"])
        for name, random in self.generators.items():
            random.bit_generator.state = state["generators"][name]
        self.history = history
        self.metrics = state["metrics"]


def _on_host(saved: dict[str, Any]) -> dict[str, Any]:
    """An optimiser's state as a file can hold it: with its arrays on the host."""
    state = [
        {name: x if name == "step" else to_host(x) for name, x in one.items()}
        for one in saved["state"]
    ]
    return saved | {"state": state}


def _check_settings(optimizer: object, precision: object, scaler: object) -> None:
    """What a step is done with, before anything is done."""
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"optimizer must be an Optimizer, got {optimizer!r}")
    if not isinstance(precision, autocast | None):
        raise TypeError(f"precision must be an autocast or None, got {precision!r}")
    if not isinstance(scaler, GradScaler | None):
        raise TypeError(f"scaler must be a GradScaler or None, got {scaler!r}")


def _check_place(path: object) -> None:
    """Whether a file can be written there, before there is work to lose."""
    if not isinstance(path, str | Path):
        raise TypeError(f"path must be a string or a Path, got {path!r}")
    folder = Path(path).absolute().parent
    if not folder.is_dir() or not os.access(folder, os.W_OK) or Path(path).is_dir():
        raise ValueError(f"path={str(path)!r} is not a file in a folder that can be written to")


def _numbers(metrics: object) -> dict[str, float]:
    """Metrics by name as plain numbers."""
    if not isinstance(metrics, dict) or "steps" in metrics:
        raise TypeError(f"evaluate must return a dict of numbers without 'steps', got {metrics!r}")
    return {str(name): float(value) for name, value in metrics.items()}


def _listed(value: Any) -> Any:
    """With lists for tuples, as a file has them."""
    if isinstance(value, dict):
        return {name: _listed(part) for name, part in value.items()}
    return [_listed(part) for part in value] if isinstance(value, list | tuple) else value


def _check_like(path: str | Path, state: Any, run: Run) -> list[Step]:
    """Whether a saved state is one of a run that was set up like this one; its history."""
    if isinstance(state, dict):
        state.setdefault("recipe", None)  # files of before there were any
    entries = {"about", "model", "formats", "optimizer", "scaler", "schedule", "generators"}
    if not isinstance(state, dict) or set(state) != entries | {"recipe", "history", "metrics"}:
        raise ValueError(f"{path} is a checkpoint, but not one of a training run")
    kinds = dict.fromkeys(("about", "model", "formats", "optimizer", "generators"), dict)
    for name, kind in (kinds | {"history": list, "metrics": list}).items():
        if not isinstance(state[name], kind):
            raise ValueError(f"{path} is not of a training run: its {name} is no {kind.__name__}")
    if state["about"] != _listed(run.about):
        raise ValueError(f"{path} is of the run {state['about']}; this one is {run.about}")
    formats = {name: str(value.fmt) for name, value in run.model.named_tensors()}
    if state["formats"] != formats:
        names = sorted(state["formats"].keys() | formats.keys())
        other = next(n for n in names if state["formats"].get(n) != formats.get(n))
        raise ValueError(f"{path} does not fit the model: {other} differs in name or format")
    for name in ("scaler", "schedule", "recipe"):
        own = run._recipe if name == "recipe" else getattr(run, name)
        if (state[name] is None) != (own is None):
            raise ValueError(f"{path} was saved {'without' if state[name] is None else 'with'} "
                             f"a {name}; this run differs")  # fmt: skip
    if state["generators"].keys() != run.generators.keys():
        raise ValueError(f"{path} has the generators {sorted(state['generators'])}, "
                         f"this run {sorted(run.generators)}")  # fmt: skip
    for name, random in run.generators.items():
        bits = type(random.bit_generator)
        try:
            bits().state = state["generators"][name]
        except (TypeError, ValueError, KeyError, OverflowError) as error:
            raise ValueError(
                f"{path} has no state of {bits.__name__} for the generator {name!r}: {error}"
            ) from None
    try:
        return [Step(**step) for step in state["history"]]
    except TypeError as error:
        raise ValueError(f"{path} has a history that is not one of steps: {error}") from None


@contextmanager
def _interrupts() -> Iterator[list[int]]:
    """Ctrl-C is put on a list instead of ending what is being done; a second one is not waited for.

    In other threads than the main one, which alone gets signals, nothing changes.
    """
    seen: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield seen
        return
    before = signal.getsignal(signal.SIGINT)

    def note(number: int, _: object) -> None:
        if seen:
            raise KeyboardInterrupt
        seen.append(number)

    signal.signal(signal.SIGINT, note)
    try:
        yield seen
    finally:
        signal.signal(signal.SIGINT, before)
