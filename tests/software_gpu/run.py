"""Runs a command on a software GPU: ``python tests/software_gpu/run.py [--reverse] COMMAND...``

CuPy and NVIDIA's compiler are the real ones; what they would ask of the CUDA runtime, the driver
and cuBLAS is done by the libraries made here. In the command, and in all that it starts,
``sitecustomize.py`` leads CuPy to them.

--reverse: threads take turns in the other order. What they compute must not depend on it.

SOFTWARE_GPU_CACHE names the folder for the libraries, and for kernels once they are translated; in
it, each state of these sources has a folder of its own. With SOFTWARE_GPU_LOG every launch is told.
"""

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path

HERE = Path(__file__).parent
#: what the patches and the layout of the stand-ins were written for
VERSIONS = {"cupy-cuda13x": "14.2.0", "nvidia-cuda-nvrtc": "13.", "nvidia-cuda-runtime": "13."}
FLAGS = ("-std=c++17", "-O2", "-Wall", "-shared", "-fPIC", "-fvisibility=hidden")


def missing():
    """What is not as it must be here, in a line, or nothing."""
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        return "the software GPU needs Linux on x86-64"
    for program in ("g++", "nm"):
        if not shutil.which(program):
            return f"the software GPU needs {program}"
    for name, version in VERSIONS.items():
        try:
            found = metadata.version(name)
        except metadata.PackageNotFoundError:
            found = "none"
        if not found.startswith(version):
            return (
                f"the software GPU needs {name} {version.rstrip('.')}, found {found}: "
                "pip install 'fp16sim[software-gpu]'"
            )
    return ""


def file_of(package, pattern):
    """The one file of an installed package that fits a pattern."""
    (found,) = (one for one in metadata.files(package) if one.match(pattern))
    return Path(found.locate())


def cache_folder():
    """Where these sources' libraries are, or will be."""
    digest = hashlib.sha256()
    for path in sorted(HERE.rglob("*")):
        if path.suffix in (".py", ".h", ".cpp"):
            digest.update(path.read_bytes())
    for name in VERSIONS:
        digest.update(metadata.version(name).encode())
    digest.update(sys.implementation.cache_tag.encode())  # CuPy has libraries for each Python
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    root = os.environ.get("SOFTWARE_GPU_CACHE") or default / "fp16sim-software-gpu"
    return Path(root).absolute() / digest.hexdigest()[:16]


def symbols(path, kinds, *options):
    """The names in a library that are of these kinds of nm's, with their addresses."""
    command = ["nm", *options, path]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    rows = (line.split() for line in text.splitlines())
    named = (row for row in rows if len(row) > 1 and row[-2] in kinds)
    return {row[-1].partition("@")[0]: row[0] for row in named}


def compiled(folder, name, *sources):
    """A library from sources, in a folder; its functions have its name as their version."""
    include = file_of("nvidia-cuda-runtime", "driver_types.h").parent
    subprocess.run(
        ["g++", *FLAGS, f"-I{HERE}", f"-I{include}", f"-Wl,-soname,{name},--default-symver",
         "-o", folder / name, *sources],
        check=True,
    )  # fmt: skip


def build(folder):
    """The libraries, and the addresses of the runtime's functions in CuPy's own."""
    compiled(folder, "libsoftware_gpu.so", HERE / "runtime.cpp", HERE / "driver.cpp")
    linked = symbols(file_of("cupy-cuda13x", "libs/cublas.*.so"), "U", "-D")
    text = (HERE / "cublas.cpp").read_text()
    nobody_calls = [name for name in linked if name.startswith("cublas") and f"{name}(" not in text]
    stubs = folder / "stubs.cpp"
    stubs.write_text(
        '#include "words.h"\nEXPORT void gpu_missing(const char* name);\n'
        + "".join(f'EXPORT void {name}() {{ gpu_missing("{name}"); }}\n' for name in nobody_calls)
    )
    gpu = folder / "libsoftware_gpu.so"
    compiled(folder, "libcublas.so.13", HERE / "cublas.cpp", stubs, gpu)
    compiled(folder, "libcublasLt.so.13", gpu)  # is loaded too, but nothing of it is called
    runtime = symbols(file_of("cupy-cuda13x", "api/runtime.*.so"), "tT")
    (folder / "runtime_functions").write_text(
        "".join(
            f"{name} {address}\n"
            for name, address in runtime.items()
            if name.startswith("cuda") or name == "PyInit_runtime"
        )
    )
    (folder / "kernels").mkdir()


def built():
    """The folder with all that is built, which others may be building at the same time."""
    folder = cache_folder()
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
            whole = Path(temporary) / "whole"
            whole.mkdir()
            build(whole)
            try:
                whole.rename(folder)
            except OSError:
                if not folder.exists():
                    raise
    return folder


def main(arguments):
    reverse = arguments[:1] == ["--reverse"]
    command = arguments[reverse:]
    if not command:
        sys.exit(__doc__.splitlines()[0])
    if what := missing():
        sys.exit(what)
    folder = built()
    paths = [str(HERE), os.environ.get("PYTHONPATH", "")]
    os.environ.update(
        SOFTWARE_GPU=str(folder),
        PYTHONPATH=os.pathsep.join(filter(None, paths)),
        CUPY_CACHE_DIR=str(folder / "cupy"),
        CUPY_ACCELERATORS="",  # CUB's kernels are compiled into CuPy, for GPUs alone
    )
    if reverse:
        os.environ["SOFTWARE_GPU_REVERSE"] = "1"
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1:])
