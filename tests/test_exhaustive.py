"""All 2^32 float32 bit patterns against other packages' casts: ``pytest -m exhaustive``."""

import math
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat

import numpy as np
import pytest
from conftest import EXECUTORS, ORACLE_DTYPES, assert_same_bits, astype

import fp16sim as fs
from fp16sim.kernels import reference

CHUNKS, CHUNK = 256, 2**24


def count_differences(chunk, name, executor):
    """How many of one chunk's results are other bits than the oracle's; NaN equals NaN."""
    fmt = {fmt.name: fmt for fmt in ORACLE_DTYPES}[name]
    x = np.arange(chunk * CHUNK, (chunk + 1) * CHUNK, dtype=np.uint32).view(np.float32)
    ours = np.empty_like(x)
    EXECUTORS[executor].round_array(x, ours, fmt)
    theirs = astype(astype(x, ORACLE_DTYPES[fmt]), np.float32)
    same = ours.view(np.uint32) == theirs.view(np.uint32)
    return int(np.count_nonzero(~same & ~(np.isnan(ours) & np.isnan(theirs))))


@pytest.mark.exhaustive
@pytest.mark.parametrize("executor", range(len(EXECUTORS)), ids=lambda i: EXECUTORS[i].__name__)
@pytest.mark.parametrize("name", ["fp16", "bf16", "e4m3", "e5m2"])
def test_every_float32(name, executor):
    with ProcessPoolExecutor() as processes:
        chunks = range(CHUNKS)
        counts = processes.map(count_differences, chunks, repeat(name), repeat(executor))
        assert sum(counts) == 0


@pytest.mark.parametrize("executor", range(len(EXECUTORS)))
def test_the_count_counts(monkeypatch, executor):
    """The last chunk has NaNs, the one at the edge of overflow everything else: both agree."""
    assert count_differences(255, "fp16", executor) == 0
    monkeypatch.setattr(EXECUTORS[executor], "round_array", lambda x, out, fmt: np.copyto(out, x))
    assert count_differences(0x47, "fp16", executor) > 16_000_000  # 65504 and around: most change


@pytest.mark.parametrize("source", [fs.FP16, fs.BF16], ids=repr)
@pytest.mark.parametrize("fmt", [fs.E4M3, fs.E5M2, fs.E2M1], ids=repr)
def test_every_16_bit_number_to_small_formats_in_every_mode(source, fmt):
    """Against exact arithmetic."""
    x = np.array([v for v in source if math.isfinite(v)])
    for mode in reference.GOES_UP:
        expected = np.array([reference.round_to(v, fmt, mode) for v in x.tolist()])
        assert_same_bits(fs.round_to(x, fmt, mode), expected)
        assert_same_bits(fs.round_to(x.astype(np.float32), fmt, mode), expected.astype(np.float32))
