"""A training step of every network of the zoo, size "laptop": this engine against PyTorch.

fp32 on two threads each (BLAS's and PyTorch's); then emulated fp16 with loss scaling, compiled and
in plain NumPy. All start from the same weights and see the same batches; the first losses must
agree. Each contender is a process of its own, since two pools of threads that wait for work by
spinning would disturb each other; they take turns of one warm-up and STEPS timed steps while the
others sleep. Peak memory: how far a process rises in five steps above where it was after steps of
the size "tiny".

    python benchmarks/engine.py [NAME ...]     # wants the extra fast, and PyTorch
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from pathlib import Path

THREADS = "2"
os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), THREADS)

from common import statistics_of, write

import fp16sim as fs

TURNS, STEPS, BATCHES = 9, 3, 4
CONTENDERS = ("PyTorch", "fp32", "fp16, Numba", "fp16, NumPy")


def step_of(name: str, contender: str, size: str = "laptop"):
    """A function that does one training step, and returns its loss."""
    task = fs.models.task(name, size, seed=0)
    batches = [task.batch(i) for i in range(BATCHES)]
    turn = iter(range(10**9))
    if contender == "PyTorch":
        import torch

        from fp16sim.bench.torch_zoo import network, optimizer

        torch.set_num_threads(int(THREADS))
        model = network(task)
        tensors = [[torch.from_numpy(part) for part in batch] for batch in batches]
        moves = optimizer(task, model)

        def torchs():
            loss = model.loss(*tensors[next(turn) % BATCHES])
            moves.zero_grad()
            loss.backward()
            moves.step()
            return loss.item()

        return torchs
    if contender == "fp16, Numba":
        from fp16sim.kernels import compiled  # noqa: F401 - from now on compiled kernels are used
    if contender == "fp16, NumPy":
        from fp16sim import kernels

        kernels.compiled_if_worth = lambda *_: None  # as where Numba is not installed
    low = contender != "fp32"
    precision = fs.autocast("fp16") if low else None
    scaler = fs.GradScaler() if low else None

    def ours():
        batch = batches[next(turn) % BATCHES]
        return fs.training.train_step(
            lambda: task.model.loss(*batch), task.optimizer, precision=precision, scaler=scaler
        ).loss

    return ours


def work(pipe, name: str, contender: str) -> None:
    """A contender: sends its first loss and its peak memory, then times of steps when asked."""
    tiny = step_of(name, contender, "tiny")
    tiny(), tiny()  # loads whatever code and tables are wanted
    step = step_of(name, contender)
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    losses = [step() for _ in range(5)]
    pipe.send((losses[0], _status("VmHWM") - before))
    while pipe.recv():
        step()
        start = time.perf_counter()
        for _ in range(STEPS):
            step()
        pipe.send((time.perf_counter() - start) / STEPS)


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith(field)]
    return int(line.split()[1]) * 1024


def compare(name: str) -> dict[str, dict[str, float]]:
    """Times and memory of all contenders on one network."""
    context = multiprocessing.get_context("spawn")
    pipes, processes, first, peaks = {}, [], {}, {}
    for contender in CONTENDERS:
        pipes[contender], end = context.Pipe()
        processes.append(context.Process(target=work, args=(end, name, contender), daemon=True))
        processes[-1].start()
        first[contender], peaks[contender] = pipes[contender].recv()
        bound = 2e-4 if contender == "fp32" else 2e-2
        assert abs(first[contender] / first["PyTorch"] - 1) < bound, first
    seconds = {contender: [] for contender in CONTENDERS}
    for _ in range(TURNS):
        for contender, pipe in pipes.items():
            pipe.send(True)
            seconds[contender].append(pipe.recv())
    for pipe, process in zip(pipes.values(), processes, strict=True):
        pipe.send(False)
        process.join()
    rows = statistics_of(seconds, "PyTorch")
    for contender, row in rows.items():
        row["of_fp32"] = row["median_s"] / rows["fp32"]["median_s"]
        row["peak_bytes"] = peaks[contender]
    return rows


def main(names: list[str]) -> None:
    results = {}
    for name in names or fs.models.TASKS:
        results[name] = compare(name)
        for contender, row in results[name].items():
            print(
                f"{name:12s} {contender:12s} {row['median_s'] * 1e3:8.2f} ms"
                f"  {row['ratio']:6.2f} x PyTorch  {row['of_fp32']:6.2f} x fp32"
                f"  {row['peak_bytes'] / 2**20:8.1f} MiB",
                flush=True,
            )
    if not names:
        settings = {"turns": TURNS, "steps": STEPS, "threads": int(THREADS), "size": "laptop"}
        write("engine", ["numpy", "numba", "torch"], **settings, results=results)


if __name__ == "__main__":
    main(sys.argv[1:])
