"""What the X-ray costs: a training step of every network of the zoo, size "laptop", emulated fp16.

Off: a step with the announcing code in place against the same step with it taken out. On: inside
``fs.watch``. One process, interleaved turns, medians; with compiled kernels, and without.

    python benchmarks/xray.py [NAME ...]     # wants the extra fast
"""

from __future__ import annotations

import os
import sys
import time

os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "2")

from common import statistics_of, write

import fp16sim as fs
from fp16sim import counts, events, kernels
from fp16sim.kernels import compiled  # noqa: F401 - loaded, it is used

TURNS, SECONDS = 15, 0.15
EXECUTORS = {"Numba": kernels.compiled_if_worth, "NumPy": lambda *_: None}
CONTENDERS = ("without announcements", "off", "on")


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
        for executor in EXECUTORS:
            rows = statistics_of(measure(name, executor), "off")
            results.setdefault(name, {})[executor] = rows
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
