"""Head phantoms: slices through a made-up head, with its parts labelled, to learn to segment."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fp16sim.arguments import integer
from fp16sim.backend import Array, RandomLike, generator
from fp16sim.data.shapes import ellipse

#: what the numbers of a mask mean
CLASSES = ("background", "skull", "brain", "lesion")


class Phantoms(NamedTuple):
    """Images, and for every pixel what it shows."""

    images: Array  #: (n, 1, size, size) float32, from about 0 to about 1: noise goes beyond
    masks: Array  #: (n, size, size) int64, indices of CLASSES


class _Slice:
    """One slice being drawn, in the head's own coordinates: (0, 0) its middle, turned with it.

    Lengths are fractions of half the image.
    """

    def __init__(self, size: int, random: np.random.Generator) -> None:
        self.size = size
        self.image = np.zeros((size, size))
        self.mask = np.zeros((size, size), dtype=np.int64)
        pixels = (np.arange(size) + 0.5) / size * 2 - 1
        x, y = pixels - random.uniform(-0.06, 0.06), pixels - random.uniform(-0.06, 0.06)
        turn = random.uniform(-0.3, 0.3)
        self.x = x * np.cos(turn) + y[:, None] * np.sin(turn)
        self.y = y[:, None] * np.cos(turn) - x * np.sin(turn)

    def cover(
        self, centre: tuple[float, float], axes: tuple[float, float], turn: float = 0.0
    ) -> Array:
        """How much of every pixel an ellipse covers."""
        x, y = self.x - centre[0], self.y - centre[1]
        if turn:
            x, y = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
        half = self.size / 2
        return ellipse(x * half, y * half, axes[0] * half, axes[1] * half)

    def fill(self, cover: Array, value: float, label: int) -> None:
        """Replace what was there; a pixel belongs to what covers half of it."""
        self.image += cover * (value - self.image)
        self.mask[cover >= 0.5] = label


def phantoms(count: int, size: int = 64, rng: RandomLike = None) -> Phantoms:
    """Draw ``count`` slices of ``size`` by ``size`` pixels, at least 32.

    A bright skull around a brain with dark ventricles and faint bright structures, all of which
    are "brain", and one or two small bright lesions. Over a set, lesions are 1 to 2% of the
    pixels. Brightness alone does not find them: the skull is brighter, other structures are as
    bright but long, and a smooth field (up to 20%, as a coil's) and Gaussian noise lie over all.

    After Shepp and Logan, "The Fourier reconstruction of a head section", IEEE Transactions on
    Nuclear Science 21, 1974: ellipses within ellipses, here random ones. Raises ValueError for a
    negative count or a smaller size, TypeError for other than integers.
    """
    count = integer("count", count, at_least=0)
    size = integer("size", size, at_least=32)
    random = generator(rng)
    images = np.empty((count, 1, size, size), dtype=np.float32)
    masks = np.empty((count, size, size), dtype=np.int64)
    for i in range(count):
        images[i, 0], masks[i] = _phantom(size, random)
    return Phantoms(images, masks)


def _phantom(size: int, random: np.random.Generator) -> tuple[Array, Array]:
    drawn = _Slice(size, random)
    grey = random.uniform(0.35, 0.45)
    outer = random.uniform(0.66, 0.76), random.uniform(0.82, 0.9)
    bone = random.uniform(0.07, 0.11)
    inner = outer[0] - bone, outer[1] - bone
    drawn.fill(drawn.cover((0, 0), outer), random.uniform(0.8, 0.95), CLASSES.index("skull"))
    drawn.fill(drawn.cover((0, 0), inner), grey, CLASSES.index("brain"))
    _structures(drawn, inner, random)
    _lesions(drawn, inner, grey, random)
    image = drawn.image * _field(size, random)
    image += random.normal(0, random.uniform(0.03, 0.05), image.shape)
    return image, drawn.mask


def _structures(drawn: _Slice, inner: tuple[float, float], random: np.random.Generator) -> None:
    """Two dark ventricles left and right, and two to four bright structures anywhere."""
    width, height = random.uniform(0.07, 0.12), random.uniform(0.2, 0.32)
    depth, tilt = random.uniform(0.15, 0.25), random.uniform(0.15, 0.4)
    for side in (-1, 1):
        centre = side * random.uniform(0.15, 0.22), random.uniform(-0.12, 0.05)
        cover = drawn.cover(centre, (width, height), side * tilt)
        drawn.image -= depth * cover * random.uniform(0.8, 1)
    for _ in range(random.integers(2, 5)):
        length = random.uniform(0.14, 0.26)
        axes = length, length * random.uniform(0.2, 0.4)
        cover = drawn.cover(_within(inner, length, random), axes, random.uniform(0, np.pi))
        drawn.image += random.uniform(0.06, 0.2) * cover


def _lesions(
    drawn: _Slice, inner: tuple[float, float], grey: float, random: np.random.Generator
) -> None:
    for _ in range(random.integers(1, 3)):
        length = random.uniform(0.08, 0.15)
        axes = length, length * random.uniform(0.75, 1)
        cover = drawn.cover(_within(inner, length, random), axes, random.uniform(0, np.pi))
        drawn.fill(cover, grey + random.uniform(0.15, 0.3), CLASSES.index("lesion"))


def _within(
    inner: tuple[float, float], margin: float, random: np.random.Generator
) -> tuple[float, float]:
    """A point of the brain, farther from the skull than the margin, evenly distributed."""
    radius, angle = np.sqrt(random.uniform(0, 1)), random.uniform(0, 2 * np.pi)
    room = margin + 0.05
    return (
        radius * np.cos(angle) * (inner[0] - room),
        radius * np.sin(angle) * (inner[1] - room),
    )


def _field(size: int, random: np.random.Generator) -> Array:
    """A smooth factor (size, size) from 0.8 to 1.2: a random quadratic of x and y."""
    x = np.linspace(-1, 1, size)
    across, down, both, bowl = random.uniform(-1, 1, 4)
    field = across * x + down * x[:, None] + both * x * x[:, None] + bowl * (x * x)[:, None]
    return np.asarray(1 + random.uniform(0, 0.2) * field / np.abs(field).max())
