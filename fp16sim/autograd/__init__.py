"""Reverse-mode differentiation on arrays that live in a format."""

from fp16sim.autograd.check import check_gradients
from fp16sim.autograd.ops import on_gpu  # noqa: F401 - its kernels take their places
from fp16sim.autograd.primitive import primitive
from fp16sim.autograd.tape import no_grad
from fp16sim.autograd.tensor import Tensor

__all__ = ["Tensor", "check_gradients", "no_grad", "primitive"]
