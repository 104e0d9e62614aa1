"""Data sets and batches."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fp16sim as fs
from fp16sim.data import actors, phantom, road, shapes
from fp16sim.metrics import box_iou


def test_digits_are_all_there_once(digits):
    from sklearn.datasets import load_digits

    images = np.concatenate([digits.train_images, digits.test_images])
    assert images.shape == (1797, 64)
    assert (len(digits.train_images), len(digits.test_images)) == (1437, 360)
    original = load_digits().data
    assert np.array_equal(images[np.lexsort(images.T)] * 16, original[np.lexsort(original.T)])


def test_digits_are_exact_in_fp16(digits):
    assert np.array_equal(fs.round_to(digits.train_images, "fp16"), digits.train_images)


def test_the_split_follows_the_seed():
    first, again, other = fs.data.digits(0), fs.data.digits(0), fs.data.digits(1)
    assert np.array_equal(first.test_images, again.test_images)
    assert not np.array_equal(first.test_images, other.test_images)


def test_without_scikit_learn_the_remedy_is_named():
    code = (
        "import sys; sys.modules['sklearn'] = None\n"
        "import fp16sim as fs\n"
        "try: fs.data.digits()\n"
        "except ImportError as e: print(e)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "pip install 'fp16sim[lessons]'" in result.stdout


class TestBatches:
    def test_an_epoch_uses_no_sample_twice(self):
        indices = list(fs.data.batches(10, 3, 6, rng=0))
        for epoch in (indices[:3], indices[3:]):
            assert len(set(np.concatenate(epoch).tolist())) == 9
        assert not np.array_equal(np.concatenate(indices[:3]), np.concatenate(indices[3:]))

    def test_same_seed_same_batches(self):
        pairs = zip(fs.data.batches(9, 2, 20, rng=5), fs.data.batches(9, 2, 20, rng=5), strict=True)
        assert all(np.array_equal(a, b) for a, b in pairs)

    @pytest.mark.parametrize("size", [0, 11])
    def test_bad_sizes_are_refused_at_once(self, size):
        with pytest.raises(ValueError, match=f"batch_size={size}.*from 1 to 10"):
            fs.data.batches(10, size, 3)

    def test_other_than_integers_are_refused_at_once(self):
        with pytest.raises(TypeError, match="batch_size must be an integer, got '2'"):
            fs.data.batches(10, "2", 3)
        with pytest.raises(TypeError, match=r"steps must be an integer, got 3\.0"):
            fs.data.batches(10, 2, 3.0)
        with pytest.raises(ValueError, match="steps=-1"):
            fs.data.batches(10, 2, -1)


@pytest.fixture(scope="module")
def text():
    return fs.data.text()


class TestText:
    def test_it_is_the_help_topics_in_order(self, text):
        from pydoc_data.topics import topics

        train = text.decode(text.train)
        assert train.startswith(topics[min(topics)][:200])
        assert all(c.isascii() for c in train)
        assert (len(text.train), len(text.validation)) == (360_000, 40_000)
        assert {text.train.dtype, text.validation.dtype} == {np.dtype(np.int64)}

    def test_validation_goes_on_where_training_ends(self, text):
        from pydoc_data.topics import topics

        seam = text.decode(text.train[-40:]) + text.decode(text.validation[:40])
        assert any(seam.strip() in topic for topic in topics.values())

    def test_the_alphabet_is_what_occurs(self, text):
        occurs = np.unique(np.concatenate([text.train, text.validation]))
        assert np.array_equal(occurs, np.arange(len(text.alphabet)))
        assert text.alphabet == "".join(sorted(set(text.alphabet)))

    def test_accents_fold_and_what_is_left_is_dropped(self, monkeypatch):
        topics = {"b": "na\u00efve \ufb01n \u20ac\u4e2d", "a": "first"}
        monkeypatch.setattr("pydoc_data.topics.topics", topics)
        small = fs.data.text()
        whole = small.decode(np.concatenate([small.train, small.validation]))
        assert whole == "first\n\nnaive fin "
        assert len(small.validation) == 1

    def test_the_digest_is_of_the_whole_text(self, text):
        import hashlib

        whole = text.decode(text.train) + text.decode(text.validation)
        assert text.digest == hashlib.sha256(whole.encode()).hexdigest()[:12]
        assert text._replace(validation=text.validation[::-1]).digest != text.digest

    @given(st.data())
    def test_decode_undoes_encode(self, text, data):
        sample = data.draw(st.text(text.alphabet, max_size=30))
        ids = text.encode(sample)
        assert (ids.dtype, ids.shape) == (np.int64, (len(sample),))
        assert text.decode(ids) == sample

    def test_what_is_not_in_the_alphabet_is_refused(self, text):
        with pytest.raises(ValueError, match=r"text\[1\]='\u00e9' is not in the alphabet"):
            text.encode("a\u00e9")
        last = len(text.alphabet) - 1
        for wrong in (-1, last + 1):
            with pytest.raises(ValueError, match=rf"ids\[1\]={wrong}.*from 0 to {last}"):
                text.decode(np.array([0, wrong]))
        with pytest.raises(TypeError, match="ids must be integers, got float64"):
            text.decode(np.array([1.0]))


class TestWindows:
    def test_targets_follow_their_inputs(self):
        ids = np.arange(50, dtype=np.uint8)
        for inputs, targets in fs.data.windows(ids, 7, 4, 30, rng=0):
            assert inputs.shape == targets.shape == (4, 7)
            assert inputs.dtype == targets.dtype == np.int64
            assert np.array_equal(inputs - inputs[:, :1], np.tile(np.arange(7), (4, 1)))
            assert np.array_equal(targets, inputs + 1)

    def test_every_window_is_drawn_the_last_too(self):
        pairs = list(fs.data.windows(np.arange(6), 3, 8, 20, rng=1))
        assert len(pairs) == 20
        starts = {int(start) for inputs, _ in pairs for start in inputs[:, 0]}
        assert starts == {0, 1, 2}

    def test_same_seed_same_windows(self):
        first, again, other = (
            np.concatenate([x for x, _ in fs.data.windows(np.arange(99), 5, 2, 10, rng=seed)])
            for seed in (3, 3, 4)
        )
        assert np.array_equal(first, again)
        assert not np.array_equal(first, other)

    def test_bad_input_is_refused_at_once(self):
        ids = np.arange(10)
        for length in (0, 10):
            with pytest.raises(ValueError, match=f"length={length}.*from 1 to 9"):
                fs.data.windows(ids, length, 2, 3)
        with pytest.raises(ValueError, match=r"batch_size=0.*at least 1"):
            fs.data.windows(ids, 3, 0, 3)
        with pytest.raises(ValueError, match=r"steps=-1.*at least 0"):
            fs.data.windows(ids, 3, 2, -1)
        with pytest.raises(ValueError, match=r"ids of shape \(2, 5\).*\(n,\)"):
            fs.data.windows(ids.reshape(2, 5), 3, 2, 1)
        with pytest.raises(ValueError, match=r"ids of length 1.*at least 2"):
            fs.data.windows(ids[:1], 1, 2, 1)
        with pytest.raises(TypeError, match="ids must be integers, got float64"):
            fs.data.windows(ids / 1, 3, 2, 1)
        with pytest.raises(TypeError, match="rng must be"):
            fs.data.windows(ids, 3, 2, 1, rng="7")


@pytest.mark.parametrize("make", [fs.data.scenes, fs.data.phantoms])
class TestGenerated:
    def test_same_seed_same_images(self, make):
        first, again, other = make(3, rng=5), make(3, rng=5), make(3, rng=6)
        for a, b in zip(first, again, strict=True):
            assert all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))
        assert not np.array_equal(first.images, other.images)
        assert not np.array_equal(first.images[0], first.images[1])

    def test_size_and_none_at_all(self, make):
        assert make(2, size=48, rng=0).images.shape[2:] == (48, 48)
        assert len(make(0).images) == 0

    def test_bad_input_is_refused(self, make):
        with pytest.raises(ValueError, match=r"count=-1.*at least 0"):
            make(-1)
        with pytest.raises(ValueError, match=r"size=31.*at least 32"):
            make(1, size=31)
        with pytest.raises(TypeError, match="count must be an integer"):
            make(1.5)
        with pytest.raises(TypeError, match="rng must be"):
            make(1, rng="7")


@pytest.fixture(scope="module")
def scenes():
    return fs.data.scenes(150, rng=8)


def disagreement(canvas, box):
    """How far the edges of what was painted on a canvas of 0.5 are from those of a box."""
    rows, columns = np.nonzero((np.abs(canvas - 0.5) > 0.02).any(axis=0))
    cx, cy, width, height = box
    painted = columns.min(), columns.max() + 1, rows.min(), rows.max() + 1
    edges = cx - width / 2, cx + width / 2, cy - height / 2, cy + height / 2
    return np.abs(np.subtract(painted, edges)).max()


class TestScenes:
    def test_shapes_and_ranges(self, scenes):
        assert (scenes.images.dtype, scenes.images.shape) == (np.float32, (150, 3, 64, 64))
        assert scenes.images.min() >= 0
        assert scenes.images.max() <= 1
        assert len(scenes.boxes) == len(scenes.labels) == 150
        for boxes, labels in zip(scenes.boxes, scenes.labels, strict=True):
            assert (boxes.dtype, labels.dtype) == (np.float32, np.int64)
            assert boxes.shape == (len(labels), 4)

    def test_one_to_five_objects_of_every_class(self, scenes):
        assert {len(labels) for labels in scenes.labels} == {1, 2, 3, 4, 5}
        shares = np.bincount(np.concatenate(scenes.labels)) / sum(map(len, scenes.labels))
        assert len(shares) == len(road.CLASSES)
        assert shares.min() > 0.2

    @pytest.mark.parametrize("size", [32, 64, 100])
    def test_boxes_are_inside(self, size):
        boxes = np.concatenate(fs.data.scenes(80, size=size, rng=2).boxes)
        assert (boxes[:, :2] - boxes[:, 2:] / 2).min() >= 0
        assert (boxes[:, :2] + boxes[:, 2:] / 2).max() <= size
        assert boxes[:, 2:].min() >= size / 20

    def test_boxes_overlap_little(self, scenes):
        for boxes in scenes.boxes:
            overlap = box_iou(boxes, boxes)
            assert (overlap - np.eye(len(boxes))).max() <= 0.3 + 1e-6

    @pytest.mark.parametrize("height", [8.4, 17, 33.7])
    @pytest.mark.parametrize(
        ("paint", "shape"),
        [
            (actors.car_from_behind, 1.25),
            (actors.car_from_the_side, 2.3),
            (actors.pedestrian, 0.4),
            (lambda brush, random: actors.sign(brush, np.eye(8)), 1),
        ],
    )
    def test_boxes_are_tight(self, paint, shape, height):
        canvas = np.full((3, 64, 96), 0.5, dtype=np.float32)
        box = np.array([48.3, 30.6, height * shape, height])
        paint(actors.Brush(canvas, box), np.random.default_rng(1))
        assert disagreement(canvas, box) < 1

    def test_signs_are_where_their_boxes_are(self, scenes):
        """Red at the top of the ring, for signs that nothing hides."""
        seen = 0
        for image, boxes, labels in zip(*scenes, strict=True):
            alone = (box_iou(boxes, boxes) > 0).sum(axis=1) == 1
            for cx, cy, _, height in boxes[alone & (labels == road.CLASSES.index("sign"))]:
                red, green, _ = image[:, int(cy - 0.43 * height), int(cx)]
                assert red > green + 0.1
                seen += 1
        assert seen > 50

    def test_a_sign_shows_its_digit_upright(self):
        digit = np.zeros((8, 8))
        digit[:2] = 1  # a bar along the top
        canvas = np.full((3, 40, 40), 0.5, dtype=np.float32)
        actors.sign(actors.Brush(canvas, np.array([20, 20, 32, 32])), digit)
        assert canvas[:, 13, 20].max() < 0.1
        assert canvas[:, 27, 20].min() > 0.9

    def test_near_is_larger(self, scenes):
        boxes, labels = np.concatenate(scenes.boxes), np.concatenate(scenes.labels)
        cars = boxes[labels == road.CLASSES.index("car")]
        low = cars[:, 1] + cars[:, 3] / 2
        assert np.corrcoef(low, cars[:, 3])[0, 1] > 0.9


class TestShapes:
    """Coverage adds up to the area that geometry gives."""

    def test_ellipse(self):
        grid = np.arange(-20, 21) + 0.3
        cover = shapes.ellipse(grid, grid[:, None], 12.4, 7.7)
        assert cover.sum() == pytest.approx(np.pi * 12.4 * 7.7, rel=0.01)
        assert (cover.min(), cover.max()) == (0, 1)

    def test_slab(self):
        grid = np.arange(-20, 21) + 0.3
        cover = shapes.slab(grid, grid[:, None], 9.5, 6.2, corner=4)
        assert cover.sum() == pytest.approx(4 * 9.5 * 6.2 - (4 - np.pi) * 4**2, rel=0.01)


@pytest.fixture(scope="module")
def heads():
    return fs.data.phantoms(200, rng=4)


class TestPhantoms:
    def test_shapes_and_ranges(self, heads):
        assert (heads.images.dtype, heads.images.shape) == (np.float32, (200, 1, 64, 64))
        assert (heads.masks.dtype, heads.masks.shape) == (np.int64, (200, 64, 64))
        assert -0.3 < heads.images.min() < 0
        assert 0.9 < heads.images.max() < 1.4

    def test_every_class_in_every_image(self, heads):
        classes = range(len(phantom.CLASSES))
        assert all(np.array_equal(np.unique(mask), classes) for mask in heads.masks)

    @pytest.mark.parametrize("size", [32, 64, 100])
    def test_one_to_two_percent_are_lesion(self, size):
        masks = fs.data.phantoms(200, size=size, rng=0).masks
        assert 0.01 < np.mean(masks == phantom.CLASSES.index("lesion")) < 0.02

    def test_skull_around_brain_around_lesion(self, heads):
        """No pixel's neighbour is two layers away, and the image ends in background."""
        masks = heads.masks
        across, down = np.abs(np.diff(masks, axis=2)), np.abs(np.diff(masks, axis=1))
        assert max(across.max(), down.max()) == 1
        edge = np.concatenate([masks[:, 0], masks[:, -1], masks[:, :, 0], masks[:, :, -1]])
        assert edge.max() == 0

    def test_brightness_alone_does_not_find_lesions(self, heads):
        """Brighter than the brain on average, but the best threshold within the head is poor."""
        from sklearn.metrics import f1_score

        values = heads.images[:, 0][heads.masks >= 2]
        lesion = heads.masks[heads.masks >= 2] == 3
        assert values[lesion].mean() > values[~lesion].mean() + 0.1
        best = max(f1_score(lesion, values > limit) for limit in np.linspace(0.3, 0.8, 26))
        assert 0.2 < best < 0.7
