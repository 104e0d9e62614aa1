"""Training steps that a GPU decides by itself: nothing of them comes to the host.

``training.train_step`` asks the GPU after every backward pass whether all gradients were finite,
and for the loss, and each time the host waits until the GPU has caught up, and then the GPU for the
host. Here the GPU keeps the loss scale, looks for infinities, skips its own step and moves the
scale; the host only ever tells it what comes next. One kernel moves all parameters.

::

    steps = fs.on_device.Steps(optimizer, scaler=scaler, precision=fs.autocast("fp16"))
    for batch in batches:
        loss = steps.step(lambda: model.loss(*batch))  # a Tensor on the GPU; .item() would wait
    steps.finish()  # optimiser and scaler know what has happened, for a checkpoint, say
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from dataclasses import replace
from typing import Any

import numpy as np

from fp16sim import events
from fp16sim.autograd import Tensor
from fp16sim.backend import (
    Array,
    Constants,
    is_on_gpu,
    namespace_of,
    remembering,
    to_host,
)
from fp16sim.formats import FP32
from fp16sim.functional.checks import trusted
from fp16sim.nn import Module
from fp16sim.optim import SGD, Adam, AdamW, Optimizer
from fp16sim.precision import autocast, regions
from fp16sim.scaling import GradScaler


class Steps:
    """Steps of one optimiser, with its loss scaler, on a GPU.

    They do what ``training.train_step`` does, with these differences: weights are changed in place,
    and with them what was made of them by slicing or reshaping; the optimiser and the scaler that
    were given learn of it when ``finish`` is called; a scale that falls to nothing is not an error
    but ends in skipped steps; and indices and targets that are on the GPU already are looked at in
    the first step only, as that is to wait for it.

    optimizer: an ``SGD``, ``Adam`` or ``AdamW`` with moments in fp32, whose parameters are all on
        the GPU, in fp32 or, with ``master_weights``, in fp16 or bf16. Its learning rate is read at
        every step, so that a schedule may move it. scaler: None or a disabled one: no loss scaling.
    precision: the autocast region to compute losses in; None for none.

    Raises TypeError or ValueError for what does not fit.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        *,
        scaler: GradScaler | None = None,
        precision: autocast | None = None,
    ) -> None:
        _check(optimizer, scaler, precision)
        self._optimizer, self._precision = optimizer, precision or autocast(enabled=False)
        self._scaler = scaler if scaler is not None and scaler.is_enabled() else None
        self._moved = [i for i, p in enumerate(optimizer.params) if p.requires_grad]
        self._asked = 0  # steps since the optimiser's own count
        self._begun = False
        xp = namespace_of(optimizer.params[0].data)
        counts = {state.get("step", 0) for state in optimizer.state} or {0}
        if len(counts) > 1:
            raise ValueError("parameters of the optimiser have made different numbers of steps")
        self._before = counts.pop()
        if self._before == 0 and any(optimizer.state) and not isinstance(optimizer, Adam):
            self._before = 1  # SGD does not count, but its momentum has begun
        self._step, self._found = (xp.full(1, n, np.int32) for n in (self._before, 0))
        self._corrections = xp.zeros(2, np.float32)
        self._scale: Array | None = None
        if self._scaler is not None:
            rule = self._scaler._state
            numbers = (rule.scale, 1.0 / rule.scale)
            self._scale, self._inverse = (xp.full(1, x, np.float32) for x in numbers)
            self._streak, self._borne = (xp.full(1, n, np.int32) for n in (rule.streak, rule.borne))
        for i in self._moved:
            self._prepare(i)

    def _prepare(self, i: int) -> None:
        """Make the arrays of a parameter that its optimiser would make at its first step."""
        p, state = self._optimizer.params[i], self._optimizer.state[i]
        p.data = namespace_of(p.data).ascontiguousarray(p.data)
        for name, fmt in self._optimizer.state_formats(p.fmt).items():
            if name == "master" and name not in state:
                state[name] = p.data.astype(np.float32)
            elif name not in state:
                state[name] = namespace_of(p.data).zeros(p.shape, np.float32)
            if fmt != FP32:
                raise ValueError(f"params[{i}] keeps its {name} in {fmt}; allowed is fp32")

    def step(self, loss_of: Callable[[], Tensor]) -> Tensor:
        """Forward, backward, update; returns the loss before scaling, which is not waited for.

        Raises RuntimeError inside of ``watch``, which has to see every value: use ``train_step``;
        ValueError if a parameter has no gradient.
        """
        loss = self._differentiated(loss_of)
        self._update(self._table())
        return loss.detach()

    def _differentiated(self, loss_of: Callable[[], Tensor]) -> Tensor:
        """Forward and backward: new gradients, and the loss."""
        if events.observed():
            raise RuntimeError("nothing can be watched on the device: use training.train_step")
        if len(regions.get()) > 1:  # which keeps casts of weights that would have moved
            raise RuntimeError("a step on the device must not be inside an autocast region")
        self._optimizer.zero_grad()
        token = trusted.set(self._begun)
        try:
            with self._precision:
                loss = loss_of()
        finally:
            trusted.reset(token)
        self._begun = True
        (loss if self._scale is None else loss * Tensor(self._scale.reshape(()))).backward()
        return loss

    def record(self, loss_of: Callable[[], Tensor], model: Module | None = None) -> Recorded:
        """Forward and backward as a CUDA graph, which starts with one command to the GPU.

        loss_of: always the same computation, on a batch in arrays on the GPU that the caller
            writes new values to. What it reads from the host is read now, once for all. It may
            draw nothing at random. model: whose buffers, running statistics, are moved by it;
            None if there are none.

        Nothing is changed by recording. Raises RuntimeError for steps that need the host. Weights,
        moments and buffers must stay the arrays that they are: after ``train_step``, loading,
        ``.to()``, or ``step`` where there are running statistics, a recording raises RuntimeError,
        and another one is to be made.
        """
        return Recorded(self, loss_of, model)

    def _update(self, table: Any) -> None:
        kernels, optimizer = _kernels(), self._optimizer
        self._asked += 1
        found, inverse = None, None
        if self._scaler is not None:
            found, inverse = self._found, self._inverse
            found.fill(0)
            kernels.find_nonfinite(table, found)
        optimizer._check_settings()
        betas = optimizer.betas if isinstance(optimizer, Adam) else (0.0, 0.0)
        kernels.count_step(self._step, self._corrections, found, optimizer.lr, betas)
        if isinstance(optimizer, Adam):
            kernels.adam(
                table, self._corrections, inverse, found, lr=optimizer.lr, betas=betas,
                eps=optimizer.eps, weight_decay=optimizer.weight_decay,
                decoupled=isinstance(optimizer, AdamW),
            )  # fmt: skip
        elif isinstance(optimizer, SGD):
            kernels.sgd(
                table, self._step, inverse, found, lr=optimizer.lr, momentum=optimizer.momentum,
                weight_decay=optimizer.weight_decay, nesterov=optimizer.nesterov,
            )  # fmt: skip
        if self._scaler is not None and self._scaler._state.dynamic:
            rule = self._scaler._state
            kernels.move_scale(
                self._scale, self._inverse, self._streak, self._borne, found,
                growth_factor=rule.growth_factor, backoff_factor=rule.backoff_factor,
                growth_interval=rule.growth_interval, hysteresis=rule.hysteresis,
                min_scale=rule.min_scale, max_scale=rule.max_scale,
            )  # fmt: skip

    def _table(self) -> Any:
        kernels, optimizer = _kernels(), self._optimizer
        params = [optimizer.params[i] for i in self._moved]
        states = [optimizer.state[i] for i in self._moved]
        for i, p in zip(self._moved, params, strict=True):
            if p.gradient is None:
                raise ValueError(f"params[{i}] has no gradient; on the device all must have one")
        names = [name for name in optimizer._used_names() if name != "step"]
        first, second, *_ = [*([state[name] for state in states] for name in names), (), ()]
        pairs = list(zip(params, states, strict=True))
        return kernels.table(
            [p.gradient for p in params],
            [state.get("master", p.data) for p, state in pairs],
            first,
            second,
            [p.data if "master" in state else None for p, state in pairs],
        )

    def finish(self) -> int:
        """Wait, and let the optimiser and the scaler know; returns how many steps were skipped.

        Steps may follow: this is for checkpoints, schedules and the curious.
        """
        taken: int = to_host(self._step)[0].item() - self._before
        skipped = self._asked - taken
        self._asked, self._before = 0, self._before + taken
        for i in self._moved:
            if "step" in self._optimizer._used_names():
                self._optimizer.state[i]["step"] = self._before
        if self._scaler is not None and self._scale is not None:
            fields = {"scale": self._scale, "streak": self._streak, "borne": self._borne}
            numbers = {name: to_host(x)[0].item() for name, x in fields.items()}
            self._scaler._state = replace(self._scaler._state, **numbers)
        return skipped


