"""ENet (Paszke et al. 2016) as the papers use it, in 2D and 3D."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nnunet_kd.networks.arguments import PlanArguments
from nnunet_kd.networks.base import Decoder, PlannedNetwork, number_features
from nnunet_kd.networks.family import Family
from nnunet_kd.networks.layers import Layers, Size


class ENet(PlannedNetwork):
    """Bottlenecks at an eighth of the resolution; max unpooling with the positions of the maxima on the way up.

    Source: Paszke et al. 2016, Table 1; Qin et al. 2021, Table II (0.353 M parameters); Ben Loussaief et al. 2023,
    Table 1 (353.76 k). As in Qin's released code the shortcut of a downsampling bottleneck has a convolution, dropout
    is 0.1 everywhere and the last layer is a transposed convolution whose kernel is the stride. In 3D the asymmetric
    convolutions run along the three axes.

    Deviations: the image enters with its own channels, not three times; 1x1 convolutions at the decoder's lower levels
    for nnU-Net's deep supervision. Unpooling is a scatter, which can be exported.

    Args:
        dropout: probability, of whole channels.
        **plan: see :class:`PlanArguments`.
    """

    def __init__(self, *, dropout: float = 0.1, **plan: Any):
        p = PlanArguments(**plan)
        super().__init__(p.input_channels)
        p.check(stages=4)
        layers = p.layers(nonlin=(nn.PReLU, {"num_parameters": 1}))  # one slope for all channels
        _, f1, f2, f3 = p.features_per_stage
        _, k1, k2, k3 = p.kernel_sizes
        _, s1, s2, s3 = p.strides
        self.stem = Stem(layers, p.input_channels, f1, k1, s1)
        f1 = self.stem.channels
        self.down1 = DownBottleneck(layers, f1, f2, s2, dropout)
        self.stage1 = nn.Sequential(*(Bottleneck(layers, f2, k2, 1, dropout) for _ in range(4)))
        self.down2 = DownBottleneck(layers, f2, f3, s3, dropout)
        kinds = (1, 2, "asymmetric", 4, 1, 8, "asymmetric", 16)
        self.stage2 = nn.Sequential(*(Bottleneck(layers, f3, k3, kind, dropout) for kind in (*kinds, *kinds)))
        self.decoder = ENetDecoder(p, layers, (f1, f2, f3), dropout)

    @property
    def feature_names(self) -> dict[str, str]:
        """See :class:`PlannedNetwork`."""
        encoder = number_features("encoder", ("stem", "stage1", "stage2"))
        return encoder | number_features("decoder", ("decoder.blocks.0", "decoder.blocks.1"))

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """(B, input_channels, *spatial) -> logits (B, num_classes, *spatial), or a list with deep supervision."""
        high = self.stem(x)
        middle, high_indices = self.down1(high)
        middle = self.stage1(middle)
        low, middle_indices = self.down2(middle)
        return self.decoder(self.stage2(low), [(middle_indices, middle.shape[2:]), (high_indices, high.shape[2:])])


class Stem(nn.Module):
    """Strided convolution beside the max-pooled image; at least half of the channels are the convolution's."""

    def __init__(self, layers: Layers, inputs: int, channels: int, kernel: Size, stride: Size):
        super().__init__()
        learned = max(channels - inputs, (channels + 1) // 2)
        self.channels = learned + inputs
        self.conv = layers.conv(inputs, learned, kernel, stride)
        self.pool = layers.pool("max", stride, ceil_mode=True)
        self.norm_act = nn.Sequential(layers.norm(self.channels), layers.act(self.channels))

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, *spatial) -> (B, channels, *(spatial / stride))."""
        return self.norm_act(torch.cat((self.conv(x), self.pool(x)), 1))


def _narrow(layers: Layers, inputs: int, hidden: int) -> nn.Sequential:
    return layers.conv_norm_act(inputs, hidden, 1)


def _widen(layers: Layers, hidden: int, outputs: int, dropout: float) -> nn.Sequential:
    return layers.conv_norm(hidden, outputs, 1).append(layers.dropout(dropout))


class Bottleneck(nn.Module):
    """x + (1x1, 3x3 dilated or asymmetric, 1x1) with a quarter of the channels inside."""

    def __init__(self, layers: Layers, channels: int, kernel: Size, kind: int | str, dropout: float):
        super().__init__()
        hidden = max(1, channels // 4)
        if isinstance(kind, int):
            middle = [layers.conv(hidden, hidden, kernel, dilation=kind)]
        else:
            long = [5 if k > 1 else 1 for k in layers.sizes(kernel)]
            axes = ([k if a == axis else 1 for a, k in enumerate(long)] for axis in range(layers.dim))
            middle = [layers.conv(hidden, hidden, k) for k in axes if max(k) > 1]
        self.body = nn.Sequential(
            _narrow(layers, channels, hidden),
            *middle,
            layers.norm(hidden),
            layers.act(hidden),
            _widen(layers, hidden, channels, dropout),
        )
        self.act = layers.act(channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, *spatial) -> the same shape."""
        return self.act(x + self.body(x))


