"""Convolutions, pooling and resampling of images (N, channels, rows, columns).

Sizes, strides and paddings are one integer for rows and columns, or a pair.
"""

from __future__ import annotations

from collections.abc import Sequence

from fp16sim.arguments import integer, one_of, real
from fp16sim.autograd.ops import conv, pool
from fp16sim.autograd.ops.conv import Geometry, Pair
from fp16sim.autograd.tensor import Tensor
from fp16sim.functional.checks import optional, pair, switch, with_axes

Sizes = int | Sequence[int]


def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Sizes = 1,
    padding: Sizes = 0,
    dilation: Sizes = 1,
    groups: int = 1,
) -> Tensor:
    """Correlates images with kernels; accumulated in the carrier, bias included, rounded once.

    input: (N, in, H, W). weight: (out, in / groups, rows, columns). bias: (out,) or None.
    Returns (N, out, ...) with (H + 2·padding - dilation·(rows - 1) - 1) // stride + 1 rows.
    """
    x, w = _image(input), with_axes(weight, "weight", 4, "(out, in / groups, rows, columns)")
    geometry = _geometry(stride, padding, dilation, groups)
    if x.shape[1] != w.shape[1] * geometry.groups or w.shape[0] % geometry.groups:
        raise ValueError(
            f"weight has shape {w.shape}; with {geometry.groups} groups allowed is "
            f"(a multiple of {geometry.groups}, {x.shape[1]} / {geometry.groups}, rows, columns)"
        )
    _fits(x, w.shape[2:], geometry)
    return conv.conv2d(x, w, *_bias(bias, w.shape[0]), geometry=geometry)


def conv_transpose2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Sizes = 1,
    padding: Sizes = 0,
    output_padding: Sizes = 0,
    groups: int = 1,
    dilation: Sizes = 1,
) -> Tensor:
    """What ``conv2d`` with the same settings does to gradients: from its outputs to its inputs.

    input: (N, in, H, W). weight: (in, out / groups, rows, columns). bias: (out,) or None. Returns
    (N, out, ...) with (H - 1)·stride - 2·padding + dilation·(rows - 1) + output_padding + 1 rows.
    """
    x, w = _image(input), with_axes(weight, "weight", 4, "(in, out / groups, rows, columns)")
    geometry = _geometry(stride, padding, dilation, groups)
    if x.shape[1] != w.shape[0] or w.shape[0] % geometry.groups or 0 in w.shape[2:]:
        raise ValueError(
            f"weight has shape {w.shape}; allowed is ({x.shape[1]}, out / groups, rows, columns) "
            f"with a number of groups that divides {x.shape[1]}, got {geometry.groups}"
        )
    extra = pair("output_padding", output_padding, 0)
    rows, columns = (
        (n - 1) * s - 2 * p + d * (k - 1) + more + 1
        for n, k, s, p, d, more in zip(x.shape[2:], w.shape[2:], *geometry[:3], extra, strict=True)
    )
    limits = zip(extra, geometry.stride, geometry.dilation, strict=True)
    if min(rows, columns) < 1 or any(more >= max(s, d) for more, s, d in limits):
        raise ValueError(
            f"output_padding={output_padding!r} must be smaller than stride or dilation, and the "
            f"output not empty; its size would be {(rows, columns)}"
        )
    given = _bias(bias, w.shape[1] * geometry.groups)
    return conv.conv_transpose2d(x, w, *given, geometry=geometry, size=(rows, columns))


def max_pool2d(
    input: Tensor, kernel_size: Sizes, stride: Sizes | None = None, padding: Sizes = 0
) -> Tensor:
    """The largest value of each window; the first of equal ones gets the gradient. NaN wins.

    stride: kernel_size if None. padding: at most half of kernel_size; never the largest.
    """
    x, kernel, geometry = _windows(input, kernel_size, stride, padding)
    return pool.max_pool2d(x, kernel=kernel, geometry=geometry)


