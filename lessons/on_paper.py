# %% [markdown]
# # On paper: GPT-3, YOLOv8, and what you have measured
#
# The networks of this course fit on a laptop. This last page takes the ratios that they showed, and
# the published sizes of two networks that do not, and multiplies. Nothing here was measured on
# these two: every line says what it takes from where.
#
# - **Time:** a quarter of an hour to read; a few seconds of computing
# - **You need:** lessons 11, 12, 13 and 14. No GPU.
# - **Sources:** Brown et al., *Language models are few-shot learners* (2020), tables 2.1 and D.1;
#   Korthikanti et al., *Reducing activation recomputation in large Transformer models* (2022),
#   section 4.1; Ultralytics' documentation of YOLOv8 (2023), its table of models; NVIDIA's data
#   sheet of the H100 (SXM).

# %%
import sys

import fp16sim as fs

SIZE = "tiny" if "--fast" in sys.argv else "laptop"
POLICIES = ("fp32", "amp", "O2")

# %% [markdown]
# ## The ratios, from our own tape
#
# For the GPT of lesson 13 and the detector of lesson 14: bytes that each parameter takes in a
# training step with Adam, and bytes of activations over those in fp32.


# %%
def ratios(name):
    """By policy: bytes a parameter, and activations over fp32's."""
    task = fs.models.task(name, SIZE, seed=0)
    count = sum(p.size for p in task.model.parameters())
    found = {p: fs.memory_report(task.model, task.batch(0), p) for p in POLICIES}
    kept = found["fp32"].activations
    return {
        policy: (
            (one.weights + one.masters + one.casts + one.gradients + one.states) / count,
            one.activations / kept,
        )
        for policy, one in found.items()
    }


RATIO = {name: ratios(name) for name in ("gpt", "yolo")}
for name, policies in RATIO.items():
    for policy, (each, kept) in policies.items():
        print(f"{name:5} {policy:5} {each:5.1f} bytes a parameter, activations x {kept:.2f}")

# %% [markdown]
# Lesson 11's bill (16 bytes in fp32, 18 with amp, 16 in O2) holds to within what is not cast:
# embeddings and norms. Activations depend on the network, so each of the two keeps its own ratio.
#
# ## GPT-3: does it have the size it says?
#
# 96 layers of width 12288, each with 12 d^2 weights (4 for attention, 8 for the two products behind
# it), and a table of 50257 words and 2048 places.

# %%
LAYERS, WIDTH, HEADS, CONTEXT, WORDS = 96, 12288, 96, 2048, 50257
parameters = 12 * LAYERS * WIDTH**2 + (WORDS + CONTEXT) * WIDTH
print(f"12 x {LAYERS} x {WIDTH}^2 + ({WORDS} + {CONTEXT}) x {WIDTH} = {parameters:.4g}")

# %% [markdown]
# It has: 175 billion, as the paper says.
#
# ## Weights, and cards

# %%
CARD = 80e9  # bytes
for policy, (each, _) in RATIO["gpt"].items():
    total = parameters * each
    print(f"training, {policy:5} {each:5.1f} bytes x {parameters:.3g} = {total / 1e12:.2f} TB"
          f" = {total / CARD:.0f} cards of 80 GB")  # fmt: skip
for name, bits in {"fp32": 32, "fp16": 16, "int8": 8, "4 bits": 4}.items():
    total = parameters * bits / 8
    print(f"using it, {name:7} {total / 1e9:4.0f} GB = {total / CARD:.1f} cards")

# %% [markdown]
# Mixed precision does not make GPT-3 smaller to *train*: 35 cards for what belongs to the weights
# in fp32, and no fewer under any policy that keeps fp32 masters. To *use*, it halves, and each step
# down in lesson 16 halves it again.
#
# ## Activations
#
# Korthikanti et al. count what a layer keeps in 16-bit training: s b h (34 + 5 a s / h) bytes, for
# context s, batch b, width h and a heads. What would fp32 keep? Their count over our measured ratio
# of amp.

