# %% [markdown]
# # 13 · Language: a GPT in mixed precision
#
# **Question.** What is special about a Transformer in fp16? Does it need loss scaling? And a
# network that was trained in mixed precision: does it say the same as its twin in fp32?
#
# - **Time:** more than half an hour to read; three and a half minutes of computing on two cores
# - **You need:** lessons 07 and 10; what attention is. No GPU.
# - **You will be able to:** say in which format every part of a GPT runs, and which of its numbers
#   may overflow; multiply and divide in the order that stays finite; tell an effect of precision
#   from one of chance; say why a batch in pieces needs loss scaling.
# - **Sources:** Vaswani et al., *Attention is all you need* (2017), section 3.2.1; Micikevicius et
#   al., *Mixed Precision Training*, ICLR 2018; Brown et al., *Language models are few-shot
#   learners* (2020), table 2.1; PyTorch 2.13, `torch.amp`; Keras 3.15, `mixed_precision`.
#
# Before each cell that shows something, you are asked to **predict**. Write your guess down.

# %%
import dataclasses
import sys
import tempfile
from pathlib import Path

import numpy as np
from checks import check_scores

import fp16sim as fs
from fp16sim import plots

FAST = "--fast" in sys.argv
# A quick run must not replace the real figures.
TEMPORARY = tempfile.TemporaryDirectory()
FIGURES = Path(TEMPORARY.name if FAST else "figures")

# %% [markdown]
# ## Which part runs in what
#
# The GPT of the zoo reads Python's help texts letter by letter: embeddings, two blocks of attention
# and an mlp, a layer norm, logits of the next letter.
#
# **Predict:** under autocast, in which format is the softmax of the attention stored? The sum x +
# attention(x) that runs through all blocks? The logits?

# %%
text = fs.data.text()
LENGTH, BATCH, WIDTH, DEPTH = (16, 4, 32, 1) if FAST else (48, 12, 64, 2)
STEPS, SEEDS = (20, 2) if FAST else (400, 3)
print(f"the text {text.digest}: {len(text.train)} letters to learn from, of {len(text.alphabet)}")


def batch_of(step, seed):
    return next(
        fs.data.windows(text.train, LENGTH, BATCH, 1, rng=np.random.default_rng([seed, step]))
    )


def gpt(seed):
    return fs.models.GPT(len(text.alphabet), LENGTH, WIDTH, DEPTH, heads=4, rng=seed)


model = gpt(0)
with fs.watch(model) as xray, fs.autocast("fp16"):
    model.loss(*batch_of(0, 0)).backward()
formats = {}
for key in xray.counts:
    if key.op not in ("accumulate", "index"):
        formats.setdefault((key.op, key.role), []).append(str(key.fmt))
for (op, role), found in formats.items():
    if role in ("activation", "weight gradient"):
        print(f"{op:29} {role:16}", *sorted(set(found)))

# %% [markdown]
# Every product runs in fp16, and so the *logits* are fp16; the cross-entropy reads them and
# computes in fp32. Attention is one operation, as it is in a fused kernel of a GPU: its scores
# stay in fp32, and only the softmax's probabilities are rounded, to meet the values. The `add` is
# the *residual stream*. Nobody put it on a list: it begins as an fp32 embedding, and an fp32
# number plus an fp16 one is fp32. Each block reads it through a norm, whose result is cast. (After
# `model.to("fp16")` it is fp16 to the end.) The embedding's gradient is fp32 as well, as a table
# look-up is no product.
#
# ## Training it four times
#
# In fp32; in fp16 by autocast with dynamic loss scaling; in bf16 by autocast, without; and all in
# fp16: weights, norms, loss, no copies, no scaling.
#
# **Predict:** order them by their loss on text that none has seen. How far are they apart, in
# parts of what another seed makes?


