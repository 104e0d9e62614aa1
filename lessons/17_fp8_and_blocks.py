# %% [markdown]
# # 17 · FP8 and block formats
#
# **Question.** Eight bits make 256 numbers, and four bits make 16. Networks are trained with the
# first, and lately with the second. How can so few be enough?
#
# - **Time:** half an hour to read; about a minute of computing on two cores (`--fast`: a few
#   seconds)
# - **You need:** lessons 02, 04 and 07; what a loss scale is. No GPU.
# - **You will be able to:** choose between E4M3 and E5M2; say why a loss scale does not do for 8
#   bits; predict what delayed scaling does after a jump; compute the scale of an MX block, and say
#   which numbers an outlier spoils.
# - **Sources:** Micikevicius et al., *FP8 Formats for Deep Learning*, arXiv 2209.05433; OCP,
#   *Microscaling Formats (MX) Specification* 1.0, section 6.3; NVIDIA, *Pretraining Large Language
#   Models with NVFP4*, arXiv 2509.25149; NVIDIA's Transformer Engine (its `DelayedScaling`).
#
# Before each cell that shows something, you are asked to **predict**. Write your guess down.

# %%
import sys
import tempfile
from pathlib import Path

import numpy as np
from checks import check_shared_exponent

import fp16sim as fs
from fp16sim import plots

FAST = "--fast" in sys.argv
# A quick run must not replace the real figures.
TEMPORARY = tempfile.TemporaryDirectory()
FIGURES = Path(TEMPORARY.name if FAST else "figures")

# %% [markdown]
# ## Two ways to spend eight bits
#
# E4M3 has 4 bits of exponent and 3 of fraction, E5M2 has 5 and 2.
#
# **Predict:** the largest number of each; how many numbers each has from 1 to 2; how many binades
# lie between its smallest number and its largest.

# %%
print(f"{'':5} finite   largest  smallest normal, smallest   in [1, 2)   binades   worst error")
for fmt in (fs.E4M3, fs.E5M2, fs.FP16):
    numbers = np.array([x for x in fmt if np.isfinite(x)])
    low, least = np.log2([fmt.smallest_normal, fmt.smallest_subnormal])
    binades = np.floor(np.log2(fmt.max)) - least + 1
    near_one = ((numbers >= 1) & (numbers < 2)).sum()
    print(f"{fmt!s:5} {len(numbers):6} {fmt.max:9g} {f'2^{low:g}':>16} {f'2^{least:g}':>9} "
          f"{near_one:11} {binades:9g} {fmt.eps / 2:12.2%}")  # fmt: skip

# %% [markdown]
# E4M3 gives up infinity, and all NaNs but two, for one more binade: that is why it ends at 448. It
# has 18 binades all the same, where fp16 has 40. E5M2 is fp16 without its last eight bits: the same
# exponents, 4 numbers from 1 to 2. Weights and activations, which need precision, are put into
# E4M3, gradients, which need range, into E5M2; their products are added in fp32.
#
# ## Is a loss scale enough?
#
# In fp16 one number, the loss scale, moved all gradients into the range. Here are four tensors of a
# training, one draw of each. The weights are those that end a branch in a GPT-2, as they start if
# it has 96 layers: normal with deviation 0.02 / sqrt(2 x 96).
#
# **Predict:** which of them survive in 8 bits as they are? Which with a loss scale of 2^16? Which
# if each has a scale of its own?