class DownBottleneck(nn.Module):
    """Strided bottleneck; the shortcut is max pooling and a 1x1 convolution."""

    def __init__(self, layers: Layers, inputs: int, outputs: int, stride: Size, dropout: float):
        super().__init__()
        hidden = max(1, outputs // 4)
        size = layers.sizes(stride)
        self.pool = layers.pool("max", stride, return_indices=True)
        self.shortcut = layers.conv_norm(inputs, outputs, 1)
        self.body = nn.Sequential(
            _narrow(layers, inputs, hidden),
            layers.conv_op(hidden, hidden, size, size, bias=False),
            layers.norm(hidden),
            layers.act(hidden),
            _widen(layers, hidden, outputs, dropout),
        )
        self.act = layers.act(outputs)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, inputs, *spatial) -> (B, outputs, *(spatial / stride)), positions of the maxima of x."""
        pooled, indices = self.pool(x)
        return self.act(self.shortcut(pooled) + self.body(x)), indices


class UpBottleneck(nn.Module):
    """Bottleneck with a transposed convolution; the shortcut is a 1x1 convolution and max unpooling."""

    def __init__(self, layers: Layers, inputs: int, outputs: int, stride: Size, dropout: float):
        super().__init__()
        hidden = max(1, outputs // 4)
        self.shortcut = layers.conv_norm(inputs, outputs, 1)
        self.body = nn.Sequential(
            _narrow(layers, inputs, hidden),
            layers.up_conv(hidden, hidden, stride),
            layers.norm(hidden),
            layers.act(hidden),
            _widen(layers, hidden, outputs, dropout),
        )
        self.act = layers.act(outputs)

    def forward(self, x: Tensor, indices: Tensor, size: Sequence[int]) -> Tensor:
        """(B, inputs, *spatial) -> (B, outputs, *size)."""
        return self.act(max_unpool(self.shortcut(x), indices, size) + self.body(x))


def max_unpool(x: Tensor, indices: Tensor, size: Sequence[int]) -> Tensor:
    """Puts values back where max pooling found its maxima, 0 elsewhere.

    Args:
        x: (B, C, *spatial).
        indices: what max pooling returned, of the same shape.
        size: spatial size of the result.
    """
    empty = x.new_zeros(*x.shape[:2], int(torch.Size(size).numel()))
    return empty.scatter(2, indices.flatten(2), x.flatten(2)).unflatten(2, tuple(size))


class ENetDecoder(Decoder):
    """Two upsampling steps with bottlenecks and a transposed convolution to full resolution."""

    def __init__(self, p: PlanArguments, layers: Layers, features: Sequence[int], dropout: float):
        super().__init__(p.deep_supervision)
        (f1, f2, f3), (_, k1, k2, _), (_, s1, s2, s3) = features, p.kernel_sizes, p.strides
        self.ups = nn.ModuleList([UpBottleneck(layers, f3, f2, s3, dropout), UpBottleneck(layers, f2, f1, s2, dropout)])
        self.blocks = nn.ModuleList(
            [
                nn.Sequential(*(Bottleneck(layers, f2, k2, 1, dropout) for _ in range(2))),
                Bottleneck(layers, f1, k1, 1, dropout),
            ]
        )
        self.seg_layers = nn.ModuleList(
            [
                layers.conv(f2, p.num_classes, 1, bias=True),
                layers.conv(f1, p.num_classes, 1, bias=True),
                layers.up_conv(f1, p.num_classes, s1),
            ]
        )
        self.freeze_unused()

    def forward(self, x: Tensor, pools: Sequence[tuple[Tensor, Sequence[int]]]) -> Tensor | list[Tensor]:
        """Features at the lowest resolution, and what the two poolings left -> logits."""
        levels = []
        for up, block, (indices, size) in zip(self.ups, self.blocks, pools, strict=True):
            x = block(up(x, indices, size))
            levels.append(x)
        return self.outputs([*levels, x])


FAMILIES = (
    Family(
        "enet",
        ENet,
        "Qin et al. 2021, Table II; Ben Loussaief et al. 2023, Table 1",
        (0, 16, 64, 128),
        smallest_patch=8,
    ),
)
