# %% [markdown]
# # 03 · Rounding
#
# **Question.** A result that is not a number of the format must become one of its two neighbours.
# Which one hardly seems to matter: either is off by less than a last bit. When does it matter?
#
# - **Time:** half an hour to read; a few seconds of computing
# - **You need:** lesson 02. No GPU.
# - **You will be able to:** round by hand in every mode; say what a tie is and who wins it; measure
#   an error in ulps; explain why rounding twice is not rounding once; say what stochastic rounding
#   buys.
# - **Sources:** IEEE 754-2019, section 4.3; Goldberg, *What every computer scientist should know
#   about floating-point arithmetic* (1991); Croci et al., *Stochastic rounding*, R. Soc. Open Sci.
#   (2022).
#
# Before each cell that shows something, you are asked to **predict**. Write your guess down.

# %%
import sys
import tempfile
from pathlib import Path

import numpy as np
from checks import check_round_even

import fp16sim as fs
from fp16sim import plots

FAST = "--fast" in sys.argv
# A quick run must not replace the real figures.
TEMPORARY = tempfile.TemporaryDirectory()
FIGURES = Path(TEMPORARY.name if FAST else "figures")

# %% [markdown]
# ## Two neighbours
#
# Around 1, numbers of fp16 are 2^-10 apart: an *ulp* (unit in the last place). Let us put values
# between 1 and 1 + 1 ulp, and one between 1 + 1 ulp and 1 + 2 ulp.
#
# **Predict:** where do 1 + 0.25 ulp and 1 + 0.75 ulp go if they go to the nearest? And where would
# you send 1 + 0.5 ulp and 1 + 1.5 ulp?

# %%
MODES = (
    "ties_to_even",
    "ties_to_away",
    "toward_zero",
    "toward_positive",
    "toward_negative",
    "to_odd",
)
ULP = 2.0**-10
print(f"{'1 + ... ulp':18}" + "".join(f"{part:8g}" for part in (0.25, 0.5, 0.75, 1.5, -0.25)))
for mode in MODES:
    found = [
        (fs.round_to(1 + part * ULP, "fp16", mode) - 1) / ULP for part in (0.25, 0.5, 0.75, 1.5)
    ]
    below = (fs.round_to(1 - 0.25 * ULP, "fp16", mode) - 1) / ULP
    print(f"{mode:18}" + "".join(f"{number:8g}" for number in (*found, below)))

# %% [markdown]
# 1 + 0.5 ulp is a *tie*: both neighbours are equally near. *Ties to even* takes the one whose last
# bit is 0, so 1 + 0.5 ulp goes down and 1 + 1.5 ulp goes up; hardware does that unless told
# otherwise. *Away* is away from zero. The other modes never ask what is near: *to odd* takes the
# neighbour whose last bit is 1. (Below 1 an ulp is half as large: hence the halves in the last
# column.)
#
# ## Why to even?
#
# **Predict:** add up 1000 values that are all ties: k + 0.5 ulp with random k. By how many ulps is
# the sum of their roundings too large, with ties to even, and away from zero?

# %%
rng = np.random.default_rng(0)
ties = 1 + (rng.integers(0, 1000, 1000) + 0.5) * ULP
for mode in ("ties_to_even", "ties_to_away", "toward_zero"):
    errors = (fs.round_to(ties, "fp16", mode) - ties) / ULP
    print(f"{mode:14} mean error {errors.mean():+.3f} ulp, sum {errors.sum():+.0f} ulp")

# %% [markdown]
# Away from zero always errs in one direction: half an ulp a value, a *bias*. To even errs as often
# up as down, but for chance. A bias is worse than an error: in sums errors of both signs cancel.
#
# ## Rounding twice
#
# A value passes through fp32 on its way to fp16: a framework computes in float64, stores float32,
# and casts. Each step rounds to the nearest.
#
# **Predict:** x = 1 + 0.5 ulp + a tiny bit (2^-40). Directly, it is above the tie. And through
# fp32?

# %%
x = 1 + 0.5 * ULP + 2.0**-40
once = fs.round_to(x, "fp16")
twice = fs.round_to(fs.round_to(x, "fp32"), "fp16")
odd = fs.round_to(fs.round_to(x, "fp32", "to_odd"), "fp16")
print(f"once: 1 + {(once - 1) / ULP:g} ulp   through fp32: 1 + {(twice - 1) / ULP:g} ulp   "
      f"through fp32, to odd: 1 + {(odd - 1) / ULP:g} ulp")  # fmt: skip
values = rng.uniform(1, 2, 400_000 if FAST else 4_000_000)
different = fs.round_to(fs.round_to(values, "fp32"), "fp16") != fs.round_to(values, "fp16")
print(f"of {len(values):,} random float64 values {different.sum()} differ")

# %% [markdown]
# The first rounding puts x onto the tie, and forgets on which side it was. That is rare for random
# numbers, about one in 16000, and a classic among bugs: the cure is to round the first time *to
# odd*, which never lands on a tie that was not there, or to round just once. Everything in this
# package rounds once.
#
# ## Long sums
#
# Now the modes at work: 8000 numbers from 0 to 1/16 are added one after the other, in fp16, which
# rounds 8000 times. The exact sum is about 250.
#
# **Predict:** which modes come out too large, too small, near?

# %%
COUNT, TRIALS = (1000, 8) if FAST else (8000, 32)
terms = fs.round_to(rng.uniform(0, 1 / 16, (COUNT, TRIALS)), "fp16")
exact = np.cumsum(terms, axis=0)
looks = {
    "ties_to_even": ("#000000", "-"), "toward_zero": ("#D55E00", "--"),
    "toward_positive": ("#0072B2", "-."), "stochastic": ("#009E73", ":"),
}  # fmt: skip
with plots.style():
    figure = plots.new_figure(7.2, 3.6)
    axes = figure.add_subplot()
    for mode, (color, line) in looks.items():
        total, path = np.zeros(TRIALS), []
        for row in terms:
            draw = {"rng": rng} if mode == "stochastic" else {}
            total = fs.round_to(total + row, "fp16", mode, **draw)  # exact in float64, then once
            path.append(total)
        relative = (np.array(path) / exact - 1) * 100
        axes.plot(np.median(relative, axis=1), color=color, linestyle=line, label=mode)
        low, high = np.quantile(relative[-1], [0.1, 0.9])
        print(
            f"{mode:16} ends {np.median(relative[-1]):+6.1f} % off "
            f"(8 of 10: {low:+.1f} to {high:+.1f})"
        )
    axes.set(xlabel="numbers added", ylabel="error of the sum (%)", ylim=(-100, 100))
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
print("Figure:", *plots.save(figure, FIGURES, "03_rounding"))

# %% [markdown]
# Toward zero falls behind from the start and stalls at 64, toward positive runs out of the picture.
# To nearest is right until the sum is 128: from there on numbers are 1/8 apart, every term is at
# most half of that, and the sum stalls (lesson 05). *Stochastic* rounding goes up with a
# probability equal to the distance from the lower neighbour, in ulps, so that it is right on
# average at every single step, however small the term: it never stalls, and its error is chance.
# That is why it can take the place of master weights (lesson 06).
#
# ## Exercise
#
# Write rounding to nearest even yourself: of one number to a multiple of a spacing, with `np.floor`
# and what you know about ties, but without `np.round` or `np.rint`. A solution is in
# `solutions/03_rounding.py`.


# %%
def round_even(x, spacing):
    """The multiple of the spacing that is nearest to x; of two equally near, the even one."""
    return ...  # your code here


check_round_even(round_even)
