"""What every benchmark needs: interleaved timing, the machine in words, and results as JSON."""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

RESULTS = Path(__file__).parent / "results"


def interleaved(contenders: dict[str, Callable[[], object]], runs: int) -> dict[str, list[float]]:
    """Seconds of every run of every contender, in turn A B C A B C ..., after one warm-up each."""
    for function in contenders.values():
        function()
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(runs):
        for name, function in contenders.items():
            start = time.perf_counter()
            function()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def machine() -> dict[str, object]:
    """Processor, cores, system and Python."""
    model = platform.processor()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = [line for line in info.read_text().splitlines() if "model name" in line]
        model = lines[0].split(":")[1].strip() if lines else model
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


def report(name: str, seconds: dict[str, list[float]], reference: str, packages: list[str]) -> None:
    """Print medians and ratios to the reference, and write them to results/<name>.json."""
    base = statistics.median(seconds[reference])
    rows = {}
    for contender, times in seconds.items():
        # Ratio of medians: runs are interleaved, so both saw the same machine.
        median = statistics.median(times)
        rows[contender] = {
            "median_s": median,
            "min_s": min(times),
            "max_s": max(times),
            "ratio": median / base,
        }
        print(f"{contender:24s} {median * 1e3:9.2f} ms   {median / base:6.2f} x {reference}")
    record = {
        "benchmark": name,
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "machine": machine(),
        "versions": {package: metadata.version(package) for package in packages},
        "runs": len(seconds[reference]),
        "reference": reference,
        "results": rows,
    }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(record, indent=2) + "\n")
    print(f"written: {path}", file=sys.stderr)
