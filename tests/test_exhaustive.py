"""All 2^32 float32 bit patterns against other packages' casts: ``pytest -m exhaustive``."""

from concurrent.futures import ProcessPoolExecutor
from itertools import repeat

import numpy as np
import pytest
from conftest import ORACLE_DTYPES, astype

import fp16sim as fs

CHUNKS, CHUNK = 256, 2**24


def count_differences(chunk, name):
    """How many of one chunk's results are other bits than the oracle's; NaN equals NaN."""
    fmt = {fmt.name: fmt for fmt in ORACLE_DTYPES}[name]
    x = np.arange(chunk * CHUNK, (chunk + 1) * CHUNK, dtype=np.uint32).view(np.float32)
    ours = fs.round_to(x, fmt)
    theirs = astype(astype(x, ORACLE_DTYPES[fmt]), np.float32)
    same = ours.view(np.uint32) == theirs.view(np.uint32)
    return int(np.count_nonzero(~same & ~(np.isnan(ours) & np.isnan(theirs))))


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", ["fp16", "bf16", "e4m3", "e5m2"])
def test_every_float32(name):
    with ProcessPoolExecutor() as executor:
        assert sum(executor.map(count_differences, range(CHUNKS), repeat(name))) == 0


def test_the_count_counts(monkeypatch):
    """The last chunk has NaNs, the one at the edge of overflow everything else: both agree."""
    assert count_differences(255, "fp16") == 0
    monkeypatch.setattr(fs, "round_to", lambda x, fmt: x)
    assert count_differences(0x47, "fp16") > 16_000_000  # 65504 and around: fp16 changes most
