# %% [markdown]
# # 08 · Choosing a loss scale
#
# **Question.** The paper multiplies the loss by 8 for one network, by 128 for another, and went up
# to 32768. Which scales rescue a training, how wide is the window between too small and too large,
# and how do you find it without a sweep?
#
# - **Time:** half an hour to read; about three minutes of computing on two cores
# - **You need:** lesson 07; what a U-Net is (a network that classifies every pixel). No GPU.
# - **You will be able to:** tell from one run both ends of the window of scales; say what limits it
#   below and above, and where in the network; say why scales are powers of two, and how much may be
#   flushed before anything is lost.
# - **Sources:** Micikevicius et al., *Mixed Precision Training*, ICLR 2018, section 3.2 and figure
#   3; Ronneberger et al., *U-Net* (2015). The long version of the sweep is `fp16sim underflow`.
#
# Before each cell that shows something, you are asked to **predict**. Write your guess down.

# %%
import sys
import tempfile
from contextlib import nullcontext
from pathlib import Path

import numpy as np
from checks import check_window

import fp16sim as fs
from fp16sim import plots
from fp16sim.counts import Counts
from fp16sim.events import observe
from fp16sim.models.unet import UNet, phantoms_task
from fp16sim.xray import XRay

FAST = "--fast" in sys.argv
# A quick run must not replace the real figures.
TEMPORARY = tempfile.TemporaryDirectory()
FIGURES = Path(TEMPORARY.name if FAST else "figures")

# %% [markdown]
# ## One run that looks
#
# A small U-Net learns to find lesions in made-up heads. Its loss is a cross-entropy, a mean over 4
# x 32 x 32 = 2^12 pixels, plus a Dice loss (see the glossary). First it is trained in bf16, which
# has the range of fp32 and loses no gradient, under the X-ray in every tenth step. `of="bf16"`
# takes just those gradients that autocast would store in fp16.
#
# **Predict:** the largest gradient of an activation, and of a weight: which one is larger, and by
# how much? What does that suggest for a scale?

# %%
STEPS, SEEDS = (30, range(1)) if FAST else (400, range(3))
SIZES = {"width": 4, "depth": 1, "image": 32, "images": 96, "batch": 4, "lr": 3e-2}
ACTIVATIONS, WEIGHTS = "activation gradient", "weight gradient"


