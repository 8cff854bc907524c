"""Layers that the architectures share, in 2D and 3D, made from nnU-Net's plan arguments."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch.nn.functional as F
from dynamic_network_architectures.building_blocks.helper import (
    convert_conv_op_to_dim,
    get_matching_batchnorm,
    get_matching_convtransp,
    get_matching_pool_op,
    maybe_convert_scalar_to_list,
)
from torch import Tensor, nn

Size = int | Sequence[int]


class Layers:
    """Makes the layers of one network: dimension, normalisation and activation are the same everywhere.

    Args:
        conv_op: ``torch.nn.Conv2d`` or ``torch.nn.Conv3d``.
        norm_op: normalisation; None: batch normalisation.
        norm_op_kwargs: its arguments.
        nonlin: activation; None: ReLU. ``torch.nn.PReLU`` gets one slope for each channel
            unless its arguments say otherwise.
        nonlin_kwargs: its arguments.
        bias: whether convolutions have one, unless they are asked otherwise.
    """

    def __init__(
        self,
        conv_op: type[nn.Module],
        norm_op: type[nn.Module] | None = None,
        norm_op_kwargs: Mapping[str, Any] | None = None,
        nonlin: type[nn.Module] | None = None,
        nonlin_kwargs: Mapping[str, Any] | None = None,
        bias: bool = False,
    ):
        self.conv_op = conv_op
        self.dim = convert_conv_op_to_dim(conv_op)
        self.norm_op = norm_op or get_matching_batchnorm(conv_op)
        self.norm_op_kwargs = dict(norm_op_kwargs or {})
        self.nonlin = nonlin or nn.ReLU
        self.nonlin_kwargs = dict(nonlin_kwargs or ({"inplace": True} if nonlin is None else {}))
        self.bias = bias

    def sizes(self, size: Size) -> list[int]:
        """One number for each axis."""
        return list(maybe_convert_scalar_to_list(self.conv_op, size))

    def conv(
        self,
        inputs: int,
        outputs: int,
        kernel: Size,
        stride: Size = 1,
        dilation: int = 1,
        groups: int = 1,
        bias: bool | None = None,
    ) -> nn.Module:
        """Zero-padded convolution; the output has the input's size divided by the stride, rounded up."""
        kernel = self.sizes(kernel)
        padding = [(k - 1) // 2 * dilation for k in kernel]
        bias = self.bias if bias is None else bias
        return self.conv_op(inputs, outputs, kernel, self.sizes(stride), padding, dilation, groups, bias)

    def up_conv(
        self, inputs: int, outputs: int, stride: Size, kernel: Size | None = None, bias: bool | None = None
    ) -> nn.Module:
        """Transposed convolution to ``stride`` times the size.

        Args:
            inputs: channels in.
            outputs: channels out.
            stride: factor.
            kernel: None: the stride; otherwise odd.
            bias: None: as the other convolutions.
        """
        bias = self.bias if bias is None else bias
        transposed, stride = get_matching_convtransp(self.conv_op), self.sizes(stride)
        if kernel is None:
            return transposed(inputs, outputs, stride, stride, bias=bias)
        kernel = self.sizes(kernel)
        padding, rest = [(k - 1) // 2 for k in kernel], [s - 1 for s in stride]
        return transposed(inputs, outputs, kernel, stride, padding, rest, bias=bias)

    def norm(self, channels: int) -> nn.Module:
        """Normalisation layer."""
        return self.norm_op(channels, **self.norm_op_kwargs)

    def act(self, channels: int) -> nn.Module:
        """Activation."""
        if issubclass(self.nonlin, nn.PReLU):
            return self.nonlin(**{"num_parameters": channels} | self.nonlin_kwargs)
        return self.nonlin(**self.nonlin_kwargs)

    def pool(self, kind: str, kernel: Size, stride: Size | None = None, **kwargs: Any) -> nn.Module:
        """Pooling layer; ``kind`` is ``"max"`` or ``"avg"``; the stride is the kernel unless given."""
        pool = get_matching_pool_op(self.conv_op, pool_type=kind)
        return pool(self.sizes(kernel), None if stride is None else self.sizes(stride), **kwargs)

    def global_pool(self) -> nn.Module:
        """Average over all voxels."""
        return get_matching_pool_op(self.conv_op, adaptive=True)(1)

    def dropout(self, p: float, whole_channels: bool = True) -> nn.Module:
        """Dropout of whole channels or of single values."""
        if not whole_channels:
            return nn.Dropout(p)
        return nn.Dropout2d(p) if self.dim == 2 else nn.Dropout3d(p)

    def conv_norm(self, inputs: int, outputs: int, kernel: Size, stride: Size = 1, **kwargs: Any) -> nn.Sequential:
        """Convolution and normalisation."""
        return nn.Sequential(self.conv(inputs, outputs, kernel, stride, **kwargs), self.norm(outputs))

    def conv_norm_act(self, inputs: int, outputs: int, kernel: Size, stride: Size = 1, **kwargs: Any) -> nn.Sequential:
        """Convolution, normalisation, activation."""
        return self.conv_norm(inputs, outputs, kernel, stride, **kwargs).append(self.act(outputs))


def resize(x: Tensor, size: Sequence[int], align_corners: bool = False) -> Tensor:
    """Bilinear or trilinear interpolation of (B, C, *spatial) to a spatial size."""
    if tuple(x.shape[2:]) == tuple(size):
        return x
    return F.interpolate(x, tuple(size), mode="bilinear" if x.ndim == 4 else "trilinear", align_corners=align_corners)


class Upsample(nn.Module):
    """Interpolation by a factor for each axis."""

    def __init__(self, factor: Sequence[int], align_corners: bool = False):
        super().__init__()
        self.factor = tuple(factor)
        self.align_corners = align_corners

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, *spatial) -> (B, C, *(factor * spatial))."""
        size = [n * f for n, f in zip(x.shape[2:], self.factor, strict=True)]
        return resize(x, size, self.align_corners)
