"""Linear maps, attention, normalisations."""

from __future__ import annotations

import math
from collections.abc import Sequence

from numpy.typing import ArrayLike

from fp16sim.arguments import integer, real
from fp16sim.autograd.ops import fused, norms, scaled
from fp16sim.autograd.primitive import check_devices
from fp16sim.autograd.tensor import Tensor
from fp16sim.backend import Array, carried
from fp16sim.events import Origin, current_scope
from fp16sim.functional.checks import (
    booleans,
    optional,
    per_channel,
    sizes,
    switch,
    tensor,
    with_axes,
)
from fp16sim.precision import recipe_for
from fp16sim.rounding import store


def linear(
    input: Tensor, weight: Tensor, bias: Tensor | None = None, unit_scaled: bool = False
) -> Tensor:
    """x Wᵀ + b, accumulated in the carrier and rounded once.

    input: (..., in). weight: (out, in). bias: (out,) or None. Returns (..., out).
    In an ``autocast`` region with a recipe the operands are quantized to 8 bits; see ``recipes``.

    unit_scaled: x Wᵀ / √in + b, and backward the gradient of x is multiplied by 1/√out and those of
    W and b by 1/√rows, where rows is the number of vectors in x: all have variance 1 where x, W and
    the gradient of the result have. No quantization. Source: Blake, Orr and Luschi, "Unit
    Scaling", ICML 2023, arXiv 2303.11257; see ``nn.Linear``.
    """
    x, w = tensor(input, "input"), with_axes(weight, "weight", 2, "(out, in)")
    if x.ndim < 1 or x.shape[-1] != w.shape[1]:
        raise ValueError(f"input has shape {x.shape}; allowed is (..., {w.shape[1]})")
    given = optional(bias=bias)
    if given and given[0].shape != w.shape[:1]:
        raise ValueError(f"bias has shape {given[0].shape}; allowed is {w.shape[:1]}")
    if switch("unit_scaled", unit_scaled):
        return fused.unit_linear(x, w, *given)
    recipe = recipe_for("scaled_linear", [part.fmt for part in (x, w, *given)])
    if recipe is not None:
        return scaled.scaled_linear(x, w, *given, recipe=recipe)
    return fused.linear(x, w, *given)


def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: ArrayLike | None = None,
    is_causal: bool = False,
    scale: float | None = None,
) -> Tensor:
    """softmax(q kᵀ · scale) v, as one primitive: scores stay in fp32, as in a fused GPU kernel.

    query: (..., length, width). key: (..., others, width). value: (..., others, width of values);
    the leading axes are the same. attn_mask: booleans that broadcast to (..., length, others),
    False where a key may not be seen. is_causal: key j is seen by queries from j on; not with a
    mask. scale: 1/√width if None. The probabilities are rounded to the format of the result before
    they meet the values. A query that may see nothing gives NaN, as in PyTorch.

    Source: Vaswani et al., "Attention is all you need" (2017), eq. 1; one rounding of the
    probabilities as in Dao et al., "FlashAttention" (2022).
    """
    q, k, v = tensor(query, "query"), tensor(key, "key"), tensor(value, "value")
    if q.ndim < 2 or k.shape != (*q.shape[:-2], *k.shape[-2:-1], q.shape[-1]):
        raise ValueError(f"key has shape {k.shape}; query's is {q.shape}: (..., length, width)")
    if v.shape[:-1] != k.shape[:-1]:
        raise ValueError(f"value has shape {v.shape}; allowed is {k.shape[:-1]} and a width")
    if not k.shape[-2] or not q.shape[-1]:
        raise ValueError(f"key has shape {k.shape}; it needs at least one key of width 1")
    allowed: Array | None = None
    if attn_mask is not None:
        allowed = booleans(attn_mask, "attn_mask", q)
        wanted = (*q.shape[:-1], k.shape[-2])
        sizes_fit = all(
            a in (1, w) for a, w in zip(allowed.shape[::-1], wanted[::-1], strict=False)
        )
        if allowed.ndim > len(wanted) or not sizes_fit:
            raise ValueError(f"attn_mask of shape {allowed.shape} does not broadcast to {wanted}")
    if switch("is_causal", is_causal) and allowed is not None:
        raise ValueError("attn_mask and is_causal=True are both given; allowed is one of them")
    factor = 1 / math.sqrt(q.shape[-1]) if scale is None else real("scale", scale)
    return fused.scaled_dot_product_attention(
        q, k, v, allowed=allowed, is_causal=is_causal, scale=factor
    )


