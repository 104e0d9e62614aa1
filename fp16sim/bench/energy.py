"""Joules a call, and mean watts, from the GPU's own counter.

NVML counts the energy of the whole board, in millijoules, since the driver was loaded
(nvmlDeviceGetTotalEnergyConsumption: Volta and newer). The counter moves some tens of times a
second, so that a window of 2 s or more is wrong by a few per cent at most; what the GPU takes when
idle is in it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from fp16sim.arguments import integer, one_of, real
from fp16sim.backend import DEVICES
from fp16sim.bench.clock import synchronize


@dataclass(frozen=True)
class Energy:
    """What a call took, or why that is not known."""

    #: joules a call; None: not measured
    joules: float | None = None
    #: mean power in watts while calls followed each other; None: not measured
    watts: float | None = None
    #: how long that was, in seconds, and how many calls it were
    seconds: float = 0.0
    calls: int = 0
    #: why there are no numbers; empty if there are
    reason: str = ""


class NoCounterError(Exception):
    """There is no counter to be read; says why."""


def energy_of(
    call: Callable[[], object], device: str, *, seconds: float = 2.0, calls: int = 1
) -> Energy:
    """Call a function of no arguments again and again, and read the counter before and after.

    device: one of ``backend.DEVICES``. seconds: how long at least. calls: between two looks at the
    time, after each of which the GPU is waited for.
    """
    seconds, calls = real("seconds", seconds, above=0), integer("calls", calls, at_least=1)
    if one_of("device", device, DEVICES) == "cpu":
        return Energy(reason="NVML counts the energy of NVIDIA GPUs; this ran on the processor")
    try:
        with handle() as (nvml, gpu), _told(nvml):
            return _measured(lambda: nvml.nvmlDeviceGetTotalEnergyConsumption(gpu), call, seconds,
                             calls)  # fmt: skip
    except NoCounterError as reason:
        return Energy(reason=str(reason))


def _measured(
    millijoules: Callable[[], int], call: Callable[[], object], seconds: float, calls: int
) -> Energy:
    synchronize("cuda")
    done, before, start = 0, millijoules(), time.perf_counter()
    while (spent := time.perf_counter() - start) < seconds:
        for _ in range(calls):
            call()
        synchronize("cuda")
        done += calls
    used = (millijoules() - before) / 1e3
    if used <= 0:
        return Energy(reason=f"the energy counter did not move in {spent:.2f} s")
    return Energy(used / done, used / spent, spent, done)


@contextmanager
def handle() -> Iterator[tuple[Any, Any]]:
    """NVML, and what it calls the GPU that CuPy uses. Raises NoCounterError without either.

    They may number GPUs differently, so that it is found by its place on the bus.
    """
    try:
        import pynvml
    except ImportError as error:
        raise NoCounterError(
            f"no NVML: pip install 'fp16sim[gpu]', which brings nvidia-ml-py ({error})"
        ) from error
    with _told(pynvml):
        pynvml.nvmlInit()
    try:
        with _told(pynvml):
            import cupy

            gpu = pynvml.nvmlDeviceGetHandleByPciBusId(cupy.cuda.Device().pci_bus_id)
        yield pynvml, gpu
    finally:
        pynvml.nvmlShutdown()


@contextmanager
def _told(nvml: Any) -> Iterator[None]:
    """NVML's errors as NoCounterError: no driver, an old GPU, no permission."""
    try:
        yield
    except nvml.NVMLError as error:
        raise NoCounterError(f"NVML says: {error}") from error
