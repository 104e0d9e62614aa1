"""Python imports this when it starts, if ``run.py`` says so: gives CuPy the software GPU.

CuPy finds the driver by the name of its library, is linked with cuBLAS, and contains the runtime:
the driver's name is led elsewhere, cuBLAS is loaded before, and over each function of the runtime
a jump is written.
"""

import ctypes
import hashlib
import mmap
import os
import struct
import subprocess
import tempfile
import types
from pathlib import Path

#: what kernels are compiled with; nothing is fused that was not, and integers wrap around
FLAGS = (
    "-std=c++17", "-O1", "-w", "-ffp-contract=off", "-fwrapv", "-fvisibility=hidden", "-shared",
    "-fPIC",
)  # fmt: skip


def lead_driver_to(library):
    """Only CuPy's own search: NVIDIA's compiler must not find this one."""
    from cupy_backends.cuda import _softlink

    def load(name, *arguments, **options):
        if name == "libcuda.so.1":
            return library
        return ctypes.CDLL(name, *arguments, **options)

    _softlink.ctypes = types.SimpleNamespace(CDLL=load, addressof=ctypes.addressof)


def jump(function, argument=None):
    """Machine code that goes to a function, perhaps with its first argument."""
    code = b"" if argument is None else b"\x48\xbf" + struct.pack("<Q", argument)  # mov rdi
    return code + b"\x48\xb8" + struct.pack("<Q", function) + b"\xff\xe0"  # mov rax; jmp rax


def address_of(function):
    return ctypes.cast(function, ctypes.c_void_p).value


#: of functions that are not modelled, for as long as the process runs
names = []


def lead_runtime_to(library, table):
    """table: the names of functions in CuPy's own library, and where they are from its start."""
    from cupy_backends.cuda.api import runtime

    rows = (line.split() for line in table.read_text().splitlines())
    offsets = {name: int(offset, 16) for name, offset in rows}
    known = "PyInit_runtime"
    start = address_of(getattr(ctypes.CDLL(runtime.__file__), known)) - offsets.pop(known)
    first = (start + min(offsets.values())) & -mmap.PAGESIZE
    size = start + max(offsets.values()) + 64 - first
    everything = mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC
    mprotect = ctypes.CDLL(None, use_errno=True).mprotect
    if mprotect(ctypes.c_void_p(first), ctypes.c_size_t(size), everything):
        raise OSError(ctypes.get_errno(), "mprotect")
    for name, offset in offsets.items():
        function = getattr(library, f"software_{name}", None)
        if function:
            code = jump(address_of(function))
        else:
            names.append(ctypes.create_string_buffer(name.encode()))
            code = jump(address_of(library.gpu_missing), ctypes.addressof(names[-1]))
        ctypes.memmove(start + offset, code, len(code))


def library_of(text, folder):
    """The path of the library that PTX becomes; it is made once."""
    kept = folder / "kernels" / f"{hashlib.sha256(text).hexdigest()}.so"
    if not kept.exists():
        from ptx import cpp

        with tempfile.TemporaryDirectory(dir=folder) as temporary:
            source = Path(temporary) / "kernels.cpp"
            source.write_text(cpp(text.decode()))
            made = source.with_suffix(".so")
            here = Path(__file__).parent
            gpu = folder / "libsoftware_gpu.so"
            command = ["g++", *FLAGS, f"-I{here}", "-o", made, source, gpu]
            subprocess.run(command, check=True)
            made.rename(kept)
    return kept


def lead_compiler_to_host(folder):
    """What is compiled for this GPU becomes the path of a library, which the driver takes."""
    from cupy_backends.cuda.libs import nvrtc

    ptx = nvrtc.getPTX
    nvrtc.getCUBIN = lambda program: os.fsencode(library_of(ptx(program).rstrip(b"\0"), folder))


def main(folder):
    gpu = ctypes.CDLL(str(folder / "libsoftware_gpu.so"))
    for name in ("libcublasLt.so.13", "libcublas.so.13"):
        ctypes.CDLL(str(folder / name))
    lead_driver_to(gpu)
    lead_runtime_to(gpu, folder / "runtime_functions")
    lead_compiler_to_host(folder)


if "SOFTWARE_GPU" in os.environ:
    main(Path(os.environ["SOFTWARE_GPU"]))
