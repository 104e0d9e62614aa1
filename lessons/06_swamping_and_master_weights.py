# %% [markdown]
# # 06 · Swamping and master weights
#
# **Question.** Recipes for mixed precision keep a second copy of all weights, in fp32, "for
# accuracy". Yet weights are as much at home in fp16 as activations. What is the copy for?
#
# - **Time:** half an hour to read; about half a minute of computing on two cores (`--fast`: a few
#   seconds)
# - **You need:** lessons 02, 03 and 05; what Adam is, roughly. No GPU.
# - **You will be able to:** say from a weight and an update whether the update counts; explain why
#   bf16 needs master weights more than fp16 does; name an alternative that needs no memory.
# - **Sources:** Micikevicius et al., *Mixed Precision Training*, ICLR 2018, section 3.1; Gupta et
#   al., *Deep Learning with Limited Numerical Precision*, ICML 2015, section 3.
#
# Before each cell that shows something, you are asked to **predict**. Write your guess down.

# %%
import sys
import tempfile
from pathlib import Path

import numpy as np
from checks import check_master_step

import fp16sim as fs
from fp16sim import functional as F
from fp16sim import plots

FAST = "--fast" in sys.argv
# A quick run must not replace the real figures.
TEMPORARY = tempfile.TemporaryDirectory()
FIGURES = Path(TEMPORARY.name if FAST else "figures")

# %% [markdown]
# ## An update that is not there
#
# **Predict:** a weight of 1 is moved by -0.0002, a thousand times, in fp16. Where does it end? And
# by -0.0003? And in bf16, where -0.003 is tried as well?

# %%
for fmt in ("fp16", "bf16"):
    for update in (0.0002, 0.0003, 0.003):
        weight = 1.0
        for _ in range(1000):
            weight = fs.arith.subtract(weight, fs.round_to(update, fmt), fmt)
        print(f"{fmt}: 1 - 1000 x {update} ends at {weight:.4g}; exactly: {1 - 1000 * update:.4g}")

# %% [markdown]
# Just below 1, numbers of fp16 are 2^-11 apart, about 0.0005. An update of less than half of that
# is rounded away, every time: the weight is *swamped*. 0.0002 never moves it, and 0.0003 moves it
# by a whole 0.0005 each time, too far. No underflow: both numbers are perfectly good ones. In
# general an update counts if it is more than half the spacing at w: w / 4096 to w / 2048 in fp16,
# and w / 512 to w / 256 in bf16, which has three bits fewer. (There 0.003 moves the weight as far
# as -1, from where on numbers are 1/128 apart.)
#
# ## How large are updates?
#
# Adam moves every weight by about the learning rate, however small the gradient. Let us look at a
# classifier of digits whose weights *are* in fp16, with a learning rate of 10^-4.
#
# **Predict:** weights are around 0.1. Which share of the updates is lost?

# %%
digits = fs.data.digits()
EPOCHS, SEEDS = (2, 1) if FAST else (30, 3)


