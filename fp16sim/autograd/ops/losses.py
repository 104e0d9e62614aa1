"""Losses: single primitives. Inside they keep the carrier's precision; the result is rounded."""

from __future__ import annotations

from typing import Any

from fp16sim.autograd.primitive import primitive
from fp16sim.backend import Array, namespace_of
from fp16sim.kernels import plain

#: how a loss is reduced, as in PyTorch
REDUCTIONS = ("mean", "sum", "none")


def _reduced(losses: Array, reduction: str) -> tuple[Array, Any]:
    """The loss, and what each element's derivative is multiplied by."""
    if reduction == "none":
        return losses, 1.0
    if reduction == "sum":
        return losses.sum(), 1.0
    count = losses.dtype.type(losses.size)
    return losses.sum() / count, 1 / count  # of nothing: 0 / 0 = NaN


@primitive
def mse_loss(x: Array, target: Array, *, reduction: str) -> Any:
    """(x - target)², averaged over all elements."""
    difference = x - target
    loss, weight = _reduced(difference * difference, reduction)
    return loss, (difference, weight)


@mse_loss.backward
def _(g: Array, difference: Array, weight: Any) -> Any:
    gradient = (2 * weight) * g * difference
    return gradient, lambda: -gradient


@primitive
def l1_loss(x: Array, target: Array, *, reduction: str) -> Any:
    """|x - target|, averaged over all elements; derivative 0 where they are equal."""
    xp, difference = namespace_of(x), x - target
    loss, weight = _reduced(xp.abs(difference), reduction)
    return loss, (xp.sign(difference), weight)


@l1_loss.backward
def _(g: Array, sign: Array, weight: Any) -> Any:
    gradient = weight * g * sign
    return gradient, lambda: -gradient


@primitive
def huber_loss(x: Array, target: Array, *, delta: float, reduction: str) -> Any:
    """d²/2 for d = |x - target| up to delta, and delta·(d - delta/2) beyond."""
    xp, difference = namespace_of(x), x - target
    size, d = xp.abs(difference), x.dtype.type(delta)
    losses = xp.where(size <= d, difference * difference / 2, d * (size - d / 2))
    loss, weight = _reduced(losses, reduction)
    return loss, (xp.clip(difference, -d, d), weight)


@huber_loss.backward
def _(g: Array, slope: Array, weight: Any) -> Any:
    gradient = weight * g * slope
    return gradient, lambda: -gradient


@primitive
def binary_cross_entropy_with_logits(
    x: Array, target: Array, *, reduction: str, pos_weight: float
) -> Any:
    """-(p·t·log σ(x) + (1-t)·log(1-σ(x))), from the logit x, so that nothing overflows."""
    # log σ(x) = -softplus(-x), and log(1 - σ(x)) = -softplus(x): no digits cancel.
    losses = (1 - target) * plain.evaluate("softplus", x)
    losses += pos_weight * target * plain.evaluate("softplus", -x)
    loss, weight = _reduced(losses, reduction)
    return loss, (x, target, pos_weight, weight)


@binary_cross_entropy_with_logits.backward
def _(g: Array, x: Array, target: Array, pos_weight: float, weight: Any) -> Any:
    scale = weight * g

    def of_input() -> Array:
        up = (1 - target) * plain.evaluate("sigmoid", x)
        down = pos_weight * target * plain.evaluate("sigmoid", -x)
        slope: Array = scale * (up - down)
        return slope

    def of_target() -> Array:
        positive, negative = plain.evaluate("softplus", -x), plain.evaluate("softplus", x)
        slope: Array = scale * (pos_weight * positive - negative)
        return slope

    return of_input, of_target


# Class scores (N, classes, ...) and integer targets (N, ...): classes are on axis 1, as in PyTorch.


def _counting(target: Array, ignored: int, like: Array, reduction: str) -> tuple[Array, Any, Any]:
    """Which targets count, as 1 and 0; these over what the sum is divided by; and that divisor."""
    counts = (target != ignored).astype(like.dtype)
    divisor = counts.sum() if reduction == "mean" else like.dtype.type(1)
    return counts, counts / divisor, divisor  # none counts: 0 / 0 = NaN, as in PyTorch


