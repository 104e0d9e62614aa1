# %% [markdown]
# # 02 · What fp16 can hold
#
# **Question.** Sixteen bits make 65 536 patterns, so fp16 has at most that many numbers. Which
# ones, and where on the number line are they? And what do the other formats do with their bits?
#
# - **Time:** half an hour to read; a few seconds of computing
# - **You need:** Python; powers of two. No GPU.
# - **You will be able to:** read an fp16 number from its bits; say how far apart numbers are at any
#   size; predict whether 2049 or 1e-7 is there; choose between fp16 and bf16 for given data.
# - **Sources:** IEEE 754-2019, section 3.4 and table 3.5; OCP 8-bit Floating Point Specification
#   1.0.
#
# Before each cell that shows something, you are asked to **predict**. Write your guess down.

# %%
import sys
import tempfile
from pathlib import Path

import numpy as np
from checks import check_spacing

import fp16sim as fs
from fp16sim import plots

# A quick run must not replace the real figures.
TEMPORARY = tempfile.TemporaryDirectory()
FIGURES = Path(TEMPORARY.name if "--fast" in sys.argv else "figures")

# %% [markdown]
# ## Sixteen bits
#
# One bit for the sign, five for the exponent, ten for the fraction. The exponent field holds e +
# 15; in front of the fraction stands a 1 that is not stored, as it is always there. So 1.5 = 1.1 in
# binary x 2^0 is `0 01111 1000000000`.
#
# **Predict:** the bits of 1. Those of the next larger number. Those of 0.1?


# %%
def bits(x):
    """Sign, exponent and fraction of a number as fp16 has it."""
    pattern = f"{int(fs.encode(fs.round_to(x, 'fp16'), 'fp16')):016b}"
    return f"{pattern[0]} {pattern[1:6]} {pattern[6:]}"


for x in (1.5, 1.0, 1 + 2.0**-10, 2.0, 0.1, 65504.0, 2.0**-14, 2.0**-24, 0.0, -0.0, np.inf, np.nan):
    print(f"{x:>12.6g}  {bits(x)}  is {fs.round_to(x, 'fp16'):.12g}")

# %% [markdown]
# The number after 1 is 1 + 2^-10: that distance is called *eps*. 0.1 is not there, as its binary
# fraction never ends; what is there is 0.0999755859375. Two exponent fields are special: all ones
# for infinity and NaN, all zeros for 0 and the *subnormal* numbers. Those have a 0 in front of the
# fraction, not a 1, and the exponent -14: so 0 00000 0000000001 is 2^-10 x 2^-14 = 2^-24.
#
# ## How many, and where?
#
# **Predict:** of fp16's positive numbers, which share is below 1? How many lie between 1 and 2, how
# many between 1024 and 2048?

# %%
numbers = np.array(list(fs.FP16))
positive = numbers[(numbers > 0) & np.isfinite(numbers)]
print(f"{len(numbers)} numbers with both zeros and infinities; {len(positive)} positive ones")
print(f"below 1: {(positive < 1).mean():.1%}")
for low in (2.0**-24, 2.0**-20, 2.0**-15, 1.0, 1024.0, 32768.0):
    inside = (positive >= low) & (positive < 2 * low)
    gap = np.diff(positive[positive >= low])[0]
    print(f"from {low:10.4g} to {2 * low:10.4g}: {inside.sum():5d} numbers, {gap:.3g} apart")

# %% [markdown]
# From 2^-14 up every *binade*, from a power of two to the next, has the same number of numbers:
# 1024. So nearly half of all numbers are below 1, and spacing doubles with every binade: from 2048
# on only even integers are left, and 2049 is none of them. That is why the *relative* error of
# rounding is at most 2^-11 everywhere, except below 2^-14: there *subnormal* numbers keep a spacing
# of 2^-24, and lose one bit with every binade, down to one.
#
# ## The same bits, spent otherwise
#
# **Predict:** bf16 has the exponent of fp32 (8 bits) in 16 bits. What is left for the fraction, and
# what is the number after 1? (Small formats are named after their bits: E4M3 has a sign, 4 bits of
# exponent and 3 of fraction.)

