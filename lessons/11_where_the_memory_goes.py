# %% [markdown]
# # 11 · Where the memory goes
#
# **Question.** Half the bits, half the memory: that is what everybody expects of mixed precision,
# and then asks on a forum why it is not so. What halves, what does not, and what even grows?
#
# - **Time:** half an hour to read; a few seconds of computing
# - **You need:** lessons 06 and 10; what Adam keeps. No GPU.
# - **You will be able to:** add up the bytes of a training step; say for a network whether autocast
#   saves memory; tell what decides the largest batch, and what decides the largest model.
# - **Sources:** Micikevicius et al., *Mixed Precision Training*, ICLR 2018, section 3.1;
#   Rajbhandari et al., *ZeRO*, SC20, section 3.1; Brown et al., *Language models are few-shot
#   learners* (2020).
#
# Before each cell that shows something, you are asked to **predict**. Write your guess down.

# %%
import sys
import tempfile
from pathlib import Path

import numpy as np
from checks import check_bytes_of

import fp16sim as fs
from fp16sim import plots

FAST = "--fast" in sys.argv
# A quick run must not replace the real figures.
TEMPORARY = tempfile.TemporaryDirectory()
FIGURES = Path(TEMPORARY.name if FAST else "figures")
SIZE = "tiny" if FAST else "laptop"

# %% [markdown]
# ## What a step holds
#
# Weights; their gradients; what the optimiser remembers (Adam: two numbers for each weight); and
# *activations*, everything that the forward pass leaves for the backward pass to read. Mixed
# precision adds copies: fp16 casts of fp32 weights, or fp32 masters of fp16 weights.
#
# **Predict:** for a small classifier of digits and a batch of 64: which part is the largest?

# %%
PARTS = {
    "weights": lambda report: report.weights,
    "masters, casts": lambda report: report.masters + report.casts,
    "gradients": lambda report: report.gradients,
    "optimiser": lambda report: report.states,
    "activations": lambda report: report.activations,
}
POLICIES = ("fp32", "amp", "O2", "O3")


def reports(name):
    """What a step of a network of the zoo holds, by policy; Adam in all."""
    task = fs.models.task(name, SIZE, seed=0)
    return {policy: fs.memory_report(task.model, task.batch(0), policy) for policy in POLICIES}


def show(name):
    found = reports(name)
    print(f"{name}, a batch of {found['fp32'].samples}; KiB" + "".join(f"{p:>9}" for p in found))
    for part, of in PARTS.items():
        print(f"  {part:28}" + "".join(f"{of(report) / 1024:9.0f}" for report in found.values()))
    return found


found = {"mlp": show("mlp")}

# %% [markdown]
# (amp: fp32 weights, fp16 products, as PyTorch. O2: fp16 weights with fp32 masters. O3: all fp16,
# except Adam's moments. The bytes are those of a machine that stores fp16 in two; they are counted,
# on the *tape*, the record that the backward pass reads.) For a network as small as this the
# weights and what belongs to them are nearly all, and amp *costs* memory.
#
# Now networks whose activations matter.
#
# **Predict:** by how much do activations shrink under amp, in a GPT? In a U-Net?

# %%
for name in ("gpt", "unet"):
    found[name] = show(name)

with plots.style():
    figure = plots.new_figure(7.2, 3.4)
    every = figure.subplots(1, len(found), sharey=True)
    colors = ("#000000", "#999999", "#56B4E9", "#0072B2", "#E69F00")
    for axes, (name, policies) in zip(every, found.items(), strict=True):
        bottom = np.zeros(len(policies))
        for (part, of), color in zip(PARTS.items(), colors, strict=True):
            shares = np.array([of(report) for report in policies.values()], float)
            shares /= sum(of(policies["fp32"]) for of in PARTS.values()) / 100
            axes.bar(list(policies), shares, bottom=bottom, color=color, label=part)
            bottom += shares
        axes.set_title(name)
    every[0].set_ylabel("bytes (% of fp32's)")
    every[-1].legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
print("Figure:", *plots.save(figure, FIGURES, "11_where_the_memory_goes"))

# %% [markdown]
# In the GPT the activations shrink, but not to half: layer norms and the loss keep fp32. In the
# U-Net they grow. Its group norms run in fp32, the ReLU after each of them keeps what it was given,
# and the convolution that follows keeps an fp16 copy of the same values. O2, which runs nearly all
# of a network in fp16, nearly halves them. A network without norms (the first one here), or with
# norms that return fp16 (batch norm: `fp16sim memory cnn`), gets its half from amp as well. Ask the
# tape, not the rule of thumb: `fp16sim memory`.
#
# ## The batch that fits
#
# Twice the batch, twice the activations; the rest stays. (What counts is the step's peak, early on
# the way back, when there are gradients as well: a few per cent more.)
#
# **Predict:** how many windows of text fit into 1 GiB, a step of the GPT in fp32, with amp, with
# O2? And does amp fit more images into the U-Net's?

# %%
for name in ("gpt", "unet"):
    fits = {policy: report.largest_batch(2**30) for policy, report in found[name].items()}
    print(f"{name}: " + ", ".join(f"{policy} {batch:,}" for policy, batch in fits.items()))

# %% [markdown]
# ## And the model that fits
#
# Without activations, Adam's step takes 16 bytes a parameter in fp32: 4 + 4 + 8.
#
# **Predict:** how many does it take with amp, O2, O3? How many 80 GB cards does GPT-3 (175 billion
# parameters) fill before the first activation?

# %%
PER_PARAMETER = {
    "fp32": 4 + 4 + 8, "amp": 4 + 2 + 4 + 8, "O2": 2 + 4 + 2 + 8, "O3": 2 + 2 + 8,
}  # fmt: skip
for policy, size in PER_PARAMETER.items():
    print(f"{policy:5} {size:2} bytes a parameter, GPT-3: {175e9 * size / 80e9:.0f} cards of 80 GB")

# %% [markdown]
# Mixed precision does not make models smaller while they are trained: Adam's 8 bytes and the fp32
# weight are what they were. (ZeRO, a paper on training giants, counts the same 16 bytes for O2. O3
# takes 12, and loses updates: lesson 06.) What halves is activations, where norms let them; under
# O2 gradients, too; and the weights of a model that is only *used*.
#
# ## Exercise
#
# Write the bill: bytes of a step with Adam, from the number of parameters, of activation values
# that are kept (all of them in the format of products), and the policy, one of "fp32", "amp", "O2",
# "O3". A solution is in `solutions/11_where_the_memory_goes.py`.


# %%
def bytes_of(parameters, activations, policy):
    """Weights, copies, gradients, moments and activations, in bytes."""
    return ...  # your code here


check_bytes_of(bytes_of)
