# %% [markdown]
# # 01 · The rescue
#
# **Question.** In fp16, a famous network learns nothing: whatever digit it is shown, it draws the
# same blur. Multiply the loss by one number, and it learns as if nothing had happened. Why?
#
# - **Time:** half an hour to read; about 20 s of computing on two cores (`--fast`: about half)
# - **You need:** Python; what a gradient and a training step are. No GPU.
# - **You will be able to:** say where in a network fp16 loses a gradient and why there; tell a zero
#   that rounding made from a zero that was there before; explain why master weights do not help
#   and loss scaling does; name networks that need neither.
# - **Sources:** Hinton and Salakhutdinov, *Science* 313 (2006), for the network; Micikevicius et
#   al., *Mixed Precision Training*, ICLR 2018, for the cure.
#
# Run it as a script, or cell by cell. Before each cell that shows something, you are asked to
# **predict**. Write your guess down; you will remember the answer better, most of all if it was
# wrong.

# %%
import sys
import tempfile
from pathlib import Path

import numpy as np
from checks import check_flushed_share

import fp16sim as fs
from fp16sim import functional as F
from fp16sim import plots

FAST = "--fast" in sys.argv
STEPS = 250 if FAST else 600
# A quick run must not replace the real figures.
TEMPORARY = tempfile.TemporaryDirectory()
FIGURES = Path(TEMPORARY.name if FAST else "figures")

# %% [markdown]
# ## What fp16 can hold
#
# An fp16 number has 11 significant bits and exponents from -14 to 15. Below 2^-14 it loses bits one
# by one (*subnormal* numbers); the smallest is 2^-24, about 6e-8.
#
# **Predict:** what does fp16 make of 1e-5, of 1e-7, of 4e-8, of 2e-8?

# %%
print(f"fp16 reaches from {fs.FP16.smallest_subnormal:.3g} to {fs.FP16.max:.0f}")
for x in (1e-5, 1e-7, 4e-8, 2e-8):
    print(f"  {x:.0e} becomes {fs.round_to(x, 'fp16'):.4g}")

# %% [markdown]
# 4e-8 is nearer to 2^-24 than to 0 and survives, half as big again; 2e-8 is *flushed* to zero.
# Flushing starts at 2^-25: what is halfway to 2^-24, or less, goes to zero.
#
# ## The network
#
# An autoencoder squeezes 64 pixels through 16 numbers and draws the image again from those. Six
# layers with sigmoid units; the loss is the mean squared error per pixel. The 8x8 digits are real
# handwriting, shipped with scikit-learn.

# %%
digits = fs.data.digits()
baseline = np.square(digits.test_images - digits.train_images.mean(axis=0)).mean()
print(f"{len(digits.train_images)} images to train on, {len(digits.test_images)} to test")
print(f"Error of answering every image with the mean image: {baseline:.4f}")


def train(precision, scaler=None, activation="sigmoid", watch=True):
    """Train one autoencoder; the arguments say what differs, all else is equal."""
    model = fs.models.Autoencoder(activation=activation, rng=0)
    optimizer = fs.optim.Adam(model.parameters(), lr=3e-3)  # weights stay in fp32: master weights
    scaler = scaler or fs.GradScaler(enabled=False)

    def learn():
        for batch in fs.data.batches(len(digits.train_images), 512, STEPS, rng=0):
            images = fs.Tensor(digits.train_images[batch])
            optimizer.zero_grad()
            with precision:  # forward in fp16 where that is safe, as torch.autocast does
                loss = F.mse_loss(model(images), images)
            scaler.scale(loss).backward()  # loss x scale, and gradients with it
            scaler.step(optimizer)  # divides by the scale; skips if a gradient overflowed
            scaler.update()

    xray = None
    if watch:
        with fs.watch(model) as xray:  # sees every number before and after it is rounded
            learn()
    else:
        learn()
    with fs.no_grad(), precision:
        drawn = model(fs.Tensor(digits.test_images)).numpy()
    return np.square(drawn - digits.test_images).mean(), drawn, xray


# %% [markdown]
# ## fp32 and fp16
#
# In the second run activations and their gradients are fp16; the weights are *master weights* in
# fp32, so no update is too small to be added. (Everything here is one seed, so that you need not
# wait; `fp16sim rescue` runs five.)
#
# **Predict:** fp32 ends near 0.04. Where does fp16 end: a little worse, much worse, or NaN?

# %%
fp32_error, fp32_drawn, _ = train(fs.autocast(enabled=False), watch=False)
fp16_error, fp16_drawn, fp16_xray = train(fs.autocast("fp16"))
print(f"fp32: {fp32_error:.4f}   fp16: {fp16_error:.4f}   mean image: {baseline:.4f}")

# %% [markdown]
# No NaN, no warning, and nothing learned: fp16 ends where answering with the mean image does. A
# failure that makes no noise is the nasty kind.
#
# ## Where does the signal die?
#
# The loss is a mean over 512 x 64 values, so the gradient that enters the network at the top is at
# most 2 / (512 * 64) = 2^-14: it *starts* at the lower end of fp16's normal range. On its way down
# every sigmoid multiplies it by at most 1/4.
#
# **Predict:** textbooks say that *weight gradients* underflow. How many of the weight gradients of
# this network does fp16 flush to zero: 1 %, 10 %, or 90 %? And in which layer is it worst?

# %%
LAYERS = ["decoder.2", "decoder.1", "decoder.0", "encoder.2", "encoder.1", "encoder.0"]


