"""Block formats against gfloat's block quantizer and PyTorch's casts."""

import gfloat
import gfloat.formats
import numpy as np
import pytest
import torch

import fp16sim as fs
from fp16sim.blocks import (
    MXFP4,
    MXFP6_E2M3,
    MXFP6_E3M2,
    MXFP8_E4M3,
    MXFP8_E5M2,
    NVFP4,
    encode_blocks,
    round_blocks,
)

GFLOAT = {
    MXFP8_E4M3: gfloat.formats.format_info_mxfp8_e4m3,
    MXFP8_E5M2: gfloat.formats.format_info_mxfp8_e5m2,
    MXFP6_E3M2: gfloat.formats.format_info_mxfp6_e3m2,
    MXFP6_E2M3: gfloat.formats.format_info_mxfp6_e2m3,
    MXFP4: gfloat.formats.format_info_mxfp4_e2m1,
}
MODES = {
    "ties_to_even": gfloat.RoundMode.TiesToEven,
    "ties_to_away": gfloat.RoundMode.TiesToAway,
    "toward_zero": gfloat.RoundMode.TowardZero,
    "toward_negative": gfloat.RoundMode.TowardNegative,
    "toward_positive": gfloat.RoundMode.TowardPositive,
}
TORCH = {MXFP8_E4M3: torch.float8_e4m3fn, MXFP8_E5M2: torch.float8_e5m2}


@pytest.mark.parametrize("fmt", GFLOAT, ids=repr)
@pytest.mark.parametrize("mode", MODES)
def test_gfloat(fmt, mode):
    rng = np.random.default_rng(7)
    for exponent in (-130, -60, 0, 100):
        x = np.ldexp(rng.standard_normal((8, 32)), exponent)
        x[0] = 0.0
        assert gfloat.BlockFormatInfo is type(GFLOAT[fmt])
        expected = [
            gfloat.quantize_block(GFLOAT[fmt], row, gfloat.block.compute_scale_amax, MODES[mode])
            for row in x
        ]
        assert np.array_equal(round_blocks(x, fmt, mode=mode), expected)


@pytest.mark.parametrize("fmt", TORCH, ids=repr)
def test_codes_and_scales_are_torch_s(fmt):
    rng = np.random.default_rng(8)
    x = rng.standard_normal((64, 96)).astype(np.float32) * 1000
    blocks = encode_blocks(x, fmt)
    scales = torch.from_numpy(blocks.scales).view(torch.float8_e8m0fnu).to(torch.float32)
    codes = torch.from_numpy(blocks.codes).view(TORCH[fmt]).to(torch.float32)
    values = codes.reshape(64, 3, 32) * scales[..., None]
    assert np.array_equal(values.reshape(64, 96).numpy(), round_blocks(x, fmt))
    # The scale by its definition, the elements by torch's cast.
    largest = torch.from_numpy(x).reshape(64, 3, 32).abs().amax(-1)
    expected = torch.exp2(torch.frexp(largest).exponent - 1.0 - fmt.element.emax)
    assert torch.equal(scales, expected)
    scaled = (torch.from_numpy(x).reshape(64, 3, 32) / expected[..., None]).clamp(
        -fmt.element.max, fmt.element.max
    )
    assert torch.equal(codes.reshape(64, 3, 32), scaled.to(TORCH[fmt]).to(torch.float32))


def test_nvfp4_scales_with_torch():
    rng = np.random.default_rng(9)
    for exponent in (-100, -10, 0, 90):
        x = np.ldexp(rng.standard_normal((32, 64)), exponent).astype(np.float32)
        blocks = encode_blocks(x, NVFP4)
        tensor = torch.from_numpy(x)
        encode = torch.tensor(2688.0) / tensor.abs().max()
        largest = tensor.reshape(32, 4, 16).abs().amax(-1)
        scales = (largest / 6 * encode).clamp(max=448).to(torch.float8_e4m3fn)
        assert np.array_equal(blocks.scales, scales.view(torch.uint8).numpy())
        assert blocks.tensor_scale == (1 / encode).item()
        factors = 1 / (scales.to(torch.float32) * (1 / encode))
        scaled = (tensor.reshape(32, 4, 16) * factors[..., None]).reshape(32, 64).numpy()
        elements = fs.round_to(scaled, fs.E2M1)
        assert np.array_equal(fs.decode(blocks.codes, fs.E2M1), elements)
