"""ResNet encoders (He et al. 2016) and the ResNet-18 student, in 2D and 3D."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from nnunet_kd.networks.base import PlannedNetwork, check_stages, number_features
from nnunet_kd.networks.layers import Layers, Size
from nnunet_kd.networks.scores import ScoreDecoder


class ResNet18Seg(PlannedNetwork):
    """ResNet-18 down to 1/32 of the resolution; scores of all resolutions are added up.

    Source: He et al. 2016, Table 1; Qin et al. 2021, Table II (11.2 M parameters).

    Deviations: the image enters with its own channels, not three times; instead of one 1x1 convolution of the last
    features there is one for each resolution, and their scores are upsampled and added, which also gives nnU-Net's deep
    supervision its outputs.

    Args:
        input_channels: channels of the image.
        num_classes: channels of the logits.
        n_stages: 6.
        features_per_stage: channels; 0 at full resolution, where there are none, then 64, 64, 128, 256, 512.
        conv_op: ``torch.nn.Conv2d`` or ``torch.nn.Conv3d``.
        kernel_sizes: for each stage; the first convolution is 7 where this is more than 1.
        strides: for each stage, the first is 1; the third is the max pooling's.
        n_blocks_per_stage: residual blocks for each stage; none in the first two.
        norm_op: None: batch normalisation.
        norm_op_kwargs: arguments of ``norm_op``.
        nonlin: None: ReLU.
        nonlin_kwargs: arguments of ``nonlin``.
        deep_supervision: see :class:`PlannedNetwork`.
    """

    def __init__(
        self,
        input_channels: int,
        num_classes: int,
        n_stages: int,
        features_per_stage: Sequence[int],
        conv_op: type[nn.Module],
        kernel_sizes: Sequence[Size],
        strides: Sequence[Size],
        n_blocks_per_stage: Sequence[int] = (0, 0, 2, 2, 2, 2),
        norm_op: type[nn.Module] | None = None,
        norm_op_kwargs: dict[str, Any] | None = None,
        nonlin: type[nn.Module] | None = None,
        nonlin_kwargs: dict[str, Any] | None = None,
        deep_supervision: bool = False,
    ):
        super().__init__(input_channels)
        check_stages(n_stages, 6)
        layers = Layers(conv_op, norm_op, norm_op_kwargs, nonlin, nonlin_kwargs)
        self.encoder = ResNetEncoder(
            layers, input_channels, features_per_stage, kernel_sizes, strides, n_blocks_per_stage
        )
        self.decoder = ScoreDecoder(layers, num_classes, features_per_stage[1:], strides[1], deep_supervision)

    @property
    def feature_names(self) -> dict[str, str]:
        """See :class:`PlannedNetwork`."""
        return number_features("encoder", ("encoder.stem", *(f"encoder.stages.{s}" for s in range(4))))

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """(B, input_channels, *spatial) -> logits (B, num_classes, *spatial), or a list with deep supervision."""
        return self.decoder(self.encoder(x))


class ResNetEncoder(nn.Module):
    """7x7 convolution, max pooling, stages of basic blocks (He et al. 2016, Table 1, 18 and 34 layers)."""

    def __init__(
        self,
        layers: Layers,
        input_channels: int,
        features: Sequence[int],
        kernels: Sequence[Size],
        strides: Sequence[Size],
        blocks: Sequence[int],
    ):
        super().__init__()
        check_stages(
            len(blocks),
            6,
            features_per_stage=features,
            kernel_sizes=kernels,
            strides=strides,
            n_blocks_per_stage=blocks,
        )
        wide = [7 if k > 1 else 1 for k in layers.sizes(kernels[1])]
        self.stem = layers.conv_norm_act(input_channels, features[1], wide, strides[1])
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
