"""Accuracy, Dice and average precision: against hand-worked examples and slow, plain versions."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fp16sim.metrics import (
    accuracy,
    box_iou,
    dice,
    mean_average_precision,
    non_maximum_suppression,
)

#: boxes on a coarse grid, where overlaps of every kind are likely
boxes_of = st.lists(st.tuples(*[st.integers(0, 6)] * 2, *[st.integers(0, 5)] * 2), max_size=8).map(
    lambda rows: np.array(rows, dtype=np.float64).reshape(-1, 4)
)


def plain_iou(a, b):
    """By counting cells of a grid of quarters."""
    cells = np.arange(-4, 12, 0.25) + 0.125

    def inside(box):
        across = np.abs(cells - box[0]) < box[2] / 2
        return across & (np.abs(cells - box[1]) < box[3] / 2)[:, None]

    union = (inside(a) | inside(b)).sum()
    return (inside(a) & inside(b)).sum() / union if union else 0.0


class TestAccuracy:
    def test_by_hand(self):
        logits = np.array([[1, 2, 0], [3, 2, 1], [0, 0, 5], [1, 1, 0]])
        assert accuracy(logits, np.array([1, 0, 1, 0])) == 0.75

    def test_any_shape_with_classes_last(self, rng):
        logits = rng.normal(size=(2, 3, 4, 5))
        assert accuracy(logits, logits.argmax(axis=-1)) == 1
        assert isinstance(accuracy(logits, logits.argmax(axis=-1)), float)

    def test_nan_is_wrong(self):
        """Where argmax would say that NaN is the largest."""
        assert accuracy([[np.nan, 0.0], [1.0, 0.0]], [0, 0]) == 0.5

    def test_bad_input(self):
        with pytest.raises(ValueError, match=r"labels has shape \(3,\); allowed is \(2,\)"):
            accuracy(np.zeros((2, 4)), np.zeros(3, dtype=int))
        with pytest.raises(ValueError, match=r"logits has shape \(0, 4\); it must not be empty"):
            accuracy(np.zeros((0, 4)), np.zeros(0, dtype=int))
        with pytest.raises(TypeError, match="labels has dtype float64; allowed are integers"):
            accuracy(np.zeros((2, 4)), np.zeros(2))
        with pytest.raises(TypeError, match="logits cannot be made an array of numbers"):
            accuracy([["a", "b"]], [0])
        with pytest.raises(TypeError, match="labels cannot be made an array"):
            accuracy(np.zeros((2, 4)), [[1], [1, 2]])


class TestDice:
    def test_is_f1(self, rng):
        from sklearn.metrics import f1_score

        predicted, target = rng.integers(0, 4, (2, 3, 9, 9))
        expected = f1_score(target.ravel(), predicted.ravel(), average=None)
        assert dice(predicted, target, 4) == pytest.approx(expected, abs=1e-15)

    @given(hnp.arrays(np.int64, (2, 7), elements=st.integers(0, 3)))
    def test_is_its_definition(self, pair):
        predicted, target = pair
        for label, score in enumerate(dice(predicted, target, 4)):
            a, b = (set(np.flatnonzero(x == label).tolist()) for x in pair)
            if a or b:
                assert score == 2 * len(a & b) / (len(a) + len(b))
            else:
                assert np.isnan(score)

    def test_bad_input(self):
        with pytest.raises(ValueError, match="predicted has the class 3; allowed are 0 to 2"):
            dice([0, 3], [0, 1], 3)
        with pytest.raises(ValueError, match="target has the class -1; allowed are 0 to 2"):
            dice([0, 2], [0, -1], 3)
        with pytest.raises(ValueError, match=r"predicted has shape \(2,\); allowed is \(1,\)"):
            dice([0, 2], [0], 3)
        with pytest.raises(TypeError, match="target has dtype float64"):
            dice([0], [0.0], 3)
        with pytest.raises(ValueError, match=r"classes=0.*at least 1"):
            dice([0], [0], 0)


class TestBoxIou:
    def test_by_hand(self):
        a = [[1, 1, 2, 2], [5, 5, 1, 1]]
        b = [[2, 1, 2, 2], [1, 1, 2, 2], [1, 1, 1, 1]]
        assert np.array_equal(box_iou(a, b), [[1 / 3, 1, 1 / 4], [0, 0, 0]])

    @given(boxes_of, boxes_of)
    def test_against_counting(self, a, b):
        overlap = box_iou(a, b)
        assert overlap.shape == (len(a), len(b))
        for i, j in np.ndindex(overlap.shape):
            assert overlap[i, j] == pytest.approx(plain_iou(a[i], b[j]))

    @given(
        hnp.arrays(np.float32, (3, 4), elements=st.floats(0.125, 1000, width=32)),
    )
    def test_never_above_one_and_one_with_itself(self, boxes):
        overlap = box_iou(boxes, boxes)
        assert np.array_equal(overlap.diagonal(), np.ones(3))
        assert np.array_equal(overlap, overlap.T)
        assert overlap.max() <= 1

    @pytest.mark.parametrize("place", range(4))
    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    def test_what_is_not_finite_overlaps_nothing(self, value, place):
        box = np.array([[1.0, 1, 2, 2]])
        broken = box.copy()
        broken[0, place] = value
        assert box_iou(box, broken) == box_iou(broken, box) == box_iou(broken, broken) == 0

    def test_bad_input(self):
        with pytest.raises(ValueError, match=r"a has shape \(4,\); allowed is \(n, 4\)"):
            box_iou(np.zeros(4), np.zeros((1, 4)))
        with pytest.raises(ValueError, match=r"b\[1\].*width and height must be at least 0"):
            box_iou(np.zeros((1, 4)), [[0, 0, 1, 1], [0, 0, 1, -1]])


class TestNonMaximumSuppression:
    @given(st.data(), boxes_of, st.sampled_from([0, 0.2, 0.5, 1]))
    def test_against_brute_force(self, data, boxes, threshold):
        size = {"min_size": len(boxes), "max_size": len(boxes)}
        scores = data.draw(st.lists(st.integers(0, 4), **size))
        left = sorted(range(len(boxes)), key=lambda i: (-scores[i], i))
        expected = []
        while left:
            best, *rest = left
            expected.append(best)
            left = [i for i in rest if box_iou(boxes[[best]], boxes[[i]])[0, 0] <= threshold]
        kept = non_maximum_suppression(boxes, scores, threshold)
        assert kept.dtype == np.int64
        assert kept.tolist() == expected

    def test_a_dropped_box_drops_no_other(self):
        boxes = [[0, 0, 2, 2], [1, 0, 2, 2], [2, 0, 2, 2]]
        assert non_maximum_suppression(boxes, [0.9, 0.8, 0.7], 0.2).tolist() == [0, 2]

    def test_nan_goes_last(self):
        boxes = [[0, 0, 2, 2]] * 2
        assert non_maximum_suppression(boxes, [np.nan, 0.1], 0.5).tolist() == [1]

    def test_bad_input(self):
        boxes = np.zeros((2, 4))
        with pytest.raises(ValueError, match=r"scores has shape \(1,\); allowed is \(2,\)"):
            non_maximum_suppression(boxes, [0.1], 0.5)
        for threshold in (-0.1, 1.5):
            with pytest.raises(ValueError, match=f"threshold={threshold} is not allowed"):
                non_maximum_suppression(boxes, [0.1, 0.2], threshold)


def far(*places):
    """Unit boxes: IoU 1 where places are equal, 0.6 at a distance of 1/4, 1/3 at 1/2."""
    return np.array([[place, 0, 1, 1] for place in places], dtype=np.float64).reshape(-1, 4)


def one_class(scores, places, wanted):
    """The average precision of detections in one image."""
    predictions = [(far(*places), scores, np.zeros(len(places), dtype=int))]
    targets = [(far(*wanted), np.zeros(len(wanted), dtype=int))]
    return mean_average_precision(predictions, targets, 1)["mean"]


def plain_precision(scores, right, total):
    """The mean over targets of the best precision at which as many are found."""
    order = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
    points, hits = [], 0
    for n, i in enumerate(order, start=1):
        hits += right[i]
        points.append((hits, hits / n))
    best = [max([p for found, p in points if found >= k], default=0) for k in range(1, total + 1)]
    return sum(best) / total


class TestMeanAveragePrecision:
    def test_right_wrong_right_and_one_missed(self):
        """Precision 1 at recall 1/3, 2/3 at recall 2/3, nothing beyond."""
        ap = one_class([0.9, 0.8, 0.7], [0, 50, 10], [0, 10, 20])
        assert ap == pytest.approx(1 / 3 * 1 + 1 / 3 * 2 / 3)

    def test_precision_is_made_monotone(self):
        """Wrong, right, right: precision 1/2 at recall 1/2, but 2/3 at recall 1."""
        assert one_class([0.9, 0.8, 0.7], [50, 0, 10], [0, 10]) == pytest.approx(2 / 3)

    def test_a_target_is_found_once_by_the_highest_score(self):
        """The second is wrong although nothing but its score differs: 1/2 + 1/2 * 2/3."""
        assert one_class([0.9, 0.8, 0.7], [0, 0, 10], [0, 10]) == pytest.approx(5 / 6)
        assert one_class([0.8, 0.9, 0.7], [0.25, 0, 10], [0, 10]) == pytest.approx(5 / 6)

    def test_only_the_target_with_most_overlap_counts(self):
        """As VOC's kit has it: the second wants the first target, which is taken."""
        near = np.array([[0, 0, 10, 10], [3, 0, 10, 10]])
        predictions = [(near[:1].repeat(2, axis=0), [0.9, 0.8], [0, 0])]
        result = mean_average_precision(predictions, [(near, [0, 0])], 1)
        assert result["mean"] == 0.5

    def test_the_threshold_itself_is_enough(self):
        predictions, targets = [(far(0.5), [1.0], [0])], [(far(0), [0])]
        overlap = box_iou(far(0.5), far(0))[0, 0]
        assert mean_average_precision(predictions, targets, 1, overlap)["mean"] == 1
        assert mean_average_precision(predictions, targets, 1, overlap + 1e-9)["mean"] == 0

    def test_images_are_ranked_together_and_matched_apart(self):
        """Image 2 finds nothing of its own; its score puts it between the two of image 1."""
        predictions = [(far(0, 10), [0.9, 0.5], [0, 0]), (far(0), [0.7], [0])]
        targets = [(far(0, 10), [0, 0]), (far(20), [0])]
        ap = mean_average_precision(predictions, targets, 1)["mean"]
        assert ap == pytest.approx(1 / 3 * 1 + 1 / 3 * 2 / 3)

    def test_classes_are_apart_and_absent_ones_do_not_count(self):
        predictions = [(far(0, 10, 20), [0.9, 0.8, 0.7], [0, 0, 3])]
        targets = [(far(0, 10), [0, 1])]
        result = mean_average_precision(predictions, targets, 4)
        assert np.array_equal(result["per_class"], [1, 0, np.nan, np.nan], equal_nan=True)
        assert result["mean"] == 0.5

    def test_nothing_to_find(self):
        result = mean_average_precision([(far(0), [0.9], [0])], [(far(), [])], 1)
        assert np.isnan(result["mean"])
        assert np.isnan(mean_average_precision([], [], 2)["mean"])

    def test_nan_predictions_are_wrong_and_last(self):
        boxes = np.concatenate([far(0), np.full((1, 4), np.nan)])
        targets = [(far(0), [0])]
        assert mean_average_precision([(boxes, [0.5, np.nan], [0, 0])], targets, 1)["mean"] == 1
        assert mean_average_precision([(boxes, [0.5, 0.9], [0, 0])], targets, 1)["mean"] == 0.5

    @given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=9), st.integers(0, 3))
    def test_against_the_plain_definition(self, detections, missed):
        scores = [score for score, _ in detections]
        right = [hit for _, hit in detections]
        total = sum(right) + missed
        if not total:
            return
        places = [10 * i if hit else 500 + 10 * i for i, hit in enumerate(right)]
        wanted = [place for place in places if place < 500] + [-10 * (i + 1) for i in range(missed)]
        expected = plain_precision(scores, right, total)
        assert one_class(scores, places, wanted) == pytest.approx(expected)

    def test_order_in_the_lists_does_not_matter(self, rng):
        boxes, scores, labels = far(*rng.integers(0, 9, 12)), rng.random(12), rng.integers(0, 2, 12)
        targets = [(far(*range(6)), [0, 1, 0, 1, 0, 1])]
        order = rng.permutation(12)
        first = mean_average_precision([(boxes, scores, labels)], targets, 2)
        again = mean_average_precision([(boxes[order], scores[order], labels[order])], targets, 2)
        assert first["mean"] == again["mean"]
        assert 0 < first["mean"] < 1

    def test_bad_input(self):
        good, wanted = (far(0), [0.9], [0]), (far(0), [0])
        with pytest.raises(ValueError, match="predictions has 1 images; allowed is 2"):
            mean_average_precision([good], [wanted, wanted], 1)
        with pytest.raises(ValueError, match=r"predictions\[0\]\[1\] has shape \(2,\).*\(1,\)"):
            mean_average_precision([(far(0), [0.9, 0.8], [0])], [wanted], 1)
        with pytest.raises(ValueError, match=r"targets\[0\]\[1\] has the class 1; .* 0 to 0"):
            mean_average_precision([good], [(far(0), [1])], 1)
        with pytest.raises(ValueError, match=r"targets\[0\]\[1\] has shape \(2,\).*\(1,\)"):
            mean_average_precision([good], [(far(0), [0, 0])], 1)
        with pytest.raises(ValueError, match=r"predictions\[0\]\[0\] has shape \(0,\).*\(n, 4\)"):
            mean_average_precision([([], [], [])], [wanted], 1)
        for iou in (0, 1.1):
            with pytest.raises(ValueError, match=f"iou={iou} is not allowed"):
                mean_average_precision([good], [wanted], 1, iou)
        with pytest.raises(ValueError, match=r"predictions\[0\] must be boxes, scores and labels"):
            mean_average_precision([wanted], [wanted], 1)
        with pytest.raises(ValueError, match=r"targets\[0\] must be boxes and labels"):
            mean_average_precision([good], [good], 1)
