# %% [markdown]
# # 14 · Driving: a YOLO-style detector
#
# **Question.** A detector finds cars, pedestrians and speed signs. What does fp16 do to its
# training, to a finished network that is only used, and to the arithmetic of its boxes?
#
# - **Time:** more than half an hour to read; a good three minutes of computing on two cores
# - **You need:** lessons 04 and 07; what a convolution is. No GPU.
# - **You will be able to:** predict when a detector needs loss scaling; compare the detections of
#   two precisions, and not only their averages; find the operation that breaks boxes in fp16.
# - **Sources:** Redmon et al., *You only look once*, CVPR 2016; Micikevicius et al., *Mixed
#   Precision Training*, ICLR 2018, section 4.2; Everingham et al., *The PASCAL visual object
#   classes challenge*, IJCV 88, 2010 (average precision).
#
# The scenes are drawn by a program, 64 pixels wide, and the networks are small. They show what
# formats do. They show nothing about the safety of any vehicle, and nothing here claims that.
#
# Before each cell that shows something, you are asked to **predict**. Write your guess down.

# %%
import dataclasses
import sys
import tempfile
from pathlib import Path

import numpy as np
from checks import check_iou

import fp16sim as fs
from fp16sim import functional as F
from fp16sim import plots

FAST = "--fast" in sys.argv
# A quick run must not replace the real figures.
TEMPORARY = tempfile.TemporaryDirectory()
FIGURES = Path(TEMPORARY.name if FAST else "figures")

# %% [markdown]
# ## Training
#
# An image of 64 x 64 pixels is a grid of 8 x 8 cells. Each says whether the centre of an object is
# in it, where and how large it is, and what. The loss is a mean over all cells of all images: 1024
# for 16 images, and few of them have an object.
#
# One more run is of a network that sees larger images: 64 of 512 x 512 pixels are 2^18 cells, so
# that each cell's gradient is 2^8 times smaller. We divide the loss by 256, which does the same.
#
# **Predict:** the mean average precision (mAP; 1 is perfect) in fp32, in fp16 by autocast with loss
# scaling, and without. And of the last run?