def avg_pool2d(
    input: Tensor,
    kernel_size: Sizes,
    stride: Sizes | None = None,
    padding: Sizes = 0,
    *,
    count_include_pad: bool = True,
) -> Tensor:
    """The mean of each window, rounded once; padding counts as zeros, or not at all."""
    x, kernel, geometry = _windows(input, kernel_size, stride, padding)
    counted = switch("count_include_pad", count_include_pad)
    return pool.avg_pool2d(x, kernel=kernel, geometry=geometry, count_padding=counted)


def adaptive_avg_pool2d(input: Tensor, output_size: Sizes) -> Tensor:
    """Means of windows that cover the image so that (N, channels, *output_size) comes out."""
    x = _image(input)
    if not x.shape[2] or not x.shape[3]:
        raise ValueError(f"input has shape {x.shape}: there are no values")
    return pool.adaptive_avg_pool2d(x, output=pair("output_size", output_size, 1))


def interpolate(
    input: Tensor,
    size: Sizes | None = None,
    scale_factor: float | None = None,
    mode: str = "nearest",
    align_corners: bool = False,
) -> Tensor:
    """Images of another size; fp32 under autocast, rounded once.

    size or scale_factor: one of them. With the latter the size is floor(H · scale_factor), and
    values are taken 1 / scale_factor apart, as in PyTorch. mode: "nearest" or "bilinear";
    align_corners: for the latter, whether the corners' centres stay in place.
    """
    x = _image(input)
    if not x.shape[2] or not x.shape[3]:
        raise ValueError(f"input has shape {x.shape}: there are no values")
    if (size is None) == (scale_factor is None):
        raise ValueError("give size or scale_factor, and not both")
    output: Pair
    if size is not None:
        output = pair("size", size, 1)
        steps = x.shape[2] / output[0], x.shape[3] / output[1]
    else:
        factor = real("scale_factor", scale_factor, above=0)
        if not 1 <= factor * min(x.shape[2:]) <= factor * max(x.shape[2:]) < 2**31:
            raise ValueError(
                f"scale_factor={factor} makes no size that is allowed of {x.shape[2:]}"
            )
        output = int(x.shape[2] * factor), int(x.shape[3] * factor)
        steps = 1 / factor, 1 / factor
    corners = switch("align_corners", align_corners)
    if one_of("mode", mode, ("nearest", "bilinear")) == "nearest":
        if corners:
            raise ValueError("align_corners=True is for mode='bilinear'")
        return pool.upsample_nearest2d(x, output=output, steps=steps)
    return pool.upsample_bilinear2d(x, output=output, steps=steps, align_corners=corners)


def _image(value: object) -> Tensor:
    return with_axes(value, "input", 4, "(N, channels, rows, columns)")


def _bias(bias: Tensor | None, channels: int) -> list[Tensor]:
    given = optional(bias=bias)
    if given and given[0].shape != (channels,):
        raise ValueError(f"bias has shape {given[0].shape}; allowed is {(channels,)}")
    return given


def _geometry(stride: Sizes, padding: Sizes, dilation: Sizes, groups: int) -> Geometry:
    return Geometry(
        pair("stride", stride, 1),
        pair("padding", padding, 0),
        pair("dilation", dilation, 1),
        integer("groups", groups, at_least=1),
    )


def _fits(x: Tensor, kernel: Sequence[int], geometry: Geometry) -> None:
    if min(kernel) < 1 or min(geometry.output_size(x.shape[2:], kernel)) < 1:
        raise ValueError(
            f"a kernel of {kernel} with padding {geometry.padding} and dilation "
            f"{geometry.dilation} does not fit input's {x.shape}"
        )


def _windows(
    value: object, kernel_size: Sizes, stride: Sizes | None, padding: Sizes
) -> tuple[Tensor, Pair, Geometry]:
    x, kernel = _image(value), pair("kernel_size", kernel_size, 1)
    geometry = _geometry(kernel if stride is None else stride, padding, 1, 1)
    if any(2 * p > k for p, k in zip(geometry.padding, kernel, strict=True)):
        raise ValueError(f"padding={padding!r} must be at most half of kernel_size={kernel_size!r}")
    _fits(x, kernel, geometry)
    return x, kernel, geometry
