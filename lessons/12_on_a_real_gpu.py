# %% [markdown]
# # 12 · On a real GPU
#
# **Question.** Everything so far was emulated: fp16 cost you accuracy and gave you nothing. What do
# you get for it on a GPU, and why is it sometimes nothing there as well?
#
# - **Time:** half an hour to read; a few seconds of computing
# - **You need:** lessons 01, 05. A GPU if you have one; all but the last part runs without.
# - **You will be able to:** say from two numbers of an operation whether it will be faster in fp16,
#   and by how much at most; tell what halves and what does not; estimate joules on paper.
# - **Sources:** Williams, Waterman and Patterson, *Roofline*, CACM 52 (2009); NVIDIA, *H100 Tensor
#   Core GPU Architecture* (2022), table 2 (SXM5, dense); Horowitz, *Computing's energy problem*,
#   ISSCC (2014), figure 1.1.9 (45 nm).
#
# Before each cell that shows something, you are asked to **predict**. Write your guess down.

# %%
import sys
import tempfile
from pathlib import Path

import checks
import numpy as np
from checks import check_speedup

import fp16sim as fs
from fp16sim import bench, plots

FAST = "--fast" in sys.argv
# A quick run must not replace the real figures.
TEMPORARY = tempfile.TemporaryDirectory()
FIGURES = Path(TEMPORARY.name if FAST else "figures")
RESULTS = Path(checks.__file__).resolve().parents[1] / "benchmarks" / "results"

# %% [markdown]
# ## The same numbers in half the room
#
# The emulation keeps an fp16 number in the four bytes of a float32. A GPU keeps it in two; so can
# we, on any machine, with `fs.storage("native")`.
#
# **Predict:** we train a tiny GPT for three steps, emulated and natively stored. In how many of its
# weights do the two runs differ?


# %%
def trained(kind):
    """Weights after three steps in mixed precision, and the bytes of one fp16 activation."""
    task = fs.models.task("gpt", "tiny", seed=0)
    scaler = fs.GradScaler()
    with fs.storage(kind):
        for step in range(3):
            task.train_step(step, precision=fs.autocast("fp16"), scaler=scaler)
        activation = fs.Tensor(np.ones(1000, np.float32), fmt="fp16") * 0.5
    weights = np.concatenate([p.numpy().ravel() for p in task.model.parameters()])
    return weights, activation.data.nbytes


(emulated, wide), (native, narrow) = trained("emulated"), trained("native")
print(f"1000 fp16 activations: {wide} bytes emulated, {narrow} natively stored")
print(f"weights that differ:   {(emulated != native).sum()} of {emulated.size}")

# %% [markdown]
# None. A kernel reads fp16, computes in fp32 and rounds once when it stores; that is what every
# primitive here does, and how the number lies in memory changes nothing. (On a GPU sums are added
# in another order, and last bits differ for that reason only: `fp16sim bench --fidelity`.)
#
# Half the room for *activations*. Not for everything: master weights and Adam's moments stay fp32.
#
# ## Two numbers of an operation
#
# A GPU does two things at once: it moves bytes, and it computes. Whichever takes longer is the
# time; that is the *roofline*. Of an operation its arithmetic *intensity* counts, operations a
# byte; of a chip its peak rate and its bandwidth. These are the data sheet's for an H100, not
# measurements; fp16 and TF32 run on Tensor Cores, fp32 does not:

# %%
PEAK = {"fp32": 66.9e12, "tf32": 494.7e12, "fp16": 989.4e12}  # operations a second
BANDWIDTH = 3.35e12  # bytes a second
BYTES = {"fp32": 4, "tf32": 4, "fp16": 2}


def seconds(operations, numbers, precision):
    """The roofline's time of an operation that moves so many numbers."""
    return max(operations / PEAK[precision], numbers * BYTES[precision] / BANDWIDTH)


OPERATIONS = {  # operations (a norm's some 8 a number), numbers read and written
    "add two vectors of 2^24": (2**24, 3 * 2**24),
    "layer norm, 8192 x 1024": (8 * 2**23, 2 * 2**23),
    "matrix product, n = 128": (2 * 128**3, 3 * 128**2),
    "matrix product, n = 1024": (2 * 1024**3, 3 * 1024**2),
    "matrix product, n = 8192": (2 * 8192**3, 3 * 8192**2),
}

# %% [markdown]
# fp16 has 15 times the peak of fp32 on this chip.
#
# **Predict:** how much faster than in fp32 is each of the five in fp16, at most?

# %%
print(f"{'':26} operations a byte   in fp16   faster than fp32")
for name, work in OPERATIONS.items():
    intensity = work[0] / (work[1] * BYTES["fp16"])
    ratio = seconds(*work, "fp32") / seconds(*work, "fp16")
    print(f"{name:26} {intensity:12.1f} {seconds(*work, 'fp16') * 1e6:14.2f} µs {ratio:11.1f} x")

# %% [markdown]
# The vector sum and the norm gain 2, as they move half the bytes; Tensor Cores do not help them at
# all. Only large products come near 15. And the small product? Its time on paper is a few
# hundredths of a microsecond, but to *start* a kernel takes microseconds, in any format: there the
# gain is 1. Those who ask on a forum why fp16 is not faster often have such a network, or sizes
# that Tensor Cores do not like (`fp16sim clinic run 11`).
#
# ## The picture, and your own machine

