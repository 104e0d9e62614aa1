"""The training loop: one for all precisions, since a disabled scaler steps plainly."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from fp16sim.autograd import Tensor
from fp16sim.backend import Array
from fp16sim.optim import Optimizer
from fp16sim.precision import autocast
from fp16sim.scaling import GradScaler


@dataclass(frozen=True)
class Step:
    """What one training step did."""

    index: int
    #: the loss before scaling
    loss: float
    #: the scale that the loss was multiplied by; 1 without scaling
    scale: float
    #: whether the update was left out because a gradient was not finite
    skipped: bool


def train(
    loss_of: Callable[[Array], Tensor],
    batches: Iterable[Array],
    optimizer: Optimizer,
    *,
    precision: autocast | None = None,
    scaler: GradScaler | None = None,
    on_step: Callable[[Step], None] | None = None,
) -> list[Step]:
    """Train over all batches and return what each step did.

    loss_of: from a batch to a loss of one value. precision: the autocast region to compute the
    loss in; None for none. scaler: None for no loss scaling. on_step: called after every step.
    """
    precision = precision or autocast(enabled=False)
    scaler = scaler or GradScaler(enabled=False)
    history: list[Step] = []
    for index, batch in enumerate(batches):
        optimizer.zero_grad()
        with precision:
            loss = loss_of(batch)
        scale = scaler.get_scale()
        scaler.scale(loss).backward()
        stepped = scaler.step(optimizer)
        scaler.update()
        step = Step(index, loss.item(), scale, not stepped)
        history.append(step)
        if on_step is not None:
            on_step(step)
    return history
