"""What every benchmark needs: interleaved timing, the machine in words, and results as JSON."""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from fp16sim.bench.device import host

RESULTS = Path(__file__).parent / "results"


def interleaved(
    contenders: dict[str, Callable[[], object]],
    runs: int,
    prepare: Callable[[], object] = lambda: None,
) -> dict[str, list[float]]:
    """Seconds of every run of every contender, in turn A B C A B C ..., after one warm-up each.

    prepare: called before each of them, not timed, so that all find the caches alike.
    """
    for function in contenders.values():
        function()
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(runs):
        for name, function in contenders.items():
            prepare()
            start = time.perf_counter()
            function()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def statistics_of(seconds: dict[str, list[float]], reference: str) -> dict[str, dict[str, float]]:
    """Medians, extremes and ratios to the reference's median, by contender."""
    base = statistics.median(seconds[reference])
    # Ratio of medians: runs are interleaved, so all saw the same machine.
    return {
        contender: {
            "median_s": statistics.median(times),
            "min_s": min(times),
            "max_s": max(times),
            "ratio": statistics.median(times) / base,
        }
        for contender, times in seconds.items()
    }


def write(name: str, packages: list[str], **content: object) -> None:
    """Write results/<name>.json with the date, the machine and the packages' versions."""
    record = {
        "benchmark": name,
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "machine": host(),
        "versions": {package: metadata.version(package) for package in packages},
        **content,
    }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(record, indent=2) + "\n")
    print(f"written: {path}", file=sys.stderr)


def report(name: str, seconds: dict[str, list[float]], reference: str, packages: list[str]) -> None:
    """Print medians and ratios to the reference, and write them to results/<name>.json."""
    rows = statistics_of(seconds, reference)
    for contender, row in rows.items():
        print(
            f"{contender:24s} {row['median_s'] * 1e3:9.2f} ms   {row['ratio']:6.2f} x {reference}"
        )
    runs = len(seconds[reference])
    write(name, packages, runs=runs, reference=reference, results=rows)
