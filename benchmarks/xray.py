"""What the X-ray costs: a training step of every network of the zoo, size "laptop", emulated fp16.

Off: a step with the announcing code in place against the same step with it taken out; and, since
that difference drowns in noise, a count: how often a step calls each function of ``events``, times
what the call costs alone. On: inside ``fs.watch``. One process, interleaved turns, medians; with
compiled kernels, and without.

    python benchmarks/xray.py [NAME ...]     # wants the extra fast
"""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from collections.abc import Callable
from timeit import repeat
from types import FrameType

os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "2")

from common import statistics_of, write

import fp16sim as fs
from fp16sim import counts, events, kernels
from fp16sim.kernels import compiled  # noqa: F401 - loaded, it is used

TURNS, SECONDS = 15, 0.15
EXECUTORS = {"Numba": kernels.compiled_if_worth, "NumPy": lambda *_: None}
CONTENDERS = ("without announcements", "off", "on")


def _enter() -> None:
    with events.scope_at("name"):
        pass


# What a step calls although nobody listens, by the code that runs, and each alone.
CALLS: dict[object, Callable[[], object]] = {
    events.observed.__code__: events.observed,
    events.current_scope.__code__: events.current_scope,
    events.announce.__code__: lambda: events.announce(events.Stepped(None, taken=True)),
    events.scope.__code__: lambda: events.scope("name"),
    events.scope_at.__enter__.__code__: _enter,
    events.Origin.__new__.__code__: lambda: events.Origin("a", "b", "c"),
}


def announcing(name: str) -> dict[str, float]:
    """Calls a step of the announcing code, nobody listening, and the seconds that they take."""
    run = fs.models.task(name, "laptop", seed=0).run(
        precision=fs.autocast("fp16"), scaler=fs.GradScaler()
    )
    run.train(2)
    calls: Counter[object] = Counter()

    def note(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code in CALLS:
            calls[frame.f_code] += 1

    sys.setprofile(note)
    try:
        run.train(3)
    finally:
        sys.setprofile(None)
    number = 10_000
    seconds = sum(
        count * min(repeat(CALLS[code], number=number, repeat=7)) / number
        for code, count in calls.items()
    )
    return {"calls": float(sum(calls.values())), "seconds": seconds}


def measure(name: str, executor: str) -> dict[str, list[float]]:
    """Seconds a step, of every turn; a turn takes about SECONDS."""
    kernels.compiled_if_worth = counts.compiled_if_worth = EXECUTORS[executor]
    task = fs.models.task(name, "laptop", seed=0)
    run = task.run(precision=fs.autocast("fp16"), scaler=fs.GradScaler())
    seconds: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    run.train(2)
    start = time.perf_counter()
    run.train(5)
    turn_of = max(1, round(SECONDS / (time.perf_counter() - start) * 3))
    for turn in range(TURNS + 1):
        for contender in CONTENDERS:
            start = time.perf_counter()
            steps = len(run.history) + turn_of
            if contender == "on":
                with fs.watch(task.model):
                    run.train(steps)
            elif contender == "off":
                run.train(steps)
            else:
                announce, events.announce = events.announce, lambda event: None
                observed, events.observed = events.observed, lambda: False
                try:
                    run.train(steps)
                finally:
                    events.announce, events.observed = announce, observed
            if turn:
                seconds[contender].append((time.perf_counter() - start) / turn_of)
    return seconds


def main(names: list[str]) -> None:
    """Print and write the table."""
    results: dict[str, dict[str, object]] = {}
    for name in names or fs.models.TASKS:
        counted = announcing(name)
        results[name] = {"announcing": counted}
        for executor in EXECUTORS:
            rows = statistics_of(measure(name, executor), "off")
            results[name][executor] = rows
            share = counted["seconds"] / rows["off"]["median_s"]
            print(f"{name:12s} {executor:6s} {counted['calls']:.0f} calls: {share:.2%} of a step")
            for contender, row in rows.items():
                print(
                    f"{name:12s} {executor:6s} {contender:22s} {row['median_s'] * 1e3:8.2f} ms   "
                    f"{row['ratio']:6.3f} x off",
                    flush=True,
                )
    if not names:
        write("xray", ["numpy", "numba"], turns=TURNS, size="laptop", results=results)


if __name__ == "__main__":
    main(sys.argv[1:])