# %%
def train(preset, seed, pieces=1):
    """A GPT after its training; its loss divided by pieces, as if it saw one piece of a batch."""
    model = gpt(seed)
    # The sum of all pieces would be as many times larger, and so Adam's eps is made smaller.
    optimizer = fs.optim.AdamW(model.parameters(), lr=4e-3, weight_decay=0.1, eps=1e-8 / pieces)
    preset.prepare_training(model, optimizer)
    run = fs.training.Run(
        model,
        optimizer,
        lambda step: model.loss(*batch_of(step, seed)) / pieces,
        precision=preset.region(),
        scaler=preset.scaler(),
        schedule=fs.optim.Schedule(
            optimizer, fs.optim.schedules.cosine(STEPS, warmup=STEPS // 10, final=0.1)
        ),
    )
    run.train(STEPS)
    return model


def validation(model, preset):
    """Mean loss on text that was not trained on, in nats a letter; in the format of training."""
    parts = list(fs.data.windows(text.validation, LENGTH, BATCH, 2 if FAST else 40, rng=0))
    with fs.no_grad(), model.evaluating(), preset.region():
        return np.mean([model.loss(*part).item() for part in parts])


PRESETS = {
    "fp32": fs.presets.O0, "fp16, scaled": fs.presets.amp, "bf16": fs.presets.amp_bf16,
    "all fp16": fs.presets.pure("fp16"),
}  # fmt: skip
models, losses = {}, {}


def table(names):
    for name in names:
        away = np.subtract(losses[name], losses["fp32"])
        print(f"{name:22}", *(f"{x:.3f}" for x in losses[name]), "  less fp32's:",
              *(f"{x:+.3f}" for x in away))  # fmt: skip


for name, preset in PRESETS.items():
    models[name] = [train(preset, seed) for seed in range(SEEDS)]
    losses[name] = [validation(model, preset) for model in models[name]]
table(PRESETS)
print(f"fp32's seeds are {np.ptp(losses['fp32']):.3f} apart")

# %% [markdown]
# Nobody can tell them apart. Precision moves the loss by 0.02 at most, another seed by 0.03. (The
# first seed's differences are the smallest ones. That is luck: the runs begin alike and part
# sooner or later.) Three seeds do not show that the four are equal, only that any difference is no
# larger than what chance makes. For a network as small as this even "all fp16" will do.
#
# ## Does it need loss scaling?
#
# "All fp16" had none. But its loss is a mean over 576 letters, 12 windows of 48. Large models learn
# from larger batches: GPT-3's was half a million tokens for the small networks, 3.2 million for the
# large one. No machine holds that at once; it comes in pieces, whose losses are divided by their
# number, and whose gradients are added up.
#
# **Predict:** which share of the activation gradients that are not zero is flushed in our trained
# fp32 networks, if they are run in fp16 without scaling, and 576 letters are the whole batch? If
# they are one of 1024 pieces? What becomes of a training that sees such pieces?

# %%
PIECES = (1, 1024)
gradients = {}
for pieces in PIECES:
    shares = []
    for seed, model in enumerate(models["fp32"]):
        with fs.watch(model) as xray:
            with fs.autocast("fp16"):
                loss = model.loss(*batch_of(STEPS, seed)) / pieces
            loss.backward()
        seen = xray.select(role="activation gradient", fmt="fp16")
        shares.append(seen.flushed / (seen.total - seen.zero))
        gradients.setdefault(pieces, seen)
    print(f"of {pieces:4} pieces: flushed", ", ".join(f"{share:.1%}" for share in shares))

alone = dataclasses.replace(fs.presets.amp, name="amp, unscaled", scale=None)
pieces = {
    "piece, fp32": fs.presets.O0, "piece, fp16, scaled": fs.presets.amp,
    "piece, fp16, unscaled": alone,
}  # fmt: skip
for name, preset in pieces.items():
    losses[name] = [validation(train(preset, seed, PIECES[-1]), preset) for seed in range(SEEDS)]
table(pieces)

with plots.style():
    figure = plots.new_figure(7.2, 6.0)
    upper, lower = figure.subfigures(2, 1)
    axes = upper.add_subplot()
    for place, (name, found) in enumerate(losses.items()):
        for loss, mark in zip(found, "osD", strict=False):
            axes.plot(loss, place, mark, color="#0072B2" if name in PRESETS else "#D55E00")
    axes.axvspan(min(losses["fp32"]), max(losses["fp32"]), color="#DDDDDD", zorder=0)
    axes.set(xlabel="validation loss (nats a letter)", yticks=range(len(losses)))
    axes.set_yticklabels(losses)
    axes.invert_yaxis()
    highest = 105 * max(seen.share("zero") for seen in gradients.values())
    both = lower.subplots(1, 2, sharey=True)
    for axes, (count, seen) in zip(both, gradients.items(), strict=True):
        plots.exponent_histogram(axes, seen)
        title = "576 letters are the batch" if count == 1 else f"they are one of {count} pieces"
        axes.set(title=title, xlabel="size before rounding", ylim=(0, highest))
        plots.label_limits(axes)
        axes.set_xticks([t for t in axes.get_xticks() if t < -46 or t % 16 == 0])
    both[0].set_ylabel("activation gradients (%)")
print("Figure:", *plots.save(figure, FIGURES, "13_language"))

# %% [markdown]
# As a whole batch, the letters lose half a per cent of their gradients: this network needs no loss
# scaling, and "all fp16" could do without. As a piece they lose nearly half, and behind what is
# flushed the gradients nearer to the input are exactly zero. That training fails, in all three
# seeds, by more than thirty times what a seed makes. Scaling mends it: what is left is less than
# seeds make. (In fp32 a piece trains like a whole batch, in all digits shown, as all is smaller by
# a power of two, Adam's eps too.)
#
# It is the same network, on the same text. **Whether it needs loss scaling is decided by the number
# of letters that its loss is a mean over.** Whoever trains a large model in fp16 on many machines
# trains on pieces.
#
# ## How large do its numbers get?
#
# A query meets a key: a sum of d products. If their entries are of size 1 and random, the sum is of
# size √d, and so attention divides by √d. Whether it does so *before* or after matters in fp16, if
# someone computes it in steps.
#
# **Predict:** d is 64, and all entries are 8, 40, 80. Which results are finite?

# %%
for entry in (8.0, 40.0, 80.0):
    q = fs.Tensor(np.full((1, 64), entry, np.float32), fmt="fp16")
    k = q.transpose(1, 0)
    ways = {"(q k) / 8": (q @ k) / 8, "(q / 8) k": (q / 8) @ k, "q (k / 8)": q @ (k / 8)}
    print(f"{entry:2g}:", "; ".join(f"{way} = {score.item():g}" for way, score in ways.items()))

# %% [markdown]
# Mathematics does not care, fp16 does: what must not be is a large number in between. The fused
# attention of our GPT keeps scores in fp32 and does not care either. Networks do get there: a T5
# made 66246 in the last product of an mlp and went on with infinity (issue 5651 of
# huggingface/transformers); it had been trained in bf16, where that is nothing special.
#
# ## What they say
#
# **Predict:** on unseen text, how often do two networks name another letter as the most likely one:
# the same weights in fp32 and under autocast? trained in fp32 and by autocast, from the same seed?
# trained in fp32 from two seeds?


# %%
def logits(model, preset, inputs):
    with fs.no_grad(), model.evaluating(), preset.region():
        return model(inputs).numpy()


o0, amp = fs.presets.O0, fs.presets.amp
unseen = next(fs.data.windows(text.validation, LENGTH, 4 if FAST else 100, 1, rng=1))[0]
for seed in range(SEEDS):
    twin, other = models["fp16, scaled"][seed], models["fp32"][(seed + 1) % SEEDS]
    own = logits(models["fp32"][seed], o0, unseen).argmax(-1)
    pairs = {
        "same weights": (models["fp32"][seed], amp), "same seed": (twin, amp),
        "other seed": (other, o0),
    }  # fmt: skip
    print("; ".join(f"{name} {(logits(*pair, unseen).argmax(-1) != own).mean():.2%}"
                    for name, pair in pairs.items()))  # fmt: skip

# %% [markdown]
# Rounding in use changes one answer in two thousand. Rounding in *training* changes up to one in
# six, since every step begins where the last one ended, and small differences grow. Another seed
# changes one in four. A network trained in mixed precision is not the same network. It is one more
# draw from the same urn, and as good.
#
# So let both write (seed 0): the most likely letter each time, and then letters drawn by chance,
# with the same random numbers for both.
#
# **Predict:** how far do they agree?

# %%
COUNT, PROMPT = (20 if FAST else 160), text.encode("The ")[None]


def write(model, preset, temperature):
    with preset.region():
        return model.generate(PROMPT, COUNT, temperature, rng=0)[0]


pair = {"fp32": (models["fp32"][0], o0), "fp16, scaled": (models["fp16, scaled"][0], amp)}
for way, temperature in (("most likely", 1e-6), ("drawn", 0.8)):
    said = {name: write(*who, temperature) for name, who in pair.items()}
    for name, ids in said.items():
        print(f"{name}, {way}: {text.decode(ids)!r}")
    apart = np.flatnonzero(np.not_equal(*said.values()))
    print(f"the same {apart[0] - 4} letters" if len(apart) else "the same to the end", "(one seed)")

# %% [markdown]
# The most likely letters lead both into one loop, as is usual for small networks, and say nothing.
# The drawn ones part after a few letters, where a random number fell between the probabilities of
# one network and those of the other. From there on each reads another text.
# Neither is wrong: compare losses, not texts.
#
# ## In PyTorch and in Keras
#
# The scaled run of this lesson, in PyTorch (where a model's weights stay fp32, and the region has
# the lists of lesson 10):
#
# ```python
# scaler = torch.amp.GradScaler("cuda")             # 2^16, x 2 after 2000 good steps, x 0.5
# with torch.autocast("cuda", dtype=torch.float16):
#     loss = F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten()) / pieces
# scaler.scale(loss).backward()                     # for each piece, with the same scale
# scaler.step(optimizer)                            # once for all pieces
# scaler.update()
# ```
#
# and in Keras, where every *layer* computes in fp16 and keeps fp32 variables; `compile` wraps the
# optimiser in a `LossScaleOptimizer` that begins at 2^15, and the last layer is told to be fp32:
#
# ```python
# keras.mixed_precision.set_global_policy("mixed_float16")
# logits = keras.layers.Dense(entries, dtype="float32")(x)
# model.compile(optimizer, loss)
# ```
#
# With bf16 (`torch.bfloat16`, `"mixed_bfloat16"`) no scaler is needed.
#
# ## Exercise
#
# Write the attention scores q kᵀ / √d of queries (n, d) and keys (m, d), Tensors in fp16. The
# scores are to be in fp16, as is everything in between; d is 16, 64 or 256. They must be finite,
# and right to 0.2 per cent, whenever the scores themselves fit into fp16. A solution is in
# `solutions/13_language.py`.


# %%
def scores(q, k):
    """q kᵀ / √d in fp16: (n, m)."""
    return ...  # your code here


check_scores(scores)
