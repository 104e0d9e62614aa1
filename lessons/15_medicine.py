# %% [markdown]
# # 15 · Medicine: segmenting phantoms
#
# **Question.** A lesion is one pixel in a hundred. If half precision loses something, does it lose
# just what matters?
#
# - **Time:** half an hour to read; about a minute and a half of computing on two cores
# - **You need:** lessons 05 and 08. No GPU.
# - **You will be able to:** say why accuracy hides a lost class and Dice does not; tell a network
#   that lost its lesions from one that is fine, though its accuracy raises no alarm; compute a Dice
#   score in half precision without overflow, stall or division by a flushed epsilon.
# - **Sources:** Ronneberger et al., *U-Net* (2015); Dice, *Ecology* 26 (1945); Milletari et al.,
#   *V-Net* (2016), for the Dice loss; Shepp and Logan (1974), for phantoms; Micikevicius et al.,
#   *Mixed Precision Training*, ICLR 2018.
#
# The images here are drawn by a program: *phantoms*, not patients. They have skulls, brains and
# lesions by name only. What you learn is about numbers, and nothing about anybody's health.
#
# Before each cell that shows something, you are asked to **predict**. Write your guess down.

# %%
import sys
import tempfile
from contextlib import nullcontext
from pathlib import Path

import numpy as np
from checks import check_dice
from matplotlib.colors import ListedColormap
from matplotlib.patches import Patch

import fp16sim as fs
from fp16sim import functional as F
from fp16sim import metrics, plots
from fp16sim.data.phantom import CLASSES
from fp16sim.events import observe
from fp16sim.models.unet import phantoms_task
from fp16sim.xray import XRay

FAST = "--fast" in sys.argv
# A quick run must not replace the real figures.
TEMPORARY = tempfile.TemporaryDirectory()
FIGURES = Path(TEMPORARY.name if FAST else "figures")
LESION = CLASSES.index("lesion")

# %% [markdown]
# ## Right in 99 of 100 pixels
#
# Here is a perfect classifier, but for one thing: wherever there is a lesion, it says "brain". The
# Dice score of a class is 2 |A and B| / (|A| + |B|), where A is what was predicted and B is true.
#
# **Predict:** its accuracy, and the Dice scores of its classes?

# %%
for seed in range(3):
    truth = fs.data.phantoms(20, 32, rng=seed).masks
    blind = np.where(truth == LESION, CLASSES.index("brain"), truth)
    scores = metrics.dice(blind, truth, len(CLASSES))
    print(f"set {seed}: accuracy {(blind == truth).mean():.1%}; Dice", end=" ")
    print(", ".join(f"{name} {score:.3f}" for name, score in zip(CLASSES, scores, strict=True)))

# %% [markdown]
# Accuracy asks every pixel, and lesions have one vote in a hundred. Dice asks every class by
# itself, and never counts what is rightly *not* the class.
#
# ## Training
#
# Lesson 08 showed that gradients of a mean over N pixels shrink with N. A batch of 16 images of 512
# x 512 has 2^22 pixels; ours has 4 of 32 x 32, which are 2^12. The loss times 2^-10 makes gradients
# as small as those of the large batch, without its cost. (The scaler takes it out again before the
# update. It makes weights' gradients smaller, too, which more pixels would not; lesson 08 found
# them to be far above the floor.)
#
# **Predict:** a U-Net in fp32, bf16, fp16 and fp16 with dynamic scaling, all of them with the small
# gradients, and fp16 with those of the small batch. Which ones find lesions? How do loss and
# accuracy look for one that does not?

