"""SGD, Adam, AdamW and Lion: what each subtracts from a weight."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import ClassVar, Unpack

import numpy as np

from fp16sim.arguments import real
from fp16sim.autograd import Tensor
from fp16sim.backend import Array, namespace_of
from fp16sim.optim.moments import Moments
from fp16sim.optim.optimizer import Optimizer, Storage


class SGD(Optimizer):
    """Gradient descent: w -= lr·b with b = momentum·b + g, as in PyTorch (b starts as g).

    momentum: finite and >= 0. nesterov: w -= lr·(g + momentum·b) instead; needs momentum.
    weight_decay: finite and >= 0; its product with the weight is added to the gradient.
    storage: see ``Optimizer``. Raises ValueError for anything else, or for a bad lr.
    """

    _settings: ClassVar[tuple[str, ...]] = ("lr", "momentum", "nesterov", "weight_decay")
    _state_names: ClassVar[tuple[str, ...]] = ("momentum",)

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 1e-3,
        momentum: float = 0.0,
        *,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        **storage: Unpack[Storage],
    ) -> None:
        super().__init__(params, lr, **storage)
        self.momentum = momentum
        self.nesterov = nesterov
        self.weight_decay = weight_decay
        self._check_settings()

    def _check_settings(self) -> None:
        super()._check_settings()
        self.momentum = real("momentum", self.momentum, at_least=0)
        self.weight_decay = real("weight_decay", self.weight_decay, at_least=0)
        if not isinstance(self.nesterov, bool | np.bool_):
            raise TypeError(f"nesterov must be True or False, got {self.nesterov!r}")
        self.nesterov = bool(self.nesterov)
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov=True is not allowed with momentum=0: it looks ahead along b")

    def _used_names(self) -> tuple[str, ...]:
        return self._state_names if self.momentum else ()

    def _update(self, weight: Array, gradient: Array, moments: Moments) -> Array:
        gradient = _decayed(gradient, weight, self.weight_decay)
        direction = gradient
        if self.momentum and moments.fresh:
            direction = moments.put("momentum", gradient)
        elif self.momentum:
            direction = moments.advance("momentum", self.momentum, gradient)
        if self.nesterov:
            ahead = self.momentum * direction
            ahead += gradient
            direction = ahead
        return self.lr * direction


class Adam(Optimizer):
    """Adam (Kingma and Ba 2015, algorithm 1), with eps added after the bias correction as there.

    betas: two numbers from 0 to below 1. eps: finite and >= 0. weight_decay: finite and >= 0; its
    product with the weight is added to the gradient, as in PyTorch (``AdamW`` decays the weight).
    storage: see ``Optimizer``. Raises ValueError for others. With fp32 moments eps counts; with
    state_fmt="fp16" squares of gradients below about 2^-12 vanish, and eps divides alone.
    """

    _settings: ClassVar[tuple[str, ...]] = ("lr", "betas", "eps", "weight_decay")
    _state_names: ClassVar[tuple[str, ...]] = ("step", "m", "v")

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        *,
        weight_decay: float = 0.0,
        **storage: Unpack[Storage],
    ) -> None:
        super().__init__(params, lr, **storage)
        self.betas = betas
        self.eps = eps
        self.weight_decay = weight_decay
        self._check_settings()

    def _check_settings(self) -> None:
        super()._check_settings()
        self.betas = _checked_betas(self.betas)
        self.eps = real("eps", self.eps, at_least=0)
        self.weight_decay = real("weight_decay", self.weight_decay, at_least=0)

    def _update(self, weight: Array, gradient: Array, moments: Moments) -> Array:
        return self._direction(_decayed(gradient, weight, self.weight_decay), moments)

    def _direction(self, gradient: Array, moments: Moments) -> Array:
        """lr·m̂/(√v̂ + eps); the order of operations is that of the figures in the README."""
        beta1, beta2 = self.betas
        xp = namespace_of(gradient)
        work = (1 - beta1) * gradient
        m = moments.advance("m", beta1, work)
        xp.multiply(gradient, gradient, out=work)
        work *= 1 - beta2
        v = moments.advance("v", beta2, work)
        xp.sqrt(v, out=work)
        work /= math.sqrt(1 - beta2**moments.step)
        work += self.eps
        xp.divide(m, work, out=work)
        work *= self.lr / (1 - beta1**moments.step)
        return work


class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019): w -= lr·weight_decay·w too.

    Decay and step are one update, so the weight is rounded once. The rest is as in ``Adam``.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        *,
        weight_decay: float = 1e-2,
        **storage: Unpack[Storage],
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay=weight_decay, **storage)

    def _update(self, weight: Array, gradient: Array, moments: Moments) -> Array:
        direction = self._direction(gradient, moments)
        if self.weight_decay:
            direction += (self.lr * self.weight_decay) * weight
        return direction


class Lion(Optimizer):
    """Lion (Chen et al. 2023, "Symbolic Discovery of Optimization Algorithms", algorithm 2).

    w -= lr·(sign(beta1·m + (1-beta1)·g) + weight_decay·w), then m = beta2·m + (1-beta2)·g.

    betas: two numbers from 0 to below 1. weight_decay: finite and >= 0, decoupled. storage: see
    ``Optimizer``. Raises ValueError for others.
    """

    _settings: ClassVar[tuple[str, ...]] = ("lr", "betas", "weight_decay")
    _state_names: ClassVar[tuple[str, ...]] = ("m",)

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        *,
        weight_decay: float = 0.0,
        **storage: Unpack[Storage],
    ) -> None:
        super().__init__(params, lr, **storage)
        self.betas = betas
        self.weight_decay = weight_decay
        self._check_settings()

    def _check_settings(self) -> None:
        super()._check_settings()
        self.betas = _checked_betas(self.betas)
        self.weight_decay = real("weight_decay", self.weight_decay, at_least=0)

    def _update(self, weight: Array, gradient: Array, moments: Moments) -> Array:
        beta1, beta2 = self.betas
        direction = beta1 * moments.read("m")
        direction += (1 - beta1) * gradient
        namespace_of(direction).sign(direction, out=direction)
        if self.weight_decay:
            direction += self.weight_decay * weight
        direction *= self.lr
        moments.advance("m", beta2, (1 - beta2) * gradient)
        return direction


def _decayed(gradient: Array, weight: Array, weight_decay: float) -> Array:
    """The gradient of the loss with weight_decay/2·|w|² added to it."""
    if not weight_decay:
        return gradient
    decayed = weight_decay * weight
    decayed += gradient
    return decayed


def _checked_betas(betas: object) -> tuple[float, float]:
    if not isinstance(betas, tuple | list) or len(betas) != 2:
        raise TypeError(f"betas must be two numbers, got {betas!r}")
    beta1, beta2 = (real("betas", beta, at_least=0, below=1) for beta in betas)
    return beta1, beta2