def _picked(scores: Array, target: Array) -> Array:
    """Each target's score: (N, classes, ...) and (N, ...) give (N, ...)."""
    xp = namespace_of(scores)
    picked: Array = xp.take_along_axis(scores, xp.expand_dims(target, 1), 1).squeeze(1)
    return picked


def _one_hot(target: Array, classes: int, like: Array) -> Array:
    xp = namespace_of(like)
    shape = (1, classes) + (1,) * (target.ndim - 1)
    rows = xp.arange(classes, dtype=target.dtype).reshape(shape)
    marks: Array = (xp.expand_dims(target, 1) == rows).astype(like.dtype)
    return marks


@primitive
def nll_loss(log_probabilities: Array, *, target: Array, ignored: int, reduction: str) -> Any:
    """-log p[target], averaged over the targets that count."""
    counts, weight, divisor = _counting(target, ignored, log_probabilities, reduction)
    safe = target * (target != ignored)
    xp = namespace_of(log_probabilities)
    losses = xp.where(counts != 0, -_picked(log_probabilities, safe), counts)
    value = losses if reduction == "none" else losses.sum() / divisor
    return value, (safe, weight, log_probabilities.shape[1])


@nll_loss.backward
def _(g: Array, target: Array, weight: Array, classes: int) -> Any:
    xp = namespace_of(g)
    marks = _one_hot(target, classes, g) != 0
    return (xp.where(marks, -xp.expand_dims(weight * g, 1), g.dtype.type(0)),)


@primitive
def cross_entropy(
    logits: Array, *, target: Array, ignored: int, smoothing: float, reduction: str
) -> Any:
    """-Σ q log softmax(logits), with q the target's one-hot vector, smoothed."""
    xp = namespace_of(logits)
    counts, weight, divisor = _counting(target, ignored, logits, reduction)
    safe = target * (target != ignored)
    log_softmax = logits - logits.max(axis=1, keepdims=True)
    log_softmax -= xp.log(xp.exp(log_softmax).sum(axis=1, keepdims=True))
    losses = -_picked(log_softmax, safe)
    if smoothing:
        losses = (1 - smoothing) * losses - smoothing * log_softmax.mean(axis=1)
    losses = xp.where(counts != 0, losses, losses.dtype.type(0))  # what is ignored may be infinite
    value = losses if reduction == "none" else losses.sum() / divisor
    return value, (log_softmax, safe, weight, smoothing)


@cross_entropy.backward
def _(g: Array, log_softmax: Array, target: Array, weight: Array, smoothing: float) -> Any:
    xp, classes = namespace_of(g), log_softmax.shape[1]
    gradient = xp.exp(log_softmax)
    if smoothing:
        gradient -= smoothing / classes
    index = xp.expand_dims(target, 1)
    right = xp.take_along_axis(gradient, index, 1) - (1 - smoothing)
    xp.put_along_axis(gradient, index, right, 1)
    gradient *= xp.expand_dims(weight * g, 1)
    return (gradient,)


@primitive
def dice_loss(p: Array, target: Array, *, eps: float) -> Any:
    """1 - mean over classes of (2Σpt + eps) / (Σp + Σt + eps); sums over all but axis 1."""
    axes = (0, *range(2, p.ndim))
    overlap = 2 * (p * target).sum(axis=axes, keepdims=True) + eps
    total = p.sum(axis=axes, keepdims=True) + target.sum(axis=axes, keepdims=True) + eps
    return 1 - (overlap / total).mean(), (p, target, overlap, total)


@dice_loss.backward
def _(g: Array, p: Array, target: Array, overlap: Array, total: Array) -> Any:
    scale = -g / (overlap.size * total)
    share = overlap / total
    return lambda: scale * (2 * target - share), lambda: scale * (2 * p - share)
