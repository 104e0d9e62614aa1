# %% [markdown]
# # 10 · Autocast
#
# **Question.** Mixed precision *mixes*: products run in fp16, a softmax in fp32, a ReLU in whatever
# it is given. Who decides that, by which rule, and what happens to those who decide otherwise?
#
# - **Time:** half an hour to read; a few seconds of computing
# - **You need:** lessons 04 and 05; what a softmax and a layer norm are. No GPU.
# - **You will be able to:** tell the format of every tensor in a network under autocast; say which
#   operations must not run in fp16, and why each of them; recognise the mistakes by their NaNs.
# - **Sources:** PyTorch 2.13, `ATen/autocast_mode.h` (the lists); Micikevicius et al., *Mixed
#   Precision Training*, ICLR 2018, section 3.3; Vaswani et al., *Attention is all you need* (2017).
#
# Before each cell that shows something, you are asked to **predict**. Write your guess down.

# %%
import sys
import tempfile
from pathlib import Path

import numpy as np
from checks import check_class_of

import fp16sim as fs
from fp16sim import functional as F
from fp16sim import plots

FAST = "--fast" in sys.argv
# A quick run must not replace the real figures.
TEMPORARY = tempfile.TemporaryDirectory()
FIGURES = Path(TEMPORARY.name if FAST else "figures")

# %% [markdown]
# ## Three lists
#
# Weights and the input x are fp32. Inside `fs.autocast("fp16")`, and in PyTorch's, every operation
# is on one of three lists: fp16, fp32, or what it is given.
#
# **Predict:** the format of y = linear(x), and then of the ReLU, layer norm, softmax, exp, mean and
# sum of y, of y + y, y + x, and of a loss?

# %%
x = fs.Tensor(np.random.default_rng(0).standard_normal((4, 8)).astype(np.float32))
layer = fs.nn.Linear(8, 8, rng=0)
with fs.autocast("fp16"):
    y = layer(x)
    results = {
        "linear(x)": y, "relu(y)": F.relu(y), "layer_norm(y)": F.layer_norm(y, (8,)),
        "softmax(y)": F.softmax(y, axis=1), "exp(y)": y.exp(), "mean(y)": y.mean(),
        "sum(y)": y.sum(), "y + y": y + y, "y + x": y + x,
        "cross_entropy(y)": F.cross_entropy(y, np.arange(4)),
    }  # fmt: skip
for name, result in results.items():
    print(f"{name:18} {result.fmt}")

# %% [markdown]
# Products run in fp16: they are what is fast there, and they add in fp32 inside. What
# exponentiates, sums or divides by small numbers runs in fp32. The rest runs in what it is given,
# and of two formats in the wider one: y + x is fp32, as x never went through a product. (The mean
# is a surprise: PyTorch leaves it off its lists, and sum is on. `fp16sim primitives` prints them;
# "first", which only batch norm has, is the format of the first input.)
#
# ## What the second list is for
#
# The same operations in fp16, on values that are nothing special.
#
# **Predict:** what goes wrong with each: the variance of values around 300? the sum of 70 000 ones?
# a softmax over 10 000 equal scores, summed up again?


# %%
def low(values):
    return fs.Tensor(np.float32(values), fmt="fp16")


rng = np.random.default_rng(0)
activations = low(300 + 5 * rng.standard_normal((1, 64)))
squares = (activations * activations).mean()
mean = activations.mean()
print(f"step by step in fp16: mean of squares {squares.item():g}", end=", ")
print(f"less the squared mean {(squares - mean * mean).item():g}", end="; ")
print(f"as one operation {activations.var().item():.3g}")
print(f"sum of 70000 ones in fp16: {low(np.ones(70_000)).sum().item():g}")
p = F.softmax(low(np.zeros(10_000)), axis=0)
print(f"10000 equal probabilities: {p.numpy()[0]:.4g} each, together {p.numpy().sum():.4f}; "
      f"of 2^25 classes: {fs.round_to(2.0**-25, 'fp16'):g} each")  # fmt: skip

