"""Driving scenes to learn to detect objects in: cars, pedestrians and speed signs on a road."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fp16sim.arguments import integer
from fp16sim.backend import Array, RandomLike, generator
from fp16sim.data import actors
from fp16sim.data.digits import digits
from fp16sim.data.landscape import View, landscape, view

#: what the labels mean
CLASSES = ("car", "pedestrian", "sign")

#: two boxes share at most this part of the smaller one, so that whatever is labelled is seen
OVERLAP = 0.3


class Scenes(NamedTuple):
    """Images with the objects in them; the lists have one entry for every image."""

    images: Array  #: (n, 3, size, size) float32 from 0 to 1: red, green, blue
    boxes: list[Array]  #: (objects, 4) float32: centre x, y, width, height in pixels
    labels: list[Array]  #: (objects,) int64, indices of CLASSES


class _Thing(NamedTuple):
    """An object that has found its place."""

    label: int
    box: Array  #: (4,) float32
    foot: float  #: y where it stands on the ground


def scenes(count: int, size: int = 64, rng: RandomLike = None) -> Scenes:
    """Draw ``count`` scenes of ``size`` by ``size`` pixels, at least 32.

    Each shows 1 to 5 objects, larger the nearer they are. The near ones hide parts of the far
    ones, but any two boxes share at most 0.3 of the smaller one, and so their IoU is at most 0.3.
    A box is tight around the whole object, hidden parts too, without its shadow or pole, and
    inside the image, which reaches from 0 to ``size``: pixel i from i to i + 1. Speed signs carry
    real handwritten digits, from the training part of ``digits()``. Light and noise vary.

    Raises ValueError for a negative count or a smaller size, TypeError for other than integers,
    ImportError without scikit-learn.
    """
    count = integer("count", count, at_least=0)
    size = integer("size", size, at_least=32)
    random = generator(rng)
    glyphs = digits().train_images.reshape(-1, 8, 8)
    images = np.empty((count, 3, size, size), dtype=np.float32)
    boxes, labels = [], []
    for i in range(count):
        seen = view(size, random)
        things = _place(seen, random)
        images[i] = _draw(seen, things, glyphs, random)
        boxes.append(np.stack([thing.box for thing in things]))
        labels.append(np.array([thing.label for thing in things], dtype=np.int64))
    return Scenes(images, boxes, labels)


def _place(seen: View, random: np.random.Generator) -> list[_Thing]:
    """1 to 5 things, the farthest first; who finds no free place in 8 attempts stays away."""
    things: list[_Thing] = []
    for _ in range(random.integers(1, 6)):
        label = int(random.integers(len(CLASSES)))
        for _ in range(8):
            thing = _stand(label, seen, random)
            if all(_shared(thing.box, other.box) <= OVERLAP for other in things):
                things.append(thing)
                break
    return sorted(things, key=lambda thing: thing.foot)


def _stand(label: int, seen: View, random: np.random.Generator) -> _Thing:
    """A thing of a size that fits its distance, somewhere it belongs, inside the image."""
    size, t = seen.size, random.uniform(0.15, 0.97)
    foot = seen.horizon + t * (size - seen.horizon)
    half_road = float(seen.half_road(t))
    if CLASSES[label] == "car":
        height = size * (0.07 + 0.27 * t)
        width = height * (1.25, 2.3)[random.integers(2)]  # from behind or from the side
        bottom, aside = foot, random.uniform(-0.8, 0.8) * half_road
    elif CLASSES[label] == "pedestrian":
        height = size * (0.13 + 0.4 * t)
        width = height * random.uniform(0.36, 0.42)
        bottom, aside = foot, random.uniform(-1.3, 1.3) * half_road
    else:
        height = width = size * (0.14 + 0.14 * t)
        bottom = foot - size * (0.12 + 0.3 * t)
        aside = (-1, 1)[random.integers(2)] * (half_road + size * random.uniform(0.02, 0.15))
    edge = width / 2 + 1
    cx = min(max(float(seen.middle(t)) + aside, edge), size - edge)
    return _Thing(label, np.array([cx, bottom - height / 2, width, height], np.float32), foot)


def _shared(a: Array, b: Array) -> float:
    """The area that two boxes share, as a part of the smaller one."""
    (ax, ay, aw, ah), (bx, by, bw, bh) = a.tolist(), b.tolist()
    across = min(ax + aw / 2, bx + bw / 2) - max(ax - aw / 2, bx - bw / 2)
    down = min(ay + ah / 2, by + bh / 2) - max(ay - ah / 2, by - bh / 2)
    return float(max(across, 0) * max(down, 0) / min(aw * ah, bw * bh))


def _draw(seen: View, things: list[_Thing], glyphs: Array, random: np.random.Generator) -> Array:
    """The image (3, size, size) float32."""
    image = landscape(seen, random)
    for thing in things:
        _draw_thing(image, thing, glyphs, random)
    light = random.uniform(0.5, 1.05) * random.uniform(0.92, 1.08, (3, 1, 1))
    image = image * light.astype(np.float32)
    image += random.uniform(0.01, 0.04) * random.standard_normal(image.shape, dtype=np.float32)
    return np.clip(image, 0, 1)


def _draw_thing(image: Array, thing: _Thing, glyphs: Array, random: np.random.Generator) -> None:
    label, box, foot = thing
    if CLASSES[label] == "sign":
        actors.pole(image, box, foot)
        actors.sign(actors.Brush(image, box), glyphs[random.integers(len(glyphs))])
        return
    actors.shadow(image, box)
    if CLASSES[label] == "pedestrian":
        actors.pedestrian(actors.Brush(image, box), random)
    elif box[2] > 1.8 * box[3]:
        actors.car_from_the_side(actors.Brush(image, box), random)
    else:
        actors.car_from_behind(actors.Brush(image, box), random)