# %%
layer = CONTEXT * WIDTH * (34 + 5 * HEADS * CONTEXT / WIDTH)
sixteen = LAYERS * layer
thirty_two = sixteen / RATIO["gpt"]["amp"][1]
print(f"one text of {CONTEXT} words: {LAYERS} x {layer / 1e9:.2f} GB = {sixteen / 1e9:.0f} GB")
print(f"in fp32, by our ratio: {thirty_two / 1e9:.0f} GB, "
      f"{(thirty_two - sixteen) / CARD:.1f} cards more for every text of a batch")  # fmt: skip
print(f"a batch of 3.2 million words is {3.2e6 / CONTEXT:.0f} such texts")

# %% [markdown]
# Here is what mixed precision saves in memory: not the model, the batch. (Nobody keeps all of it;
# most is computed twice instead of kept, that is `fs.nn.checkpoint`. The ratio stays.)
#
# ## Arithmetic
#
# Training took 3.14 x 10^23 operations (table D.1). At the H100's peaks, which no training reaches:

# %%
OPERATIONS = 3.14e23
PEAK = {"fp32": 66.9e12, "tf32": 494.7e12, "fp16": 989.4e12}  # operations a second
WATTS, BANDWIDTH = 700, 3.35e12  # the board's limit; bytes a second
YEAR = 365.25 * 24 * 3600
for precision, peak in PEAK.items():
    seconds = OPERATIONS / peak
    days, energy = seconds / 1024 / 86400, seconds * WATTS / 3.6e9
    print(f"{precision}: {seconds / YEAR:6.1f} years of one card, "
          f"{days:5.1f} days of 1024, {energy:4.0f} MWh")  # fmt: skip

# %% [markdown]
# Bounds, on paper: half of the peak is a good share in practice, and doubles all lines alike. The
# *ratio* of 15 between the first and the last line is why nobody trains such a model in fp32.
#
# And to use it, one word at a time: every word reads every weight once.

# %%
for name, size in {"fp32": 4, "fp16": 2, "int8": 1}.items():
    seconds = parameters * size / BANDWIDTH
    computing = 2 * parameters / PEAK["fp32" if size == 4 else "fp16"]
    print(f"{name}: {seconds * 1e3:5.0f} card-milliseconds a word to read, "
          f"{computing * 1e3:4.1f} to compute")  # fmt: skip

# %% [markdown]
# Reading takes longer than computing by far, in every format (int8 weights are multiplied in fp16
# here). There half the bits are half the time, and Tensor Cores have nothing to do with it.
#
# ## YOLOv8, in a car
#
# Ultralytics' largest and smallest: 68.2 and 3.2 million parameters, 257.8 and 8.7 billion
# operations an image of 640 x 640. Eight cameras, thirty images a second each:

# %%
for name, size, operations in (("x", 68.2e6, 257.8e9), ("n", 3.2e6, 8.7e9)):
    rate = 8 * 30 * operations
    weights = ", ".join(f"{p} {size * b / 1e6:.0f} MB" for p, b in {"fp32": 4, "fp16": 2}.items())
    shares = ", ".join(f"{p} {rate / peak:.1%}" for p, peak in PEAK.items())
    print(f"YOLOv8{name}: weights {weights}; {rate / 1e12:.1f} x 10^12 operations a second")
    print(f"         of an H100's peak: {shares}")
each, kept = RATIO["yolo"]["amp"]
print(f"training x: {68.2e6 * each / 1e9:.2f} GB for {each:.1f} bytes a parameter,")
print(f"activations x {kept:.2f} with amp, so {1 / kept:.2f} times the images in a batch")

# %% [markdown]
# In fp32 the large one takes nearly all that a data centre's card can do at its best, in fp16 a
# sixteenth. And where GPT-3 fills cards with what belongs to its weights, that is a gigabyte here;
# the rest of a card is for activations, and mixed precision gives twice the batch.
#
# That is the course. What to keep of it: **a format is a set of numbers; rounding happens when a
# number is stored; look at what was there before; and measure what you save.**