# %%
rng = np.random.default_rng(0)
COUNT = 65536
TENSORS = {
    "pixels, 0 to 1": (rng.random(COUNT), fs.E4M3),
    "behind a layer norm": (rng.standard_normal(COUNT), fs.E4M3),
    "weights of a deep GPT": (rng.normal(0, 0.02 / np.sqrt(2 * 96), COUNT), fs.E4M3),
    "gradients near 2^-20": (2.0**-20 * rng.standard_normal(COUNT), fs.E5M2),
}
print(f"{'(flushed, subnormal)':31}{'as it is':15}{'loss x 2^16':15}own scale")
for name, (values, fmt) in TENSORS.items():
    loss_scale = 2.0**16 if fmt is fs.E5M2 else 1.0  # only gradients see it
    cells = []
    for scale in (1.0, loss_scale, fmt.max / np.abs(values).max()):
        size = np.abs(fs.round_to(values * scale, fmt, saturate=True))
        zero, small = (size == 0).mean(), (size < fmt.smallest_normal).mean()
        cells.append(f"{zero:7.1%} {small - zero:6.1%}")
    print(f"{name:22} {fmt}" + " ".join(cells))

# %% [markdown]
# A loss scale moves gradients, and nothing else: of these weights half are zero in E4M3, and the
# other half subnormal, whatever the loss is multiplied by. So every tensor gets a scale of its own:
# the format's largest number, divided by the tensor's largest magnitude, its *amax*. What comes out
# of a product is divided by both its operands' scales.
#
# ## Whose amax?
#
# To know a tensor's amax one must have read it all, and then read it again to round it: *current*
# scaling. *Delayed* scaling takes the largest amax of the last steps instead, known beforehand
# (Transformer Engine remembers 1024; here 4), with room for 2^margin if told so.
#
# **Predict:** activations are normally distributed, and suddenly 4 times larger for one step; later
# 2^14 times, by one bad batch. What is the error of the layer's output in that step? In the next?

# %%
R = fs.recipes
recipes = {
    "delayed": R.DelayedScaling(amax_history_len=4),
    "margin 2": R.DelayedScaling(margin=2, amax_history_len=4),
    "current": R.CurrentScaling(),
}
layer = fs.nn.Linear(64, 64, bias=False, rng=0)
print("step  size " + "".join(f"{name:>16}" for name in recipes) + "   (saturated, error)")
for step, factor in enumerate((1, 1, 4, 1, 2**14, 1, 1, 1, 1, 1)):
    x = factor * np.float32(rng.standard_normal((32, 64)))
    exact, cells = x @ layer.weight.numpy().T, []
    for recipe in recipes.values():
        with fs.watch(layer) as xray, fs.autocast("bf16", recipe=recipe):
            off = layer(fs.Tensor(x)).numpy() - exact
        saturated = xray.select(role="activation", fmt="e4m3").share("saturated")
        cells.append(f"{saturated:8.0%}, {np.sqrt((off**2).mean() / (exact**2).mean()):6.1%}")
    print(f"{step:4} {factor:5}" + "".join(cells))

# %% [markdown]
# In the step of the jump the scale is yesterday's: a third of the values are cut to 448 at factor
# 4, all of them at 2^14. No infinity, no NaN, nothing that a loss scaler would notice. A margin of
# 2 covers a factor of 4, and costs nothing in the good steps: in floating point a smaller scale
# loses range, not precision. Afterwards the history is what hurts. For as many steps as it is long
# the bad batch sets the scale, and numbers of size 1 become subnormal; the margin makes this worse.
# (With 1024 steps to remember, that is 1024 steps. All this is one draw of numbers.)
#
# ## One outlier
#
# Scales can be finer than tensors. MX formats, whose numbers have 8, 6 or 4 bits, have one for
# every 32 numbers, a power of two that takes 8 bits (E8M0). NVFP4 has one for every 16, an E4M3
# number, and one more for the tensor. Four bits are E2M1: 0, 0.5, 1, 1.5, 2, 3, 4, 6, and their
# negatives.
#
# **Predict:** of 4096 normally distributed numbers one is replaced by an outlier. What happens to
# the error of *all the others* as it grows to 2^20, with one scale per tensor, in 8 bits and in 4?
# With one per block?


# %%
def one_scale(x, fmt):
    """Rounded with one scale for the whole tensor."""
    scale = fmt.max / np.abs(x).max()
    return fs.round_to(x * scale, fmt, saturate=True) / scale


