"""Which primitive runs in which format: a policy is data, and ``autocast`` puts one in force.

The classes follow torch.amp's CUDA lists (PyTorch 2.13, ATen/autocast_mode.h): matrix products in
the low format, where a Tensor Core is fast and accumulates in fp32; losses, sums and exponentials
in fp32, where range or many roundings would hurt; everything else in the format of its inputs.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from contextlib import ContextDecorator
from contextvars import ContextVar
from dataclasses import dataclass, field
from types import MappingProxyType, TracebackType

from fp16sim.accumulate import Accumulator, AccumulatorLike, MatrixUnit, accumulator_of, multiplier
from fp16sim.backend import Array
from fp16sim.formats import FP32, FP64, Format, FormatLike, format_of, widest

#: a primitive's class under autocast; those not named here run in the widest of their inputs
AUTOCAST_CLASSES: Mapping[str, str] = MappingProxyType(
    {
        "matmul": "low",
        "linear": "low",
        "conv2d": "low",
        "conv_transpose2d": "low",
        "scaled_dot_product_attention": "low",
        "power": "wide",
        "exp": "wide",
        "log": "wide",
        "softplus": "wide",
        "sum": "wide",
        "logsumexp": "wide",
        "softmax": "wide",
        "log_softmax": "wide",
        "layer_norm": "wide",
        "rms_norm": "wide",
        "group_norm": "wide",
        "mse_loss": "wide",
        "l1_loss": "wide",
        "huber_loss": "wide",
        "binary_cross_entropy_with_logits": "wide",
        "nll_loss": "wide",
        "cross_entropy": "wide",
        "dice_loss": "wide",  # PyTorch has none; composed of sums there
        "upsample_nearest2d": "wide",
        "upsample_bilinear2d": "wide",
    }
)


@dataclass(frozen=True)
class Policy:
    """Formats for primitives: ``low`` for the class "low", ``wide`` for the class "wide".

    accumulator: how matrix products in ``low`` add; None: in the carrier, by BLAS.
    """

    low: Format
    wide: Format = FP32
    accumulator: Accumulator | MatrixUnit | None = None
    classes: Mapping[str, str] = field(default_factory=lambda: AUTOCAST_CLASSES)

    def format_for(self, primitive: str, inputs: list[Format]) -> Format:
        """The format a primitive computes and stores in; fp64 is never narrowed, as in PyTorch."""
        if FP64 not in inputs:
            match self.classes.get(primitive):
                case "low":
                    return self.low
                case "wide":
                    return self.wide
        return widest(inputs)


#: the policies of all regions entered and not left, the innermost last; None for a disabled one
regions: ContextVar[tuple[Policy | None, ...]] = ContextVar("regions", default=(None,))


def format_for(primitive: str, inputs: list[Format]) -> Format:
    """What the policy in force says; without one, the widest input format."""
    policy = regions.get()[-1]
    return widest(inputs) if policy is None else policy.format_for(primitive, inputs)


def multiplier_for(fmt: Format) -> Callable[[Array, Array], Array]:
    """How a primitive that runs in ``fmt`` multiplies matrices, as the policy in force says."""
    policy = regions.get()[-1]
    if policy is None or policy.accumulator is None or fmt != policy.low:
        return operator.matmul
    return multiplier(policy.accumulator, fmt)


class autocast(ContextDecorator):  # noqa: N801 - PyTorch's name
    """Run the forward pass inside the block in mixed precision; also works as a decorator.

    Weights stay in their own format; matrix products see them cast to ``fmt``, and since a cast is
    a primitive whose backward casts the gradient back, fp32 weights get fp32 gradients that have
    been through ``fmt``. Call ``backward()`` outside: it uses the formats the forward chose.

    fp64 is never narrowed, as in PyTorch. Beware: NumPy makes float64 arrays unless told
    otherwise, and a layer that meets one computes in fp64. Unlike PyTorch, a weight that is used
    twice is cast twice, and its gradients are added in the weight's own format. Holds for the
    thread that entered it.

    fmt: the low format (FP16, BF16, ...) or its name. enabled=False switches an outer one off.
    accumulator: how matrix products in the low format add, in the forward pass and in the two
        products of its backward: a name, a ``Format``, an ``Accumulator``, or a matrix unit such
        as ``fs.tensorcore.H100`` (see ``fs.matmul``). None: in fp32, by BLAS.
    """

    def __init__(
        self,
        fmt: FormatLike = "fp16",
        enabled: bool = True,
        accumulator: AccumulatorLike | None = None,
    ) -> None:
        fmt = format_of(fmt)
        adds = None if accumulator is None else accumulator_of(accumulator)
        if isinstance(adds, MatrixUnit) and not adds.takes(fmt):
            raise ValueError(f"fmt={fmt} is not a format that {adds} takes")
        self._policy = Policy(fmt, accumulator=adds) if enabled else None

    def __enter__(self) -> autocast:
        regions.set((*regions.get(), self._policy))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        regions.set(regions.get()[:-1])
