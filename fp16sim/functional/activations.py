"""Functions of each element, and softmax.

Values are correctly rounded in formats of up to 11 bits of precision (fp16, bf16, tf32, fp8, ...);
in fp32 they are the carrier's, within some units in the last place.
"""

from __future__ import annotations

from fp16sim.arguments import one_of
from fp16sim.autograd.ops import elementwise, functions, fused
from fp16sim.autograd.tensor import Tensor, given_format
from fp16sim.formats import FormatLike
from fp16sim.functional.checks import axis_of, tensor


def relu(input: Tensor) -> Tensor:
    """max(x, 0), each element; exact in every format."""
    return elementwise.relu(tensor(input, "input"))


def sigmoid(input: Tensor) -> Tensor:
    """1 / (1 + e^-x), each element."""
    return functions.sigmoid(tensor(input, "input"))


def tanh(input: Tensor) -> Tensor:
    """Hyperbolic tangent, each element."""
    return functions.tanh(tensor(input, "input"))


def gelu(input: Tensor, approximate: str = "none") -> Tensor:
    """x Φ(x), each element, with Φ of the normal distribution; as one primitive, rounded once.

    approximate: "none", or "tanh" for x (1 + tanh(√(2/π) (x + 0.044715 x³))) / 2.
    Source: Hendrycks and Gimpel, "Gaussian Error Linear Units", arXiv 1606.08415 (2016).
    """
    one_of("approximate", approximate, ("none", "tanh"))
    return functions.gelu(tensor(input, "input"), approximate=approximate)


def silu(input: Tensor) -> Tensor:
    """x / (1 + e^-x), each element. Source: Hendrycks and Gimpel (2016), as for ``gelu``."""
    return functions.silu(tensor(input, "input"))


def softplus(input: Tensor) -> Tensor:
    """log(1 + e^x), each element; fp32 under autocast."""
    return functions.softplus(tensor(input, "input"))


def softmax(input: Tensor, axis: int = -1, fmt: FormatLike | None = None) -> Tensor:
    """e^x / Σ e^x along an axis: inside in the carrier's precision, rounded once.

    fmt: the format (PyTorch's dtype) that the input is cast to first, and that the result has, in
    ``autocast`` as well; None: the input's, and fp32 in ``autocast``.
    """
    return fused.softmax(axis_of(input, axis), axis=axis, fmt=given_format(fmt))


def log_softmax(input: Tensor, axis: int = -1, fmt: FormatLike | None = None) -> Tensor:
    """x - log Σ e^x along an axis: inside in the carrier's precision, rounded once.

    fmt: as for ``softmax``.
    """
    return fused.log_softmax(axis_of(input, axis), axis=axis, fmt=given_format(fmt))