def error(x, rounded, others):
    """Of the others: the root mean square of what rounding changed, over theirs."""
    return np.sqrt(((rounded - x)[others] ** 2).mean() / (x[others] ** 2).mean())


WAYS = {
    "E4M3, one scale": (8, lambda x: one_scale(x, fs.E4M3)),
    "E2M1, one scale": (4, lambda x: one_scale(x, fs.E2M1)),
    **{fmt.name: (fmt.bits, lambda x, fmt=fmt: fs.round_blocks(x, fmt))
       for fmt in (fs.MXFP8_E4M3, fs.MXFP6_E2M3, fs.MXFP4, fs.NVFP4)},
}  # fmt: skip
SIZES = range(2, 22, 2)
errors = {name: [] for name in WAYS}
for k in SIZES:
    draws = np.random.default_rng(1).standard_normal((3, 4096))  # three draws
    draws[:, 1000] = 2.0**k
    others = np.arange(4096) != 1000
    for name, (_, rounding) in WAYS.items():
        errors[name].append([error(x, rounding(x), others) for x in draws])
shown = [0, 2, 5, 7, 9]
print(f"{'':17} bits" + "".join(f"{f'2^{SIZES[i]}':>8}" for i in shown) + "  (medians of 3 draws)")
for name, (bits, _) in WAYS.items():
    medians = np.median(errors[name], axis=1)
    print(f"{name:16} {bits:5}" + "".join(f"{medians[i]:8.1%}" for i in shown))

# %% [markdown]
# With one scale for all, an outlier pushes everybody else down. E4M3 has the range to take that up
# to 2^12; E2M1 has lost the rest of the tensor at 2^6. In blocks an outlier ruins its 31 neighbours
# and nobody else. (That is the root of 31/4095, 9 %, on top of the format's own error.) The lines
# become flat; but not NVFP4's, whose scales are E4M3 numbers, with 18 binades again. Without
# outliers blocks buy little in 8 bits: MXFP8 is behind E4M3, as its scale is rounded down to a
# power of two, and some of the largest numbers saturate. Blocks cost bits: 8/32 for each number in
# MX, 8/16 in NVFP4.
#
# ## A training
#
# An autoencoder, all its products in 8 bits, six ways, beside fp32. `Unscaled` leaves all scales at
# 1. The loss goes through a dynamic scaler, which skips steps with infinite gradients.
#
# **Predict:** which of them learn? Without scales, does a loss scale of 2^16 help? Of 2^46?


# %%
class Unscaled(fs.recipes.DelayedScaling):
    def roll(self):
        pass


images = fs.data.digits().train_images
STEPS, SEEDS = (12, 1) if FAST else (300, 3)


def train(recipe, loss_scale, seed):
    """Mean of the last ten losses, skipped steps; gradients zero, saturated; weights subnormal."""
    model = fs.models.Autoencoder((64, 32, 16), rng=seed)
    optimizer = fs.optim.Adam(model.parameters(), lr=1e-2)
    batches = fs.data.batches(len(images), 256, STEPS, seed)
    region = fs.autocast("bf16", recipe=recipe()) if recipe else None
    with fs.watch(model) as xray:
        steps = fs.training.train(
            lambda batch: model.loss(images[batch]), batches, optimizer,
            precision=region, scaler=fs.GradScaler(loss_scale),
        )  # fmt: skip
    fmt = "e4m3" if recipe is R.MXFP8 else "e5m2" if recipe else "fp32"
    back = xray.select(role="activation gradient", fmt=fmt)
    weights = xray.select(role="weight", fmt="e4m3" if recipe else "fp32")
    zero = back.share("zero") + back.share("flushed")
    loss, skipped = np.mean([step.loss for step in steps[-10:]]), sum(s.skipped for s in steps)
    return loss, skipped, zero, back.share("saturated"), weights.share("subnormal")


