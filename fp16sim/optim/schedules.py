"""Schedules of the learning rate: a rule is a function from the step, 0 at first, to a factor."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias

from fp16sim import events
from fp16sim.arguments import integer, real
from fp16sim.optim.optimizer import Optimizer
from fp16sim.optim.saving import check_entries

#: what the learning rate of a step is multiplied by
Rule: TypeAlias = Callable[[int], float]


def constant() -> Rule:
    """Always 1."""
    return lambda step: 1.0


def linear(steps: int, start: float, final: float) -> Rule:
    """A straight line from ``start`` at step 0 to ``final`` at step ``steps``, and on from there.

    PyTorch's LinearLR(start_factor, end_factor, total_iters). steps: >= 1. start, final: finite
    and >= 0. Raises ValueError for others.
    """
    steps = integer("steps", steps, at_least=1)
    start, final = real("start", start, at_least=0), real("final", final, at_least=0)

    def rule(step: int) -> float:
        share = min(step / steps, 1.0)
        return start * (1 - share) + final * share

    return rule


def linear_warmup(steps: int) -> Rule:
    """1/steps, 2/steps, ... and 1 from the step ``steps - 1`` on; no step is lost with factor 0.

    steps: >= 0; 0 is no warm-up. Raises ValueError for less.
    """
    steps = integer("steps", steps, at_least=0)
    return lambda step: min((step + 1) / steps, 1.0) if steps else 1.0


def cosine(steps: int, warmup: int = 0, final: float = 0.0) -> Rule:
    """Half a cosine wave from 1 at step ``warmup`` to ``final`` at step ``steps`` and ever after.

    Before, ``linear_warmup(warmup)``. Source: Loshchilov and Hutter, "SGDR", ICLR 2017, equation 5,
    without restarts; PyTorch's CosineAnnealingLR(T_max=steps) up to its end.

    steps: >= 1. warmup: from 0 to steps - 1. final: finite and >= 0. Raises ValueError for others.
    """
    steps = integer("steps", steps, at_least=1)
    warmup = integer("warmup", warmup, at_least=0, at_most=steps - 1)
    final = real("final", final, at_least=0)
    rising = linear_warmup(warmup)

    def rule(step: int) -> float:
        if step < warmup:
            return rising(step)
        share = min((step - warmup) / (steps - warmup), 1.0)
        return final + (1 - final) * (1 + math.cos(math.pi * share)) / 2

    return rule


def step_decay(every: int, factor: float) -> Rule:
    """Times ``factor`` after every so many steps, as PyTorch's StepLR(step_size, gamma).

    every: >= 1. factor: finite and >= 0. Raises ValueError for others.
    """
    every = integer("every", every, at_least=1)
    factor = real("factor", factor, at_least=0)

    def rule(step: int) -> float:
        product: float = factor ** (step // every)
        return product

    return rule


class Schedule:
    """Sets an optimiser's learning rate, now and after every step, by a rule.

    ::

        schedule = Schedule(optimizer, schedules.cosine(1000, warmup=50))
        for batch in batches:
            ...
            optimizer.step()
            schedule.step()

    optimizer: its learning rate of now is the one that factors multiply. rule: any function from
    the step to a factor, finite and >= 0. Raises TypeError or ValueError for others.
    """

    def __init__(self, optimizer: Optimizer, rule: Rule) -> None:
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"optimizer must be one of fp16sim.optim, got {optimizer!r}")
        if not callable(rule):
            raise TypeError(f"rule must be a function from a step to a factor, got {rule!r}")
        self.optimizer = optimizer
        self.rule = rule
        self.base_lr = real("optimizer.lr", optimizer.lr, at_least=0)
        self._at(0, self.base_lr)

    def step(self) -> None:
        """Set the learning rate of the next step."""
        self._at(self.count + 1, self.base_lr)
        events.announce(events.Scheduled(self.optimizer))

    def state_dict(self) -> dict[str, Any]:
        """The learning rate that factors multiply, and the step; the rule is not saved."""
        return {"base_lr": self.base_lr, "step": self.count}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Continue from a ``state_dict()``, with the learning rate of that step by this rule.

        Raises TypeError or ValueError for other or missing entries, and changes nothing.
        """
        check_entries("saved", saved, {"base_lr", "step"})
        base_lr = real("saved['base_lr']", saved["base_lr"], at_least=0)
        self._at(integer("saved['step']", saved["step"], at_least=0), base_lr)

    def _at(self, count: int, base_lr: float) -> None:
        factor = real(f"rule({count})", self.rule(count), at_least=0)
        self.optimizer.lr = real("lr", base_lr * factor, at_least=0)
        self.count, self.base_lr = count, base_lr
