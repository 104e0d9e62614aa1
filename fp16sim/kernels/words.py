"""What compiled kernels are made of: operations on words, and the bits of floats.

Numba widens every operation on uint32 to 64 bits, which halves the speed of vector code; these
keep the width of their operands.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic


def _operation(name: str) -> Any:
    @intrinsic
    def operation(context: Any, a: Any, b: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return getattr(builder, name)(*arguments)

        return a(a, a), code

    return operation


add, sub, and_, or_ = (_operation(name) for name in ("add", "sub", "and_", "or_"))
shl, shr = _operation("shl"), _operation("lshr")


@intrinsic
def less(context: Any, a: Any, b: Any) -> Any:
    """Whether a < b, both without sign."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.icmp_unsigned("<", *arguments)

    return types.boolean(a, a), code


@intrinsic
def where(context: Any, condition: Any, a: Any, b: Any) -> Any:
    """a or b, without a branch."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.select(*arguments)

    return a(condition, a, a), code


@intrinsic
def through_adder(context: Any, word: Any, constant: Any) -> Any:
    """The bits of (word + constant) - constant, both taken as floating-point numbers."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        real, whole = (
            (ir.FloatType(), ir.IntType(32))
            if signature.return_type == types.uint32
            else (ir.DoubleType(), ir.IntType(64))
        )
        x, c = (builder.bitcast(argument, real) for argument in arguments)
        return builder.bitcast(builder.fsub(builder.fadd(x, c), c), whole)

    return word(word, word), code


@njit(inline="always")
def larger(a: Any, b: Any) -> Any:
    """The larger of two words."""
    return where(less(a, b), b, a)


@njit(inline="always")
def smaller(a: Any, b: Any) -> Any:
    """The smaller of two words."""
    return where(less(b, a), b, a)


def compiled(kernel: Callable[..., Any]) -> Any:
    """The function as machine code, made at its first call and kept on disk."""
    return njit(cache=True, nogil=True, error_model="numpy", boundscheck=False)(kernel)


def compiled_to_sum(kernel: Callable[..., Any]) -> Any:
    """The same, where sums may be taken in any order: several at a time."""
    options = {"cache": True, "nogil": True, "error_model": "numpy", "boundscheck": False}
    return njit(fastmath={"reassoc"}, **options)(kernel)


@intrinsic
def word_of(context: Any, x: Any) -> Any:
    """The bits of a float."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], context.get_value_type(signature.return_type))

    return (types.uint32 if x == types.float32 else types.uint64)(x), code


@intrinsic
def float_of(context: Any, x: Any) -> Any:
    """The float that bits stand for."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], context.get_value_type(signature.return_type))

    return (types.float32 if x == types.uint32 else types.float64)(x), code


@intrinsic
def truncated(context: Any, x: Any) -> Any:
    """The integer next to a float64 toward zero, as a float64."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        function = builder.module.declare_intrinsic("llvm.trunc", [ir.DoubleType()])
        return builder.call(function, arguments)

    return types.float64(types.float64), code