def train(fmt, scale, seed):
    """Lesion Dice, steps left out, and the X-ray of the first, second and last third."""
    task = phantoms_task("lesson", {**SIZES, "steps": STEPS}, seed)
    precision, scaler = fs.autocast(fmt, enabled=fmt != "fp32"), fs.StaticScaler(scale)
    xrays, left_out = [XRay(task.model) for _ in range(3)], 0
    for i in range(STEPS):
        with observe(xrays[3 * i // STEPS]) if i % 10 == 0 else nullcontext():
            left_out += task.train_step(i, precision=precision, scaler=scaler).skipped
    with precision:
        return task.evaluate()["Dice lesion"], left_out, xrays


def total(xrays, role, fmt):
    """The counts of several X-rays in one, as sizes without a loss scale."""
    counts = Counts()
    for xray in xrays:
        counts.merge(xray.magnitudes(role=role, fmt=fmt))
    return counts


probes = [train("bf16", 1.0, seed) for seed in SEEDS]
for seed, (_, _, xrays) in zip(SEEDS, probes, strict=True):
    print(f"seed {seed}, by third of the training:")
    for role in (ACTIVATIONS, WEIGHTS):
        largest = [total([x], role, "bf16").largest for x in xrays]
        print(f"  largest {role:19}: ", *(f"2^{np.log2(x):5.1f}" for x in largest))
    scales = [x.suggest_scale(headroom=0, of="bf16").scale for x in xrays]
    print("  largest power of two that fits:", *(f"2^{np.log2(x):<5.0f}" for x in scales))
    shares = [x.what_if("fp16", 2.0**-4, role=ACTIVATIONS, of="bf16").share("flushed")
              for x in xrays]  # fmt: skip
    print("  activation gradients below fp16 under 2^-4:", *(f"{x:.0%}" for x in shares))
both = probes[0][2][0].suggest_scale(headroom=0)
print(f"with those that stay in fp32: 2^{np.log2(both.scale):.0f} (seed 0, first third)")

# %% [markdown]
# The largest gradients are those of weights at the beginning: each is a sum over all pixels. They
# set the *ceiling*, as 65504 / largest, which is why the paper says: any scale, so long as its
# product with the largest gradient stays below 65504. (Without `of` the two parts of the loss
# count, too. Their gradients are 1 and stay in fp32: hence the last line, lower than need be.)
#
# The *floor* is set by gradients of activations, one for each pixel, and rises as the network
# learns: of these values more and more are below fp16, here under a scale of 2^-4. The ceiling
# rises as well: the window *moves*. `suggest_scale` leaves a binade of headroom unless told
# otherwise, and lesson 09's scaler follows the ceiling by itself.
#
# ## How much may go?
#
# `what_if` tells from the same histograms what fp16 flushes under any scale. But the flushed ones
# are the smallest. So the second column sums sizes instead of counting values, and the last one
# does so for weights. (A scale of 2^-k does to gradients of activations what 2^k times as many
# pixels would do.)
#
# **Predict:** which share of the values, and of the sum of sizes, is flushed without scaling? And
# under 2^-8?

# %%
EXPONENTS = range(-16, 25)
gone = {e: np.mean([[x.what_if("fp16", 2.0**e, role=ACTIVATIONS, of="bf16").share("flushed")
        for x in xrays] for *_, xrays in probes]) for e in EXPONENTS}  # fmt: skip
gone_sum = {}
for role in (ACTIVATIONS, WEIGHTS):
    counts = total([x for *_, xrays in probes for x in xrays], role, "bf16").to_dict()["exponents"]
    sizes = {e: number * 2.0**e for e, number in counts.items()}
    gone_sum[role] = {k: sum(s for e, s in sizes.items() if e + k < -25) / sum(sizes.values())
                      for k in EXPONENTS}  # fmt: skip
print("scale    values flushed    of the sum of sizes    the same of weights' gradients")
for k in (-16, -12, -10, -8, -4, 0, 8, 16):
    of_sums = "".join(f"{gone_sum[role][k]:23.4%}" for role in (ACTIVATIONS, WEIGHTS))
    print(f"2^{k:<4} {gone[k]:12.1%}{of_sums}")

# %% [markdown]
# Under 2^-8 half of the values go, and less than two hundredths of the sum. Gradients of weights
# lose next to nothing there.
#
# ## The sweep
#
# Now the experiment: fp16 under static scales, three seeds each. The network is judged by the Dice
# of lesions, from 0 (none found) to 1; they are one pixel in a hundred.
#
# **Predict:** the smallest and the largest scale under which lesions are found, of 2^-12, 2^-10,
# 2^-8, 2^-4, 1, 2^8, 2^16 and 2^18.

# %%
TRIED = (-12, 0) if FAST else (-12, -10, -8, -4, 0, 8, 16, 18)
fp32 = [train("fp32", 1.0, seed)[0] for seed in SEEDS]
runs = {k: [train("fp16", 2.0**k, seed) for seed in SEEDS] for k in TRIED}
zero = {k: [np.mean([x.select(role=ACTIVATIONS, fmt="fp16").share("flushed")
        + x.select(role=ACTIVATIONS, fmt="fp16").share("zero") for x in xrays])
        for *_, xrays in runs[k]] for k in TRIED}  # fmt: skip
print("scale   predicted   zero in fp16   steps left out       Dice of lesions")
for k, found in runs.items():
    left_out = ", ".join(f"{skipped:3}" for _, skipped, _ in found)
    dice = ", ".join(f"{lesion:.2f}" for lesion, *_ in found)
    print(f"2^{k:<4} {gone[k]:10.1%} {np.mean(zero[k]):14.1%}   {left_out:15}     {dice}")
print("fp32", " " * 49, ", ".join(f"{lesion:.2f}" for lesion in fp32))
print("bf16, no scale", " " * 39, ", ".join(f"{lesion:.2f}" for lesion, *_ in probes))
top = TRIED[-1]
for role in (ACTIVATIONS, WEIGHTS):
    over = [x.select(role=role, fmt="fp16").overflowed for *_, xrays in runs[top] for x in xrays]
    print(f"under 2^{top}: {sum(over)} values of {role} overflowed in the steps that were watched")

with plots.style():
    figure = plots.new_figure(9.0, 6.6)
    grid = figure.add_gridspec(2, 2)
    above = figure.add_subplot(grid[0, :])
    activations, weights = (total(probes[0][2], role, "bf16") for role in (ACTIVATIONS, WEIGHTS))
    plots.exponent_histogram(above, activations, lowest=-50)
    place = {e + 0.5: n / weights.total for e, n in weights.to_dict()["exponents"].items()}
    above.step(list(place), [100 * n for n in place.values()], where="mid", color="#000000")
    above.set(title="Gradients of activations (bars) and of weights (outline), one seed",
              xlabel="size, without a loss scale", ylabel="share (%)", ylim=(0, 21))  # fmt: skip
    plots.label_limits(above)
    left, right = figure.add_subplot(grid[1, 0]), figure.add_subplot(grid[1, 1])
    for shares, color, line, label in (
        (gone, "#0072B2", "-", "values, predicted"),
        (gone_sum[ACTIVATIONS], "#D55E00", "--", "sum of their sizes, predicted"),
    ):
        x = [2.0**k for k in shares]
        left.plot(x, [100 * y for y in shares.values()], color=color, ls=line, label=label)
    looks = [("o", "-", "#0072B2"), ("s", "--", "#D55E00"), ("^", ":", "#000000")]
    for i, (marker, line, color) in enumerate(looks[: len(SEEDS)]):
        x, label = [2.0**k for k in TRIED], None if i else "values that are zero in fp16"
        left.plot(x, [100 * zero[k][i] for k in TRIED], "ko", mfc="none", label=label)
        right.plot(x, [runs[k][i][0] for k in TRIED], marker=marker, ls=line, color=color,
                   mfc="none", label=f"fp16, seed {i}")  # fmt: skip
    right.axhspan(min(fp32), max(fp32), color="#DDDDDD", lw=0, label="fp32")
    fits = min(x.suggest_scale(headroom=0, of="bf16").scale for *_, xrays in probes for x in xrays)
    right.axvline(fits, color="#888888", ls=(0, (4, 2)), label="largest that fits")
    left.set(ylabel="gone (%)", ylim=(-3, 103))
    right.set(ylabel="Dice of lesions", ylim=(-0.03, 1.03))
    for axes in (left, right):
        axes.set_xscale("log", base=2)
        axes.set(xlabel="loss scale", xlim=(2.0**-14, 2.0**21))
    left.legend(loc="upper right")
    right.legend(loc="center", bbox_to_anchor=(0.53, 0.35))
print("Figure:", *plots.save(figure, FIGURES, "08_choosing_a_loss_scale"))

# %% [markdown]
# The top of the figure is for this network what figure 3 is in the paper.
#
# From 2^-8 to 2^16 all is one plateau, 24 binades wide, and on it the network is as good as in fp32
# or in bf16, which needs no scale. So nothing is to be tuned: the suggestion, or anything a few
# binades below it, will do, and this network does without any. How much may go? Half of the
# values, as long as they are 2% of the sum; with 7% of the sum, under 2^-10, next to no lesion is
# found any more. Both numbers are this network's, and no law.
#
# The prediction holds where little goes. Under 2^-8 and 2^-10 it is 8 points too low, as zeros make
# more zeros on their way back; under 2^-12 it is too high, as a network that does not learn keeps
# its large gradients.
#
# Above the ceiling, weights' gradients overflow, and no activation's. The step is left out, the
# weights stay as they are, and so do the gradients: a static scale that is too large in the first
# step stays too large. (One seed took 13 of its 400 steps.) That is no loss of quality but no
# training at all.
#
# ## More pixels
#
# **Predict:** untrained U-Nets, images of 32, 64, 128 pixels a side. What becomes of the middle one
# of all gradients of activations (the median), and of the largest of weights?


# %%
def median(histogram):
    """The exponent up to which half of the values lie."""
    exponents, numbers = zip(*sorted(histogram.items()), strict=True)
    return exponents[np.searchsorted(np.cumsum(numbers), sum(numbers) / 2)]


for side in (32, 64, 128):
    images, masks = fs.data.phantoms(4, side, rng=1)
    found = []
    for seed in range(3):
        with fs.watch(model := UNet(4, 1, rng=seed)) as xray:
            with fs.autocast("bf16"):
                loss = model.loss(images, masks)
            loss.backward()
        middle = median(total([xray], ACTIVATIONS, "bf16").to_dict()["exponents"])
        found.append(f"2^{middle}, 2^{np.log2(total([xray], WEIGHTS, 'bf16').largest):.1f}")
    print(f"{side:3} x {side:3}, middle of activations and largest of weights:", "; ".join(found))

# %% [markdown]
# Activations' gradients fall with the number of pixels; those of weights, sums over the pixels, do
# not. So the floor rises, the ceiling stays, and the window closes from below. Sixteen images of
# 512 x 512 have 2^10 times as many pixels as our batch. By this count the floor is near 2^2 then,
# and a training without scaling is below it; more than ten binades of window are left.
#
# ## Why powers of two?
#
# **Predict:** gradients are stored in fp16 times 1024, and divided by 1024 afterwards; then the
# same with 1000. Which of the results equal those without a scale? Which are less exact?

# %%
gradients = np.random.default_rng(0).standard_normal(100_000).astype(np.float32) * 2.0**-8
gradients = gradients[np.abs(gradients) > 2.0**-13]  # normal in fp16, with or without a scale
plain = fs.round_to(gradients, "fp16")
for scale in (1024, 1000):
    stored = fs.round_to(gradients * np.float32(scale), "fp16") / np.float32(scale)
    error = np.abs(stored / gradients - 1).mean() / np.abs(plain / gradients - 1).mean()
    print(f"{scale}: {(stored == plain).mean():7.2%} equal; error {error:.3f} times as large")

# %% [markdown]
# A power of two only moves the exponent, so every value is rounded as it would have been, and a run
# with scaling can be compared with one without, bit for bit, where nothing is subnormal. A scale of
# 1000 rounds twice more, in fp32, when it multiplies and when it divides. That is too little to
# matter, and the error is as large as before; but hardly any value is the same. Powers of two are
# no better for training. They are better for finding out what went wrong.
#
# ## Exercise
#
# Find the window from a histogram. Given how many activation gradients have which exponent (each
# counts as 2^exponent, and under a scale 2^k all those are flushed whose exponent plus k is below
# -25) and the largest gradient of all, return two whole numbers: the smallest k under which at most
# a share `bound` of the *sum of sizes* is flushed, and the largest k for which the largest gradient
# times 2^(k + headroom) is at most 65504. A solution is in `solutions/08_choosing_a_loss_scale.py`.


# %%
def window(counts, largest, bound, headroom):
    """The exponents of the smallest and the largest scale; counts: {exponent: number}."""
    return ..., ...  # your code here


check_window(window)
