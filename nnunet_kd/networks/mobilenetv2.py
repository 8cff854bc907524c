"""MobileNetV2 (Sandler et al. 2018) with a light decoder, in 2D and 3D."""

from typing import Any

from torch import Tensor, nn

from nnunet_kd.networks.arguments import PlanArguments
from nnunet_kd.networks.base import PlannedNetwork, number_features
from nnunet_kd.networks.family import Family
from nnunet_kd.networks.layers import Layers, Size
from nnunet_kd.networks.scores import ScoreDecoder

# For each resolution below full: (expansion, channels, blocks), the last channels being the stage's features
BLOCKS = (((1, 16, 1), (6, 24, 2)), ((6, 32, 3), (6, 64, 4), (6, 96, 3)), ((6, 160, 3), (6, 320, 1)))
STEM, LAST = 32, 1280


class MobileNetV2Seg(PlannedNetwork):
    """Inverted residuals down to an eighth of the resolution; scores of all resolutions are added up.

    Source: Sandler et al. 2018, Table 2; Qin et al. 2021, Table II (2.2 M parameters); Ben Loussaief et al. 2023,
    Table 1 (2.23 M). As in Qin's released code two of the five strides are 1: the lowest resolution is an eighth.

    Deviations: the image enters with its own channels, not three times; instead of one 1x1 convolution of the last
    features there is one for each resolution, and their scores are upsampled and added, which also gives nnU-Net's deep
    supervision its outputs.

    Args:
        **plan: see :class:`PlanArguments`; features are those at the end of a stage, its others are scaled along.
    """

    def __init__(self, **plan: Any):
        p = PlanArguments(**plan)
        super().__init__(p.input_channels)
        p.check(stages=4)
        layers = p.layers(nonlin=(nn.ReLU6, {"inplace": True}))
        self.encoder = nn.ModuleList()
        channels = p.input_channels
        for s, stage in enumerate(BLOCKS, 1):
            width = p.features_per_stage[s] / stage[-1][1]
            modules: list[nn.Module] = []
            kernel, stride = p.kernel_sizes[s], p.strides[s]
            if s == 1:
                stem = _round(STEM * width)
                modules.append(layers.conv_norm_act(channels, stem, kernel, stride))
                stride, channels = 1, stem
            for expansion, outputs, number in stage:
                for i in range(number):
                    wide, first = _round(outputs * width), stride if i == 0 else 1
                    modules.append(InvertedResidual(layers, channels, wide, expansion, kernel, first))
                    channels = wide
                stride = 1
            if s == len(BLOCKS):
                last = _round(LAST * width)
                modules.append(layers.conv_norm_act(channels, last, 1))
            self.encoder.append(nn.Sequential(*modules))
        scored = (_round(p.features_per_stage[1]), _round(p.features_per_stage[2]), last)
        self.decoder = ScoreDecoder(p, layers, scored)

    @property
    def feature_names(self) -> dict[str, str]:
        """See :class:`PlannedNetwork`."""
        return number_features("encoder", (f"encoder.{s}" for s in range(len(self.encoder))))

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """(B, input_channels, *spatial) -> logits (B, num_classes, *spatial), or a list with deep supervision."""
        features = []
        for stage in self.encoder:
            x = stage(x)
            features.append(x)
        return self.decoder(features)


def _round(channels: float) -> int:
    """Nearest multiple of 8, at least 8, as MobileNetV2 does with a width."""
    return max(8, int(channels + 4) // 8 * 8)


class InvertedResidual(nn.Module):
    """1x1 to more channels, depthwise convolution, 1x1 back without activation (Sandler et al. 2018, Fig. 3b)."""

    def __init__(self, layers: Layers, inputs: int, outputs: int, expansion: int, kernel: Size, stride: Size):
        super().__init__()
        hidden = inputs * expansion
        expand = [layers.conv_norm_act(inputs, hidden, 1)] if expansion != 1 else []
        self.body = nn.Sequential(
            *expand,
            layers.conv_norm_act(hidden, hidden, kernel, stride, groups=hidden),
            layers.conv_norm(hidden, outputs, 1),
        )
        self.residual = inputs == outputs and all(s == 1 for s in layers.sizes(stride))

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, *spatial) -> (B, outputs, *(spatial / stride))."""
        return x + self.body(x) if self.residual else self.body(x)


FAMILIES = (
    Family(
        "mobilenetv2",
        MobileNetV2Seg,
        "Qin et al. 2021, Table II; Ben Loussaief et al. 2023, Table 1",
        (0, 24, 96, 320),
        smallest_patch=8,
    ),
)
