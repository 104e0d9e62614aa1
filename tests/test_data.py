"""Data sets and batches."""

import subprocess
import sys

import numpy as np
import pytest

import fp16sim as fs


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