SETUPS = {
    "fp32": (None, 1.0), "fp8, no scales": (Unscaled, 1.0), "loss x 2^16": (Unscaled, 2.0**16),
    "loss x 2^46": (Unscaled, 2.0**46), "delayed": (R.DelayedScaling, 1.0),
    "current": (R.CurrentScaling, 1.0), "MXFP8": (R.MXFP8, 1.0),
}  # fmt: skip
ends = {}
print(f"{'':14}{'loss at the end':>21}  skipped  gradients: zero, saturated  weights: subnormal")
for name, (recipe, scale) in SETUPS.items():
    runs = np.array([train(recipe, scale, seed) for seed in range(SEEDS)])
    ends[name] = runs[:, 0]
    _, skipped, zero, saturated, subnormal = np.median(runs, axis=0)
    print(f"{name:14}" + "".join(f" {loss:.4f}" for loss in ends[name]) + f"{skipped:9g}"
          f"{zero:17.1%} {saturated:10.1%} {subnormal:19.1%}")  # fmt: skip

with plots.style():
    figure = plots.new_figure(7.2, 3.6)
    left, right = figure.subplots(1, 2)
    looks = ["-o", "--s", "-^", "--D", "-.v", ":x"]
    colors = ["#0072B2", "#D55E00", "#56B4E9", "#888888", "#CC79A7", "#000000"]
    for (name, (bits, _)), look, color in zip(WAYS.items(), looks, colors, strict=True):
        label = f"{name} ({bits:g} bits)"
        medians = 100 * np.median(errors[name], axis=1)
        left.plot(SIZES, medians, look, color=color, label=label, ms=4)
    left.set(yscale="log", xlabel="size of the outlier", ylabel="error of all others (%)")
    left.set_xticks(range(4, 22, 4), [f"$2^{{{k}}}$" for k in range(4, 22, 4)])
    left.set_yticks([3, 10, 30, 100], ["3", "10", "30", "100"])
    left.minorticks_off()
    figure.legend(loc="outside lower center", ncols=3, columnspacing=1)
    for place, losses in enumerate(ends.values()):
        for loss, mark in zip(losses, "osD", strict=False):
            right.plot(1000 * loss, place, mark, color="#0072B2", fillstyle="none")
    right.set(xlabel="loss at the end, squared error (1/1000)", xlim=(0, 90))
    right.set_yticks(range(len(ends)), ends)
    right.invert_yaxis()
print("Figure:", *plots.save(figure, FIGURES, "17_fp8_and_blocks"))

# %% [markdown]
# Without scales six gradients of seven are zero, and nothing is learned. In this network one loss
# scale mends that: its weights are large, and the few that are subnormal do no harm. (Of those of
# the deep GPT above half would be zero.) All that learn end within a tenth of fp32; seeds differ by
# more. At 2^46 nearly a third of the gradients saturate, nothing is learned either, and *no step is
# skipped*: in 8 bits an overflow is a large number, not an infinity, so a dynamic scaler sees
# nothing. Scales by amax need not search. Delayed and current do equally well, since nothing jumps
# here, and MXFP8 stays with them, with E4M3 even for gradients.
#
# So how can 256 numbers be enough? Because the scale carries the size, and the eight bits need only
# tell the numbers of one tensor, or of one block, from each other.
#
# ## Exercise
#
# The numbers of an MX block are divided by 2^e before they are rounded, where e is floor(log2 of
# the block's largest magnitude) less emax, the exponent of the element format's largest number (2
# for E2M1, whose largest is 6 = 1.5 x 2^2; 8 for E4M3). e is the shared exponent, and E8M0 holds it
# from -127 to 127: limit it to these. For a block of zeros, which the specification leaves open,
# return -127. A solution is in `solutions/17_fp8_and_blocks.py`.


# %%
def shared_exponent(values, emax):
    """The exponent of the scale that the values, a list of floats, share."""
    return ...  # your code here


check_shared_exponent(shared_exponent)
