# %% [markdown]
# # 18 · The clinic
#
# **Question.** A training goes wrong, and all that you have is what it prints. Six trainings are in
# the waiting room, and one of them is well. Which one, and what do the others suffer from?
#
# - **Time:** a good half an hour to read; half a minute of computing on two cores (`--fast`: a few
#   seconds)
# - **You need:** lessons 04, 06, 07, 09 and 10; all of the course helps. No GPU.
# - **You will be able to:** tell five illnesses that look alike from outside; put a training of
#   yours under the X-ray; go through a list of causes in the order that saves time.
# - **Sources:** Micikevicius et al., *Mixed Precision Training*, ICLR 2018; the issues that
#   `fp16sim clinic run 1`, `2`, `4`, `13` and `14` name, in which people ask about just these.
#
# Before each cell that shows something, you are asked to **predict**. Write your guess down.

# %%
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from checks import check_diagnosis

import fp16sim as fs
from fp16sim import plots
from fp16sim.xray import diagnose

FAST = "--fast" in sys.argv
# A quick run must not replace the real figures.
TEMPORARY = tempfile.TemporaryDirectory()
FIGURES = Path(TEMPORARY.name if FAST else "figures")

# %% [markdown]
# ## The waiting room
#
# One loop trains them all; what differs are its arguments. Nothing in it is exotic.

# %%
DIGITS = fs.data.digits()
PICTURES = DIGITS.train_images[:640].reshape(-1, 1, 8, 8)
CAMERA = PICTURES.copy()
CAMERA[100, 0, 3, 3] = 65535  # one hot pixel, in one picture of 640; all others are from 0 to 1


class Standardised(fs.models.MLP):
    """A classifier that first gives each pixel mean 0 and deviation 1 over the batch, in fp16."""

    def __init__(self, sizes, eps, rng):
        super().__init__(sizes, rng=rng)
        self.eps = eps

    def forward(self, images):
        x = images.to("fp16")
        return super().forward((x - x.mean(axis=0)) / (x.var(axis=0).sqrt() + self.eps))


def train(seed, network, sizes, optimizer=fs.optim.Adam, lr=1e-2, steps=60, batch=64, *,
          images=DIGITS.train_images, times=1, fmt="fp32", master_weights=False, scaled=True,
          unscale=False, clip=None, **settings):  # fmt: skip
    """Losses of training, the test loss, how many steps were skipped, the scale in the end."""
    model = network(sizes, rng=seed, **settings).to(fmt)
    move = optimizer(model.parameters(), lr=lr, master_weights=master_weights)
    scaler, losses, skipped = fs.GradScaler(enabled=scaled), [], 0
    for chosen in fs.data.batches(len(images), batch, min(steps, 8) if FAST else steps, seed):
        move.zero_grad()
        with fs.autocast("fp16" if fmt == "fp32" else fmt):
            loss = model.loss(images[chosen], DIGITS.train_labels[chosen])
        scaler.scale(loss * times).backward()
        if unscale:
            scaler.unscale_(move)
        if clip:
            fs.optim.clip_grad_norm_(model.parameters(), clip)
        skipped += not scaler.step(move)
        scaler.update()
        losses.append(loss.item())
    with fs.no_grad(), model.evaluating():
        test_images = DIGITS.test_images.reshape(-1, *images.shape[1:])
        test = model.loss(test_images, DIGITS.test_labels).item()
    return losses, test, skipped, scaler.get_scale()


MLP = {"network": fs.models.MLP, "sizes": (64, 32, 16)}
PATIENTS = {
    "A": {"network": fs.models.Autoencoder, "sizes": (64, 32, 32, 16), "steps": 300, "batch": 512,
          "scaled": False},
    "B": {**MLP, "optimizer": fs.optim.SGD, "lr": 0.5, "clip": 1.0},
    "C": {**MLP, "network": Standardised, "eps": 1e-8, "steps": 15},
    "D": {**MLP, "lr": 1e-4, "steps": 400, "fmt": "bf16", "scaled": False},
    "E": {"network": fs.models.ConvNet, "sizes": (8, 16), "images": CAMERA, "batch": 32,
          "steps": 40},
    "F": {**MLP, "times": 64},  # the loss is summed over the batch, not averaged
}  # fmt: skip


