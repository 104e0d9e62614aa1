# %% [markdown]
# # 07 · Gradients under the X-ray
#
# **Question.** Lesson 01's network lost its gradients in fp16, and many others do not. Is it depth?
# Bad luck? What decides, before anything is trained, whether a network's gradients fit into fp16?
#
# - **Time:** half an hour to read; about ten seconds of computing
# - **You need:** lessons 01 and 04; what cross-entropy is. No GPU.
# - **You will be able to:** estimate gradients' sizes from the loss's normaliser; tell a gradient
#   that was flushed from one that never was; read an exponent histogram; say what becomes of
#   gradients under another scale or in another format, without training again.
# - **Sources:** Micikevicius et al., *Mixed Precision Training*, ICLR 2018, section 3.2 and figure
#   3.
#
# Before each cell that shows something, you are asked to **predict**. Write your guess down.

# %%
import sys
import tempfile
from pathlib import Path

import numpy as np
from checks import check_flushed

import fp16sim as fs
from fp16sim import functional as F
from fp16sim import plots

FAST = "--fast" in sys.argv
# A quick run must not replace the real figures.
TEMPORARY = tempfile.TemporaryDirectory()
FIGURES = Path(TEMPORARY.name if FAST else "figures")

# %% [markdown]
# ## The first gradient
#
# Backward begins at the logits. There the gradient of a mean cross-entropy is (p - y) / N:
# probability less truth, over the number of things that are averaged. p - y is at most 1.
#
# **Predict:** N is 64 for a batch of digits (10 classes); 2048 for 32 texts of 64 characters (103);
# 262144 for 16 images of 128 x 128 pixels, each classified (4). Which shares of these gradients
# become zero in fp16, for a network that guesses, and for one that is rather sure (its right logit
# 12 above the others)?

# %%
TASKS = {"digits": (64, 10), "text": (2048, 103), "pixels": (262144, 4)}
rng = np.random.default_rng(0)
print(f"{'':8}{'N':>8}   guessing: zero, subnormal   sure: zero, subnormal")
for name, (count, classes) in TASKS.items():
    cells = []
    for margin in (0.0, 12.0):
        logits = rng.standard_normal((4096, classes))
        logits[:, 0] += margin
        p = np.exp(logits - logits.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        p[:, 0] -= 1
        gradient = np.abs(fs.round_to(p / count, "fp16"))
        zero, small = (gradient == 0).mean(), (gradient < fs.FP16.smallest_normal).mean()
        cells.append(f"{zero:12.0%} {small - zero:10.0%}")
    print(f"{name:8}{count:8}" + "     ".join(cells))

# %% [markdown]
# No network in sight yet, and all is decided. The *normaliser* sets the size: of 262144 pixels each
# may contribute 2^-18 at most. And *progress* makes it worse: a network that is right has a small
# p - y. This is why detection and segmentation need loss scaling sooner than classifying does, and
# why underflow comes late in a training, unnoticed. (How much of it a network can bear is another
# question: lesson 08.)
#
# ## In a network
#
# The X-ray sees every gradient before and after it is stored. Here is a classifier of digits,
# trained in mixed precision without loss scaling, watched early and late.
#
# **Predict:** which share of activation gradients is flushed at first, and after 1500 steps?

# %%
digits = fs.data.digits()
random = np.random.default_rng(0)
model = fs.nn.Sequential(
    fs.nn.Linear(64, 32, rng=random), fs.nn.ReLU(), fs.nn.Linear(32, 10, rng=random)
)
optimizer = fs.optim.Adam(model.parameters(), lr=3e-3)


def train(steps, seed):
    """Some steps; the loss of the last one."""
    for batch in fs.data.batches(len(digits.train_images), 64, steps, rng=seed):
        optimizer.zero_grad()
        with fs.autocast("fp16"):
            logits = model(fs.Tensor(digits.train_images[batch]))
            loss = F.cross_entropy(logits, digits.train_labels[batch])
        loss.backward()
        optimizer.step()
    return loss.item()


with fs.watch(model) as early:
    train(10, 0)
train(200 if FAST else 1500, 1)
with fs.watch(model) as late:
    last = train(10, 2)
for name, xray in (("early", early), ("late", late)):
    seen = xray.select(role="activation gradient", fmt="fp16")
    shares = {fate: seen.share(fate) for fate in ("zero", "flushed", "subnormal", "normal")}
    print(f"{name}: " + ", ".join(f"{fate} {share:.1%}" for fate, share in shares.items()))
print(f"(the loss is {last:.4f} in the end; one seed)")

with plots.style():
    figure = plots.new_figure(7.2, 3.4)
    for axes, (name, xray) in zip(
        figure.subplots(1, 2, sharey=True), (("early", early), ("late", late)), strict=True
    ):
        plots.exponent_histogram(axes, xray.select(role="activation gradient", fmt="fp16"))
        axes.set(title=f"{name} in training", xlabel="size before rounding", ylim=(0, 62))
        plots.label_limits(axes)
        axes.set_xticks([t for t in axes.get_xticks() if t < -46 or t % 16 == 0])
    figure.axes[0].set_ylabel("activation gradients (%)")
print("Figure:", *plots.save(figure, FIGURES, "07_gradients_under_the_xray"))

# %% [markdown]
# Early, nearly all gradients are to the right of the second dashed line, and normal (blue); late,
# the histogram has moved to the left and a part of it over the edge (red, hatched). The bar at 0 is
# something else: gradients that were exactly zero *before* they were rounded, made of others that
# were flushed nearer to the loss (or, elsewhere, behind ReLUs that are off). Whoever only looks at
# stored numbers cannot tell the two apart.
#
# ## What if?
#
# A histogram of exponents answers questions about scales and formats without another training.
#
# **Predict:** the late gradients, of a mean over 64 digits. What if it were a mean over 64 images
# of 64 x 64 pixels, so that they were 2^12 times smaller? What if they were in bf16, in E5M2? Which
# loss scale would they like?

# %%
ROLE = {"role": "activation gradient"}
questions = {
    "as they are": ("fp16", 1.0), "2^12 times smaller": ("fp16", 2.0**-12),
    "in bf16": ("bf16", 1.0), "in e5m2": ("e5m2", 1.0), "scaled by 2^10": ("fp16", 2.0**10),
}  # fmt: skip
for text, (fmt, scale) in questions.items():
    print(f"{text:20} flushed: {late.what_if(fmt, scale, of='fp16', **ROLE).share('flushed'):6.1%}")
print(f"suggested: {late.suggest_scale()}")

# %% [markdown]
# (The suggestion is the largest scale that leaves a factor of two below 65504. It looks at weights'
# gradients, too: hence another share than in the first line.)
#
# So the X-ray answers the question of the beginning: not depth and not luck, but the size that the
# loss gives to its gradients, and how good the network has become. (Depth matters where every layer
# makes them smaller, as lesson 01's sigmoids do.)
#
# ## Exercise
#
# Write `what_if` in small: given how many values have which exponent (floor of log2 of their size)
# and a loss scale 2^k, how many become zero in fp16? Values of one exponent are taken to lie
# strictly between its power of two and the next. A solution is in
# `solutions/07_gradients_under_the_xray.py`.


# %%
def flushed(counts, k):
    """How many values are flushed; counts: {exponent: number}; k: the scale is 2^k."""
    return ...  # your code here


check_flushed(flushed)