# %%
COUNT, STEPS, SEEDS, WIDTH = (32, 4, 1, 4) if FAST else (600, 200, 3, 8)
scenes, unseen = fs.data.scenes(COUNT, 64, rng=1), fs.data.scenes(COUNT // 4, 64, rng=2)
cells = fs.models.yolo.targets(scenes)
truth = list(zip(unseen.boxes, unseen.labels, strict=True))
CLASSES = ("car", "pedestrian", "sign")
print(f"{(cells[:, 0] > 0).mean():.1%} of the cells have an object")


def train(preset, seed, factor=1.0):
    """A detector after its training, with its loss times a factor."""
    model = fs.models.Detector(WIDTH, rng=seed)
    optimizer = fs.optim.AdamW(model.parameters(), lr=4e-3, weight_decay=0.01)
    schedule = fs.optim.Schedule(optimizer, fs.optim.schedules.cosine(STEPS, warmup=STEPS // 20))
    scaler = preset.scaler()
    for batch in fs.data.batches(COUNT, 16, STEPS, rng=seed):
        optimizer.zero_grad()
        with preset.region():
            loss = model.loss(scenes.images[batch], cells[batch]) * factor
        scaler.scale(loss).backward()
        if scaler.step(optimizer):
            schedule.step()
        scaler.update()
    return model


def outputs(model, preset):
    """What the cells of unseen images say."""
    with fs.no_grad(), model.evaluating(), preset.region():
        parts = np.array_split(unseen.images, 5)
        return np.concatenate([model(fs.Tensor(part)).numpy() for part in parts])


def judge(found):
    """Average precision by class, and their mean."""
    precision = fs.metrics.mean_average_precision(found, truth, len(CLASSES))
    return [*precision["per_class"], precision["mean"]]


detections = fs.models.yolo.detections
o0, amp = fs.presets.O0, fs.presets.amp
alone = dataclasses.replace(amp, name="amp, unscaled", scale=None)
RUNS = {
    "fp32": (o0, 1.0), "fp16, scaled": (amp, 1.0), "fp16, unscaled": (alone, 1.0),
    "larger, scaled": (amp, 2.0**-8), "larger, unscaled": (alone, 2.0**-8),
}  # fmt: skip
models, scores = {}, {}
print(f"{'':18}{'AP: ':>6}" + "".join(f"{name:>11}" for name in CLASSES) + "    mAP by seed")
for name, (preset, factor) in RUNS.items():
    models[name] = [train(preset, seed, factor) for seed in range(SEEDS)]
    found = [judge(detections(outputs(model, preset))) for model in models[name]]
    scores[name] = [each[-1] for each in found]
    print(f"{name:24}" + "".join(f"{x:11.3f}" for x in np.mean(found, axis=0)[:-1]) + "   ",
          *(f"{x:.3f}" for x in scores[name]))  # fmt: skip

# %% [markdown]
# The first four are as one: their differences are smaller than those of seeds. fp16 came out above
# fp32 three times, by up to 0.02, which three seeds do not make an advantage. The last one trains,
# and much worse, in all seeds, worst on pedestrians; with scaling it is as good as the others. The
# paper tells a like story of a detector: Multibox SSD does not train in fp16 without scaling, and
# does as well as in fp32 if the loss is multiplied by 8.
#
# **Predict:** what became of the activation gradients of the trained fp32 networks, if they run in
# fp16 without scaling, with the loss as it is, and divided by 256?

# %%
for factor in (1.0, 2.0**-8):
    for seed, model in enumerate(models["fp32"]):
        with fs.watch(model) as xray:
            with fs.autocast("fp16"):
                loss = model.loss(scenes.images[:16], cells[:16]) * factor
            loss.backward()
        seen = xray.select(role="activation gradient", fmt="fp16")
        print(f"times {factor:g}, seed {seed}: " + ", ".join(
            f"{fate} {seen.share(fate):.0%}" for fate in ("zero", "flushed", "subnormal")
        ))  # fmt: skip

# %% [markdown]
# As it is, one gradient in twenty is flushed, and nine of ten are subnormal, with few bits: it goes
# well, by luck more than by design. Divided by 256, six of ten are flushed, and the gradients that
# are computed from these are exact zeros. Most cells are empty and sure of it, and a loss that is a
# mean over cells gives each the less the more there are. A finer grid, larger images, a larger
# batch: each brings the edge nearer.
#
# ## Using it
#
# In a vehicle a finished network runs, and nothing is learned. Weights and activations in fp16 are
# half as many bytes. Take the networks trained in fp32, and run them in fp16: by autocast, and as a
# whole (weights rounded as well); and in bf16 as a whole.
#
# **Predict:** how does the mAP change? Of the boxes that fp32 reports with a score of at least 0.5,
# how many are gone, how many are new, and how well do the others lie upon each other?


# %%
def as_whole(model, fmt):
    """A copy of the model with its weights in a format, and the preset to run it in."""
    twin = fs.models.Detector(WIDTH)
    twin.load_state_dict(model.state_dict())
    return twin.to(fmt), fs.presets.pure(fmt)


def compare(ours, theirs):
    """Boxes gone and new, and of the others: IoU, and the change of the score."""
    gone = new = 0
    overlaps, changes = [], []
    for (boxes, score, labels), (others, their_score, their_labels) in zip(
        ours, theirs, strict=True
    ):
        iou = fs.metrics.box_iou(boxes, others) * (labels[:, None] == their_labels)
        pairs = np.argwhere(iou > 0.5)
        gone += len(boxes) - len(pairs)
        new += len(others) - len(pairs)
        overlaps += [iou[i, j] for i, j in pairs]
        changes += [abs(score[i] - their_score[j]) for i, j in pairs]
    return gone, new, len(overlaps), np.min(overlaps or [1]), np.max(changes or [0])


SURE = 0.0 if FAST else 0.5
seen = {}
for seed, model in enumerate(models["fp32"]):
    exact = outputs(model, o0)
    ways = {"autocast": (model, amp), "fp16": as_whole(model, "fp16"),
            "bf16": as_whole(model, "bf16")}  # fmt: skip
    print(f"seed {seed}: mAP {judge(detections(exact))[-1]:.4f}")
    for name, way in ways.items():
        said = outputs(*way)
        gone, new, both, worst, change = compare(detections(exact, SURE), detections(said, SURE))
        print(
            f"  {name:9} mAP {judge(detections(said))[-1]:.4f}; of {both + gone} boxes {gone} "
            f"gone, {new} new; smallest IoU {worst:.4f}, largest change {change:.4f}"
        )
        if seed == 0:
            seen[name] = detections(said, SURE)
    if seed == 0:
        seen["fp32"] = detections(exact, SURE)

with plots.style():
    figure = plots.new_figure(7.2, 5.4)
    upper, lower = figure.subfigures(2, 1, height_ratios=(1.25, 1))
    # The scenes with the most objects.
    chosen = np.argsort([-len(labels) for labels in unseen.labels], kind="stable")[:3]
    looks = {"truth": ("#000000", 1.2, "-"), "fp32": ("#0072B2", 2.6, "-"),
             "fp16": ("#E69F00", 2.0, (0, (2, 2)))}  # fmt: skip
    for axes, image in zip(upper.subplots(1, 3), chosen, strict=True):
        axes.imshow(unseen.images[image].transpose(1, 2, 0), extent=(0, 64, 64, 0))
        boxes = {"truth": unseen.boxes[image]} | {k: seen[k][image][0] for k in ("fp32", "fp16")}
        for name, (color, width, line) in looks.items():
            for i, (cx, cy, w, h) in enumerate(boxes[name]):
                x = cx + np.array([-1, 1, 1, -1, -1]) * w / 2
                y = cy + np.array([-1, -1, 1, 1, -1]) * h / 2
                axes.plot(x, y, color=color, lw=width, ls=line, label=None if i else name)
        axes.set(xlim=(0, 64), ylim=(64, 0), xticks=(0, 32, 64), yticks=(0, 32, 64))
        axes.set_xlabel("pixels")
    upper.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=3)
    axes = lower.add_subplot()
    for place, (name, found) in enumerate(scores.items()):
        for score, mark in zip(found, "osD", strict=False):
            axes.plot(score, place, mark, color="#D55E00" if "larger" in name else "#0072B2")
    axes.set(xlabel="mAP on unseen scenes", yticks=range(len(scores)))
    axes.set_yticklabels(scores)
    axes.invert_yaxis()
print("Figure:", *plots.save(figure, FIGURES, "14_driving"))

# %% [markdown]
# In fp16 nothing happens: no box comes or goes, in three networks, and those that are there move by
# a few thousandths of their size. In the picture the dashed boxes lie on the blue ones; the errors
# are those that fp32 makes, too. bf16, with three bits less, loses or gains a few boxes in two of
# three networks, while its mAP hardly moves. A detection is a number and a threshold: a score that
# lies within the rounding of it can fall on either side. So compare detections, not averages alone.
#
# ## Boxes in fp16
#
# So fp16 is good enough for the network. Is it for what comes after it? Pixels of a camera image,
# 1920 wide, and the IoU of two boxes, all in fp16.
#
# **Predict:** what becomes of the x of a sign at 1801.3, 12.4 pixels wide? Of the IoU of two
# lorries of 350 x 300 pixels? And if all coordinates are divided by 1920 first?


# %%
def half(x):
    return fs.Tensor(np.float32(x), fmt="fp16")


def plain_iou(a, b):
    """IoU of boxes (left, top, right, bottom), in the format that they are in."""
    width = F.relu(F.minimum(a[2], b[2]) - F.maximum(a[0], b[0]))
    height = F.relu(F.minimum(a[3], b[3]) - F.maximum(a[1], b[1]))
    shared = width * height
    areas = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return shared / (areas - shared)


PAIRS = {
    "signs, far right": ((1801.3, 300.2, 1813.7, 312.6), (1802.4, 301.1, 1814.8, 313.5)),
    "signs, near left": ((101.3, 300.2, 113.7, 312.6), (102.4, 301.1, 114.8, 313.5)),
    "lorries": ((800, 400, 1150, 700), (850, 400, 1200, 700)),
    "pedestrians": ((900, 300, 1100, 600), (920, 300, 1120, 600)),
    "2 pixels": ((60.0, 60.0, 62.0, 61.5), (60.5, 60.0, 62.5, 61.5)),
}
print(f"{'':18}   exact    fp16   fp16, / 1920   fp16, offsets / 32")
for name, (a, b) in PAIRS.items():
    exact = plain_iou(*(fs.Tensor(np.float64(box)) for box in (a, b))).item()
    corner = np.tile(a[:2], 2)  # subtracted before anything is rounded
    pixels, parts, offsets = (
        plain_iou(half(scale(a)), half(scale(b))).item()
        for scale in (np.array, lambda box: np.array(box) / 1920,
                      lambda box: (box - corner) / 32)  # noqa: B023 - used at once
    )  # fmt: skip
    print(f"{name:18} {exact:7.4f} {pixels:7.4f} {parts:14.4f} {offsets:20.4f}")

# %% [markdown]
# Far right, coordinates are whole numbers: above 1024 the spacing is 1. The lorries' areas exceed
# 65504: infinity over infinity, NaN. The pedestrians' areas fit and their sum does not: an IoU of 0
# for boxes that share four fifths. Non-maximum suppression drops a box whose IoU is *above* a
# threshold, which neither NaN nor 0 is: every duplicate stays, and nothing looks broken.
#
# Dividing by the width of the image mends the overflow and not the rest. Numbers of fp16 have 11
# bits wherever they are moved to, and areas of small boxes come to be subnormal. What helps is to
# subtract before rounding (offsets from a cell, as the network itself says them) and a modest
# divisor; or to leave boxes in fp32: there are few of them.
#
# ## What a vehicle gets from it
#
# **Predict:** by how much does fp16 shrink the weights and the activations of a training step, by
# autocast and as a whole?

# %%
print("KiB, 16 images     weights  activations  at most")
for policy in ("fp32", "amp", "O2", "O3"):
    report = fs.memory_report(models["fp32"][0], (scenes.images[:16], cells[:16]), policy)
    print(f"{policy:16}" + "".join(
        f"{size / 1024:11.0f}" for size in (report.weights, report.activations, report.peak)
    ))  # fmt: skip
twin, _ = as_whole(models["fp32"][0], "fp16")
variances = {name: value for name, value in twin.named_buffers() if "var" in name}
least = min(value.numpy().min() for value in variances.values())
print("batch norm's variances in the fp16 copy:", *{str(v.fmt) for v in variances.values()},
      f"(the smallest is {least:.2g})")  # fmt: skip

# %% [markdown]
# Activations are nearly all of it, and they halve, under autocast, too: batch norm returns what it
# is given (its statistics are fp32 in between and stay fp32 even in the fp16 copy), while the norms
# of lesson 11's networks return fp32. A network that is only used has its weights and the
# activations of a layer or two, and both are halved. How much *faster* it is was not measured here:
# that depends on the device (lesson 12).
#
# ## Exercise
#
# Write the IoU of two boxes, Tensors (left, top, right, bottom) in fp16, in pixels of an image of
# 2048 x 2048. All that is computed is to stay in fp16, and the result is to be right to one per
# cent, for the whole image as for boxes of one pixel. `plain_iou` is a beginning. A solution is in
# `solutions/14_driving.py`.


# %%
def iou(a, b):
    """Intersection over union: a Tensor of one value, in fp16."""
    return ...  # your code here


check_iou(iou)
