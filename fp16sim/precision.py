"""Which primitive runs in which format: a policy is data, and ``autocast`` puts one in force.

The classes follow torch.amp's CUDA lists (PyTorch 2.13, ATen/autocast_mode.h): matrix products in
the low format, where a Tensor Core is fast and accumulates in fp32; losses, sums and exponentials
in fp32, where range or many roundings would hurt; everything else in the format of its inputs.

=====================  ============================  ==============================================
class                  PyTorch's list                what a primitive of it runs in
=====================  ============================  ==============================================
"low"                  lower_precision_fp            the low format
"wide"                 fp32                          the wide format, fp32 unless told otherwise
"wide unless given"    fp32_set_opt_dtype            the same, unless its caller names a format
"widest"               promote                       the widest format of its inputs
=====================  ============================  ==============================================

What is not listed runs in the format of its inputs, and if they differ, in the widest. In PyTorch
such an operation may raise an error instead; here it is as if it were in the list "promote", of
which we have no operation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ContextDecorator
from contextvars import ContextVar
from dataclasses import dataclass, field
from types import MappingProxyType, TracebackType
from typing import Any, NamedTuple

from fp16sim.accumulate import Accumulator, AccumulatorLike, MatrixUnit, accumulator_of, multiplier
from fp16sim.arguments import one_of
from fp16sim.backend import Array, carried
from fp16sim.formats import FP32, FP64, Format, FormatLike, format_of, widest
from fp16sim.kernels import product
from fp16sim.recipes import Recipe

#: what a primitive's class can be
CLASSES = ("low", "wide", "wide unless given", "widest")

#: a primitive's class under autocast; those not named here run in the widest of their inputs
AUTOCAST_CLASSES: Mapping[str, str] = MappingProxyType(
    {
        "matmul": "low",
        "linear": "low",
        "scaled_linear": "low",
        "unit_linear": "low",  # PyTorch has none; two products and multiplications there
        "conv2d": "low",
        "conv_transpose2d": "low",
        "scaled_dot_product_attention": "low",
        "power": "wide",
        "exp": "wide",
        "log": "wide",
        "softplus": "wide",
        "sum": "wide unless given",
        "logsumexp": "wide",
        "softmax": "wide unless given",
        "log_softmax": "wide unless given",
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
    """Which primitive runs in which format.

    low, wide: the formats of the classes "low" and "wide".
    accumulator: how matrix products in ``low`` add; None: in the carrier, by BLAS.
    recipe: how ``F.linear`` quantizes its operands to 8 bits; None: not at all.
    cache_enabled: whether a weight's cast to ``low`` is kept for its next use.
    classes: classes by names of primitives; one of ``CLASSES`` each.
    whole: classes do not matter. A model sees its inputs (float tensors in any format, fp64 as
        well) and its weights in ``low``, every primitive runs in the format of its inputs, and the
        model's outputs are cast to ``wide``: jmp's, Keras's and apex's way to say it.
    """

    low: Format
    wide: Format = FP32
    accumulator: Accumulator | MatrixUnit | None = None
    classes: Mapping[str, str] = field(default_factory=lambda: AUTOCAST_CLASSES)
    recipe: Recipe | None = None
    cache_enabled: bool = True
    whole: bool = False

    def __post_init__(self) -> None:
        for name in ("low", "wide"):
            object.__setattr__(self, name, format_of(getattr(self, name), name))
        for name, kind in self.classes.items():
            one_of(f"classes[{name!r}]", kind, CLASSES)
        if not isinstance(self.recipe, Recipe | None):
            raise TypeError(f"recipe must be one of fs.recipes or None, got {self.recipe!r}")

    def format_for(self, primitive: str, inputs: list[Format]) -> Format:
        """The format a primitive computes and stores in; fp64 is never narrowed, as in PyTorch."""
        if not self.whole and FP64 not in inputs:
            match self.classes.get(primitive):
                case "low":
                    return self.low
                case "wide" | "wide unless given":
                    return self.wide
        return widest(inputs)


#: the policies of all regions entered and not left, the innermost last; None for a disabled one
regions: ContextVar[tuple[Policy | None, ...]] = ContextVar("regions", default=(None,))


class KeptCast(NamedTuple):
    """A weight's cast to the low format, for its next use in the region."""

    weight: Any
    #: the weight's array when it was cast: if it has another one now, it was moved
    values: Array
    result: Any


#: casts by the weight's id and the format, since the outermost region was entered; None outside
kept_casts: ContextVar[dict[tuple[int, Format], KeptCast] | None] = ContextVar(
    "kept_casts", default=None
)


def policy_in_force() -> Policy | None:
    """The innermost region's policy; None outside of all, and in disabled ones."""
    return regions.get()[-1]


def format_for(primitive: str, inputs: list[Format]) -> Format:
    """What the policy in force says; without one, the widest input format."""
    policy = policy_in_force()
    return widest(inputs) if policy is None else policy.format_for(primitive, inputs)


