# %% [markdown]
# # 04 · The edges
#
# **Question.** fp16 ends at 65504 above and at 6e-8 below, both uncomfortably near. What happens to
# a result that does not fit, and does anybody tell you?
#
# - **Time:** half an hour to read; a few seconds of computing
# - **You need:** lessons 02 and 03. No GPU.
# - **You will be able to:** say where underflow begins and where it ends; compute with infinities
#   and NaN in your head; read the flags that hardware keeps; rewrite a formula so that it stays
#   inside.
# - **Sources:** IEEE 754-2019, sections 6.1, 6.2 and 7; Demmel, *Underflow and the reliability of
#   numerical software*, SIAM J. Sci. Stat. Comput. (1984); OCP 8-bit Floating Point Specification.
#
# Before each cell that shows something, you are asked to **predict**. Write your guess down.

# %%
import sys
import tempfile
from pathlib import Path

import numpy as np
from checks import check_fate

import fp16sim as fs
from fp16sim import plots

# A quick run must not replace the real figures.
TEMPORARY = tempfile.TemporaryDirectory()
FIGURES = Path(TEMPORARY.name if "--fast" in sys.argv else "figures")

# %% [markdown]
# ## Down
#
# **Predict:** start at 1.2 and halve, in fp16. After how many halvings is the result zero? And is
# it right until then?

# %%
x = flushing = fs.round_to(1.2, "fp16")
for step in range(1, 27):
    x = fs.arith.divide(x, 2.0, "fp16")
    flushing = fs.round_to(flushing / 2, "fp16", subnormals=False)
    if step in (1, 14, 15, 18, 21, 23, 24, 25, 26):
        print(
            f"after {step:2}: {x:12.5g}, {x / (1.2 / 2**step) - 1:+8.2%};   flushed: {flushing:.5g}"
        )

# %% [markdown]
# Until 2^-14 all is well. Below, the number runs out of bits one by one: *gradual underflow*. Its
# error grows from a fiftieth of a percent to a sixth, and the last number, 2^-24, becomes zero at
# the next halving. Hardware that *flushes* (the right column) jumps from 2^-14 straight to zero.
#
# Why the trouble with subnormal numbers? **Predict:** two different numbers x and y near 2^-14. Can
# x - y be zero?

# %%
x, y = 1.25 * 2.0**-14, 1.0 * 2.0**-14
print(f"x - y = {fs.arith.subtract(x, y, 'fp16'):.3g} gradually, "
      f"{fs.round_to(x - y, 'fp16', subnormals=False):.3g} flushed")  # fmt: skip

# %% [markdown]
# With gradual underflow x - y is zero only if x equals y, so that `if x != y: 1 / (x - y)` is safe.
# Flushing takes that away. (GPUs keep subnormal fp16 numbers; many flush those of fp32.)
#
# ## Up
#
# **Predict:** which of these are infinite in fp16: 65504 + 15, 65504 + 16, 255², 256²?

# %%
for text, value in (
    ("65504 + 15", 65519.0),
    ("65504 + 16", 65520.0),
    ("255^2", 255.0**2),
    ("256^2", 256.0**2),
):
    print(f"{text:11} -> {fs.round_to(value, 'fp16'):g}")
with fs.status_flags() as flags:
    x = np.float32([300.0, 400.0])
    squares = fs.arith.multiply(x, x, "fp16")
    length = fs.arith.sqrt(fs.arith.add(*squares, "fp16"), "fp16")
    print(f"length of (300, 400): {length:g}, and the flags say {flags.raised}")
    largest = np.abs(x).max()
    small = fs.arith.divide(x, largest, "fp16")
    squares = fs.arith.multiply(small, small, "fp16")
    length = fs.arith.multiply(
        fs.arith.sqrt(fs.arith.add(*squares, "fp16"), "fp16"), largest, "fp16"
    )
    print(f"divided by the largest first: {length:g}")

# %% [markdown]
# At the largest number the spacing is 32; less than half of that beyond it, results are rounded
# back to 65504, and from 65520 on they are infinite. The length, 500, was well inside; a step on
# the way was not. Nothing stops, and nothing is printed: a CPU raises a *flag* (IEEE 754 has five,
# see the glossary), a GPU not even that.
#
# ## What infinity does next
#
# **Predict:** inf - inf, 0 x inf, inf / inf, 1 / inf, max(NaN, 1)? Is NaN equal to NaN?

