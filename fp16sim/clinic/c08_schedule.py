"""Case 8: the learning-rate schedule moves on in steps that were skipped."""

from __future__ import annotations

import fp16sim as fs
from fp16sim.clinic.case import Case
from fp16sim.clinic.classifier import perceptron

F = fs.functional


def broken() -> str:
    """The schedule steps whenever the scaler was asked to step."""
    digits, model = fs.data.digits(), perceptron(64, 32, 16)
    optimizer = fs.optim.Adam(model.parameters(), lr=1e-2)
    schedule = fs.optim.Schedule(optimizer, fs.optim.schedules.linear_warmup(10))
    scaler, updates = fs.GradScaler(), 0
    for batch in fs.data.batches(len(digits.train_images), 64, steps=40, rng=0):
        optimizer.zero_grad()
        with fs.autocast("fp16"):
            logits = model(fs.Tensor(digits.train_images[batch]))
            loss = F.cross_entropy(logits, digits.train_labels[batch], reduction="sum")
        scaler.scale(loss).backward()
        status = scaler.step(optimizer)
        schedule.step()
        scaler.update()
        updates += status.stepped
    return f"the schedule is at {schedule.count}, after {updates} updates"


def mended() -> str:
    """Only if it did: the status says so."""
    digits, model = fs.data.digits(), perceptron(64, 32, 16)
    optimizer = fs.optim.Adam(model.parameters(), lr=1e-2)
    schedule = fs.optim.Schedule(optimizer, fs.optim.schedules.linear_warmup(10))
    scaler, updates = fs.GradScaler(), 0
    for batch in fs.data.batches(len(digits.train_images), 64, steps=40, rng=0):
        optimizer.zero_grad()
        with fs.autocast("fp16"):
            logits = model(fs.Tensor(digits.train_images[batch]))
            loss = F.cross_entropy(logits, digits.train_labels[batch], reduction="sum")
        scaler.scale(loss).backward()
        status = scaler.step(optimizer)
        if status.stepped:
            schedule.step()
        scaler.update()
        updates += status.stepped
    return f"the schedule is at {schedule.count}, after {updates} updates"


CASE = Case(
    number=8,
    question='"lr_scheduler.step() before optimizer.step()": was a step skipped?',
    story="While the scaler looks for its scale it skips steps, here the first four and one more, "
    "and a schedule that counts them is ahead of the optimiser: a warm-up of ten steps has "
    "only six left when the first weight moves. In PyTorch, step() returns nothing that "
    "would tell, and people compare the scale before and after. Here it says whether it "
    "stepped.",
    broken=broken,
    mended=mended,
    finding="schedule-ahead",
    place="schedule.step",
    asked=("pytorch#44511", "pytorch#55585", "transformers#11106"),
)
