# %% [markdown]
# # 16 · Mixed precision, quantization, pruning
#
# **Question.** fp16 halves a network. Phones run networks in 8-bit integers, and papers throw away
# nine weights of ten. Are these three names for one thing? What is left of a network that gets
# all?
#
# - **Time:** more than half an hour to read; a good minute of computing on two cores
# - **You need:** lessons 02, 06 and 10. No GPU.
# - **You will be able to:** tell a uniform grid's errors from a floating-point format's; choose
#   scale and zero point; compute a layer in integers; say when quantization has to be trained,
#   when pruning saves bytes, and which of the three is for training and which for inference.
# - **Sources:** Jacob et al., *Quantization and Training of Neural Networks for Efficient
#   Integer-Arithmetic-Only Inference*, CVPR 2018; Han et al., *Learning both Weights and
#   Connections*, NeurIPS 2015; Bengio et al., *Estimating or Propagating Gradients Through
#   Stochastic Neurons*, 2013; Mishra et al., *Accelerating Sparse Deep Neural Networks*, 2021.
#
# Before each cell that shows something, you are asked to **predict**. Write your guess down.

# %%
import copy
import sys
import tempfile
from pathlib import Path

import numpy as np
from checks import check_int8_grid

import fp16sim as fs
from fp16sim import compress, plots

FAST = "--fast" in sys.argv
# A quick run must not replace the real figures.
TEMPORARY = tempfile.TemporaryDirectory()
FIGURES = Path(TEMPORARY.name if FAST else "figures")

# %% [markdown]
# ## Mixed precision: the arithmetic of training
#
# A classifier of digits with 50 826 parameters, trained in fp32, and under autocast in fp16 (loss
# scaled) and in bf16.
#
# **Predict:** how many bytes do they take after each of these? How many of 360 test images does it
# cost to store the fp32 ones in 16 bits?

# %%
SIZE, MORE, SEEDS = ("tiny", 30, 1) if FAST else ("laptop", 400, 3)
digits, found = fs.data.digits(), {}


def note(name, model, bits=32, layout="dense", per_channel=True):
    """Write down a model's bytes, and its right answers to the test images in per cent."""
    with fs.no_grad():
        logits = model(fs.Tensor(digits.test_images)).numpy()
    size = compress.model_bytes(model, bits, layout, per_channel=per_channel)
    found.setdefault(name, []).append((size, 100 * fs.metrics.accuracy(logits, digits.test_labels)))


def show(*parts):
    """Print what was noted under names that begin so: means, and the range over the seeds."""
    for name in (name for name in found if name.startswith(parts)):
        sizes, right = zip(*found[name], strict=True)
        print(f"{name:24}{np.mean(sizes):8.0f} bytes  right: {np.mean(right):5.1f} % "
              f"({min(right):.1f} to {max(right):.1f})")  # fmt: skip


def trained(seed, preset):
    task, scaler = fs.models.task("mlp", SIZE, seed=seed), preset.scaler()
    for step in range(task.steps):
        task.train_step(step, precision=preset.region(), scaler=scaler)
    return task


tasks = [trained(seed, fs.presets.O0) for seed in range(SEEDS)]
for seed, task in enumerate(tasks):
    note("fp32", task.model)
    for fmt, preset in (("fp16", fs.presets.amp), ("bf16", fs.presets.amp_bf16)):
        note(f"autocast, {fmt}", trained(seed, preset).model)
        note(f"stored in {fmt}", copy.deepcopy(task.model).to(fmt), 16)
show("fp32", "autocast", "stored")

# %% [markdown]
# Mixed precision does not make a network smaller. It changes the arithmetic of *training*: faster
# on hardware that has it, and with fewer bytes of activations; the weights stay in fp32 (lesson 06
# told why). To *store* them in 16 bits afterwards is a second step, which costs nothing here.
#
# ## Two kinds of grids
#
# A floating-point format has the same *relative* error at all sizes; its exponent sets the range.
# Integers times a *scale* have the same *absolute* error at all sizes; the scale sets the range.
# Here is a layer's weight (one seed), by size; int8's scale, and E4M3's, is such that the largest
# just fits.
#
# **Predict:** which of int8 and E4M3, 8 bits each, is better for the largest weights, the
# smallest, on average? And after a single weight was made 20 times as large as the largest?

# %%
weight = getattr(tasks[0].model.layers, "1").weight.numpy()
outlier = weight.copy()
outlier[0, 0] = 20 * np.abs(weight).max()


def on_grid(w, axis):
    grid = compress.grid_for(w, symmetric=True, axis=axis)
    return compress.dequantize(compress.quantize(w, grid), grid)


