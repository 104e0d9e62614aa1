"""The 8x8 handwritten digits that scikit-learn ships (UCI optical recognition, test part)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from fp16sim.arguments import integer
from fp16sim.backend import Array, RandomLike, generator


class Digits(NamedTuple):
    """1797 images of digits, 1437 to train on and 360 to test on."""

    train_images: Array  #: (1437, 64) float32 from 0 to 1, in steps of 1/16: exact in fp16
    train_labels: Array  #: (1437,) int64, 0 to 9
    test_images: Array  #: (360, 64)
    test_labels: Array  #: (360,)


def digits(split_seed: int = 0) -> Digits:
    """Load and split them; the split is one random permutation, the same for the same seed.

    Needs scikit-learn (``pip install fp16sim[lessons]``); raises ImportError saying so.
    Source: Alpaydin and Kaynak, UCI Machine Learning Repository, 1998.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError(
            "the digits come with scikit-learn: pip install 'fp16sim[lessons]'"
        ) from error
    images, labels = load_digits(return_X_y=True)
    images = (images / 16).astype(np.float32)
    order = np.random.default_rng(split_seed).permutation(len(images))
    train, test = order[:1437], order[1437:]
    return Digits(images[train], labels[train], images[test], labels[test])


def batches(count: int, batch_size: int, steps: int, rng: RandomLike = None) -> Iterator[Array]:
    """Indices (batch_size,) of ``steps`` batches out of ``count`` samples, reshuffled every epoch.

    What does not fill a batch at the end of an epoch is left out. Raises ValueError, at once,
    for a batch size outside 1..count or negative steps, TypeError for other than integers.
    """
    count = integer("count", count, at_least=1)
    batch_size = integer("batch_size", batch_size, at_least=1, at_most=count)
    steps = integer("steps", steps, at_least=0)
    return _batches(count, batch_size, steps, generator(rng))


def _batches(
    count: int, batch_size: int, steps: int, random: np.random.Generator
) -> Iterator[Array]:
    per_epoch = count // batch_size
    for step in range(steps):
        if step % per_epoch == 0:
            order = random.permutation(count)
        start = step % per_epoch * batch_size
        yield order[start : start + batch_size]