def casts_of_weights(own: Format, fmt: Format) -> dict[tuple[int, Format], KeptCast] | None:
    """Where a weight's cast from ``own`` to ``fmt`` is kept; None if it is not.

    As in PyTorch, only casts from fp32 (here: or the policy's wide format) to the low one are.
    """
    policy = policy_in_force()
    if policy is None or not policy.cache_enabled:
        return None
    return kept_casts.get() if fmt == policy.low and own in (FP32, policy.wide) else None


def multiplier_for(fmt: Format) -> Callable[[Array, Array], Array]:
    """How a primitive that runs in ``fmt`` multiplies matrices, as the policy in force says."""
    policy = policy_in_force()
    if policy is None or policy.accumulator is None or fmt != policy.low:
        return product
    adds = multiplier(policy.accumulator, fmt)
    return lambda x, y: adds(carried(x), carried(y))


def recipe_for(primitive: str, inputs: list[Format]) -> Recipe | None:
    """How a product of these is quantized to 8 bits; None if it is not: as none in fp64 is."""
    policy = policy_in_force()
    if policy is None or policy.recipe is None:
        return None
    return policy.recipe if policy.format_for(primitive, inputs) == policy.low else None


class autocast(ContextDecorator):  # noqa: N801 - PyTorch's name
    """Run the forward pass inside the block in mixed precision; also works as a decorator.

    Weights stay in their own format; matrix products see them cast to ``fmt``, and since a cast is
    a primitive whose backward casts the gradient back, fp32 weights get fp32 gradients that have
    been through ``fmt``. Call ``backward()`` outside: it uses the formats the forward chose.

    As in PyTorch, an fp32 weight (a leaf that requires a gradient) is cast once for all its uses,
    until the outermost region is left; so the gradients of its uses are added in ``fmt``, before
    the one cast back. Unlike PyTorch, it is cast anew if it was given other values since
    (``p.data = ...``, as optimisers do; values changed in place are not noticed), if the nested
    region has another format, and if only a cast made under ``no_grad`` is there, through which no
    gradient would come.

    fp64 is never narrowed, as in PyTorch. Beware: NumPy makes float64 arrays unless told
    otherwise, and a layer that meets one computes in fp64. Holds for the thread that entered it.

    fmt: the low format (FP16, BF16, ...) or its name. enabled=False switches an outer one off.
    accumulator: how matrix products in the low format add, in the forward pass and in the two
        products of its backward: a name, a ``Format``, an ``Accumulator``, or a matrix unit such
        as ``fs.tensorcore.H100`` (see ``fs.matmul``). None: in fp32, by BLAS.
    wide: the format of what would suffer in the low one: losses, norms, exponentials, sums.
    cache_enabled: False casts a weight once for every use; its gradients are added in its own
        format then.
    recipe: one of ``fs.recipes``: ``F.linear``, and so ``nn.Linear`` and attention's projections,
        quantizes its operands to 8 bits. Not together with an accumulator.

    Raises ValueError for unknown formats and for combinations that cannot be, TypeError for others.
    """

    def __init__(
        self,
        fmt: FormatLike = "fp16",
        enabled: bool = True,
        accumulator: AccumulatorLike | None = None,
        *,
        wide: FormatLike = "fp32",
        cache_enabled: bool = True,
        recipe: Recipe | None = None,
    ) -> None:
        fmt, wide = format_of(fmt), format_of(wide, "wide")
        adds = None if accumulator is None else accumulator_of(accumulator)
        if isinstance(adds, MatrixUnit) and not adds.takes(fmt):
            raise ValueError(f"fmt={fmt} is not a format that {adds} takes")
        for name, switch in (("enabled", enabled), ("cache_enabled", cache_enabled)):
            if not isinstance(switch, bool):
                raise TypeError(f"{name} must be True or False, got {switch!r}")
        if not isinstance(recipe, Recipe | None):
            raise TypeError(f"recipe must be one of fs.recipes or None, got {recipe!r}")
        if recipe is not None and adds is not None:
            raise ValueError("accumulator and recipe are both given; allowed is one of them")
        policy = Policy(fmt, wide, adds, recipe=recipe, cache_enabled=cache_enabled)
        self._policy = policy if enabled else None

    @classmethod
    def of(cls, policy: Policy | None) -> autocast:
        """A region with a policy of your own; None for a disabled one."""
        if not isinstance(policy, Policy | None):
            raise TypeError(f"policy must be a Policy or None, got {policy!r}")
        region = cls(enabled=False)
        region._policy = policy
        return region

    @property
    def recipe(self) -> Recipe | None:
        """The recipe, whose state a checkpoint must hold."""
        return None if self._policy is None else self._policy.recipe

    def __enter__(self) -> autocast:
        outer = regions.get()
        if len(outer) == 1:
            kept_casts.set({})
        recipe = self.recipe
        if recipe is not None and not any(p is not None and p.recipe is recipe for p in outer):
            recipe.roll()
        regions.set((*outer, self._policy))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        outer = regions.get()[:-1]
        regions.set(outer)
        if len(outer) == 1:
            (kept_casts.get() or {}).clear()  # a copy of this context may have it as well
            kept_casts.set(None)
