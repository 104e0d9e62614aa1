"""Matrix products of fp16 numbers, 512 x 512 x 512, by accumulator, against what others offer.

One thread; every contender in turn in one process, medians of RUNS; two operations a product.
"Wrong" counts results that differ from those of NumPy's float16 loop (for fp16), or of this
package's other executor (which tests compare with scalar models).

    python benchmarks/matmul.py        # wants the extra fast, and PyTorch
"""

import os

os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}

import numpy as np
import torch
from common import interleaved, statistics_of, write

import fp16sim as fs
from fp16sim.accumulate import compute
from fp16sim.kernels import compiled  # noqa: F401 - from now on compiled kernels are used
from fp16sim.kernels.units import cpu as units

torch.set_num_threads(1)
N, RUNS = 512, 7
PURE = ("fp16", "fp32-sequential", "fp16-fma", "fp16-pairwise", "fp16-kahan", "exact")
COMPILED = ("fp16", "fp32-sequential", "fp16-fma", "fp16-kahan")
UNITS = (fs.tensorcore.V100, fs.tensorcore.A100, fs.tensorcore.H100)


def without_numba(function):
    """The function as it runs where Numba is not installed."""

    def run():
        switches = compute.compiled_if_worth, units.compiled_if_worth
        compute.compiled_if_worth = units.compiled_if_worth = lambda *_: None
        try:
            return function()
        finally:
            compute.compiled_if_worth, units.compiled_if_worth = switches

    return run


def contenders() -> dict[str, object]:
    """Functions without arguments that return the product."""
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((N, N)).astype(np.float16) for _ in range(2))
    x, y = a.astype(np.float32), b.astype(np.float32)
    s, t = torch.from_numpy(a), torch.from_numpy(b)

    def numpy_half():
        total = np.zeros((N, N), np.float16)
        for k in range(N):
            total += a[:, k, None] * b[k]
        return total.astype(np.float32)

    def torch_half():
        total, product = torch.zeros(N, N, dtype=torch.half), torch.empty(N, N, dtype=torch.half)
        for k in range(N):
            torch.mul(s[:, k, None], t[k], out=product)
            total += product
        return total.float().numpy()

    def ours(accumulator):
        return lambda: fs.matmul(x, y, accumulator=accumulator)

    def unit(arch):
        return lambda: fs.tensorcore.matmul(x, y, arch=arch)

    return {
        "sgemm (NumPy, OpenBLAS)": lambda: x @ y,
        "fp32": ours("fp32"),
        **{f"{name}, NumPy": without_numba(ours(name)) for name in PURE},
        **{f"{name}, Numba": ours(name) for name in COMPILED},
        **{f"{arch}, NumPy": without_numba(unit(arch)) for arch in UNITS},
        **{f"{arch}, Numba": unit(arch) for arch in UNITS},
        "fp16: NumPy's float16 loop": numpy_half,
        "fp16: PyTorch's half loop": torch_half,
        "PyTorch half @ half": lambda: (s @ t).float().numpy(),
    }


def main() -> None:
    functions = contenders()
    expected = {"fp16": functions["fp16: NumPy's float16 loop"]()}
    for name in functions:
        if name.endswith("NumPy"):
            expected.setdefault(name.removesuffix(", NumPy"), functions[name]())
    rows = statistics_of(interleaved(functions, RUNS), "sgemm (NumPy, OpenBLAS)")
    for name, row in rows.items():
        row["gflop_per_s"] = 2 * N**3 / row["median_s"] / 1e9
        wanted = expected.get(name.split(",")[0].split(":")[0])
        wrong = "" if wanted is None else f"{np.count_nonzero(functions[name]() != wanted)} wrong"
        print(
            f"{name:28s} {row['median_s'] * 1e3:9.2f} ms  {row['gflop_per_s']:8.2f} GFLOP/s"
            f"  {row['ratio']:8.2f} x sgemm  {wrong}"
        )
    write("matmul", ["numpy", "numba", "torch"], size=N, runs=RUNS, results=rows)


if __name__ == "__main__":
    main()
