"""What ``fp16sim bench`` does not measure on an NVIDIA GPU: rounding, functions, Tensor Cores.

*Rounding*: values a second, beside copying them. *Functions*: of every fp16 number, by CuPy (which
computes in float and rounds) and by CUDA's own half functions: how many results are not the
correctly rounded one, and by how many ulps. *Products* by cuBLAS, from fp16 to fp32: how many are
those of the model of this GPU's Tensor Cores, which adds along K in one chain, and how many the
exact ones rounded.

    python benchmarks/on_a_gpu.py [--small]        # wants the extra gpu; --small only tries it out,
    without CUDA's half functions, so that a software GPU will do
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import cupy
import numpy as np

import fp16sim as fs
from fp16sim.bench.clock import time_in_turns
from fp16sim.bench.device import describe
from fp16sim.bench.record import default_folder
from fp16sim.files import write_whole
from fp16sim.kernels import product
from fp16sim.rounding import MODES

SMALL = "--small" in sys.argv
FORMATS = (fs.FP16, fs.BF16, fs.E4M3, fs.E5M2)
#: of which architecture the Tensor Cores of a compute capability are
ARCHITECTURES = {
    "70": "V100",
    "80": "A100",
    "86": "A100",
    "89": "L40S",
    "90": "H100",
    "100": "B200",
}

#: of CUDA Math API, "Half Math Functions"
HALF = {
    "exp": "hexp", "exp2": "hexp2", "log": "hlog", "log2": "hlog2", "sin": "hsin", "cos": "hcos",
    "sqrt": "hsqrt", "rsqrt": "hrsqrt", "tanh": "htanh",
}  # fmt: skip
KERNEL = r"""
#include <cuda_fp16.h>
extern "C" __global__ void map(const __half* x, __half* y, int n) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = FUNCTION(x[i]);
}
"""


def rounding() -> list[dict[str, Any]]:
    """Seconds of rounding float32 values, and of copying them."""
    size = 2**16 if SMALL else 2**28
    x = cupy.asarray(np.random.default_rng(0).standard_normal(2**16, np.float32))
    x = cupy.tile(x, size // x.size)
    contenders: dict[str, Callable[[], object]] = {"copy": x.copy}
    for fmt in FORMATS:
        contenders[str(fmt.name)] = lambda fmt=fmt: fs.round_to(x, fmt)
    for mode in MODES:
        if mode not in ("ties_to_even", "stochastic"):  # its random numbers come from the host
            contenders[f"fp16, {mode}"] = lambda mode=mode: fs.round_to(x, "fp16", mode)
    timings = time_in_turns(contenders, "cuda", calls=1 if SMALL else 3)
    base = timings["copy"].median
    return [
        {"what": name, "values": size, **asdict(timing), "ratio": timing.median / base}
        for name, timing in timings.items()
    ]


def functions() -> list[dict[str, Any]]:
    """Of every fp16 number how many results are wrong, and the largest error in ulps."""
    x = np.arange(2**16, dtype=np.uint16).view(np.float16)
    wide, rows = x.astype(np.float32), []
    for name, half in HALF.items():
        with np.errstate(all="ignore"):
            right = getattr(fs.arith, name)(wide, "fp16").astype(np.float16)
        for who, result in (("CuPy", _by_cupy(name, x)), ("CUDA", _by_half(half, x))):
            if result is None:
                continue
            distance = np.abs(_place(result) - _place(right))
            distance[np.isnan(result) & np.isnan(right)] = 0
            rows.append({"function": name, "by": who, "wrong": int(np.count_nonzero(distance)),
                         "of": x.size, "ulps": int(distance.max())})  # fmt: skip
    return rows


def _place(x: np.ndarray) -> np.ndarray:
    """A number's place among all fp16 numbers, zero being one; NaNs are beyond infinity."""
    words = x.view(np.uint16).astype(np.int64)
    return np.where(words >> 15, -(words & 0x7FFF), words)


def _by_cupy(name: str, x: np.ndarray) -> np.ndarray | None:
    if name == "rsqrt":
        return None
    return cupy.asnumpy(getattr(cupy, name)(cupy.asarray(x)))


def _by_half(function: str, x: np.ndarray) -> np.ndarray | None:
    if SMALL:
        return None
    on_gpu = cupy.asarray(x)
    out = cupy.empty_like(on_gpu)
    try:
        kernel = cupy.RawKernel(KERNEL.replace("FUNCTION", function), "map")
        kernel((x.size // 256,), (256,), (on_gpu, out, np.int32(x.size)))
    except cupy.cuda.compiler.CompileException as error:
        print(f"{function}: {str(error).splitlines()[0]}", file=sys.stderr)
        return None  # htanh is new in CUDA 12.8
    return cupy.asnumpy(out)


def products() -> list[dict[str, Any]]:
    """Of products by cuBLAS how many are the model's, and how many the exact ones rounded."""
    arch = ARCHITECTURES.get(cupy.cuda.Device().compute_capability)
    if arch is None:
        print("products: no model of this GPU's Tensor Cores", file=sys.stderr)
        return []
    rng, rows = np.random.default_rng(0), []
    for n in (32,) if SMALL else (64, 256):
        for k in (16, 64) if SMALL else (16, 32, 64, 256, 1024, 4096):
            a, b = (rng.standard_normal(shape).astype(np.float16) for shape in ((n, k), (k, n)))
            got = cupy.asnumpy(product(cupy.asarray(a), cupy.asarray(b)))
            wide = a.astype(np.float32), b.astype(np.float32)
            model = fs.tensorcore.matmul(*wide, np.zeros((n, n), np.float32), arch=arch)
            exact = (a.astype(np.float64) @ b.astype(np.float64)).astype(np.float32)
            same = {name: float((got == x).mean()) for name, x in
                    (("model", model), ("exact", exact))}  # fmt: skip
            rows.append({"n": n, "k": k, "arch": arch, "share": same})
    return rows


def main() -> None:
    """Measure, print, write kernels.json beside the results of ``fp16sim bench``."""
    date, device = datetime.now(UTC).strftime("%Y-%m-%d"), describe("cuda")
    found = {"rounding": rounding(), "functions": functions(), "products": products()}
    for title, rows in found.items():
        print(title)
        for row in rows:
            print("  ", ", ".join(f"{name} {value}" for name, value in row.items()))
    if SMALL:
        return
    folder = Path(__file__).parents[1] / default_folder(device, date)
    folder.mkdir(parents=True, exist_ok=True)
    document = {"benchmark": "on_a_gpu", "date": date, "device": asdict(device), **found}
    write_whole(folder / "kernels.json", (json.dumps(document, indent=1) + "\n").encode())
    print(f"written: {folder / 'kernels.json'}", file=sys.stderr)


if __name__ == "__main__":
    main()