# %%
with plots.style():
    figure = plots.new_figure(7.2, 3.6)
    axes = figure.add_subplot()
    intensities = np.geomspace(0.05, 4000, 200)
    for precision, line in {"fp16": "-", "tf32": "--", "fp32": ":"}.items():
        roof = np.minimum(PEAK[precision], intensities * BANDWIDTH)
        axes.plot(intensities, roof / 1e12, line, color="black", label=f"{precision}, data sheet")
    for (name, work), mark in zip(OPERATIONS.items(), "vsD^o", strict=True):
        for precision, fill in {"fp32": "white", "fp16": "#0072B2"}.items():
            place = work[0] / (work[1] * BYTES[precision])
            rate = work[0] / seconds(*work, precision) / 1e12
            label = name if precision == "fp16" else None
            look = {"color": "#0072B2", "markerfacecolor": fill, "label": label}
            axes.plot(place, rate, mark, **look)
    axes.set(xscale="log", yscale="log", title="An H100 on paper; hollow marks: in fp32")
    axes.set(xlabel="intensity (operations per byte)", ylabel="rate (10$^{12}$ operations/s)")
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
print("Figure:", *plots.save(figure, FIGURES, "12_on_a_real_gpu"))

# %% [markdown]
# On the slope memory decides, on the flat part arithmetic. Any processor has such a roof.
#
# **Predict:** that of the one you sit at, in fp32: how many bytes a second does it move, and how
# many operations a second are there in products of 64 x 64 and of 1024 x 1024 matrices?

# %%
rng = np.random.default_rng(0)
QUICK = {"repeats": 7, "seconds": 0.05 if FAST else 0.5}
x, y = rng.standard_normal((2, 2**24), dtype=np.float32)
out = np.empty_like(x)
took = bench.time_call(lambda: np.add(x, y, out=out), "cpu", **QUICK).median
print(f"x + y:              {3 * 4 * 2**24 / took / 1e9:7.1f} GB/s")
for n in (64, 1024):
    x, y = rng.standard_normal((2, n, n), dtype=np.float32)
    took = bench.time_call(lambda x=x, y=y: x @ y, "cpu", **QUICK).median
    print(f"product, n = {n:4}:  {2 * n**3 / took / 1e9:7.1f} GFLOP/s")

# %% [markdown]
# ## Joules, on paper
#
# Energy follows the same two numbers. Horowitz's table, for a chip of 2014 in 45 nm; an *estimate*,
# as newer chips take less, though in similar ratios. A Tensor Core multiplies in fp16 and adds in
# fp32.
#
# **Predict:** in a product of two 1024 x 1024 matrices in fp32, what takes more energy: two billion
# operations, or the three million numbers that come from and go to memory once?

# %%
PAIR = {"fp32": 3.7 + 0.9, "fp16": 1.1 + 0.9}  # picojoules: a product, an fp32 addition
DRAM = 1300 / 8, 2600 / 8  # picojoules a byte: 1.3 to 2.6 nJ for 64 bits

for n in (1024, 8192):
    for precision in ("fp32", "fp16"):
        arithmetic = n**3 * PAIR[precision] * 1e-9
        low, high = (3 * n * n * BYTES[precision] * byte * 1e-9 for byte in DRAM)
        moving = f"{low:5.1f} to {high:5.1f} mJ to move"
        print(f"n = {n}, {precision}: {arithmetic:7.1f} mJ to compute, {moving} (estimates)")

# %% [markdown]
# At 1024 both matter, at 8192 only arithmetic does, and there fp16 takes less than half of it.
# A byte moved costs as much as 44 to 88 multiplications in fp32, and x + y does one operation for
# every 12 bytes: its joules are memory's, and fp16 halves them.
#
# ## Measured
#
# `fp16sim bench` measures all that: time, memory, joules, losses, and PyTorch's on the same card.
# What was measured on GPUs is in `benchmarks/results`, and read from there:

# %%
records = [bench.Record.load(path) for path in sorted(RESULTS.glob("*/bench.json"))]
for record in records:
    print(f"{record.device.name}, {record.date}:")
    for row in record.steps:
        times = f"{row.network:12} {row.precision:5} {row.timing.median * 1e3:8.2f} ms"
        print(f"  {times}, loss {row.loss:.3f} after {row.steps} steps ({row.storage})")
if not records:
    print("No GPU has been measured yet; the numbers above are paper and your own processor's.")
    print("With one: fp16sim bench --compare torch --sweeps, and run this lesson again.")

# %% [markdown]
# ## Exercise
#
# Write the bound down: how many times faster than fp32 can an operation be in fp16? Given are its
# operations, the *numbers* it moves, and the chip's two peaks and its bandwidth. A solution is in
# `solutions/12_on_a_real_gpu.py`.


# %%
def speedup(operations, numbers, peak32, peak16, bandwidth):
    """The roofline's bound on the time in fp32 over the time in fp16."""
    return ...  # your code here


check_speedup(speedup)
