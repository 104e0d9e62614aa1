"""Rounding 2^22 float32 values to a format and back to float32, against other packages.

One thread; every contender in turn in one process, medians of RUNS. Those that can write into
arrays that exist do so, which is worth up to a factor of two. "Wrong" counts results that differ
in a bit from the correctly rounded ones (any NaN equals any NaN).

    python benchmarks/rounding.py        # wants the extras fast and peers, and PyTorch
"""

import os

os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}

import logging
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
from common import interleaved, statistics_of, write

import fp16sim as fs
from fp16sim.kernels import compiled, cpu
from fp16sim.rounding import Rounding

warnings.simplefilter("ignore")
logging.disable()
os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
os.environ.setdefault("TORCH_EXTENSIONS_DIR", tempfile.mkdtemp())

import gfloat
import gfloat.formats
import ml_dtypes
import pychop
import qtorch
import qtorch.quant
import torch

torch.set_num_threads(1)
pychop.backend("numpy")

N, RUNS = 2**22, 7
NUMPY = {
    fs.FP16: np.float16,
    fs.BF16: ml_dtypes.bfloat16,
    fs.E4M3: ml_dtypes.float8_e4m3fn,
    fs.E5M2: ml_dtypes.float8_e5m2,
}
TORCH = {
    fs.FP16: torch.float16,
    fs.BF16: torch.bfloat16,
    fs.E4M3: torch.float8_e4m3fn,
    fs.E5M2: torch.float8_e5m2,
}
GFLOAT = {
    fs.FP16: gfloat.formats.format_info_binary16,
    fs.BF16: gfloat.formats.format_info_bfloat16,
    fs.E4M3: gfloat.formats.format_info_ocp_e4m3,
    fs.E5M2: gfloat.formats.format_info_ocp_e5m2,
}


def data() -> dict[str, np.ndarray]:
    """Values of both signs: over the whole range of fp16 and beyond, and N(0, 1)."""
    rng = np.random.default_rng(0)
    wide = rng.choice([-1.0, 1.0], N) * 2.0 ** rng.uniform(-30, 20, N)
    return {"wide": wide.astype(np.float32), "normal": rng.standard_normal(N).astype(np.float32)}


def contenders(fmt: fs.Format, x: np.ndarray) -> dict[str, object]:
    """Functions without arguments that round x and return the float32 result."""
    # Everybody has an array of their own to write to, and so finds it equally cold.
    narrow, widened, copied = np.empty(N, NUMPY[fmt]), np.empty_like(x), np.empty_like(x)
    tensor, result = torch.from_numpy(x), torch.empty(N)
    half = torch.empty(N, dtype=TORCH[fmt])
    exponent_bits, fraction_bits = fmt.exponent_bits, fmt.precision - 1
    chop = pychop.Chop(exponent_bits, fraction_bits, 1, chunk_size=N)

    def casts():
        with np.errstate(all="ignore"):
            np.copyto(narrow, x, casting="unsafe")
            np.copyto(widened, narrow, casting="unsafe")
        return widened

    def torch_casts():
        half.copy_(tensor)
        result.copy_(half)
        return result.numpy()

    def ours(executor):
        out = np.empty_like(x)

        def run():
            executor.round_array(x, out, fmt)
            return out

        return run

    def copy():
        np.copyto(copied, x)
        return copied

    name = "NumPy" if fmt is fs.FP16 else "ml_dtypes"
    return {
        "memcpy": copy,
        "fp16sim, NumPy": ours(cpu),
        "fp16sim, Numba": ours(compiled),
        f"{name} casts": casts,
        "PyTorch casts": torch_casts,
        "gfloat": lambda: gfloat.round_ndarray(GFLOAT[fmt], x).astype(np.float32),
        "pychop": lambda: np.asarray(chop(x), np.float32),
        "QPyTorch": lambda: qtorch.quant.float_quantize(
            tensor, exponent_bits, fraction_bits, rounding="nearest"
        ).numpy(),
    }


def stochastic_contenders(x: np.ndarray) -> dict[str, object]:
    """The same for stochastic rounding to fp16, random numbers included."""
    out, tensor = np.empty_like(x), torch.from_numpy(x)
    generator = np.random.default_rng(1)
    chop = pychop.Chop(5, 10, 5, chunk_size=N)

    def ours(executor):
        def run():
            how = Rounding.of("fp16", "stochastic", rng=generator)
            executor.round_array(x, out, fs.FP16, "stochastic", draw=how.draw)
            return out

        return run

    def with_gfloat():
        bits = generator.integers(0, 2**16, N)
        mode = gfloat.RoundMode.Stochastic
        return gfloat.round_ndarray(gfloat.formats.format_info_binary16, x, mode, False, bits, 16)

    return {
        "fp16sim, NumPy": ours(cpu),
        "fp16sim, Numba": ours(compiled),
        "gfloat": with_gfloat,
        "pychop": lambda: chop(x),
        "QPyTorch": lambda: qtorch.quant.float_quantize(tensor, 5, 10, rounding="stochastic"),
    }


def wrong(result: np.ndarray, x: np.ndarray, fmt: fs.Format) -> int:
    """How many results are not the correctly rounded ones."""
    truth = fs.round_to(x, fmt)
    same = result.view(np.uint32) == truth.view(np.uint32)
    return int(np.count_nonzero(~same & ~(np.isnan(result) & np.isnan(truth))))


def main() -> None:
    cases = []
    for distribution, x in data().items():
        for fmt in NUMPY:
            functions = contenders(fmt, x)
            mistakes = {name: wrong(f(), x, fmt) for name, f in functions.items()}
            mistakes.pop("memcpy")
            cases.append((fmt.name, distribution, x, functions, mistakes))
        cases.append(("fp16 stochastic", distribution, x, stochastic_contenders(x), {}))
    results = []
    for name, distribution, x, functions, mistakes in cases:
        seconds = interleaved(functions, RUNS, prepare=x.copy)
        rows = statistics_of(seconds, "fp16sim, Numba")
        print(f"\n{name}, {distribution}")
        for contender, row in rows.items():
            row["values_per_s"] = N / row["median_s"]
            row["wrong"] = mistakes.get(contender)
            print(
                f"  {contender:18s} {row['values_per_s'] / 1e9:7.3f} G values/s"
                f"  {row['ratio']:8.2f} x Numba's time   wrong: {row['wrong']}"
            )
        results.append({"format": name, "data": distribution, "contenders": rows})
    packages = ["fp16sim", "numpy", "numba", "ml_dtypes", "torch", "gfloat", "pychop", "qtorch"]
    write("rounding", packages, values=N, runs=RUNS, results=results)


if __name__ == "__main__":
    main()
