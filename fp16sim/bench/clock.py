"""Seconds a call takes on a device: warmed up, with cold inputs, many times, median and quartiles.

On "cuda" CUDA events are put into the stream before and after the calls, and the GPU itself notes
when it reaches them (CUDA Runtime API, cudaEventElapsedTime: resolution about 0.5 µs); on "cpu" it
is ``time.perf_counter``. A lap is as many calls as take a millisecond or more, so that neither the
clock's resolution nor, on a GPU, the launch of a first kernel is what one sees.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from fp16sim import events
from fp16sim.arguments import integer, one_of, real
from fp16sim.backend import DEVICES

#: seconds that a call of the given function takes
Lap: TypeAlias = Callable[[Callable[[], object]], float]

#: seconds that a lap takes at least
LEAST_LAP = 1e-3
#: laps that are run even if they take longer than the time that was given
FEWEST_LAPS = 7
_MOST_CALLS = 10_000


@dataclass(frozen=True)
class Timing:
    """Seconds a call, over laps: their median and quartiles."""

    #: seconds
    median: float
    #: seconds: a quarter of the laps took less, and a quarter more
    lower: float
    upper: float
    laps: int
    #: calls in a lap
    calls: int

    def __post_init__(self) -> None:
        real("median", self.median, above=0)
        if not 0 < self.lower <= self.median <= self.upper < math.inf:
            raise ValueError(
                f"quartiles {self.lower!r} and {self.upper!r} do not enclose the median "
                f"{self.median!r}, all of them positive and finite"
            )
        integer("laps", self.laps, at_least=1)
        integer("calls", self.calls, at_least=1)

    @classmethod
    def of(cls, laps: Sequence[float], calls: int = 1) -> Timing:
        """From the seconds a call took in each lap."""
        lower, median, upper = (float(q) for q in np.quantile(laps, [0.25, 0.5, 0.75]))
        return cls(median, lower, upper, len(laps), calls)


def rotated(
    function: Callable[..., object], inputs: Sequence[tuple[Any, ...]]
) -> Callable[[], object]:
    """A function that calls ``function`` with the next inputs every time, in turn for ever.

    With sets of inputs that are larger together than the caches, no call finds its own in them.
    """
    if not inputs:
        raise ValueError("inputs is empty: there is nothing to call the function with")
    turn = itertools.cycle(inputs)
    return lambda: function(*next(turn))


def time_call(
    call: Callable[[], object],
    device: str,
    *,
    repeats: int = 50,
    seconds: float = 2.0,
    warmup: int = 3,
    lap: Lap | None = None,
) -> Timing:
    """Time a function of no arguments.

    device: one of ``backend.DEVICES``. repeats, seconds: laps go on until there are so many, or
    until they have taken so long, but there are never fewer than ``FEWEST_LAPS`` or ``repeats``.
    warmup: calls before, which are not counted, beside those that tell how many make a lap.
    lap: another clock.

    Raises RuntimeError inside ``events.observe`` and ``fs.watch``: whoever listens would be timed.
    """
    _check_silence()
    lap = lap or clock_of(device)
    repeats, warmup = integer("repeats", repeats, at_least=1), integer("warmup", warmup, at_least=0)
    seconds = real("seconds", seconds, above=0)
    for _ in range(warmup):
        lap(call)
    calls = min(_MOST_CALLS, max(1, math.ceil(LEAST_LAP / max(lap(call), 1e-9))))
    many = call if calls == 1 else _repeated(call, calls)
    taken: list[float] = []
    while len(taken) < repeats and (sum(taken) < seconds or len(taken) < FEWEST_LAPS):
        taken.append(lap(many))
    return Timing.of([one / calls for one in taken], calls)


def time_in_turns(
    contenders: Mapping[str, Callable[[], object]],
    device: str,
    *,
    turns: int = 9,
    calls: int = 3,
    lap: Lap | None = None,
) -> dict[str, Timing]:
    """Time functions in turns A B C A B C ..., so that all see the machine alike.

    turns: rounds that count; there is one more before. calls: in a turn, after one that does not
    count.
    """
    _check_silence()
    lap = lap or clock_of(device)
    turns, calls = integer("turns", turns, at_least=1), integer("calls", calls, at_least=1)
    taken: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(turns + 1):
        for name, call in contenders.items():
            lap(call)
            spent = lap(_repeated(call, calls)) / calls
            if turn:
                taken[name].append(spent)
    return {name: Timing.of(laps, calls) for name, laps in taken.items()}


def _repeated(call: Callable[[], object], calls: int) -> Callable[[], None]:
    def many() -> None:
        for _ in range(calls):
            call()

    return many


def _check_silence() -> None:
    if events.observed():
        raise RuntimeError(
            "somebody observes (events.observe, fs.watch, fs.status_flags): that would be timed; "
            "time outside of the block"
        )


def clock_of(device: str) -> Lap:
    """The clock of a device. CuPy is wanted where "cuda" is first timed."""
    return _on_host if one_of("device", device, DEVICES) == "cpu" else _on_gpu


def _on_host(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _on_gpu(call: Callable[[], object]) -> float:
    import cupy

    start, end = cupy.cuda.Event(), cupy.cuda.Event()
    start.record()
    call()
    end.record()
    end.synchronize()
    milliseconds: float = cupy.cuda.get_elapsed_time(start, end)
    return milliseconds / 1e3


def synchronize(device: str) -> None:
    """Wait until the device has done all that it was given."""
    if one_of("device", device, DEVICES) == "cuda":
        import cupy

        cupy.cuda.Device().synchronize()
