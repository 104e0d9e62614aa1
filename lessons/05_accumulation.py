# %% [markdown]
# # 05 · Accumulation
#
# **Question.** A neural network is mostly dot products, and a dot product is mostly additions. In
# which format are they done, and in which order? Your framework does not say, and GPUs differ.
# Does it matter?
#
# - **Time:** half an hour to read; about fifteen seconds of computing (`--fast`: fewer)
# - **You need:** Python; what a dot product is; that fp16 has 11 significant bits. No GPU.
# - **You will be able to:** say where a sum in fp16 stops growing; choose an order of addition
#   that does not; tell what a Tensor Core does from what fp32 does, on paper; explain why the
#   newer chip is not always the more accurate one.
# - **Sources:** Higham, *Accuracy and Stability of Numerical Algorithms* (2002), chapter 4; Fasi,
#   Higham, Mikaitis and Pranesh, *Numerical behavior of NVIDIA tensor cores*, PeerJ CS (2021).
#
# Before each cell that shows something, you are asked to **predict**. Write your guess down.

# %%
import sys
import tempfile
from pathlib import Path

import numpy as np
from checks import check_stalls_at

import fp16sim as fs
from fp16sim import functional as F
from fp16sim import plots
from fp16sim.experiments import accumulation

FAST = "--fast" in sys.argv
# A quick run must not replace the real figures.
TEMPORARY = tempfile.TemporaryDirectory()
FIGURES = Path(TEMPORARY.name if FAST else "figures")

# %% [markdown]
# ## The sum that stops
#
# **Predict:** add up 5000 ones in fp16, one after the other. Largest fp16 number: 65504. Result?

# %%
ones = np.ones(5000)
print(f"5000 ones in fp16: {fs.sum(ones, accumulator='fp16'):.0f}")
print(f"2048 + 1 in fp16:  {fs.arith.add(2048.0, 1.0, 'fp16'):.0f}")
print(f"2048 + 3 in fp16:  {fs.arith.add(2048.0, 3.0, 'fp16'):.0f}")

# %% [markdown]
# From 2048 on the numbers of fp16 are 2 apart. 2049 is halfway between two of them and goes to the
# one whose last bit is even, back to 2048; and so does the sum with each of the 2952 ones that are
# left. They are *swamped*: no overflow, no NaN, no warning, and no large error in any single
# addition.
#
# Nothing was wrong with the numbers, so perhaps with the order? Three classics, all in fp16:
# *pairwise* adds neighbours, then neighbours of those sums, so that equals meet equals; *Kahan*
# computes what each addition lost and puts it into the next one; *blocks* are added in fp16, but
# their sums in fp32.
#
# **Predict:** which of them gets 5000?

# %%
for name, options in {
    "one after the other": {"accumulator": "fp16"},
    "pairwise": {"accumulator": "fp16-pairwise"},
    "Kahan": {"accumulator": "fp16-kahan"},
    "blocks of 16": {"accumulator": "fp16", "block": 16},
}.items():
    print(f"{name:20} {fs.sum(ones, **options):.0f}")

# %% [markdown]
# All of them. *How* a sum is done can be worth more than how many bits it has.
#
# ## What a Tensor Core does
#
# A Tensor Core multiplies fp16 matrices and "accumulates in fp32", the data sheets say. It does not
# do what your processor does in fp32. It takes a block of products and the sum so far, shifts all
# of them to the largest exponent, *cuts off* what hangs over, and adds the rest. V100 takes 4
# products at a time and keeps 23 bits behind the leading one; A100 takes 8 and keeps 24; H100 takes
# 16 and keeps 25.
#
# Here is one dot product: 1·1 - 1·0.5, added to c = -(0.5 - 2^-25). The exact result is 2^-25.
#
# **Predict:** does any of the three chips get it right? What do the others return: 0, or what?

# %%
a, b = np.array([[1.0, 1.0]]), np.array([[1.0], [-0.5]])
c = -(0.5 - 2.0**-25)
for arch in ("V100", "A100", "H100"):
    result = fs.tensorcore.matmul(a, b, c, arch=arch)
    print(f"{arch}: {result.item():.3g} = 2^{np.log2(result.item()):.0f}")

# %% [markdown]
# The same inputs, three answers, each off by a factor of two from the next. The largest exponent is
# that of 1·1; c = -0.49999997 has a bit at 2^-25, and only H100 keeps bits that far down. On the
# others c is cut off, nearer to zero, *before* anything cancels, and then everything cancels but
# the error.
#
# ## Cutting off adds up
#
# Rounding to nearest errs upwards as often as downwards, so errors of a long sum partly cancel:
# they grow like the square root of its length. Cutting off always errs toward zero.
#
# **Predict:** for a long dot product of positive numbers, which comes closest to the exact result:
# H100, plain fp32 one after the other, or fp16 in blocks of 16 with the blocks added in fp32?

