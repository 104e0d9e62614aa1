"""Losses: one primitive each, rounded once; fp32 under autocast.

reduction: "mean" (over elements or targets), "sum", or "none".
"""

from __future__ import annotations

from numpy.typing import ArrayLike

from fp16sim.arguments import integer, one_of, real
from fp16sim.autograd.ops import losses
from fp16sim.autograd.ops.losses import REDUCTIONS
from fp16sim.autograd.tensor import Operand, Tensor
from fp16sim.backend import Array
from fp16sim.functional.checks import integers, same_shape, tensor


def mse_loss(input: Tensor, target: Operand, reduction: str = "mean") -> Tensor:
    """(x - target)²; input and target have the same shape (no broadcasting)."""
    one_of("reduction", reduction, REDUCTIONS)
    return losses.mse_loss(*same_shape(input, target), reduction=reduction)


def l1_loss(input: Tensor, target: Operand, reduction: str = "mean") -> Tensor:
    """|x - target|; input and target have the same shape (no broadcasting)."""
    one_of("reduction", reduction, REDUCTIONS)
    return losses.l1_loss(*same_shape(input, target), reduction=reduction)


def huber_loss(
    input: Tensor, target: Operand, reduction: str = "mean", delta: float = 1.0
) -> Tensor:
    """d²/2 where d = |x - target| is at most delta, else delta·(d - delta/2).

    Source: Huber, "Robust estimation of a location parameter" (1964). With delta = 1 it is
    PyTorch's smooth_l1_loss, too.
    """
    one_of("reduction", reduction, REDUCTIONS)
    d = real("delta", delta, above=0)
    return losses.huber_loss(*same_shape(input, target), delta=d, reduction=reduction)


def binary_cross_entropy_with_logits(
    input: Tensor, target: Operand, reduction: str = "mean", pos_weight: float = 1.0
) -> Tensor:
    """-(pos_weight·t·log σ(x) + (1-t)·log(1-σ(x))) of logits x and targets t from 0 to 1.

    pos_weight: one number (PyTorch's may be one for each class).
    """
    one_of("reduction", reduction, REDUCTIONS)
    weight = real("pos_weight", pos_weight, at_least=0)
    x, t = same_shape(input, target)
    return losses.binary_cross_entropy_with_logits(x, t, reduction=reduction, pos_weight=weight)


def nll_loss(
    input: Tensor, target: ArrayLike, *, ignore_index: int = -100, reduction: str = "mean"
) -> Tensor:
    """-x[target] for log probabilities x (N, classes, ...) and integer targets (N, ...).

    Targets equal to ignore_index count for nothing; the mean is over the others.
    """
    one_of("reduction", reduction, REDUCTIONS)
    x, labels = _classes(input, target, ignore_index)
    return losses.nll_loss(x, target=labels, ignored=ignore_index, reduction=reduction)


def cross_entropy(
    input: Tensor,
    target: ArrayLike,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """-log softmax(x)[target] for logits x (N, classes, ...) and integer targets (N, ...).

    Targets equal to ignore_index count for nothing; the mean is over the others. label_smoothing:
    the share of the target's probability that is spread over all classes.
    """
    one_of("reduction", reduction, REDUCTIONS)
    x, labels = _classes(input, target, ignore_index)
    smoothing = real("label_smoothing", label_smoothing, at_least=0, at_most=1)
    return losses.cross_entropy(
        x, target=labels, ignored=ignore_index, smoothing=smoothing, reduction=reduction
    )


def _classes(value: object, target: ArrayLike, ignored: int) -> tuple[Tensor, Array]:
    x = tensor(value, "input")
    if x.ndim < 2 or not x.shape[1]:
        raise ValueError(f"input has shape {x.shape}; allowed is (N, classes, ...)")
    integer("ignore_index", ignored, at_least=-(2**63), at_most=2**63 - 1)
    labels = integers(target, "target", x, x.shape[1], also=ignored)
    wanted = x.shape[:1] + x.shape[2:]
    if labels.shape != wanted:
        raise ValueError(f"target has shape {labels.shape}; allowed is {wanted}")
    return x, labels


def dice_loss(input: Tensor, target: Operand, eps: float = 1.0) -> Tensor:
    """1 - mean over classes of (2Σpt + eps) / (Σp + Σt + eps), sums over images and pixels.

    input, target: probabilities (N, classes, ...) of the same shape. eps keeps an empty class
    from dividing zero by zero. Source: Milletari, Navab and Ahmadi, "V-Net" (2016), eq. 1, with
    plain instead of squared sums below.
    """
    x, t = same_shape(input, target)
    if x.ndim < 2 or not x.shape[1]:
        raise ValueError(f"input has shape {x.shape}; allowed is (N, classes, ...)")
    return losses.dice_loss(x, t, eps=real("eps", eps, at_least=0))
