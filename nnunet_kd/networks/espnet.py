"""ESPNet (Mehta et al. 2018) as the papers use it, in 2D and 3D."""

from collections.abc import Sequence
from typing import Any

import torch
from dynamic_network_architectures.building_blocks.helper import get_matching_batchnorm
from torch import Tensor, nn

from nnunet_kd.networks.arguments import PlanArguments
from nnunet_kd.networks.base import Decoder, PlannedNetwork, number_features
from nnunet_kd.networks.family import Family
from nnunet_kd.networks.layers import Layers, Size

DILATIONS = (1, 2, 4, 8, 16)


class ESPNet(PlannedNetwork):
    """Efficient spatial pyramids of dilated convolutions and a decoder with as many channels as classes.

    Source: Mehta et al. 2018, Fig. 1 and 4; Qin et al. 2021, Table II (0.183 M parameters); Ben Loussaief et al. 2023,
    Table 1 (183.72 k). As in Qin's released code there are 2 and 3 spatial pyramids at a quarter and an eighth of the
    resolution, and the pyramid of the decoder has at least 5 channels.

    Deviations: the image enters with its own channels, not three times; 1x1 convolutions at the decoder's lower levels
    for nnU-Net's deep supervision.

    Args:
        n_blocks_per_stage: spatial pyramids of the two lower resolutions.
        **plan: see :class:`PlanArguments`.
    """

    def __init__(self, *, n_blocks_per_stage: Sequence[int] = (0, 0, 2, 3), **plan: Any):
        p = PlanArguments(**plan)
        super().__init__(p.input_channels)
        p.check(stages=4, n_blocks_per_stage=n_blocks_per_stage)
        layers = p.layers(norm=(get_matching_batchnorm(p.conv_op), {"eps": 1e-3}), nonlin=(nn.PReLU, {}))
        _, f1, f2, f3 = p.features_per_stage
        _, k1, k2, k3 = p.kernel_sizes
        _, s1, s2, s3 = p.strides
        c = p.input_channels
        self.pool_half = _average_pool(layers, s1)
        self.pool_quarter = _average_pool(layers, s2)
        self.stem = layers.conv_norm_act(c, f1, k1, s1)
        self.norm1 = _norm_act(layers, f1 + c)
        self.down2 = SpatialPyramid(layers, f1 + c, f2, k2, s2)
        self.stage2 = nn.Sequential(*(SpatialPyramid(layers, f2, f2, k2) for _ in range(n_blocks_per_stage[2])))
        self.norm2 = _norm_act(layers, 2 * f2 + c)
        self.down3 = SpatialPyramid(layers, 2 * f2 + c, f3, k3, s3)
        self.stage3 = nn.Sequential(*(SpatialPyramid(layers, f3, f3, k3) for _ in range(n_blocks_per_stage[3])))
        self.norm3 = _norm_act(layers, 2 * f3)
        self.decoder = ESPDecoder(p, layers, (f1 + c, 2 * f2 + c, 2 * f3))

    @property
    def feature_names(self) -> dict[str, str]:
        """See :class:`PlannedNetwork`."""
        encoder = number_features("encoder", ("norm1", "norm2", "norm3"))
        return encoder | number_features("decoder", ("decoder.join2", "decoder.join1"))

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """(B, input_channels, *spatial) -> logits (B, num_classes, *spatial), or a list with deep supervision."""
        half = self.pool_half(x)
        level1 = self.norm1(torch.cat((self.stem(x), half), 1))
        down2 = self.down2(level1)
        level2 = self.norm2(torch.cat((self.stage2(down2), down2, self.pool_quarter(half)), 1))
        down3 = self.down3(level2)
        level3 = self.norm3(torch.cat((down3, self.stage3(down3)), 1))
        return self.decoder((level1, level2, level3))


def _average_pool(layers: Layers, stride: Size) -> nn.Module:
    kernel = [3 if s > 1 else 1 for s in layers.sizes(stride)]
    return layers.pool("avg", kernel, stride, padding=[(k - 1) // 2 for k in kernel])


def _norm_act(layers: Layers, channels: int) -> nn.Sequential:
    return nn.Sequential(layers.norm(channels), layers.act(channels))


class SpatialPyramid(nn.Module):
    """ESP module: a fifth of the channels, five dilations, summed up one after the other and joined.

    Source: Mehta et al. 2018, Fig. 1. With a stride the first convolution has the kernel's size and the stride, else
    it is 1x1. Where input and output are alike the input is added.
    """

    def __init__(
        self, layers: Layers, inputs: int, outputs: int, kernel: Size, stride: Size = 1, residual: bool = True
    ):
        super().__init__()
        width = max(1, outputs // len(DILATIONS))
        first = outputs - (len(DILATIONS) - 1) * width
        strided = any(s != 1 for s in layers.sizes(stride))
        self.reduce = layers.conv(inputs, width, kernel if strided else 1, stride)
        self.branches = nn.ModuleList(
            layers.conv(width, first if d == 1 else width, kernel, dilation=d) for d in DILATIONS
        )
        self.residual = residual and not strided and inputs == outputs
        self.norm_act = _norm_act(layers, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, *spatial) -> (B, outputs, *(spatial / stride))."""
        reduced = self.reduce(x)
        parts = [branch(reduced) for branch in self.branches]
        for i in range(2, len(parts)):
            parts[i] = parts[i] + parts[i - 1]
        joined = torch.cat(parts, 1)
        return self.norm_act(x + joined if self.residual else joined)


class ESPDecoder(Decoder):
    """Scores of the three resolutions, joined and upsampled step by step."""

    def __init__(self, p: PlanArguments, layers: Layers, channels: Sequence[int]):
        super().__init__(p.deep_supervision)
        (c1, c2, c3), (_, k1, k2, _), (_, s1, s2, s3), n = channels, p.kernel_sizes, p.strides, p.num_classes
        width = max(n, len(DILATIONS))
        self.score3 = nn.Sequential(layers.conv(c3, n, 1), layers.norm(n), layers.up_conv(n, n, s3))
        self.score2 = layers.conv(c2, n, 1)
        self.join2 = nn.Sequential(_norm_act(layers, 2 * n), SpatialPyramid(layers, 2 * n, width, k2, residual=False))
        self.up2 = nn.Sequential(layers.up_conv(width, n, s2), _norm_act(layers, n))
        self.join1 = layers.conv_norm_act(n + c1, n, k1)
        self.seg_layers = nn.ModuleList(
            [
                layers.conv(width, n, 1, bias=True),
                layers.conv(n, n, 1, bias=True),
                layers.up_conv(n, n, s1),
            ]
        )
        self.freeze_unused()

    def forward(self, levels: Sequence[Tensor]) -> Tensor | list[Tensor]:
        """Features at 1/2, 1/4 and 1/8 of the resolution -> logits."""
        level1, level2, level3 = levels
        quarter = self.join2(torch.cat((self.score2(level2), self.score3(level3)), 1))
        half = self.join1(torch.cat((self.up2(quarter), level1), 1))
        return self.outputs([quarter, half, half])


FAMILIES = (
    Family(
        "espnet",
        ESPNet,
        "Qin et al. 2021, Table II; Ben Loussaief et al. 2023, Table 1",
        (0, 16, 64, 128),
        smallest_patch=8,
    ),
)