class Recorded:
    """A step whose forward and backward pass are recorded; see ``Steps.record``."""

    #: passes before the recording, in which kernels are compiled, and memory and constants made
    WARM_UP = 2

    def __init__(
        self, steps: Steps, loss_of: Callable[[], Tensor], model: Module | None = None
    ) -> None:
        if not isinstance(model, Module | None):
            raise TypeError(f"model must be a Module or None, got {model!r}")
        self._steps, self._constants = steps, Constants()
        self._buffers = [] if model is None else [b for _, b in model.named_buffers()]
        own = [buffer.data for buffer in self._buffers]
        before = [array.copy() for array in own]

        def body() -> Tensor:
            loss = steps._differentiated(loss_of)
            for buffer, array in zip(self._buffers, own, strict=True):
                if buffer.data is not array:  # the recording always finds it in the same place
                    array[...] = buffer.data
                    buffer.data = array
            return loss.detach()

        self._place = _Place()
        with self._place.memory(), self._place.stream(), remembering(self._constants):
            try:
                for _ in range(self.WARM_UP):
                    body()
                self._constants.sealed = True
                self._graph, self._loss = self._place.recorded(body)
            finally:
                for buffer, array, values in zip(self._buffers, own, before, strict=True):
                    array[...] = values
                    buffer.data = array
        self._table = steps._table()  # where the gradients will be found
        self._arrays = self._present()

    def _present(self) -> list[Array]:
        """The arrays whose places the recording knows."""
        optimizer = self._steps._optimizer
        moved = [x for state in optimizer.state for x in state.values() if hasattr(x, "dtype")]
        return [*(t.data for t in (*optimizer.params, *self._buffers)), *moved]

    def step(self) -> Tensor:
        """One step; returns the loss before scaling, which is not waited for."""
        present = self._present()
        same = len(present) == len(self._arrays)
        if not same or any(x is not y for x, y in zip(present, self._arrays, strict=True)):
            raise RuntimeError(
                "parameters, buffers or moments are in other arrays since the step was recorded "
                "(train_step, load_state_dict, to): record it again"
            )
        with self._place.stream():
            self._graph.launch()
            loss = Tensor(self._loss)  # a copy, in memory that the recording does not write to
            self._steps._update(self._table)
        return loss


