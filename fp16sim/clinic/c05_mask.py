"""Case 5: a mask of -1e9, which fp16 does not have."""

from __future__ import annotations

import numpy as np

import fp16sim as fs
from fp16sim.clinic.case import Case

F = fs.functional


def broken() -> str:
    """Attention that hides padding by adding -1e9 to the scores."""
    x, padding = _sentences()
    queries = fs.nn.Linear(8, 8, rng=0).to("fp16")
    scores = queries(x) @ x.transpose(0, 2, 1)
    scores = scores + fs.Tensor(np.where(padding, -1e9, 0), fmt="fp16")
    weights = F.softmax(scores, axis=-1)
    return f"{int(np.isnan(weights.numpy()).sum())} of {weights.size} attention weights are NaN"


def mended() -> str:
    """The same with a number that fp16 has: every row keeps finite scores."""
    x, padding = _sentences()
    queries = fs.nn.Linear(8, 8, rng=0).to("fp16")
    scores = queries(x) @ x.transpose(0, 2, 1)
    scores = scores + fs.Tensor(np.where(padding, -fs.FP16.max / 2, 0), fmt="fp16")
    weights = F.softmax(scores, axis=-1)
    return f"{int(np.isnan(weights.numpy()).sum())} of {weights.size} attention weights are NaN"


def _sentences() -> tuple[fs.Tensor, np.ndarray]:
    """Three sentences of four words, the last one empty: all of it is padding."""
    x = np.random.default_rng(0).standard_normal((3, 4, 8))
    padding = np.arange(4) >= np.array([4, 2, 0])[:, None, None]
    return fs.Tensor(x, fmt="fp16"), padding


CASE = Case(
    number=5,
    question="NaN from attention, in half precision only: the mask is -1e9",
    story="-1e9 is far beyond the largest number of fp16, 65504, and becomes -inf. A row of scores "
    "that is masked as a whole is then all -inf, and its softmax is 0/0.",
    broken=broken,
    mended=mended,
    finding="constant",
    place="tensor",
    asked=("apex#93", "fairseq#3575", "transformers#17306"),
)
