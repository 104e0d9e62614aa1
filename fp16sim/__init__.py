"""fp16sim: see what half precision does to a neural network.

``import fp16sim as fs``; ``from fp16sim import plots`` for figures (which loads matplotlib).

Layers, from the bottom: formats and rounding, the autograd engine, networks and training, and on
top the instruments, experiments and the command line.
"""

import importlib
from typing import TYPE_CHECKING, Any

from fp16sim import (
    arith,
    checkpoint,
    compress,
    data,
    functional,
    metrics,
    models,
    nn,
    on_device,
    optim,
    presets,
    recipes,
    scaling,
    tensorcore,
    training,
)
from fp16sim.accumulate import Accumulator, dot, matmul, mean, sum
from fp16sim.autograd import Tensor, check_gradients, no_grad, primitive
from fp16sim.backend import storage
from fp16sim.blocks import (
    MXFP4,
    MXFP6_E2M3,
    MXFP6_E3M2,
    MXFP8_E4M3,
    MXFP8_E5M2,
    NVFP4,
    BlockFormat,
    decode_blocks,
    encode_blocks,
    round_blocks,
)
from fp16sim.formats import (
    BF16,
    E2M1,
    E2M3,
    E3M2,
    E4M3,
    E5M2,
    E8M0,
    FP16,
    FP32,
    FP64,
    TF32,
    Format,
)
from fp16sim.precision import autocast
from fp16sim.rounding import decode, encode, round_to
from fp16sim.scaling import GradScaler, NoScaler, StaticScaler
from fp16sim.status import status_flags
from fp16sim.xray import memory_report, watch

__version__ = "0.1.0"

if TYPE_CHECKING:
    from fp16sim import testing

__all__ = [
    "BF16",
    "E2M1",
    "E2M3",
    "E3M2",
    "E4M3",
    "E5M2",
    "E8M0",
    "FP16",
    "FP32",
    "FP64",
    "MXFP4",
    "MXFP6_E2M3",
    "MXFP6_E3M2",
    "MXFP8_E4M3",
    "MXFP8_E5M2",
    "NVFP4",
    "TF32",
    "Accumulator",
    "BlockFormat",
    "Format",
    "GradScaler",
    "NoScaler",
    "StaticScaler",
    "Tensor",
    "arith",
    "autocast",
    "check_gradients",
    "checkpoint",
    "compress",
    "data",
    "decode",
    "decode_blocks",
    "dot",
    "encode",
    "encode_blocks",
    "functional",
    "matmul",
    "mean",
    "memory_report",
    "metrics",
    "models",
    "nn",
    "no_grad",
    "on_device",
    "optim",
    "presets",
    "primitive",
    "recipes",
    "round_blocks",
    "round_to",
    "scaling",
    "status_flags",
    "storage",
    "sum",
    "tensorcore",
    "testing",
    "training",
    "watch",
]


def __getattr__(name: str) -> Any:
    """The conformance kit is loaded when it is asked for."""
    if name == "testing":
        return importlib.import_module("fp16sim.testing")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