# %%
errors = accumulation.accumulation(longest=12 if FAST else 16)
n = errors.lengths[-1]
print(f"Error in units in the last place of fp16, n = {n}, median of {errors.trials}")
for kind, rows in errors.errors.items():
    print(f"\n{kind}")
    for name, row in rows.items():
        print(f"  {name:22} {row[-1]:10.2g}")

figure = plots.accumulation_figure(errors, accumulation.KINDS)
print("\nFigure:", *plots.save(figure, FIGURES, "05_accumulation"))

# %% [markdown]
# Positive factors first. On every Tensor Core the error grows in proportion to the length, along
# the grey line of slope one, while that of fp32 grows like its square root. Blocks of fp16 start
# far above and overtake every Tensor Core: inside a block roundings cancel, and the long sum is
# fp32's. (`fp16sim accumulate` goes on to n = 2^20, where they overtake even plain fp32.) fp16
# alone has stopped growing long ago; *fused*, where a product is not rounded before it is added, is
# no better. (`inf`, for the ones: sums in fp16 that would reach 65536 overflow, however well they
# are ordered.)
#
# Now look at factors of zero mean. **Predict:** V100 keeps the fewest bits. Is it the worst?
#
# It is not: from some length on V100 is *better* than A100 and H100. It keeps 23 bits behind the
# largest exponent, just as many as an fp32 number has, so usually nothing is left to cut from the
# result; what was cut were products, as many positive as negative ones, and that cancels. A100 and
# H100 keep more bits of the products, but then the result has bits that fp32 has not, and cutting
# those off pulls it toward zero at every step. More bits inside, and a worse sum. (Positive
# products are all cut in one direction, and V100 is the worst again.)
#
# ## Does a network mind?
#
# Train a small classifier on each arithmetic: forward and both products of backward.
#
# **Predict:** which of these will hurt: Tensor Cores, sums in fp16, in e4m3 (4 significant bits),
# in e5m2 (3)?

# %%
digits = fs.data.digits()
STEPS = 40 if FAST else 200


def accuracy(accumulator):
    """Train and test a digit classifier whose matrix products add up as told."""
    rng = np.random.default_rng(0)
    model = fs.nn.Sequential(
        fs.nn.Linear(64, 64, rng=rng), fs.nn.ReLU(), fs.nn.Linear(64, 10, rng=rng)
    )
    optimizer = fs.optim.Adam(model.parameters(), lr=3e-3)
    scaler = fs.GradScaler(init_scale=2.0**10)
    precision = fs.autocast("fp16", accumulator=accumulator)
    for batch in fs.data.batches(len(digits.train_images), 64, STEPS, rng=0):
        optimizer.zero_grad()
        with precision:
            logits = model(fs.Tensor(digits.train_images[batch]))
            loss = F.cross_entropy(logits, digits.train_labels[batch])
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
    with fs.no_grad(), precision:
        answers = model(fs.Tensor(digits.test_images)).numpy().argmax(axis=1)
    return (answers == digits.test_labels).mean()


for accumulator in ("fp32", fs.tensorcore.V100, fs.tensorcore.H100, "fp16", "e4m3", "e5m2"):
    print(f"{accumulator!s:6} {accuracy(accumulator):.1%} right")

# %% [markdown]
# At 64 products a sum nobody notices Tensor Cores, nor fp16; it takes sums of 4 or 3 bits to hurt
# (one seed). But in large networks sums have thousands of terms, and the gradient of a weight that
# all pixels of a batch share has millions. That is where the curves above part, and why PyTorch
# accumulates in fp16 only if told to (`allow_fp16_accumulation`).
#
# ## Exercise
#
# Adding 1 again and again, a sum in fp16 stalls at 2048. Where does it stall if you keep adding
# some other value, in some other format? Write a function that finds out; `fmt` is a name, as in
# `fs.arith.add(2048.0, 1.0, "fp16")`. (Adding up really is fine. If you prefer a formula: try it on
# 3 in fp16.) A solution is in
# `solutions/05_accumulation.py`.


# %%
def stalls_at(value, fmt):
    """The sum that does not change any more when the positive value is added, in this format."""
    return ...  # your code here


check_stalls_at(stalls_at)
