"""ResNet encoders (He et al. 2016) and the ResNet-18 student, in 2D and 3D."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from nnunet_kd.networks.arguments import PlanArguments
from nnunet_kd.networks.base import PlannedNetwork, number_features
from nnunet_kd.networks.family import Family
from nnunet_kd.networks.layers import Layers, Size
from nnunet_kd.networks.scores import ScoreDecoder


class ResNet18Seg(PlannedNetwork):
    """ResNet-18 down to 1/32 of the resolution; scores of all resolutions are added up.

    Source: He et al. 2016, Table 1; Qin et al. 2021, Table II (11.2 M parameters).

    Deviations: the image enters with its own channels, not three times; instead of one 1x1 convolution of the last
    features there is one for each resolution, and their scores are upsampled and added, which also gives nnU-Net's deep
    supervision its outputs.

    Args:
        n_blocks_per_stage: residual blocks for each stage; none in the first two.
        **plan: see :class:`PlanArguments`; the first convolution has kernel 7 where the plans' is more than 1, and the
            third stride is the max pooling's.
    """

    def __init__(self, *, n_blocks_per_stage: Sequence[int] = (0, 0, 2, 2, 2, 2), **plan: Any):
        p = PlanArguments(**plan)
        super().__init__(p.input_channels)
        layers = p.layers()
        self.encoder = ResNetEncoder(p, layers, n_blocks_per_stage)
        self.decoder = ScoreDecoder(p, layers, p.features_per_stage[1:])

    @property
    def feature_names(self) -> dict[str, str]:
        """See :class:`PlannedNetwork`."""
        return number_features("encoder", ("encoder.stem", *(f"encoder.stages.{s}" for s in range(4))))

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """(B, input_channels, *spatial) -> logits (B, num_classes, *spatial), or a list with deep supervision."""
        return self.decoder(self.encoder(x))


class ResNetEncoder(nn.Module):
    """7x7 convolution, max pooling, stages of basic blocks (He et al. 2016, Table 1, 18 and 34 layers)."""

    def __init__(self, p: PlanArguments, layers: Layers, blocks: Sequence[int]):
        super().__init__()
        p.check(stages=6, n_blocks_per_stage=blocks)
        features, kernels, strides = p.features_per_stage, p.kernel_sizes, p.strides
        wide = [7 if k > 1 else 1 for k in layers.sizes(kernels[1])]
        self.stem = layers.conv_norm_act(p.input_channels, features[1], wide, strides[1])
        kernel = layers.sizes(kernels[2])
        self.pool = layers.pool("max", kernel, strides[2], padding=[(k - 1) // 2 for k in kernel])
        self.stages = nn.ModuleList()
        for s in range(2, 6):
            stride = 1 if s == 2 else strides[s]
            first = BasicBlock(layers, features[s - 1], features[s], kernels[s], stride)
            more = (BasicBlock(layers, features[s], features[s], kernels[s]) for _ in range(blocks[s] - 1))
            self.stages.append(nn.Sequential(first, *more))

    def forward(self, x: Tensor) -> list[Tensor]:
        """Features of every stage but the first, highest resolution first."""
        features = [self.stem(x)]
        x = self.pool(features[0])
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return features


class BasicBlock(nn.Module):
    """Two convolutions and a shortcut, activation last (He et al. 2016, Fig. 2)."""

    def __init__(self, layers: Layers, inputs: int, outputs: int, kernel: Size, stride: Size = 1):
        super().__init__()
        self.body = nn.Sequential(
            layers.conv_norm_act(inputs, outputs, kernel, stride), layers.conv_norm(outputs, outputs, kernel)
        )
        same = inputs == outputs and all(s == 1 for s in layers.sizes(stride))
        self.shortcut = nn.Identity() if same else layers.conv_norm(inputs, outputs, 1, stride)
        self.act = layers.act(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, *spatial) -> (B, outputs, *(spatial / stride))."""
        return self.act(self.body(x) + self.shortcut(x))


FAMILIES = (
    Family("resnet18", ResNet18Seg, "Qin et al. 2021, Table II", (0, 64, 64, 128, 256, 512), smallest_patch=32),
)
