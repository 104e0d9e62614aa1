"""A training step of every network of the zoo, size "laptop": this engine against PyTorch.

Two threads each (BLAS's and PyTorch's), fp32; then emulated fp16 with loss scaling, compiled and in
plain NumPy. All start from the same weights and see the same batches, in turn, in one process; the
first losses must agree. Peak memory: how far the resident size of a fresh process rises in five
steps above what it is before the first.

    python benchmarks/engine.py [NAME ...]     # wants the extra fast, and PyTorch
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

THREADS = "2"
os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), THREADS)

import numpy as np
import torch
from common import interleaved, statistics_of, write
from torch_zoo import network, optimizer

import fp16sim as fs
from fp16sim import kernels

torch.set_num_threads(int(THREADS))
RUNS, BATCHES = 21, 4
CONTENDERS = ("PyTorch", "fp32", "fp16, Numba", "fp16, NumPy")


def step_of(name: str, contender: str):
    """A function that does one training step, and returns its loss."""
    task = fs.models.task(name, "laptop", seed=0)
    batches = [task.batch(i) for i in range(BATCHES)]
    turn = iter(range(10**9))
    if contender == "PyTorch":
        model = network(task)
        tensors = [[torch.from_numpy(np.asarray(part)) for part in batch] for batch in batches]
        moves = optimizer(task, model)

        def torchs():
            loss = model.loss(*tensors[next(turn) % BATCHES])
            moves.zero_grad()
            loss.backward()
            moves.step()
            return loss.item()

        return torchs
    low = contender != "fp32"
    precision = fs.autocast("fp16") if low else None
    scaler = fs.GradScaler() if low else None

    def ours():
        batch = batches[next(turn) % BATCHES]
        return fs.training.train_step(
            lambda: task.model.loss(*batch), task.optimizer, precision=precision, scaler=scaler
        ).loss

    if contender.endswith("NumPy"):
        return without_numba(ours)
    return ours


def without_numba(function):
    """The function as it runs where Numba is not installed."""

    def run():
        switch = kernels.compiled_if_worth
        kernels.compiled_if_worth = lambda *_: None
        try:
            return function()
        finally:
            kernels.compiled_if_worth = switch

    return run


def peak_memory(name: str, contender: str) -> int:
    """Bytes by which a fresh process grows in five steps."""
    call = [sys.executable, __file__, "--memory", name, contender]
    return int(subprocess.run(call, capture_output=True, text=True, check=True).stdout)


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith(field)]
    return int(line.split()[1]) * 1024


def main(names: list[str]) -> None:
    from fp16sim.kernels import compiled  # noqa: F401 - from now on compiled kernels are used

    results = {}
    for name in names or fs.models.TASKS:
        functions = {contender: step_of(name, contender) for contender in CONTENDERS}
        first = {contender: function() for contender, function in functions.items()}
        for contender, loss in first.items():
            bound = 2e-4 if contender == "fp32" else 2e-2
            assert abs(loss / first["PyTorch"] - 1) < bound, first
        rows = statistics_of(interleaved(functions, RUNS), "PyTorch")
        for contender, row in rows.items():
            row["of_fp32"] = row["median_s"] / rows["fp32"]["median_s"]
            row["peak_bytes"] = peak_memory(name, contender)
            print(
                f"{name:12s} {contender:12s} {row['median_s'] * 1e3:8.2f} ms"
                f"  {row['ratio']:6.2f} x PyTorch  {row['of_fp32']:6.2f} x fp32"
                f"  {row['peak_bytes'] / 2**20:8.1f} MiB",
                flush=True,
            )
        results[name] = rows
    if not names:
        packages = ["numpy", "numba", "torch"]
        write("engine", packages, runs=RUNS, threads=int(THREADS), size="laptop", results=results)


if __name__ == "__main__":
    if "--memory" in sys.argv:
        step = step_of(*sys.argv[2:])
        before = _status("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        for _ in range(5):
            step()
        print(_status("VmHWM") - before)
    else:
        main(sys.argv[1:])
