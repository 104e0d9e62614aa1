"""Optimisers. They compute in the carrier and round once, when the new weight is stored."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from fp16sim import events
from fp16sim.arguments import real
from fp16sim.autograd import Tensor
from fp16sim.backend import Array, carrier_of, namespace_of
from fp16sim.formats import FP32
from fp16sim.rounding import store


class Optimizer:
    """What all have in common: parameters, a learning rate, state, and where rounding happens.

    params: leaf tensors that require a gradient. lr: learning rate, finite and >= 0; may be
    changed between steps. Moments are kept in fp32 (fp64 for fp64 parameters).
    master_weights: for parameters in less than fp32, keep an fp32 copy that takes the updates; the
        parameter is that copy, rounded, after every step. Without it the update is added to the
        rounded weight, and is lost (swamped) if it is below half the weight's spacing.
    """

    def __init__(self, params: Iterable[Tensor], lr: float, master_weights: bool = False) -> None:
        try:
            self.params = list(params)
        except TypeError:
            raise TypeError(
                f"params must be an iterable of tensors, as model.parameters(); got {params!r}"
            ) from None
        if len({id(p) for p in self.params}) < len(self.params):
            raise ValueError("params has a tensor twice: it would be moved twice in a step")
        if not self.params:
            raise ValueError("params is empty: there is nothing to optimise")
        for position, p in enumerate(self.params):
            if not isinstance(p, Tensor):
                raise TypeError(f"params[{position}] must be a Tensor, got {type(p).__name__}")
            if not (p.is_leaf and p.requires_grad):
                raise ValueError(f"params[{position}] must be a leaf with requires_grad=True")
        self.lr = real("lr", lr, at_least=0)
        self.master_weights = master_weights
        self.state: list[dict[str, Any]] = [{} for _ in self.params]

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for p in self.params:
            p.grad = None

    def step(self) -> None:
        """Move every parameter that has a gradient."""
        self._check_settings()
        with np.errstate(all="ignore"):
            for p, state in zip(self.params, self.state, strict=True):
                if p.gradient is not None:
                    self._move(p, state, p.gradient)

    def _check_settings(self) -> None:
        """Settings may be changed between steps: make them finite Python numbers again, or raise.

        NumPy scalars would make float64 of the arrays they meet.
        """
        self.lr = real("lr", self.lr, at_least=0)

    def _move(self, p: Tensor, state: dict[str, Any], gradient: Array) -> None:
        keeps_master = self.master_weights and FP32.contains(p.fmt) and p.fmt != FP32
        if keeps_master and "master" not in state:
            state["master"] = p.data.astype(carrier_of(FP32))
        weight = state["master"] if keeps_master else p.data
        update = self._update(weight, gradient, state)
        moved = weight - update
        if keeps_master:
            state["master"] = moved
        new = store(moved, p.fmt, events.Origin("", "optimizer", "weight"))
        if events.observed():
            kept = moved if keeps_master else new
            events.announce(events.Updated(weight, kept, update, p))
        p.data = new

    def _update(self, weight: Array, gradient: Array, state: dict[str, Any]) -> Array:
        """What to subtract from the weight; every optimiser has its own."""
        raise NotImplementedError(f"{type(self).__name__} does not define an update")


class SGD(Optimizer):
    """Gradient descent: w -= lr·b with b = momentum·b + g, as in PyTorch (b starts as g).

    momentum: finite and >= 0. Raises ValueError for anything else, or for a bad lr.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 1e-3,
        momentum: float = 0.0,
        master_weights: bool = False,
    ) -> None:
        super().__init__(params, lr, master_weights)
        self.momentum = momentum
        self._check_settings()

    def _check_settings(self) -> None:
        super()._check_settings()
        self.momentum = real("momentum", self.momentum, at_least=0)

    def _update(self, weight: Array, gradient: Array, state: dict[str, Any]) -> Array:
        if self.momentum:
            previous = state.get("momentum")
            gradient = gradient if previous is None else self.momentum * previous + gradient
            state["momentum"] = gradient
        return self.lr * gradient


class Adam(Optimizer):
    """Adam (Kingma and Ba 2015, algorithm 1), with eps added after the bias correction as there.

    betas: two numbers from 0 to below 1. eps: finite and >= 0. Raises ValueError for others. With
    fp32 moments eps counts; stored in fp16, 1e-8 would be 0.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        master_weights: bool = False,
    ) -> None:
        super().__init__(params, lr, master_weights)
        self.betas = betas
        self.eps = eps
        self._check_settings()

    def _check_settings(self) -> None:
        super()._check_settings()
        if not isinstance(self.betas, tuple | list) or len(self.betas) != 2:
            raise TypeError(f"betas must be two numbers, got {self.betas!r}")
        beta1, beta2 = (real("betas", beta, at_least=0, below=1) for beta in self.betas)
        self.betas = (beta1, beta2)
        self.eps = real("eps", self.eps, at_least=0)

    def _update(self, weight: Array, gradient: Array, state: dict[str, Any]) -> Array:
        beta1, beta2 = self.betas
        if not state.get("step"):
            state |= {"step": 0, "m": np.zeros_like(weight), "v": np.zeros_like(weight)}
        state["step"] += 1
        state["m"] = beta1 * state["m"] + (1 - beta1) * gradient
        state["v"] = beta2 * state["v"] + (1 - beta2) * (gradient * gradient)
        correction1 = 1 - beta1 ** state["step"]
        correction2 = math.sqrt(1 - beta2 ** state["step"])
        denominator = namespace_of(weight).sqrt(state["v"]) / correction2 + self.eps
        update: Array = (self.lr / correction1) * (state["m"] / denominator)
        return update