class _Place:
    """A stream, ordered with the default one, and memory that nobody else is given."""

    def __init__(self) -> None:
        cupy = importlib.import_module("cupy")
        self._stream, self._pool = cupy.cuda.Stream(), cupy.cuda.MemoryPool()
        self._allocator = cupy.cuda.using_allocator

    def memory(self) -> AbstractContextManager[object]:
        """Inside, arrays are made there."""
        made: AbstractContextManager[object] = self._allocator(self._pool.malloc)
        return made

    def stream(self) -> AbstractContextManager[object]:
        """Inside, the GPU is asked through it."""
        entered: AbstractContextManager[object] = self._stream
        return entered

    def recorded(self, body: Callable[[], Tensor]) -> tuple[Any, Tensor]:
        """A graph of what ``body`` asks of the GPU, and its result, whose values come later."""
        self._stream.begin_capture()
        try:
            result = body()
        except BaseException:
            with suppress(Exception):  # that the recording is broken is known
                self._stream.end_capture()
            raise
        return self._stream.end_capture(), result


def _kernels() -> Any:
    return importlib.import_module("fp16sim.kernels.fused.updates")


def _check(optimizer: Optimizer, scaler: GradScaler | None, precision: autocast | None) -> None:
    if not isinstance(optimizer, SGD | Adam):
        raise TypeError(f"optimizer must be an SGD, Adam or AdamW, got {optimizer!r}")
    if not isinstance(scaler, GradScaler | None):
        raise TypeError(f"scaler must be a GradScaler or None, got {scaler!r}")
    if not isinstance(precision, autocast | None):
        raise TypeError(f"precision must be an autocast or None, got {precision!r}")
    if optimizer.rounding != "ties_to_even":
        raise ValueError(f"rounding={optimizer.rounding!r} is not allowed; on a GPU: ties_to_even")
    for i, p in enumerate(optimizer.params):
        if not is_on_gpu(p.data):
            raise ValueError(f"params[{i}] is on the host; move the model by .to('cuda')")
        if p.fmt != FP32 and not (optimizer.master_weights and p.data.dtype.itemsize == 2):
            raise ValueError(
                f"params[{i}] is in {p.fmt}; allowed are fp32, and fp16 or bf16, natively stored, "
                "with master_weights=True"
            )