# %%
inf, nan, arith = np.inf, np.nan, fs.arith
with fs.status_flags() as flags:
    results = {
        "inf - inf": arith.subtract(inf, inf, "fp16"),
        "0 x inf": arith.multiply(0.0, inf, "fp16"),
        "inf / inf": arith.divide(inf, inf, "fp16"),
        "1 / inf": arith.divide(1.0, inf, "fp16"),
        "1 / 0": arith.divide(1.0, 0.0, "fp16"),
        "max(NaN, 1)": np.maximum(nan, 1.0),
    }
for text, result in results.items():
    print(f"{text:12} = {result:g}")
print(f"NaN == NaN: {nan == nan}; raised: {flags.raised}")

# %% [markdown]
# One NaN in a sum makes the sum NaN, a NaN in the loss makes every gradient NaN, and one step of
# the optimiser makes every weight NaN. That is how one overflow ends a training; here it is in a
# softmax as it stands in a textbook, e^x / Σ e^x.
#
# **Predict:** from which scores on does it fail in fp16, and how? How can the formula be mended?


# %%
def softmax(scores, shift):
    powers = fs.arith.exp(fs.arith.subtract(scores, shift, "fp16"), "fp16")
    return fs.arith.divide(powers, fs.sum(powers, fmt="fp16"), "fp16")


for scores in ([10.0, 9.0, 8.0], [11.0, 10.0, 9.0], [12.0, 11.0, 10.0], [300.0, 299.0, 298.0]):
    scores = np.float32(scores)
    print(f"scores {scores}: {softmax(scores, 0.0)}, shifted {softmax(scores, scores.max())}")

# %% [markdown]
# e^11.1 is fp16's end: at 12 a power is infinite, and inf / inf is NaN. Before that, at 11, each
# power still fits and their sum does not: all probabilities are zero, and no NaN tells you.
# Subtracting the largest score changes nothing on paper and everything in fp16: the largest power
# is 1, and what underflows beside it did not count. Every library does it.
#
# ## Formats with other edges
#
# **Predict:** E4M3, for 8-bit training, ends at 448 and has no infinity. What is 500 in it?

# %%
for fmt in ("fp16", "bf16", "e5m2", "e4m3", "e2m1"):
    results = [fs.round_to(x, fmt, saturate=s) for x in (500.0, 1e6) for s in (False, True)]
    print(f"{fmt:5} 500: {results[0]:g}, saturating {results[1]:g}    "
          f"10^6: {results[2]:g}, saturating {results[3]:g}")  # fmt: skip

x = 2.0 ** np.linspace(-30, 20, 5001)
with plots.style():
    figure = plots.new_figure(7.2, 3.4)
    axes = figure.add_subplot()
    for fmt, color, line, how in (
        ("fp16", "#000000", "-", {}), ("fp16", "#D55E00", ":", {"subnormals": False}),
        ("bf16", "#0072B2", "--", {}), ("e4m3", "#009E73", "-.", {"saturate": True}),
    ):  # fmt: skip
        error = np.abs(fs.round_to(x, fmt, **how) / x - 1)
        worst = np.array([part.max() for part in np.array_split(np.minimum(error, 1), 200)])
        label = fmt + (", flushing" if "subnormals" in how else ", saturating" if how else "")
        axes.plot(x[12::25][:200], worst, color=color, linestyle=line, label=label)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.set(xlabel="number", ylabel="largest relative error nearby")
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
print("Figure:", *plots.save(figure, FIGURES, "04_the_edges"))

# %% [markdown]
# E4M3 uses infinity's bits for numbers: beyond its end comes NaN, unless one asks for the largest
# number (*saturation*). E2M1 has no NaN either, and always saturates.
#
# In the figure each format is a tub. Its bottom, with a tooth for every binade, is set by the
# precision, its width by the exponent. fp16's left wall is a slope, thanks to subnormal numbers;
# flushing makes it a cliff.
#
# ## Exercise
#
# Say what becomes of a number, finite or NaN, in fp16. `fs.round_to` may be used; the words are
# "zero" (it was zero before), "flushed", "subnormal", "normal", "overflow" and "nan". A solution is
# in `solutions/04_the_edges.py`.


# %%
def fate(x):
    """What becomes of a number that is rounded to fp16."""
    return ...  # your code here


check_fate(fate)