def autopsy(xray):
    print("                   activation gradients        weight gradients")
    print("layer           zero before    flushed    zero before    flushed")
    for layer in LAYERS:
        activations = xray.select(scope=layer, role="activation gradient", fmt=fs.FP16)
        weights = xray.select(scope=layer, role="weight gradient", fmt=fs.FP16)
        shares = [c.share(fate) for c in (activations, weights) for fate in ("zero", "flushed")]
        print(f"{layer}      " + "   ".join(f"{share:>9.2%}" for share in shares))
    every = xray.select(role="weight gradient", fmt=fs.FP16)
    print(f"all weight gradients: {every.share('zero'):.1%} were zero before rounding, ", end="")
    print(f"{every.share('flushed'):.1%} were flushed by it")


autopsy(fp16_xray)

# %% [markdown]
# Read it from the top, the way the gradient travels. Of all weight gradients about 1 % are flushed.
# The *activation* gradients are what dies: a third in `encoder.2`; in `encoder.1` another half,
# when more than a third are zeros already; and `encoder.0` has nothing left to round. Its weight
# gradients are all zero, and not one of them was flushed: they are sums of products with zeros.
# Whoever looks only at them, and only after the fact, sees zeros and cannot tell why. And better
# weights could not help: there is no update for them to keep.
#
# ## The rescue
#
# The gradients are not wrong, only small. Multiply the loss by S = 2^16, and by the chain rule
# every gradient is multiplied by S: 16 exponents up, away from the edge. Divide by S in
# fp32, just before the update. `GradScaler` does both, and lowers S when a gradient overflows.
#
# **Predict:** how close to fp32 does it come?

# %%
scaler = fs.GradScaler(init_scale=2.0**16)
scaled_error, scaled_drawn, scaled_xray = train(fs.autocast("fp16"), scaler)
print(f"fp32: {fp32_error:.5f}   fp16, loss x {scaler.get_scale():.0f}: {scaled_error:.5f}")
autopsy(scaled_xray)

# %%
with plots.style():
    figure = plots.new_figure(11, 4.6)
    grid = figure.add_gridspec(2, 2, width_ratios=[1.15, 1])
    first = None
    shown = [int(np.argmax(digits.test_labels == label)) for label in range(10)]
    rows = [
        ("test images", digits.test_images[shown]),
        ("fp32", fp32_drawn[shown]),
        ("fp16", fp16_drawn[shown]),
        ("fp16,\nloss × 2$^{16}$", scaled_drawn[shown]),
    ]
    plots.image_rows(figure.add_subplot(grid[:, 0]), rows)
    for row, (xray, text) in enumerate([(fp16_xray, "loss × 1"), (scaled_xray, "loss × $2^{16}$")]):
        axes = figure.add_subplot(grid[row, 1], sharey=first)
        first = first or axes
        plots.exponent_histogram(axes, xray.select(role="gradient", fmt=fs.FP16))
        axes.set_title(f"Gradients before rounding to fp16, {text}")
        axes.set_ylabel("share of values, %")
    axes.set_xlabel("size of a gradient value, |g|")
    plots.label_limits(first)
print("Figure:", *plots.save(figure, FIGURES, "01_the_rescue"))

# %% [markdown]
# The dashed lines are fp16's smallest number, its smallest normal number and its largest. Blue is
# normal in fp16, yellow (dotted) subnormal, red (hatched) flushed; the pale bar counts exact zeros.
# Scaling moves the hill to the right as it is, and the zeros that had piled up at the left turn out
# to have been numbers all along. (The 8 % that are left in `encoder.0` belong to pixels that are 0
# in a whole batch.)
#
# ## Not everything needs rescuing
#
# **Predict:** the same autoencoder with tanh units (derivative up to 1 instead of 1/4), and a plain
# digit classifier: does fp16 without scaling ruin them as well?

# %%
for name, precision in (("fp32", fs.autocast(enabled=False)), ("fp16", fs.autocast("fp16"))):
    error, _, _ = train(precision, activation="tanh", watch=False)
    print(f"tanh autoencoder, {name}, no scaling: error {error:.4f}")


def classify(precision):
    model = fs.nn.Sequential(fs.nn.Linear(64, 32, rng=0), fs.nn.ReLU(), fs.nn.Linear(32, 10, rng=1))
    optimizer = fs.optim.Adam(model.parameters(), lr=3e-3)
    for batch in fs.data.batches(len(digits.train_images), 64, 600, rng=0):
        optimizer.zero_grad()
        with precision:
            logits = model(fs.Tensor(digits.train_images[batch]))
            loss = F.cross_entropy(logits, digits.train_labels[batch])
        loss.backward()
        optimizer.step()
    with fs.no_grad(), precision:
        answers = model(fs.Tensor(digits.test_images)).numpy().argmax(axis=1)
    return (answers == digits.test_labels).mean()


for name, precision in (("fp32", fs.autocast(enabled=False)), ("fp16", fs.autocast("fp16"))):
    print(f"digit classifier, {name}, no scaling: {classify(precision):.1%} right")

# %% [markdown]
# Neither does. How small gradients are depends on the loss (a mean over how many values?), on what
# the layers do to them, and on how far training has come; not on fp16 alone. So measure first.
#
# ## Exercise
#
# Before choosing a scale one would like to know what it will do. Write a function that says which
# share of the values of a gradient fp16 would flush to zero if the loss were multiplied by
# `scale`. Mind the difference that this lesson is about. Then run the cell: the check tells you
# what is wrong. A solution is in `solutions/01_the_rescue.py`.


# %%
def flushed_share(gradient, scale):
    """Share (0 to 1) of all values that rounding to fp16 turns from something into zero."""
    return ...  # your code here


check_flushed_share(flushed_share)