def layer_norm(
    input: Tensor,
    normalized_shape: int | Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """(x - mean) / √(var + eps) · weight + bias over the last axes, which have normalized_shape.

    One primitive: statistics in the carrier's precision, one rounding. weight and bias have
    normalized_shape. Source: Ba, Kiros and Hinton, "Layer Normalization", arXiv 1607.06450.
    """
    x, axes = _last_axes(input, normalized_shape, weight=weight, bias=bias)
    if bias is not None and weight is None:
        raise ValueError("bias without weight is not supported; give a weight of ones")
    given = optional(weight=weight, bias=bias)
    return norms.layer_norm(x, *given, axes=axes, eps=real("eps", eps, at_least=0))


def rms_norm(
    input: Tensor,
    normalized_shape: int | Sequence[int],
    weight: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """x / √(mean(x²) + eps) · weight over the last axes, which have normalized_shape.

    One primitive, as ``layer_norm``. Source: Zhang and Sennrich, "Root Mean Square Layer
    Normalization", arXiv 1910.07467. (PyTorch's eps is the dtype's; this one is a number.)
    """
    x, axes = _last_axes(input, normalized_shape, weight=weight)
    given = optional(weight=weight)
    return norms.rms_norm(x, *given, axes=axes, eps=real("eps", eps, at_least=0))


def _last_axes(
    value: object, normalized_shape: int | Sequence[int], **parameters: Tensor | None
) -> tuple[Tensor, tuple[int, ...]]:
    x = tensor(value, "input")
    given = sizes("normalized_shape", normalized_shape)
    if not given or x.shape[-len(given) :] != given:
        raise ValueError(
            f"normalized_shape={normalized_shape!r} must be the last sizes of input's {x.shape}"
        )
    for name, parameter in parameters.items():
        if parameter is not None and tensor(parameter, name).shape != given:
            raise ValueError(f"{name} has shape {parameter.shape}; allowed is {given}")
    return x, tuple(range(-len(given), 0))


def group_norm(
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Normalises x (N, channels, ...) over groups of channels; weight and bias are (channels,).

    One primitive, as ``layer_norm``. Source: Wu and He, "Group Normalization", arXiv 1803.08494.
    """
    x = _channels(input)
    groups = integer("num_groups", num_groups, at_least=1)
    if x.shape[1] % groups:
        raise ValueError(f"num_groups={groups} does not divide input's {x.shape[1]} channels")
    given = per_channel(x.shape[1], weight=weight, bias=bias)
    return norms.group_norm(x, *given, groups=groups, eps=real("eps", eps, at_least=0))


def batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Normalises each channel of x (N, channels, ...), with the batch's statistics if training.

    running_mean, running_var: (channels,); moved by ``momentum`` towards the batch's mean and
    unbiased variance while training, and used otherwise. The result has the input's format;
    statistics, weight and bias keep their own, as on a GPU. One rounding.

    Source: Ioffe and Szegedy, "Batch Normalization", arXiv 1502.03167.
    """
    x = _channels(input)
    given = per_channel(x.shape[1], weight=weight, bias=bias)
    running = per_channel(x.shape[1], running_mean=running_mean, running_var=running_var)
    check_devices("input and running statistics", x.data, *(one.data for one in running))
    if len(running) == 1:
        raise ValueError("running_mean and running_var must be given both, or neither")
    rate, eps = real("momentum", momentum, at_least=0), real("eps", eps, at_least=0)
    if not switch("training", training):
        if len(running) < 2:
            raise ValueError("running_mean and running_var are needed unless training=True")
        fixed = tuple(carried(one.data) for one in running)
        return norms.batch_norm(x, *given, eps=eps, fixed=fixed)
    count = x.size // x.shape[1]
    if count < 2:
        raise ValueError(f"input has shape {x.shape}; training needs two values for each channel")

    def tell(mean: Array, variance: Array) -> None:
        batch = (mean, variance * (count / (count - 1)))
        for kept, new in zip(running, batch, strict=False):  # none, or both
            origin = Origin(current_scope(), "batch_norm", "buffer")
            moved = (1 - rate) * carried(kept.data) + rate * new
            kept.data = store(moved, kept.fmt, origin, (kept.data, x.data))

    return norms.batch_norm(x, *given, eps=eps, tell=tell)


def _channels(value: object) -> Tensor:
    x = tensor(value, "input")
    if x.ndim < 2 or not x.size:
        raise ValueError(f"input has shape {x.shape}; allowed is (N, channels, ...), not empty")
    return x