# %%
STEPS, SEEDS = (20, range(1)) if FAST else (400, range(3))
SIZES = {"width": 4, "depth": 1, "image": 32, "images": 96, "batch": 4, "lr": 3e-2, "steps": STEPS}
SMALL = 2.0**-10
LOOKS = (STEPS // 8, STEPS // 4, STEPS // 2, STEPS)
ARMS = {
    "fp32": ("fp32", SMALL, False), "bf16": ("bf16", SMALL, False),
    "fp16": ("fp16", SMALL, False), "fp16, dynamic": ("fp16", SMALL * 2**16, True),
    "fp16, small batch": ("fp16", 1.0, False),
}  # fmt: skip
test = fs.data.phantoms(20, 32, rng=2)


def train(arm, seed):
    """The last loss, Dice (by class) and accuracy after some steps, predictions, X-ray, model."""
    fmt, scale, dynamic = ARMS[arm]
    task = phantoms_task("lesson", SIZES, seed)
    precision = fs.autocast(fmt, enabled=fmt != "fp32")
    scaler, xray, scores = fs.GradScaler(scale, dynamic=dynamic), XRay(task.model), {}
    for i in range(STEPS):
        with observe(xray) if i % 10 == 0 else nullcontext():
            step = task.train_step(i, precision=precision, scaler=scaler)
        if i + 1 in LOOKS:
            with precision, fs.no_grad(), task.model.evaluating():
                predicted = task.model(fs.Tensor(test.images)).numpy().argmax(axis=1)
            dice = metrics.dice(predicted, test.masks, len(CLASSES))
            scores[i + 1] = np.array([*dice, (predicted == test.masks).mean()])
    return step.loss, scores, predicted, xray, task.model


runs = {arm: [train(arm, seed) for seed in SEEDS] for arm in ARMS}
lesions = {}
print(f"{'':18} loss  accuracy   Dice: background  skull  brain  lesion, by seed")
for arm, found in runs.items():
    scores = np.array([scores[STEPS] for _, scores, *_ in found])
    lesions[arm] = scores[:, LESION]
    *dice, _, accuracy = scores.mean(axis=0)
    print(f"{arm:18} {np.mean([loss for loss, *_ in found]):.2f} {accuracy:9.1%}", end=" " * 12)
    print("  ".join(f"{score:5.3f}" for score in dice), end="   ")
    print(", ".join(f"{one:.2f}" for one in lesions[arm]))

with plots.style():
    figure = plots.new_figure(9.6, 5.2)
    grid = figure.add_gridspec(3, 6, height_ratios=[1, 1, 1.1])
    # No greys, which the dark version would turn round in the legend and not in the images.
    colors = {"background": "#0B1420", "skull": "#56B4E9", "brain": "#E6E0D4", "lesion": "#D55E00"}
    names = ["fp32", "bf16", "fp16", "fp16, dynamic"]
    for row in range(2):
        shown = [test.masks[row], *(runs[arm][0][2][row] for arm in names)]
        axes = [figure.add_subplot(grid[row, column]) for column in range(6)]
        axes[0].imshow(test.images[row, 0], cmap="gray")
        for one, mask in zip(axes[1:], shown, strict=True):
            one.imshow(mask, cmap=ListedColormap(list(colors.values())), vmin=-0.5, vmax=3.5,
                       interpolation="nearest")  # fmt: skip
        for one, title in zip(axes, ["image", "truth", *names], strict=True):
            one.set_axis_off()
            one.set_title("" if row else title)
    bottom = figure.add_subplot(grid[2, :])
    for i, seed in enumerate(SEEDS):
        heights = [values[i] for values in lesions.values()]
        bottom.plot(np.arange(len(ARMS)) + (i - 1) / 10, heights, "os^"[i], ls="", mfc="none",
                    color=("#0072B2", "#D55E00", "#000000")[i], label=f"seed {seed}")  # fmt: skip
    bottom.set_xticks(range(len(ARMS)), list(ARMS))
    bottom.set(ylabel="Dice of lesions", ylim=(-0.06, 1.0), xlim=(-0.5, len(ARMS) - 0.5))
    bottom.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    patches = [Patch(facecolor=color, edgecolor="#888888", label=name)
               for name, color in colors.items()]  # fmt: skip
    axes[-1].legend(handles=patches, loc="lower left", bbox_to_anchor=(1.0, 0.0))
print("Figure:", *plots.save(figure, FIGURES, "15_medicine"))

# %% [markdown]
# fp16 without scaling draws neat heads and finds next to no lesion in all three trainings. A loss
# of 0.45 and an accuracy of 96% are no warning by themselves: the blind classifier above is more
# accurate than *any* of these networks. Only the Dice of lesions tells, or an fp32 run beside it.
#
# bf16, and fp16 with dynamic scaling, are as good as fp32; and so is fp16 with the gradients of the
# small batch, so that a test at small size would have found nothing to complain of.
#
# ## What the X-ray says
#
# So half precision loses what is rare? Here are the first gradients on the way back, those of the
# scores, each pixel's by its true class, as small as in the large batch.
#
# **Predict:** of which class does fp16 flush most, of which least, in a network that has learned
# nothing yet, and in one that has? And which class is learned last?


# %%
def zero_by_class(model):
    """The share of the gradients of scores that is zero in fp16, by the pixels' true class."""
    with fs.no_grad():
        scores = fs.Tensor(model(fs.Tensor(test.images)).numpy(), requires_grad=True)
    wanted = np.moveaxis(np.eye(len(CLASSES), dtype=np.float32)[test.masks], -1, 1)
    loss = F.cross_entropy(scores, test.masks)
    loss = loss + F.dice_loss(F.softmax(scores, 1), fs.Tensor(wanted))
    loss.backward()
    # As small as in the large batch: there are 20 images here, not 4.
    small = np.float32(SMALL * len(test.images) / SIZES["batch"])
    zero = fs.round_to(np.moveaxis(scores.grad.numpy(), 1, -1) * small, "fp16") == 0
    return [zero[test.masks == label].mean() for label in range(len(CLASSES))]


for when in ("untrained", "trained in fp32"):
    for seed in SEEDS:
        fresh = phantoms_task("lesson", SIZES, seed).model
        shares = zero_by_class(fresh if when == "untrained" else runs["fp32"][seed][-1])
        listed = ", ".join(f"{name} {x:5.1%}" for name, x in zip(CLASSES, shares, strict=True))
        print(f"{when:16} seed {seed}: {listed}")
for arm in ("fp16", "fp16, dynamic"):
    print(f"{arm}, zeros on the way down:", end=" ")
    for scope in ("head", "up.0", "down.1", "down.0"):
        xrays = (xray for *_, xray, _ in runs[arm])
        seen = [x.select(scope=scope, role="activation gradient", fmt="fp16") for x in xrays]
        zero = np.mean([counts.share("zero") + counts.share("flushed") for counts in seen])
        print(f"{scope} {zero:.0%}", end=", " if scope != "down.0" else "\n")
for arm in ("fp32", "fp16"):
    for name in ("skull", "brain", "lesion"):
        means = np.mean([list(scores.values()) for _, scores, *_ in runs[arm]], axis=0)
        course = ", ".join(f"{score:.2f}" for score in means[:, CLASSES.index(name)])
        print(f"{arm}, Dice of {name:6} after {LOOKS} steps: {course}")

# %% [markdown]
# It is the other way round: of all classes, lesions' own gradients are flushed least. p - y is
# large where a network is wrong, and the Dice loss divides each class by its size. What goes first
# in a trained network belongs to pixels that are right already.
#
# But on the way down (parts of the U-Net, from the scores back) four values of five are zero, in
# every part, and the gradients of weights are sums of what is left. That will do for a brain or a
# skull, which 50 steps teach, if not quite as well as in fp32. Lesions come last, after the others,
# when gradients have become smaller (lesson 07). So half precision does not lose what is *rare*. It
# loses what is *small*, everywhere, and the class that is hardest to learn shows it first.
#
# ## Judging in half precision
#
# The score itself is made of sums over pixels. Here are phantoms of 512 x 512 pixels, and as a
# prediction the truth moved aside by 12 pixels. Its Dice is computed in four ways: with sums that
# grow one by one in fp16, as in a loop; with sums in fp32 that are rounded to fp16 at the end;
# with sums kept in fp32; and with fp16 *means* instead of sums.
#
# **Predict:** what does each of them say of the brain (some 100 000 pixels), of lesions (2000 to
# 3000)?


# %%
def by(total, truth, guess):
    """Dice from three totals."""
    with np.errstate(all="ignore"):
        return 2 * total(truth * guess) / (total(truth) + total(guess))


WAYS = {
    "loop, fp16": lambda x: fs.sum(x, accumulator="fp16"),
    "fp32, to fp16": fs.sum,
    "fp32": lambda x: fs.sum(x, fmt="fp32"),
    "means": fs.mean,
}
print(f"{'':14}{'pixels':>7}   exact" + "".join(f"{name:>15}" for name in WAYS))
for seed in range(3):
    mask = fs.data.phantoms(1, 512, rng=seed).masks[0]
    for name in ("brain", "lesion"):
        truth = (mask == CLASSES.index(name)).astype(np.float32)
        guess = np.roll(truth, 12, axis=1)
        exact = by(lambda x: x.sum(dtype=np.float64), truth, guess)
        print(f"{seed} {name:12}{truth.sum():7.0f}   {exact:.3f}", end="")
        print("".join(f"{by(total, truth, guess):15.3f}" for total in WAYS.values()))

# %% [markdown]
# A brain has more pixels than fp16 can count: infinity over infinity is NaN, and that at least is
# noticed. The loop is worse. Each of its three sums stalls at 2048, and 2 x 2048 / (2048 + 2048) is
# *exactly 1*: a perfect score for any prediction that shares 2048 pixels with the truth. Sums kept
# in fp32 are right. So are means, to fp16's three digits: they do not grow with the image.
#
# ## The epsilon
#
# Dice losses add an epsilon above and below, so that a class which is in neither image scores 1 and
# not 0 / 0.
#
# **Predict:** what are 1e-6 and 1e-8 in fp16? And on a processor that flushes subnormal numbers?

# %%
for eps in (1.0, 1e-6, 1e-8):
    kept, flushed = (fs.round_to(eps, "fp16", subnormals=on) for on in (True, False))
    empty = [fs.arith.divide(e, e, "fp16") for e in (kept, flushed)]
    print(f"eps {eps:g}: {kept:.3g}, an empty class scores {empty[0]:g}; "
          f"flushing subnormals: {flushed:.3g}, {empty[1]:g}")  # fmt: skip
with fs.autocast("fp16"):
    nothing = fs.Tensor(np.zeros((1, 1, 8, 8), np.float32), fmt="fp16")
    loss = F.dice_loss(nothing, nothing)
print(f"F.dice_loss of an empty class under autocast: {loss.item():g}, in {loss.fmt}")

# %% [markdown]
# 1e-8 is zero in fp16, and 0 / 0 is NaN; 1e-6 is subnormal, and lives where those do. `F.dice_loss`
# runs in fp32 under autocast for both reasons, its sums and its epsilon, which is 1: one pixel.
#
# ## Exercise
#
# Write the Dice score of two masks, arrays of `np.float16` with zeros and ones, so that it is right
# for images of any size, to more digits than fp16's and without an epsilon. Of two empty masks it
# is 1, by definition. A solution is in `solutions/15_medicine.py`.


# %%
def dice(truth, prediction):
    """2 |A and B| / (|A| + |B|) of two float16 arrays of zeros and ones, as one number."""
    return ...  # your code here


check_dice(dice)