# %%
FORMATS = (fs.FP32, fs.TF32, fs.BF16, fs.FP16, fs.E5M2, fs.E4M3, fs.E2M1)
print("format  bits  precision        eps    largest   smallest normal   smallest")
for fmt in FORMATS:
    print(
        f"{fmt!s:6} {fmt.bits:5} {fmt.precision:10} {fmt.eps:10.3g} {fmt.max:10.4g} "
        f"{fmt.smallest_normal:17.3g} {fmt.smallest_subnormal:10.3g}"
    )


# %%
def significant_bits(fmt, exponent):
    """How many bits the numbers of a binade have; 0 where there are none."""
    if exponent > fmt.emax:
        return 0
    return max(min(fmt.precision, fmt.precision + exponent - fmt.emin), 0)


with plots.style():
    figure = plots.new_figure(7.2, 3.6)
    axes = figure.add_subplot()
    exponents = np.arange(-60, 61)
    looks = {fs.TF32: ":", fs.FP16: "-", fs.BF16: "--", fs.E4M3: "-.", fs.E5M2: (0, (5, 1))}
    colors = ("#999999", "#000000", "#0072B2", "#D55E00", "#009E73")
    for (fmt, line), color in zip(looks.items(), colors, strict=True):
        kept = [significant_bits(fmt, e) for e in exponents]
        axes.step(exponents, kept, where="post", linestyle=line, color=color, label=str(fmt))
    axes.set(xlabel="size of the number (exponent of 2)", ylabel="significant bits", ylim=(0, 12))
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
print("Figure:", *plots.save(figure, FIGURES, "02_what_fp16_can_hold"))

# %% [markdown]
# *Precision* counts the bits of the fraction and the 1 in front: bf16 has 7 + 1. fp16 is tall and
# narrow, bf16 low and wide: eleven bits over 40 binades, or eight bits over more than 250 (the
# picture shows those from 2^-60 to 2^60; tf32, which is fp16's precision with bf16's range, lies
# above all). The slope on the left of fp16 is the subnormal range.
#
# **Predict:** which of the two is nearer to 0.1? to 1e-6? to 3e-9? to 1e5?

# %%
for x in (0.1, 1e-6, 3e-9, 1e5):
    half, brain = (fs.round_to(x, fmt) for fmt in ("fp16", "bf16"))
    print(f"{x:8.3g}: fp16 {half:12.6g} ({half / x - 1:+8.2%}), "
          f"bf16 {brain:12.6g} ({brain / x - 1:+8.2%})")  # fmt: skip

# %% [markdown]
# Near 1 fp16's numbers are eight times as dense; at 1e-6 it has lost most of its bits; 3e-9 and 1e5
# are outside. Weights and activations of networks mostly live near 1, gradients mostly do not.
#
# ## And your data?
#
# **Predict:** a layer's weights are normal with a standard deviation of 0.05; its gradients are
# around 1e-7, two thirds of them within a factor of 7. Which share of each becomes zero in fp16,
# and how large is the typical relative error, in fp16 and bf16?

# %%
rng = np.random.default_rng(0)
data = {
    "weights": rng.normal(0, 0.05, 100_000),
    "gradients": 1e-7 * np.exp(rng.normal(0, 2, 100_000)) * rng.choice([-1, 1], 100_000),
}
for name, values in data.items():
    for fmt in ("fp16", "bf16", "e4m3"):
        rounded = fs.round_to(values, fmt)
        error = np.median(np.abs(rounded / values - 1))
        print(f"{name:10} in {fmt}: {(rounded == 0).mean():6.1%} zero, median error {error:.2%}")

# %% [markdown]
# (One seed; the shares hardly depend on it.) The weights are at home in fp16. Of the gradients more
# than a quarter is gone, and half of them are off by an eighth or more; multiplied by 2^14 before,
# they would be as accurate as the weights. That is loss scaling, and lessons 07 to 09 are about it.
# bf16 loses none of them, and is a little wrong about all of them. E4M3, with four bits, has the
# weights to within a few percent, and no number below 2^-9.
#
# ## Exercise
#
# Write a function that says how far it is from a positive number of a format to the next larger
# one. `fmt.precision`, `fmt.emin` and `fmt.eps` are there for you. A solution is in
# `solutions/02_what_fp16_can_hold.py`.


# %%
def spacing(x, fmt):
    """The distance from x, a positive number of the format, to the next larger one."""
    return ...  # your code here


check_spacing(spacing)