GRIDS = {
    "fp16": lambda w: fs.round_to(w, "fp16"),
    "E4M3": lambda w: fs.round_to(w * 448 / abs(w).max(), "e4m3") * abs(w).max() / 448,
    "int8": lambda w: on_grid(w, None), "int8 by row": lambda w: on_grid(w, 0),
}  # fmt: skip
sizes = np.floor(np.log2(np.abs(weight) + 1e-30)).astype(int)
rows = {f"from 2^{e}": (weight, sizes == e) for e in range(sizes.max(), sizes.max() - 6, -1)}
rows |= {"all": (weight, weight == weight), "with an outlier": (outlier, weight == outlier)}
print("log2 of the root mean square error:", "".join(f"{name:>13}" for name in GRIDS))
for name, (w, chosen) in rows.items():
    squares = (np.square(grid(w) - w)[chosen].mean() for grid in GRIDS.values())
    print(f"{name:35}", "".join(f"{np.log2(square) / 2:13.1f}" for square in squares))

# %% [markdown]
# Down a column of fp16 and E4M3 the error halves with the weight; int8's stays where it is. So
# int8 is better for large weights, E4M3 for small ones, and int8 on average, as large errors count
# most in a mean of squares. An outlier ends that: it stretches the scale of all the others. A
# scale for each row (output channel) leaves the damage in that row; E4M3 does not notice, as its
# range is wide.
#
# ## In integers
#
# Products of int8 add up in int32, and no floating point is needed. An integer q stands for the
# number S (q - Z): S is the scale, Z the *zero point*, the integer that stands for 0. A product, on
# grid 3, is then q3 = Z3 + M · sum of (q1 - Z1)(q2 - Z2) with M = S1 S2 / S3 (Jacob et al.,
# equation 4), and hardware has M as an integer and a shift.
#
# **Predict:** how many of 360 answers change? And where in this loop are the ReLUs between layers?

# %%
calibration = [digits.train_images[:256]]  # shows the ranges of all layers' inputs


def quantized(task, bits, per_channel=True):
    model, settings = copy.deepcopy(task.model), {"weight_bits": bits, "activation_bits": bits}
    return compress.quantize_model(model, calibration, per_channel=per_channel, **settings)


for task in tasks:
    model, zeros = quantized(task, 8), []
    layers = [layer for _, layer in model.layers.children()]
    q = compress.quantize(digits.test_images, layers[0].input_grid)
    for layer, out in zip(layers, [*(one.input_grid for one in layers[1:]), None], strict=True):
        w = compress.quantize(layer.weight, layer.weight_grid)
        zeros.append(f"{(q == layer.input_grid.zero_point).mean():.0%}")
        q = compress.integer_linear(q, layer.input_grid, w, layer.weight_grid, layer.bias, out)
    x = fs.Tensor(digits.test_images)
    changed = [(m(x).numpy().argmax(1) != q.argmax(1)).sum() for m in (task.model, model)]
    print("answers other than fp32's: {}, than the simulation's: {};".format(*changed),
          "zeros among the inputs of each layer:", *zeros)  # fmt: skip

# %% [markdown]
# The ReLUs are nowhere, and not forgotten: the next layer's inputs are never below 0, so its grid
# begins there, and *saturating* is the ReLU. The simulation, `quantize_model`, computes in
# floating point with values that were put on the grids, which one can train through. Zeros are
# frequent (pixels, ReLUs, padding, pruned weights): all the more reason to have 0 on the grid.
#
# ## Fewer bits
#
# Post-training quantization (PTQ) rounds and hopes. Quantization-aware training (QAT) trains on
# with the rounding in the forward pass; backward the gradient passes *straight through* it (the
# derivative of rounding is 0), and stops where a value was clipped.
#
# **Predict:** down to how many bits (of weights and inputs) is PTQ good enough? What does QAT make
# of 2 bits, weights of -1, 0 and 1 times a scale?


# %%
def train_on(model, task, masks=None):
    """The model after some more steps; what the masks do not keep stays zero."""
    after = None if masks is None else lambda step: compress.apply_masks(model, masks)
    optimizer = fs.optim.Adam(model.parameters(), lr=5e-4)
    fs.training.train(lambda i: model.loss(*task.batch(i)), range(MORE), optimizer, on_step=after)
    return model


for task in tasks:
    note("fp32, trained on", train_on(copy.deepcopy(task.model), task))
    for bits in (8, 4, 3, 2):
        note(f"PTQ by tensor, {bits} bits", quantized(task, bits, False), bits, per_channel=False)
        note(f"PTQ by row, {bits} bits", quantized(task, bits), bits)
        note(f"QAT by row, {bits} bits", train_on(quantized(task, bits), task), bits)
for kind in ("fp32", "PTQ by tensor", "PTQ by row", "QAT"):
    show(kind)

# %% [markdown]
# At 8 bits nothing is lost, and at 4 next to nothing, without any training. At 3 QAT's gain is
# within the spread of the seeds; at 2 it makes a network out of ruins. (More training alone does
# nothing.)
#
# ## Fewer numbers
#
# Pruning sets the smallest weights to zero, of all layers by one threshold. It can stop there, or
# *tune*: train on with the others, masks applied after every step.
#
# **Predict:** which share can go, without tuning and with it? From where on are there fewer bytes,
# if each number left comes with its column (CSR), or each place has a bit (bitmap)? (First a bill
# for int8, then answers, with the bytes of fp32 and a bitmap.)

