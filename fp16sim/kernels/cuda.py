"""CUDA text to kernels for the GPU at hand, by NVIDIA's runtime compiler, which CuPy brings.

CuPy's own RawKernel and RawModule compile everything with -ftz=true, and nothing can be said
against it: numbers that are subnormal in fp32 would become zeros, and all subnormal ones of bf16
with them. Here they stay.
"""

from __future__ import annotations

from functools import cache
from typing import Any

#: No product is fused with a sum: the bits are those of NumPy's order of operations.
OPTIONS = ("-std=c++17", "--fmad=false", "--ftz=false")


@cache
def kernel(code: str, name: str) -> Any:
    """A kernel of this text, to be called with grid, block and arguments; compiled once.

    Raises RuntimeError with the compiler's words for text that it does not accept.
    """
    return _module(code).get_function(name)


@cache
def _module(code: str) -> Any:
    import cupy

    nvrtc, module = cupy.cuda.nvrtc, cupy.cuda.function.Module()
    own, known = int(cupy.cuda.Device().compute_capability), nvrtc.getSupportedArchs()
    program = nvrtc.createProgram(code, "fp16sim.cu", (), ())
    try:
        if own in known:
            nvrtc.compileProgram(program, (*OPTIONS, f"-arch=sm_{own}"))
            module.load(nvrtc.getCUBIN(program))
        else:  # a GPU that is newer than the compiler: the driver translates for it
            newest = max((arch for arch in known if arch < own), default=0)
            if not newest:
                raise RuntimeError(
                    f"NVRTC has no code for this GPU's compute capability, {own}; it knows {known}"
                )
            nvrtc.compileProgram(program, (*OPTIONS, f"-arch=compute_{newest}"))
            module.load(nvrtc.getPTX(program))
    except nvrtc.NVRTCError as error:
        raise RuntimeError(f"{error}: {nvrtc.getProgramLog(program)}") from error
    finally:
        nvrtc.destroyProgram(program)
    return module
