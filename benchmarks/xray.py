"""What the X-ray costs: a training step of every network of the zoo, size "laptop", emulated fp16.

Off: a step with the announcing code in place against the same step with it taken out. On: inside
``fs.watch``. One process, interleaved turns, medians; with compiled kernels where Numba is
installed.

    python benchmarks/xray.py [NAME ...]
"""

from __future__ import annotations

import os
import sys
import time

os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "2")

from common import statistics_of, write

import fp16sim as fs
from fp16sim import events

TURNS, STEPS = 9, 3
CONTENDERS = ("without announcements", "off", "on")


def measure(name: str) -> dict[str, list[float]]:
    """Seconds a step, of every turn."""
    task = fs.models.task(name, "laptop", seed=0)
    run = task.run(precision=fs.autocast("fp16"), scaler=fs.GradScaler())
    seconds: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    for turn in range(TURNS + 1):
        for contender in CONTENDERS:
            start = time.perf_counter()
            steps = len(run.history) + STEPS
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
                seconds[contender].append((time.perf_counter() - start) / STEPS)
    return seconds


def main(names: list[str]) -> None:
    """Print and write the table."""
    results = {}
    for name in names or fs.models.TASKS:
        rows = statistics_of(measure(name), "off")
        results[name] = rows
        for contender, row in rows.items():
            print(
                f"{name:12s} {contender:22s} {row['median_s'] * 1e3:8.2f} ms   "
                f"{row['ratio']:6.3f} x off"
            )
    write("xray", ["numpy", "numba"], turns=TURNS, steps=STEPS, size="laptop", results=results)


if __name__ == "__main__":
    main(sys.argv[1:])
