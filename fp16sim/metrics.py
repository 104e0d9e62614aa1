"""How good predictions are: accuracy, Dice, and average precision of detected objects.

NumPy arrays in, float64 out: judging is not part of what is judged, so nothing is rounded here.
Boxes are [centre x, centre y, width, height]. What overflow left behind is judged, not refused: a
prediction that is NaN is wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypedDict

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fp16sim.arguments import integer, real

#: boxes (n, 4), scores (n,), labels (n,) that were predicted in one image
Detections = tuple[ArrayLike, ArrayLike, ArrayLike]

#: boxes (m, 4), labels (m,) that are in it
Objects = tuple[ArrayLike, ArrayLike]


class AveragePrecision(TypedDict):
    """What :func:`mean_average_precision` returns."""

    per_class: NDArray[np.float64]  #: (classes,), NaN for a class that no target has
    mean: float  #: over the classes that targets have; NaN if there are none


def accuracy(logits: ArrayLike, labels: ArrayLike) -> float:
    """The share of labels (...) at which logits (..., classes) are largest.

    Of equal logits the first counts. Raises ValueError for other shapes or no labels at all,
    TypeError for labels that are no integers.
    """
    logits, labels = _floats("logits", logits), _integers("labels", labels)
    if logits.shape[:-1] != labels.shape or logits.ndim != labels.ndim + 1:
        raise ValueError(
            f"labels has shape {labels.shape}; allowed is {logits.shape[:-1]}, that of logits "
            f"{logits.shape} without the classes"
        )
    if not logits.size:
        raise ValueError(f"logits has shape {logits.shape}; it must not be empty")
    unclear = np.isnan(logits).any(axis=-1)
    return float(np.mean((logits.argmax(axis=-1) == labels) & ~unclear))


def dice(predicted: ArrayLike, target: ArrayLike, classes: int) -> NDArray[np.float64]:
    """2 |A and B| / (|A| + |B|) (classes,), where A was predicted to be the class and B is.

    predicted, target: integers from 0 to classes - 1, of one shape. NaN for a class that is in
    neither. Source: Dice, "Measures of the amount of ecologic association between species",
    Ecology 26, 1945. Raises ValueError for other shapes or classes, TypeError for other than
    integers.
    """
    classes = integer("classes", classes, at_least=1)
    predicted = _labels("predicted", predicted, classes)
    target = _labels("target", target, classes)
    if predicted.shape != target.shape:
        raise ValueError(f"predicted has shape {predicted.shape}; allowed is {target.shape}")
    both = np.bincount(target[predicted == target], minlength=classes)
    sizes = _count(predicted, classes) + _count(target, classes)
    shares: NDArray[np.float64] = np.where(sizes > 0, 2 * both / np.maximum(sizes, 1), np.nan)
    return shares


def box_iou(a: ArrayLike, b: ArrayLike) -> NDArray[np.float64]:
    """Area of the intersection over area of the union (n, m) of boxes (n, 4) and (m, 4).

    0 where a box is not finite, or where both are empty. Raises ValueError for other shapes and
    for negative widths and heights.
    """
    a, b = _boxes("a", a), _boxes("b", b)
    with np.errstate(invalid="ignore", over="ignore"):
        a_low, a_high = _corners(a[:, None])
        b_low, b_high = _corners(b)
        shared = _area(np.maximum(a_low, b_low), np.minimum(a_high, b_high))
        union = _area(a_low, a_high) + _area(b_low, b_high) - shared
        known = union > 0  # which NaN is not
    return np.divide(shared, union, out=np.zeros_like(union), where=known)


def non_maximum_suppression(
    boxes: ArrayLike, scores: ArrayLike, threshold: float
) -> NDArray[np.int64]:
    """Indices (k,) of the boxes (n, 4) that are kept, by falling score.

    From the highest of the scores (n,) down, a box is dropped if its IoU with one that was kept is
    above the threshold, from 0 to 1. Of equal scores the first goes first, NaN last. Raises
    ValueError for other shapes or thresholds.
    """
    boxes = _boxes("boxes", boxes)
    scores = _floats("scores", scores)
    _same_length("scores", scores, len(boxes))
    threshold = real("threshold", threshold, at_least=0, at_most=1)
    overlap = box_iou(boxes, boxes)
    left = np.ones(len(boxes), dtype=bool)
    kept = []
    for i in _by_score(scores):
        if left[i]:
            kept.append(i)
            left &= overlap[i] <= threshold
    return np.array(kept, dtype=np.int64)


def mean_average_precision(
    predictions: Sequence[Detections], targets: Sequence[Objects], classes: int, iou: float = 0.5
) -> AveragePrecision:
    """Average precision of every class, and its mean over the classes that occur in targets.

    predictions: of every image boxes (n, 4), scores (n,) and labels (n,); targets: of every image
    boxes (m, 4) and labels (m,). From the highest score down, a prediction is right if the target
    of its class, in its image, with which it overlaps most has IoU >= ``iou`` and was not found
    before. The average precision is the area under the curve of precision against recall, made
    monotone, over all its points.

    Source: Everingham et al., "The PASCAL visual object classes (VOC) challenge", IJCV 88, 2010,
    and the development kit of VOC2010 and later, described in "The PASCAL visual object classes
    challenge: a retrospective", IJCV 111, 2015; the kit counts pixels, here a box from 0 to 1 has
    width 1. Raises ValueError for lists of different lengths, other shapes or classes, and an IoU
    outside (0, 1].
    """
    classes = integer("classes", classes, at_least=1)
    iou = real("iou", iou, above=0, at_most=1)
    if len(predictions) != len(targets):
        raise ValueError(
            f"predictions has {len(predictions)} images; allowed is {len(targets)}, as targets has"
        )
    found = [_detections(i, image, classes) for i, image in enumerate(predictions)]
    wanted = [_objects(i, image, classes) for i, image in enumerate(targets)]
    per_class = np.array([_class_precision(found, wanted, c, iou) for c in range(classes)])
    occurring = per_class[~np.isnan(per_class)]
    mean = float(occurring.mean()) if len(occurring) else float("nan")
    return {"per_class": per_class, "mean": mean}


_Arrays = tuple[NDArray[Any], ...]


def _class_precision(found: list[_Arrays], wanted: list[_Arrays], label: int, iou: float) -> float:
    scores, right, total = [np.empty(0)], [np.empty(0, dtype=bool)], 0
    for (boxes, confidence, given), (objects, true) in zip(found, wanted, strict=True):
        mine, objects = given == label, objects[true == label]
        total += len(objects)
        order = _by_score(confidence[mine])
        scores.append(confidence[mine][order])
        right.append(_matches(box_iou(boxes[mine][order], objects), iou))
    if not total:
        return float("nan")
    order = _by_score(np.concatenate(scores))
    return _area_under_curve(np.concatenate(right)[order], total)


def _matches(overlap: NDArray[np.float64], iou: float) -> NDArray[np.bool_]:
    """Which of n predictions, best first, find one of m targets; overlap: (n, m)."""
    right = np.zeros(len(overlap), dtype=bool)
    if not overlap.shape[1]:
        return right
    taken = np.zeros(overlap.shape[1], dtype=bool)
    for i, best in enumerate(overlap.argmax(axis=1)):
        right[i] = overlap[i, best] >= iou and not taken[best]
        taken[best] |= right[i]
    return right


def _area_under_curve(right: NDArray[np.bool_], total: int) -> float:
    """Sum over targets found of the best precision at that recall or a higher one, over total."""
    precision = np.cumsum(right) / np.arange(1, len(right) + 1)
    best = np.maximum.accumulate(precision[::-1])[::-1]
    return float(best[right].sum() / total)


def _by_score(scores: NDArray[Any]) -> NDArray[np.int64]:
    return np.argsort(-scores, kind="stable")  # which puts NaN last


def _corners(boxes: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Lower and upper (..., 2)."""
    middle, half = boxes[..., :2], boxes[..., 2:] / 2
    return middle - half, middle + half


