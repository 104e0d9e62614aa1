"""The text of the fused kernels through NVIDIA's compiler: needs NVRTC, but neither GPU nor driver.

NVRTC is looked for where CuPy's and NVIDIA's wheels put it, and where the system's loader looks.
"""

import ctypes
import itertools
import sys
from pathlib import Path

import pytest

from fp16sim.kernels import cuda
from fp16sim.kernels.fused import elementwise, norms, rows, source, steps, sums, windows

TYPES = list(source.STORAGE)
PAIRS = [{"T": t, "W": w} for t, w in itertools.product(TYPES, TYPES) if w in (t, "float32")]
FOUR = (source.PACK, source.at_once(4), source.PLANES)
SOFTMAX = (rows.SOFTMAX, rows.CROSS_ENTROPY)

#: every module that launchers can make: its parts, and what types it is made for
MODULES = {
    **{
        f"elementwise {name}": ((source.PACK, elementwise.kernels(name)), [{"T": t} for t in TYPES])
        for name in elementwise.FUNCTIONS
    },
    "add": ((source.PACK, elementwise.ADD), [{"T": t} for t in TYPES]),
    "cast": (
        (source.PACK, elementwise.CAST),
        [{"T": t, "S": s} for t, s in itertools.product(TYPES, TYPES)],
    ),
    "softmax": ((source.ROWS, *SOFTMAX), [{"T": t} for t in TYPES]),
    "softmax, apart": ((source.APART, *SOFTMAX), [{"T": t} for t in TYPES]),
    "attention": ((source.ROWS, rows.ATTENTION), [{"T": t} for t in TYPES]),
    "layer and group norm": ((source.ROWS, *FOUR, norms.kernels(True)), PAIRS),
    "batch norm": ((source.ROWS, *FOUR, norms.kernels(True), norms.BATCH), PAIRS),
    "rms norm": ((source.ROWS, *FOUR, norms.kernels(False)), PAIRS),
    "sums": ((sums.COLUMNS, sums.FOLD), [{"T": t} for t in TYPES]),
    "windows": ((*FOUR, windows.WINDOWS), [{"T": t} for t in TYPES]),
    "steps": ((steps.kernels(),), [{"G": t} for t in TYPES[:2]]),
}


def libraries():
    for folder in map(Path, sys.path):
        yield from sorted(folder.glob("nvidia/*/lib/libnvrtc.so.*"))
    yield from ("libnvrtc.so", "libnvrtc.so.13", "libnvrtc.so.12")


@pytest.fixture(scope="module")
def nvrtc():
    for library in libraries():
        try:
            return ctypes.CDLL(str(library))
        except OSError:
            continue
    pytest.skip("no NVRTC")


def architectures(nvrtc):
    count = ctypes.c_int()
    assert nvrtc.nvrtcGetNumSupportedArchs(ctypes.byref(count)) == 0
    found = (ctypes.c_int * count.value)()
    assert nvrtc.nvrtcGetSupportedArchs(found) == 0
    return list(found)


def compiled(nvrtc, code, architecture):
    """Whether the code compiles to a GPU's own instructions, and what the compiler says."""
    program = ctypes.c_void_p()
    create = nvrtc.nvrtcCreateProgram(
        ctypes.byref(program), code.encode(), b"fused.cu", 0, None, None
    )
    assert create == 0
    options = [*cuda.OPTIONS, f"-arch=sm_{architecture}"]
    array = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
    status = nvrtc.nvrtcCompileProgram(program, len(options), array)
    size = ctypes.c_size_t()
    nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    nvrtc.nvrtcGetProgramLog(program, log)
    binary = ctypes.c_size_t()
    if status == 0:
        assert nvrtc.nvrtcGetCUBINSize(program, ctypes.byref(binary)) == 0
    nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
    said = [line for line in log.value.decode().splitlines() if "Architectures prior" not in line]
    return binary.value > 0, "\n".join(said)


@pytest.mark.parametrize("architecture", [75, 80, 90])
@pytest.mark.parametrize("name", MODULES)
def test_it_compiles(nvrtc, name, architecture):
    if architecture not in architectures(nvrtc):
        pytest.skip(f"this NVRTC does not know sm_{architecture}")
    parts, choices = MODULES[name]
    for types in choices:
        done, log = compiled(nvrtc, source.code(*parts, **types), architecture)
        assert done, f"{types}: {log}"
        assert not log.strip(), f"{types}: {log}"


def test_what_is_wrong_does_not_compile(nvrtc):
    done, log = compiled(
        nvrtc, source.code(*FOUR, windows.WINDOWS, T="float16") + "void f(T) { no; }", 80
    )
    assert not done
    assert "no" in log