# %%
for task in tasks:
    for share in (50, 80, 90, 95, 98):
        model = copy.deepcopy(task.model)
        masks = compress.prune(model, share / 100)
        note(f"pruned {share} %", model, 32, "bitmap")
        note(f"tuned {share} %", train_on(model, task, masks), 32, "bitmap")
        if task is tasks[0]:
            kinds = ("dense", "csr", "bitmap")
            bill = [f"{kind} {compress.model_bytes(model, 8, kind):6}" for kind in kinds]
            print(f"bytes of {share} % zeros, int8:", ", ".join(bill))
for kind in ("pruned", "tuned"):
    show(kind)

# %% [markdown]
# Without tuning half of the weights can go for half a point. With it four of five cost nothing, and
# nine of ten a point. A zero in a dense array costs what any number costs. In CSR an int8 takes a
# byte and its column another: half of all must go before a byte is saved, and up to 90 % a bitmap
# is better. *Time* is not saved at all where units compute dense blocks: zero times x is a product
# like any other. What hardware has is a pattern, two of four neighbours (2:4): up to twice the
# rate.
#
# ## All together
#
# **Predict:** the smallest variant that is at most two points worse than fp32?

# %%
for task in tasks:
    for share, bits in (("2:4", 8), (0.8, 8), (0.9, 8), (0.9, 4), (0.9, 3)):
        model, layout = copy.deepcopy(task.model), "2:4" if share == "2:4" else "bitmap"
        masks = compress.prune(model, share)
        compress.quantize_model(train_on(model, task, masks), calibration, weight_bits=bits)
        note(f"both: {share}, {bits} bits", train_on(model, task, masks), bits, layout)
show("both")
LOOKS = {
    "fp32": ("fp32", "#000000", "*", ""), "stored": ("fp16, bf16", "#000000", "P", ""),
    "PTQ by t": ("PTQ by tensor", "#E69F00", "s", ":"), "QAT": ("QAT by row", "#0072B2", "o", "-"),
    "PTQ by r": ("PTQ by row", "#56B4E9", "D", "--"), "pruned": ("pruned", "#888888", "v", ":"),
    "tuned": ("pruned, tuned", "#D55E00", "^", "-"), "both": ("pruned and QAT", "#CC79A7", "X", ""),
}  # fmt: skip
with plots.style():
    figure = plots.new_figure(7.2, 4.0)
    panels = figure.subplots(1, 2)
    for start, (label, color, marker, line) in LOOKS.items():
        points = np.array([runs for name, runs in found.items() if name.startswith(start)])
        size, right = points[..., 0].mean(axis=1), points[..., 1]
        bars = right.mean(axis=1) - right.min(axis=1), right.max(axis=1) - right.mean(axis=1)
        for axes in panels:
            axes.errorbar(size, right.mean(axis=1), bars, color=color, marker=marker, ls=line,
                          label=label, capsize=2, lw=1.2, ms=6)  # fmt: skip
    for axes, low in zip(panels, (0, 94), strict=True):
        axes.set_xscale("log", base=2)
        axes.set(xlabel="bytes", ylim=(low, 100 + (100 - low) / 50), title=f"above {low} %")
    panels[0].set(title="all variants", ylabel="right answers (%)")
    panels[1].legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
print("Figure:", *plots.save(figure, FIGURES, "16_smaller_networks"))

# %% [markdown]
# In the figure, up and left is better. A tenth of the bytes (80 % zeros, int8) costs nothing, and
# an eighteenth (90 %, 3 bits) about half a point. (These were trained on twice, and a third of a
# point is one image: take the order of the variants from here, not their distances.) Three
# different things:
#
# - *Mixed precision* is for training. Hardware must have fp16 or bf16 products.
# - *Quantization* is for inference: after training, or with it where few bits are left. For less
#   time hardware must have integer products; without, there are only fewer bytes to be read.
# - *Pruning* is for storage and transfer, and takes a training of its own. For less time hardware
#   must have 2:4; products of dense units are not skipped.
#
# Train in mixed precision, prune, train on, quantize, train on: a zero stays a zero on every grid.
#
# | here | PyTorch | TensorFlow |
# | --- | --- | --- |
# | `autocast`, `GradScaler` | `torch.autocast`, `torch.amp.GradScaler` | `keras.mixed_precision` |
# | `quantize_model` | `torchao.quantization` (was `torch.ao`) | `TFLiteConverter` |
# | and trained on | `torchao.quantization.qat` | `tfmot.quantization.keras.quantize_model` |
# | `prune` | `torch.nn.utils.prune` | `tfmot.sparsity.keras.prune_low_magnitude` |
#
# ## Exercise
#
# Choose the int8 grid (q from -128 to 127) of values from low to high: return scale and zero
# point. 0 must be on it exactly: the zero point is rounded to an integer, and a range that leaves
# out 0 is first extended to it. A solution is in `solutions/16_smaller_networks.py`.


# %%
def int8_grid(low, high):
    """Scale and zero point; low < high."""
    return ..., ...  # your code here


check_int8_grid(int8_grid)