def line(losses, test, skipped, scale):
    picked = losses[0], losses[len(losses) // 2], losses[-1], test
    cells = "".join(f"{loss:9.4f}" for loss in picked)
    return f"{cells}{np.isnan(losses).sum():6}{skipped:9}{scale:9g}"


print(f"{'loss:':7}{'first':>9}{'middle':>9}{'last':>9}{'in test':>9}   NaN  skipped    scale")
for name, arguments in PATIENTS.items():
    print(f"{name:7}{line(*train(0, **arguments))}")

# %% [markdown]
# These are symptoms, of one seed. A stops early; B and D hardly move. C is all NaN, and its scale
# falls and falls. E trains well, but for two losses, and has no answer in test. F skipped five
# steps.
#
# **Predict:** one is well: which? What is broken in each of the others, and which argument would
# you change? The suspects: gradients are flushed; updates are swamped; an infinity or a NaN is born
# on the way forward; calls are in the wrong order. (One of these strikes twice, in different
# places.)
#
# ## It does not learn
#
# A, B and D look alike: all is finite, no step is skipped. Where do they differ inside? `fs.watch`
# counts what becomes of each number, and `diagnose` makes findings of the counts.


# %%
def consult(name):
    """The patient under the X-ray, and what the doctor says."""
    with fs.watch() as xray:
        train(0, **PATIENTS[name])
    for finding in diagnose(xray):
        print(f"{name}: {finding}\n")
    return xray


print("(gradients: zero before rounding, flushed; updates: zero, swamped)\n")
for name in "ABD":
    xray = consult(name)
    back, moved = xray.select(role="gradient"), xray.all_updates()
    counts = back.zero / back.total, back.flushed / max(back.total - back.zero, 1)
    updates = moved.zero / moved.total, moved.swamped / (moved.total - moved.zero)
    print(*(f"{share:10.1%}" for share in (*counts, *updates)), "\n")

# %% [markdown]
# A's gradients are flushed: the loss is a mean over 512 x 64 pixels, and each sigmoid makes the
# rest smaller (lessons 01 and 07). B's are all there. But they were clipped with the loss scale in
# them, and unscaled afterwards, so that their norm is 1/65536 where the limit was to be 1. That
# some of its updates are swamped as well is a symptom, not the cause. D's gradients are fine; its
# bf16 weights do not take the updates (lesson 06). Three illnesses, one curve. And zeros alone tell
# nothing: all three patients have them, from black pixels and units that are off as well. What
# counts is what *became* zero.
#
# ## It is not finite
#
# **Predict:** in which operation is C's first NaN born, and why does no scale help? Where does E
# keep the infinity of a step that the scaler skipped?

# %%
for name in "CE":
    consult(name)

# %% [markdown]
# C divides by a deviation of 0, for pixels that are black in the whole batch, plus 10^-8, which is
# 0 in fp16 (lesson 04). The scaler halves its scale because that is all it can do; a NaN of the way
# forward does not depend on the scale. In E one pixel of 65535 becomes infinite in fp16, whenever
# its picture is drawn: twice. The scaler skips these steps, and weights stay clean. But batch norm
# has moved its running mean in the forward pass already. Training does not use it, so the curve
# looks fine; testing does. (What the doctor says of sizes is about time, lesson 12.)
#
# ## It looks ill
#
# **Predict:** F skipped five steps. What does the doctor say?

# %%
xray = consult("F")

# %% [markdown]
# F is well. Its loss is a sum over the batch, so its gradients are 64 times larger, and the scaler
# needs five steps to come down from 65536 (lesson 09). Skips at the start, one after the other,
# look just like C's. The difference is where the infinity is born: on the way back, and at a scale
# that is too large.
#
# ## Treatment
#
# **Predict:** for each of the five one argument is changed. Which? Will all losses be lower?

# %%
CURES = {
    "A": {"scaled": True},
    "B": {"unscale": True},
    "C": {"eps": 1e-3},
    "D": {"master_weights": True},
    "E": {"images": CAMERA.clip(0, 1)},
    "F": {},
}
SEEDS = 1 if FAST else 3
runs = {}
print(f"{'':3}{'test losses before':>25}{'after':>26}    doctor, after")
for name, cure in CURES.items():
    before = [train(seed, **PATIENTS[name]) for seed in range(SEEDS)]
    with fs.watch() as xray:
        after = [train(seed, **{**PATIENTS[name], **cure}) for seed in range(SEEDS)]
    runs[name] = before, after
    cells = ["".join(f"{test:8.4f}" for _, test, *_ in some) for some in runs[name]]
    wrong = [finding.name for finding in diagnose(xray) if finding.wrong]
    print(f"{name:3}{cells[0]:>25}  {cells[1]:>24}    {', '.join(wrong) or 'nothing wrong'}")

with plots.style():
    figure = plots.new_figure(7.2, 4.4)
    titles = ["A: underflow", "B: clipped while scaled", "C: 0/0 forward",
              "D: swamped updates", "E: poisoned statistics", "F: well"]  # fmt: skip
    grid = figure.subplots(2, 3)
    for axes, title, (name, parts) in zip(grid.flat, titles, runs.items(), strict=True):
        looks = (("before", "#D55E00", "--"), ("after", "#0072B2", "-"))
        for (label, color, style), some in zip(looks, parts, strict=True):
            if label == "after" and not CURES[name]:
                break
            for i, (losses, *_) in enumerate(some):
                axes.plot(losses, color=color, ls=style, lw=1, label=None if i else label)
        tests = [f"{np.median([test for _, test, *_ in some]):.2g}" for some in parts]
        said = f"in test: {' → '.join(tests if CURES[name] else tests[:1])}".replace("nan", "NaN")
        axes.set(title=title, ylim=(0, 1.25 * axes.get_ylim()[1]))
        axes.text(0.97, 0.9, said, transform=axes.transAxes, ha="right")
    grid[0, 2].text(0.03, 0.06, "before: every loss is NaN", transform=grid[0, 2].transAxes)
    for axes in grid[1]:
        axes.set_xlabel("step")
    for axes in grid[:, 0]:
        axes.set_ylabel("training loss")
    grid[0, 1].legend(loc="center right")
print("Figure:", *plots.save(figure, FIGURES, "18_the_clinic"))

# %% [markdown]
# All five recover, with all three seeds, by one argument each. A leaves the plateau on which the
# network draws the mean of all images. D is still slow: its learning rate is small, and that is not
# the doctor's business. And E's curves hardly change: whoever looks at training losses alone would
# have sent it home.
#
# ## Your own script
#
# `fp16sim doctor train.py` does this for a script as it is. It ends with code 1 if something is
# wrong, so that it can stand in a test. Here is a script with one more illness.
#
# **Predict:** which line is wrong, and what happens to the weights?

# %%
SCRIPT = """
import fp16sim as fs

task = fs.models.task("mlp", "tiny", seed=0)
scaler = fs.GradScaler()
for step in range(20):
    task.optimizer.zero_grad()
    with fs.autocast("fp16"):
        loss = task.model.loss(*task.batch(step))
    scaler.scale(loss).backward()
    task.optimizer.step()
print(f"loss {loss.item():.2f}")
"""
with tempfile.TemporaryDirectory() as folder:
    (Path(folder) / "train.py").write_text(SCRIPT)
    command = [sys.executable, "-m", "fp16sim", "doctor", "train.py"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
print(done.stdout, f"\nexit code {done.returncode}")

# %% [markdown]
# The loss falls all the same, from 2.3, so nobody would notice: Adam divides a factor of 65536 out
# again. SGD's steps would be 65536 times too long. And nobody looks for infinities any more: that
# was scaler.step's work.
#
# ## What to look at, and in which order
#
# 1. *Does fp32 train*, without a scaler, from the same seed? If not, precision is not the cause.
# 2. *Is everything finite on the way forward?* Find the first operation that is not. No loss scale
#    mends it (lessons 04, 10).
# 3. *Are steps taken?* Skips at the start, and one now and then, are the scaler's search. A row of
#    skips without an end is point 2 (lesson 09).
# 4. *Are calls in order?* zero_grad; forward; scale, backward; unscale_, clip; step, update; and
#    the schedule only if the step was taken.
# 5. *Do gradients arrive?* Count what became zero, not what is zero (lesson 07).
# 6. *Do updates move the weights?* If not: master weights (lesson 06).
# 7. *Is what is kept clean?* Running statistics, the scaler's state in checkpoints; test early.
#
# Causes come before symptoms: a failure of an early point makes the later ones look ill as well.
# From here, `fp16sim clinic list` has eleven more patients, `fp16sim doctor` takes yours, and the
# sources at the head of each lesson tell more.
#
# ## Exercise
#
# Be the doctor. `seen` has counts of a training; the first rule that fits decides:
#
# - "forward": an infinity or NaN was born on the way forward (`born_forward`);
# - "order": gradients were clipped at a loss scale (`clipped_at`) other than 1;
# - "underflow": 5 % or more of the `gradients` that were not zero before rounding (`gradients_zero`
#   were) were flushed (`gradients_flushed`);
# - "swamped": 20 % or more of the `updates` that were not zero (`updates_zero` were) left their
#   weight as it was (`updates_swamped`);
# - "well": everything else, also if steps were `skipped` for overflows on the way back
#   (`born_backward`).
#
# Some gradients and some updates are not zero, always. A solution is in
# `solutions/18_the_clinic.py`.


# %%
def diagnosis(seen):
    """What a training suffers from, by its counts, a dictionary of numbers."""
    return ...  # your code here


check_diagnosis(diagnosis)
