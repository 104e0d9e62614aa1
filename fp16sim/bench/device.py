"""What was measured on: the device in words and numbers, so that a figure means something later."""

from __future__ import annotations

import gc
import os
import platform
import re
import sys
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from fp16sim.arguments import one_of
from fp16sim.backend import DEVICES, to_device
from fp16sim.bench.energy import NoCounterError, handle

#: packages whose versions are told if they are installed
PACKAGES = ("fp16sim", "numpy", "numba", "cupy", "nvidia-ml-py", "torch")

#: variables of the environment that change times or results
SETTINGS = (
    "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "CUDA_VISIBLE_DEVICES",
    "CUPY_TF32", "CUPY_ACCELERATORS", "NVIDIA_TF32_OVERRIDE",
)  # fmt: skip


@dataclass(frozen=True)
class Device:
    """The device and the machine around it. An empty string or None: not known, or not there."""

    #: one of ``backend.DEVICES``
    kind: str
    #: as its maker calls it
    name: str
    #: bytes of its memory
    memory: int | None
    #: of NVIDIA; and CUDA's as the driver has it and as CuPy does
    driver: str
    cuda: str
    #: MHz, when this was asked, and at most
    clocks: dict[str, int]
    #: watts that it may take
    power_limit: float | None
    processor: str
    cores: int | None
    system: str
    python: str
    #: those of ``SETTINGS`` that are set
    environment: dict[str, str]
    #: by package
    versions: dict[str, str]


def missing(device: str) -> str:
    """Why a device cannot be used here; empty if it can."""
    try:
        to_device(np.zeros(1, np.float32), one_of("device", device, DEVICES))
    except (ImportError, RuntimeError) as error:
        return str(error)
    return ""


def host() -> dict[str, Any]:
    """Processor, cores, system and Python of the machine."""
    model = platform.processor()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = [line for line in info.read_text().splitlines() if "model name" in line]
        model = lines[0].split(":")[1].strip() if lines else model
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


def describe(device: str) -> Device:
    """All that is known of a device of this machine, "cpu" or "cuda"."""
    around = host() | {
        "environment": {name: os.environ[name] for name in SETTINGS if name in os.environ},
        "versions": _versions(PACKAGES),
    }
    if one_of("device", device, DEVICES) == "cpu":
        return Device(
            "cpu", around["processor"] or around["system"], _host_memory(), "", "", {}, None,
            **around,
        )  # fmt: skip
    import cupy

    around["versions"] |= _libraries(cupy)
    runtime = cupy.cuda.runtime
    properties = runtime.getDeviceProperties(cupy.cuda.Device().id)
    cuda = f"{_dotted(runtime.driverGetVersion())} (driver), {_dotted(runtime.runtimeGetVersion())}"
    told = _from_nvml()
    return Device(
        "cuda",
        properties["name"].decode(),
        int(properties["totalGlobalMem"]),
        told.get("driver", ""),
        cuda,
        told.get("clocks", {}),
        told.get("power_limit"),
        **around,
    )


def cache_bytes(device: str) -> int:
    """The size of its largest cache, as far as it says; 64 MiB if it does not."""
    size = 0
    if one_of("device", device, DEVICES) == "cuda":
        import cupy

        properties = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id)
        size = int(properties.get("l2CacheSize", 0))
    elif "SC_LEVEL3_CACHE_SIZE" in getattr(os, "sysconf_names", {}):
        with suppress(OSError, ValueError):
            size = os.sysconf("SC_LEVEL3_CACHE_SIZE")
    return size if size > 0 else 2**26


def free_bytes(device: str) -> int | None:
    """What is free of a GPU's memory; None on the host, which can page."""
    if one_of("device", device, DEVICES) == "cpu":
        return None
    import cupy

    return int(cupy.cuda.runtime.memGetInfo()[0])


def release(device: str) -> None:
    """Give back what pools keep of the device's memory, so that the next finds all of it."""
    gc.collect()
    if one_of("device", device, DEVICES) == "cuda":
        import cupy

        cupy.get_default_memory_pool().free_all_blocks()
        torch = sys.modules.get("torch")
        if torch is not None:
            torch.cuda.empty_cache()


def slug(name: str) -> str:
    """A device's name as a name of a folder: "nvidia-h200"."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "device"


def _from_nvml() -> dict[str, Any]:
    """What NVML tells; each thing that it does not tell is left out."""
    told: dict[str, Any] = {}
    with suppress(NoCounterError), handle() as (nvml, gpu):
        with suppress(nvml.NVMLError):
            driver = nvml.nvmlSystemGetDriverVersion()
            told["driver"] = driver.decode() if isinstance(driver, bytes) else driver
        told["clocks"] = {}
        for name, clock in (("sm", nvml.NVML_CLOCK_SM), ("memory", nvml.NVML_CLOCK_MEM)):
            with suppress(nvml.NVMLError):
                told["clocks"][name] = int(nvml.nvmlDeviceGetClockInfo(gpu, clock))
                told["clocks"][f"{name}, most"] = int(nvml.nvmlDeviceGetMaxClockInfo(gpu, clock))
        with suppress(nvml.NVMLError):
            told["power_limit"] = nvml.nvmlDeviceGetPowerManagementLimit(gpu) / 1e3
    return told


def _libraries(cupy: Any) -> dict[str, str]:
    found = {"cupy": str(cupy.__version__)}
    with suppress(AttributeError, ImportError, RuntimeError):
        handle = cupy.cuda.device.get_cublas_handle()
        found["cublas"] = str(cupy.cuda.cublas.getVersion(handle))
    return found


def _versions(packages: Iterable[str]) -> dict[str, str]:
    found = {}
    for package in packages:
        with suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def _host_memory() -> int | None:
    if "SC_PHYS_PAGES" not in getattr(os, "sysconf_names", {}):
        return None  # Windows
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _dotted(version: int) -> str:
    """CUDA's 13010 is 13.1."""
    return f"{version // 1000}.{version % 1000 // 10}"
