"""Smaller networks: integers on a uniform grid (quantization), and fewer numbers (pruning).

A grid is r = S (q - Z): real numbers r at equal distances S (scale), numbered by integers q, of
which Z (zero point) stands for 0, exactly. ``quantize_model`` puts weights and inputs of layers on
grids: after training that is post-training quantization; trained further, quantization-aware
training. ``prune`` sets the smallest weights to zero, ``apply_masks`` keeps them there.
``model_bytes`` says what is saved.
"""

from fp16sim.compress.grids import (
    Grid,
    dequantize,
    fake_quantize,
    grid_between,
    grid_for,
    integer_linear,
    quantize,
    rescale,
)
from fp16sim.compress.layers import QuantizedLayer, quantize_model
from fp16sim.compress.pruning import (
    LAYOUTS,
    apply_masks,
    magnitude_mask,
    model_bytes,
    prune,
    storage_bytes,
    two_of_four_mask,
)

__all__ = [
    "LAYOUTS",
    "Grid",
    "QuantizedLayer",
    "apply_masks",
    "dequantize",
    "fake_quantize",
    "grid_between",
    "grid_for",
    "integer_linear",
    "magnitude_mask",
    "model_bytes",
    "prune",
    "quantize",
    "quantize_model",
    "rescale",
    "storage_bytes",
    "two_of_four_mask",
]
