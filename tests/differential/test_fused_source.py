"""The text of the fused kernels, and their launchers, on the host: what the primitives give."""

import importlib
import sys

import host_cuda
import numpy as np
import pytest
from fused_checks import CHECKS, DTYPES, Lab, run

from fp16sim.kernels import cuda

LAUNCHERS = ("gpu", "normalise", "attention", "updates")


@pytest.fixture(scope="module")
def launchers():
    """The modules of launchers, with the host in the place of CuPy."""
    names = [f"fp16sim.kernels.fused.{name}" for name in LAUNCHERS]
    package = importlib.import_module("fp16sim.kernels.fused")
    kept = {name: sys.modules.pop(name, None) for name in ("cupy", *names)}
    sys.modules["cupy"] = host_cuda.stand_in()
    gpu, normalise, attention, updates = (importlib.import_module(name) for name in names)
    for name in LAUNCHERS:
        delattr(package, name)
    for name, module in kept.items():
        sys.modules.pop(name)
        if module is not None:
            sys.modules[name] = module

    def address(x):
        host_cuda.in_tables.append(x)
        return x.ctypes.data

    gpu.address = updates.address = address
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(cuda, "kernel", host_cuda.kernel)
        yield gpu, normalise, attention, updates


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CHECKS)
def test_what_the_primitives_give(launchers, name, dtype):
    host_cuda.in_tables.clear()
    run(name, Lab(*launchers, np.array, np.asarray, dtype))