def _area(low: NDArray[np.float64], high: NDArray[np.float64]) -> NDArray[np.float64]:
    """Between corners (..., 2); not width times height, so that a box has IoU 1 with itself."""
    sides: NDArray[np.float64] = np.maximum(high - low, 0)
    return sides[..., 0] * sides[..., 1]


def _count(labels: NDArray[Any], classes: int) -> NDArray[np.int64]:
    return np.bincount(labels.ravel(), minlength=classes)


def _detections(image: int, given: Detections, classes: int) -> _Arrays:
    if len(given) != 3:
        raise ValueError(f"predictions[{image}] must be boxes, scores and labels, got {given!r}")
    boxes = _boxes(f"predictions[{image}][0]", given[0])
    scores = _floats(f"predictions[{image}][1]", given[1])
    labels = _labels(f"predictions[{image}][2]", given[2], classes)
    _same_length(f"predictions[{image}][1]", scores, len(boxes))
    _same_length(f"predictions[{image}][2]", labels, len(boxes))
    return boxes, scores, labels


def _objects(image: int, given: Objects, classes: int) -> _Arrays:
    if len(given) != 2:
        raise ValueError(f"targets[{image}] must be boxes and labels, got {given!r}")
    boxes = _boxes(f"targets[{image}][0]", given[0])
    labels = _labels(f"targets[{image}][1]", given[1], classes)
    _same_length(f"targets[{image}][1]", labels, len(boxes))
    return boxes, labels


def _boxes(name: str, value: ArrayLike) -> NDArray[np.float64]:
    boxes = _floats(name, value)
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(f"{name} has shape {boxes.shape}; allowed is (n, 4)")
    negative = (boxes[:, 2:] < 0) & np.isfinite(boxes[:, 2:])
    for row in np.flatnonzero(negative.any(axis=1))[:1]:
        raise ValueError(
            f"{name}[{row}]={boxes[row].tolist()} is not allowed; "
            "width and height must be at least 0"
        )
    return boxes


def _labels(name: str, value: ArrayLike, classes: int) -> NDArray[Any]:
    labels = _integers(name, value)
    if labels.size and not (labels.min() >= 0 and labels.max() < classes):
        outside = labels[(labels < 0) | (labels >= classes)][0]
        raise ValueError(f"{name} has the class {outside}; allowed are 0 to {classes - 1}")
    return labels


def _floats(name: str, value: ArrayLike) -> NDArray[np.float64]:
    try:
        return np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} cannot be made an array of numbers: {error}") from error


def _integers(name: str, value: ArrayLike) -> NDArray[Any]:
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise TypeError(f"{name} cannot be made an array: {error}") from error
    if not array.size:
        return array.astype(np.int64)  # an empty list is an array of floats
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name} has dtype {array.dtype}; allowed are integers")
    return array


def _same_length(name: str, array: NDArray[Any], length: int) -> None:
    if array.shape != (length,):
        raise ValueError(f"{name} has shape {array.shape}; allowed is ({length},)")