def train(fmt, seed, lr=1e-4, epochs=EPOCHS, **storage):
    """Accuracy on the test images, and the share of updates, not zero, that moved nothing."""
    steps, rng = epochs * (len(digits.train_images) // 64), np.random.default_rng(seed)
    model = fs.nn.Sequential(
        fs.nn.Linear(64, 32, rng=rng), fs.nn.ReLU(), fs.nn.Linear(32, 10, rng=rng)
    ).to(fmt)
    if "rounding" in storage:
        storage["rng"] = seed
    optimizer = fs.optim.Adam(model.parameters(), lr=lr, **storage)
    lost = 0.0
    for i, batch in enumerate(fs.data.batches(len(digits.train_images), 64, steps, rng=seed)):
        optimizer.zero_grad()
        images = fs.Tensor(digits.train_images[batch], fmt=fmt)
        F.cross_entropy(model(images), digits.train_labels[batch]).backward()
        if i < steps - 20:
            optimizer.step()
            continue
        with fs.watch(model) as xray:  # the last 20 updates, under the X-ray
            optimizer.step()
        updates = xray.all_updates()
        lost += updates.swamped / max(updates.total - updates.zero, 1) / 20
    with fs.no_grad():
        answers = model(fs.Tensor(digits.test_images, fmt=fmt)).numpy().argmax(axis=1)
    return (answers == digits.test_labels).mean(), lost


accuracy, lost = train("fp16", 0)
print(f"fp16 weights: {accuracy:.1%} right, {lost:.0%} of the last updates lost (one seed)")

# %% [markdown]
# ## Three ways to keep a weight
#
# In the format itself; as an fp32 *master copy*, to which updates are added, and which is rounded
# anew for every step; or in the format, but rounded *stochastically*: an update of a tenth of the
# spacing moves the weight by a whole spacing one time in ten.
#
# **Predict:** order them: fp32, fp16 and bf16, each as such, with a master copy, stochastically.

# %%
VARIANTS = {
    "fp32": ("fp32", {}),
    "fp16": ("fp16", {}),
    "fp16, master": ("fp16", {"master_weights": True}),
    "fp16, stochastic": ("fp16", {"rounding": "stochastic"}),
    "bf16": ("bf16", {}),
    "bf16, master": ("bf16", {"master_weights": True}),
    "bf16, stochastic": ("bf16", {"rounding": "stochastic"}),
}
results = {
    name: [train(fmt, seed, **storage) for seed in range(SEEDS)]
    for name, (fmt, storage) in VARIANTS.items()
}
print(f"Learning rate 10^-4, {EPOCHS} epochs, {SEEDS} seeds: accuracy, updates lost")
for name, runs in results.items():
    accuracies = ", ".join(f"{accuracy:.1%}" for accuracy, _ in runs)
    print(f"  {name:17} {accuracies};  {np.median([lost for _, lost in runs]):4.0%}")

with plots.style():
    figure = plots.new_figure(7.2, 3.2)
    left, right = figure.subplots(1, 2, sharey=True)
    for place, runs in enumerate(results.values()):
        for (accuracy, lost), mark in zip(runs, "osD", strict=False):
            left.plot(100 * accuracy, place, mark, color="#0072B2")
            right.plot(100 * lost, place, mark, color="#D55E00")
    left.set(xlabel="right answers (%)", xlim=(0, 100), yticks=range(len(results)))
    left.set_yticklabels(results)
    left.invert_yaxis()
    right.set(xlabel="updates without effect (%)", xlim=(0, 100))
print("Figure:", *plots.save(figure, FIGURES, "06_swamping_and_master_weights"))

# %% [markdown]
# The copy is not for the weights' own accuracy but for the *sum* of thousands of small updates,
# each of which is too small to be seen. With it both formats learn what fp32 learns. Without it
# bf16 loses 19 updates of 20 and hardly learns at all: the format that needs no loss scaling needs
# master weights the more. Stochastic rounding does as well as the copy, at no memory: in bf16 it
# still leaves three weights of four where they are, but right on average is enough. And fp16? It
# loses a fifth of its updates and gets away with it. (The 2 % in fp32 are weights whose gradient
# has been zero for some steps, so that Adam's update fades away.)
#
# **Predict:** how far does fp16 get with updates three times smaller, and twice the epochs? How far
# bf16 with updates ten times larger?

# %%
for lr, epochs, names in (
    (3e-5, 2 * EPOCHS, ("fp32", "fp16", "fp16, master")),
    (1e-3, EPOCHS, ("fp32", "fp16", "bf16")),
):
    for name in names:
        fmt, storage = VARIANTS[name]
        runs = [train(fmt, seed, lr, epochs, **storage) for seed in range(SEEDS)]
        accuracies = ", ".join(f"{accuracy:.1%}" for accuracy, _ in runs)
        print(
            f"learning rate {lr:g}, {name:12}: {accuracies};  {np.median([b for _, b in runs]):.0%}"
        )

# %% [markdown]
# At 3e-5 fp16 falls behind as well; at 10^-3 even bf16 nearly keeps up. But learning rates fall in
# the course of a training, and the last, small updates are those that finish it.
#
# ## Exercise
#
# Write one step with a master copy: given the fp32 master and an update to be *subtracted*, return
# the new master, and the weight for the next forward pass, in fp16. A solution is in
# `solutions/06_swamping_and_master_weights.py`.


# %%
def master_step(master, update):
    """The new master weight, in fp32, and the fp16 weight that is computed with."""
    return ..., ...  # your code here


check_master_step(master_step)
