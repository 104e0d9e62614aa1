# %% [markdown]
# # 09 · Dynamic scaling
#
# **Question.** Gradients shrink and swell while a network trains, and nobody knows the right loss
# scale beforehand. How does a scaler find it, without knowing anything about gradients?
#
# - **Time:** half an hour to read; a few seconds of computing
# - **You need:** lesson 01; what overflow is (lesson 04). No GPU.
# - **You will be able to:** run the rule by hand; read the staircase that it draws; say which
#   "gradient overflow, skipping step" is normal and which one is not; choose a growth interval.
# - **Sources:** PyTorch 2.13, `torch.amp.GradScaler`; Micikevicius et al., *Mixed Precision
#   Training*, ICLR 2018, section 3.2; Keras 3, jmp and Megatron-LM for their own rules.
#
# Before each cell that shows something, you are asked to **predict**. Write your guess down.

# %%
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from checks import check_next_scale

import fp16sim as fs
from fp16sim import functional as F
from fp16sim import plots
from fp16sim.scaling import SCALERS, LossScale, next_scale

FAST = "--fast" in sys.argv
# A quick run must not replace the real figures.
TEMPORARY = tempfile.TemporaryDirectory()
FIGURES = Path(TEMPORARY.name if FAST else "figures")

# %% [markdown]
# ## A rule that knows nothing
#
# After every backward pass: if a gradient is infinite or NaN, leave the step out and halve the
# scale; after so many good steps in a row (PyTorch: 2000), double it. That is all.
#
# **Predict:** the largest gradient is 0.02, in every step. The scale begins at 2^16 and may double
# after 5 good steps. In which of the first 60 steps is the update left out?


# %%
def run(rule, largest_gradients):
    """The scale of every step, and whether its update was left out."""
    scales, skipped = [], []
    for largest in largest_gradients:
        finite = bool(np.isfinite(fs.round_to(rule.scale * largest, "fp16")))
        scales.append(rule.scale)
        skipped.append(not finite)
        rule = next_scale(rule, finite)
    return np.array(scales), np.array(skipped)


scales, skipped = run(LossScale(growth_interval=5), [0.02] * 60)
print("left out: steps", *np.flatnonzero(skipped))
print("the scale, as an exponent of 2:", *np.log2(scales).astype(int)[::3], "(every third step)")

# %% [markdown]
# 2^16 x 0.02 is 1311, far inside; so it doubles until 2^22 x 0.02 overflows, halves, and knocks at
# the wall again after five good steps, for ever. The overflows are not accidents: they are how it
# *measures* where the wall is. With an interval of 2000 it costs one step in 2001.
#
# ## The staircase
#
# Now gradients as they often go: large at first, then smaller and smaller, with a bad batch at
# step 500, whose gradient is 100 times as large. The scale may double after 30 good steps.
#
# **Predict:** what does the scale do at step 500, and how long until it is back?

# %%
STEPS = 1000
rng = np.random.default_rng(0)
sizes = 0.5 * np.exp(-np.arange(STEPS) / 150) * np.exp(rng.normal(0, 0.3, STEPS)) + 1e-4
sizes[500] *= 100
rules = {name: SCALERS[name.lower()] for name in ("Torch", "Megatron")}
rules["static"] = LossScale(dynamic=False)
quick = {name: replace(rule, scale=2.0**16, growth_interval=30) for name, rule in rules.items()}
with plots.style():
    figure = plots.new_figure(7.2, 3.6)
    axes = figure.add_subplot()
    axes.plot(65504 / sizes, color="#BBBBBB", label="65504 / largest gradient")
    looks = {"Torch": ("#000000", "-"), "Megatron": ("#0072B2", "--"), "static": ("#D55E00", ":")}
    for name, rule in quick.items():
        scales, skipped = run(rule, sizes)
        axes.step(range(STEPS), scales, color=looks[name][0], linestyle=looks[name][1], label=name)
        print(f"{name:8}: {skipped.sum():2} steps left out, ends at 2^{np.log2(scales[-1]):.0f}")
    axes.set_yscale("log", base=2)
    axes.set(xlabel="step", ylabel="loss scale", xlim=(0, STEPS))
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
print("Figure:", *plots.save(figure, FIGURES, "09_dynamic_scaling"))

# %% [markdown]
# (Made-up sizes, one seed.) The scale follows the wall, a factor of two or so below it, upwards
# slowly and downwards at once. The bad batch costs one step and a factor of two, however bad it is:
# the next batch is good again, and 30 steps later the scale is back. The rule of Megatron, a
# library for large language models, bears the first overflow since it last grew and backs off from
# the second on (*hysteresis*); here that only leaves out more steps. A static scale needs to be
# right for the whole training: this one is a thousand times too small in the end.
#
# ## In a real run
#
# **Predict:** a digit classifier, from a scale of 2^30. How many steps are left out before the
# first update, and does it hurt?

# %%
digits = fs.data.digits()


def train(scaler, steps, loss_of):
    """The X-ray of a training of a small classifier; loss_of: from logits and labels."""
    random = np.random.default_rng(0)
    model = fs.nn.Sequential(
        fs.nn.Linear(64, 32, rng=random), fs.nn.ReLU(), fs.nn.Linear(32, 10, rng=random)
    )
    optimizer = fs.optim.Adam(model.parameters(), lr=3e-3)
    with fs.watch(model) as xray:
        for batch in fs.data.batches(len(digits.train_images), 64, steps, rng=0):
            optimizer.zero_grad()
            with fs.autocast("fp16"):
                logits = model(fs.Tensor(digits.train_images[batch]))
                loss = loss_of(logits, digits.train_labels[batch])
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
    return xray


xray = train(fs.GradScaler(init_scale=2.0**30), 40, F.cross_entropy)
left_out = [step.index for step in xray.finished_steps if not step.taken]
print(f"left out: {left_out}; the scale ends at 2^{np.log2(xray.steps[-2].scale):.0f}")
print(f"a failure, says the X-ray: {xray.first_failure}")

# %% [markdown]
# Eleven steps in the beginning, one after the other, and then none: that hurts nobody. Gradients
# that overflow in a step that is left out are the scaler's own doing, on the way *back* only, and
# the X-ray calls them no failure.
#
# ## When it keeps falling
#
# A classic: somebody takes the logarithm of a softmax by hand. Sooner or later a probability is
# zero in fp16, and its logarithm is -inf.
#
# **Predict:** what does the scaler do, and what would help?


# %%
def by_hand(logits, labels):
    """Cross-entropy as in a textbook; a large factor makes the network sure of itself."""
    p = F.softmax(logits * 40.0, axis=1, fmt="fp16")
    return -p.log()[np.arange(len(labels)), labels].mean()


xray = train(fs.GradScaler(), 10, by_hand)
print(
    "the scale, as an exponent of 2:", *(int(np.log2(step.scale)) for step in xray.finished_steps)
)
print("first failure:", xray.first_failure)

# %% [markdown]
# It halves the scale in every step, and would do so for ever: the infinity is born on the way
# *forward*, where no loss scale reaches. That is the one to look for: not that steps are skipped,
# but that they are all skipped. (The cure: `F.cross_entropy`, which never forms the probability.)
#
# ## Exercise
#
# Write the rule: given the scale, how many good steps there were in a row before this one, whether
# this one was good, and how many it takes to double, return the new scale and the new count. A
# solution is in `solutions/09_dynamic_scaling.py`.


# %%
def next_step(scale, streak, finite, interval):
    """The scale and the streak after a step: halve, or count and perhaps double."""
    return ..., ...  # your code here


check_next_scale(next_step)
