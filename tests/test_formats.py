"""A format's derived numbers against NumPy's and ml_dtypes' finfo; lookup; promotion; errors."""

import math

import ml_dtypes
import numpy as np
import pytest
from conftest import ORACLE_DTYPES, astype

import fp16sim as fs
from fp16sim.formats import format_of, wider

FINFO = {fmt: ml_dtypes.finfo(dtype) for fmt, dtype in ORACLE_DTYPES.items()}
FINFO |= {fs.E8M0: ml_dtypes.finfo(ml_dtypes.float8_e8m0fnu)}
FINFO |= {fs.FP32: np.finfo(np.float32), fs.FP64: np.finfo(np.float64)}


@pytest.mark.parametrize("fmt", FINFO, ids=repr)
@pytest.mark.parametrize(
    "name", ["bits", "max", "min", "smallest_normal", "smallest_subnormal", "eps"]
)
def test_limits_are_those_of_finfo(fmt, name):
    assert float(getattr(fmt, name)) == float(getattr(FINFO[fmt], name))


def test_tf32_is_fp16_precision_with_fp32_range():
    assert fs.FP16.with_range_of(fs.FP32) == fs.Format(
        name="fp16@fp32", precision=11, emin=-126, emax=127
    )
    assert (fs.TF32.bits, fs.TF32.eps, fs.TF32.emax) == (19, 2.0**-10, 127)


def test_lookup_by_name_ignores_case_and_knows_numpy_names():
    assert format_of("FP16") is fs.FP16
    assert format_of("bfloat16") is fs.BF16
    assert format_of(fs.E4M3) is fs.E4M3


def test_unknown_name_lists_what_is_allowed():
    with pytest.raises(ValueError, match=r"fmt='fp17'.*fp16.*bf16"):
        fs.round_to(1.0, "fp17")
    with pytest.raises(TypeError, match="fmt must be a Format or a name, got 16"):
        fs.round_to(1.0, 16)


def test_formats_are_values():
    clone = fs.Format(name="fp16", precision=11, emin=-14, emax=15)
    assert clone == fs.FP16
    assert hash(clone) == hash(fs.FP16)
    with pytest.raises(AttributeError):
        clone.precision = 12


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"precision": 1}, "precision must be from 2 to 53 bits, got 1"),
        ({"precision": 0, "infinities": False}, "precision must be from 1 to 53 bits, got 0"),
        ({"signed": False}, "subnormals and signed_zero must be False"),
        ({"precision": 54}, "precision must be from 2 to 53"),
        ({"precision": 11.0}, "precision must be an integer, got 11.0"),
        ({"emin": 16}, "emin=16, emax=15"),
        ({"emax": 2000}, "emax=2000"),
        ({"name": ""}, "name must be a non-empty string"),
        ({"nans": False}, "nans must be True"),
        ({"nans": "no"}, "nans must be True or False, got 'no'"),
    ],
)
def test_impossible_formats_are_refused(fields, message):
    good = {"name": "x", "precision": 11, "emin": -14, "emax": 15}
    with pytest.raises((ValueError, TypeError), match=message):
        fs.Format(**(good | fields))


@pytest.mark.parametrize("fmt", ORACLE_DTYPES, ids=repr)
def test_iteration_gives_every_number_once_in_order(fmt):
    numbers = list(fmt)
    codes = np.arange(2**fmt.bits, dtype=np.uint16 if fmt.bits > 8 else np.uint8)
    values = astype(codes.view(ORACLE_DTYPES[fmt]), np.float64)
    assert numbers == sorted(values[~np.isnan(values)].tolist())
    middle = numbers.index(0.0)
    assert [math.copysign(1, x) for x in numbers[middle : middle + 2]] == [-1, 1]


def test_iteration_over_unusual_formats():
    gap = fs.Format(name="g", precision=2, emin=0, emax=1, subnormals=False, signed_zero=False)
    assert list(gap) == [-math.inf, -3, -2, -1.5, -1, 0, 1, 1.5, 2, 3, math.inf]
    assert math.copysign(1, list(gap)[5]) == 1
    scales = list(fs.E8M0)
    assert (len(scales), scales[0], scales[-1]) == (255, 2.0**-127, 2.0**127)
    with pytest.raises(ValueError, match=r"tf32 has 2\^19 codes; only up to 2\^16"):
        iter(fs.TF32)


def test_containment_is_that_of_the_sets(rng):
    """Against the lists of numbers, for many small formats."""
    kinds = [
        {}, {"subnormals": False}, {"infinities": False, "nans": False},
        {"infinities": False, "signed_zero": False},
        {"infinities": False, "signed_zero": False, "subnormals": False, "signed": False},
    ]  # fmt: skip
    formats = [
        fs.Format(
            name="x",
            precision=int(rng.integers(2, 5)),
            emin=int(rng.integers(-4, 0)),
            emax=int(rng.integers(0, 3)),
            **kinds[rng.integers(len(kinds))],
        )
        for _ in range(60)
    ]
    sets = [{(x, math.copysign(1, x)) for x in fmt if math.isfinite(x)} for fmt in formats]
    answers = set()
    for first, numbers in zip(formats, sets, strict=True):
        for second, others in zip(formats, sets, strict=True):
            answers.add(first.contains(second))
            assert first.contains(second) == (others <= numbers), (vars(first), vars(second))
    assert answers == {True, False}


def test_a_format_of_one_number_is_refused():
    lacks = dict.fromkeys(("infinities", "nans", "subnormals", "signed_zero", "signed"), False)
    with pytest.raises(ValueError, match="more than one number"):
        fs.Format(name="one", precision=1, emin=0, emax=0, **lacks)


@pytest.mark.parametrize(
    ("first", "second", "result"),
    [
        (fs.FP16, fs.FP32, fs.FP32),
        (fs.FP16, fs.BF16, fs.FP32),  # PyTorch: torch.result_type(half, bfloat16) is float32
        (fs.E4M3, fs.FP16, fs.FP16),
        (fs.E4M3, fs.E5M2, fs.FP32),
        (fs.FP64, fs.BF16, fs.FP64),
        (fs.TF32, fs.FP16, fs.TF32),
        # one has more bits and reaches less far: up, or down
        (fs.FP16, fs.Format(name="short", precision=8, emin=-20, emax=15), fs.FP32),
        (fs.FP16, fs.Format(name="far", precision=8, emin=-14, emax=30), fs.FP32),
    ],
)
def test_the_wider_format_contains_both(first, second, result):
    assert wider(first, second) is result
    assert wider(second, first) is result