# %% [markdown]
# Squares of 300 overflow before anybody averages them: that is why norms are *one* operation whose
# inside is fp32. Sums end at 65504, even if they are added in fp32, as this one was, and rounded
# once. Equal probabilities of 10 000 classes are all wrong in the same direction; of more than
# 16 384 they are subnormal.
#
# ## Masks
#
# An attention must not look ahead: scores of later words get -10^9 added before the softmax, "minus
# infinity for all practical purposes". In fp16 there is no 10^9.
#
# **Predict:** the softmax of three scores in fp16 with such a mask, for a word that may look at two
# of three others, and for one that may look at none?

# %%
scores = low([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]])
allowed = np.array([[True, True, False], [False, False, False]])
for value in (-1e9, -60000.0, -1e4):
    mask = low(np.where(allowed, 0.0, value))
    print(
        f"mask {value:8g} is {mask.numpy().min():g} in fp16:",
        *F.softmax(scores + mask, axis=1).numpy(),
    )

# %% [markdown]
# -10^9 becomes -inf. Where something is left to look at, that is even right; where nothing is, all
# scores are -inf, and -inf minus the largest score (lesson 04), -inf, is NaN. Smaller masks give no
# NaN; the scores drown in them, as numbers near 60000 are 32 apart, near 10000 still 8, and all
# three count alike. Best is not to add a mask: `F.scaled_dot_product_attention(...,
# is_causal=True)` knows who may look.
#
# ## And a whole network?
#
# **Predict:** a small GPT, 60 steps: in fp32, under autocast, and all in fp16 (weights, norms,
# softmax, loss; Adam's moments in fp32), each three times. How far apart are the losses?

# %%
STEPS, SEEDS = (10, 1) if FAST else (60, 3)


def losses(preset, seed):
    """Training losses of the tiny GPT."""
    task = fs.models.task("gpt", "tiny", seed=seed)
    preset.prepare_training(task.model, task.optimizer)
    scaler = preset.scaler()
    return [task.train_step(i, precision=preset.region(), scaler=scaler).loss for i in range(STEPS)]


presets = {"fp32": fs.presets.O0, "autocast": fs.presets.amp, "all fp16": fs.presets.pure("fp16")}
curves = {name: [losses(preset, s) for s in range(SEEDS)] for name, preset in presets.items()}
for name, runs in curves.items():
    print(f"{name:9} ends at", ", ".join(f"{run[-1]:.4f}" for run in runs))
with plots.style():
    figure = plots.new_figure(7.2, 3.4)
    axes = figure.add_subplot()
    looks = {"autocast": ("#0072B2", "-"), "all fp16": ("#D55E00", "--")}
    for name, (color, line) in looks.items():
        for i, (run, exact) in enumerate(zip(curves[name], curves["fp32"], strict=True)):
            away = np.maximum(np.abs(np.array(run) / exact - 1), 1e-8)
            axes.plot(away, color=color, linestyle=line, label=None if i else name)
    axes.set_yscale("log")
    axes.set(xlabel="step", ylabel="distance of the loss from fp32's")
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
print("Figure:", *plots.save(figure, FIGURES, "10_autocast"))

# %% [markdown]
# A network as small as this survives even "all fp16", at some thirty times autocast's distance from
# fp32 (medians). The lists are not there for the average case. They are there so that nobody has to
# find out for each network which squares overflow, which sums end and which mask is -inf.
#
# ## Exercise
#
# Sort operations onto the lists: return "low" for what runs in fp16, "wide" for what runs in fp32,
# and "any" for what runs in what it is given. Names are those that `fp16sim primitives` prints. A
# solution is in `solutions/10_autocast.py`.


# %%
def class_of(operation):
    """The list of an operation, by its name: "matmul", "relu", "exp", "softmax", ..."""
    return ...  # your code here


check_class_of(class_of)
