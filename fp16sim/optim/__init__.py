"""Optimisers, schedules of the learning rate, and clipping of gradients.

Optimisers compute in the carrier and round once, when the new weight is stored.
"""

from fp16sim.optim import schedules
from fp16sim.optim.clip import clip_grad_norm_, clip_grad_value_
from fp16sim.optim.optimizer import Optimizer
from fp16sim.optim.rules import SGD, Adam, AdamW, Lion
from fp16sim.optim.schedules import Schedule

__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "Lion",
    "Optimizer",
    "Schedule",
    "clip_grad_norm_",
    "clip_grad_value_",
    "schedules",
]
