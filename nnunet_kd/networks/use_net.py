"""Residual-USE-Net and Mobile-Residual-USE-Net (Choi 2022)."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from dynamic_network_architectures.building_blocks.helper import get_matching_instancenorm
from torch import Tensor, nn

from nnunet_kd.networks.arguments import PlanArguments
from nnunet_kd.networks.base import Decoder, PlannedNetwork, number_features
from nnunet_kd.networks.family import Family
from nnunet_kd.networks.layers import Layers, Size, Upsample


class ResidualUSENet(PlannedNetwork):
    """U-Net with a residual encoder and squeeze-and-excitation in the decoder; the teachers of the paper.

    Source: Choi 2022, Section 2.2, Fig. 3 and 4. Teacher T1: transposed convolutions; T2: trilinear interpolation and a
    convolution.

    The paper leaves open, and the authors' released code decides: a convolution before the first stage; 1, 2, 3, 4, 5
    residual blocks in the stages; one plain block of two convolutions at each level of the decoder; InstanceNorm and
    LeakyReLU; biases in all convolutions but shortcuts, upsampling and output; ReLU rather than a sigmoid at the end of
    squeeze-and-excitation, and one squeeze-and-excitation for both the upsampled tensor and the skip connection of a
    level.

    Deviation: 1x1 convolutions at the decoder's lower levels for nnU-Net's deep supervision; the paper has none.

    Args:
        n_blocks_per_stage: residual blocks for each stage.
        upsampling: ``"transposed"`` (T1, student) or ``"interpolation"`` (T2).
        reduction: of squeeze-and-excitation.
        **plan: see :class:`PlanArguments`.

    Attributes:
        separable: whether convolutions are depthwise separable, except for the first.
    """

    separable = False

    def __init__(
        self,
        *,
        n_blocks_per_stage: Sequence[int],
        upsampling: Literal["transposed", "interpolation"] = "transposed",
        reduction: int = 8,
        **plan: Any,
    ):
        p = PlanArguments(**plan)
        super().__init__(p.input_channels)
        p.check(n_blocks_per_stage=n_blocks_per_stage)
        norm = get_matching_instancenorm(p.conv_op), {"affine": True, "eps": 1e-5}
        layers = p.layers(norm, (nn.LeakyReLU, {"negative_slope": 0.01, "inplace": True}), bias=True)
        previous = p.features_per_stage[0]
        self.stem = layers.conv_norm_act(p.input_channels, previous, p.kernel_sizes[0])
        self.encoder = nn.ModuleList()
        for f, k, first, number in zip(
            p.features_per_stage, p.kernel_sizes, p.strides, n_blocks_per_stage, strict=True
        ):
            blocks = []
            for b in range(number):
                blocks.append(ResidualBlock(layers, previous, f, k, 1 if b else first, self.separable))
                previous = f
            self.encoder.append(nn.Sequential(*blocks))
        self.decoder = USEDecoder(p, layers, self.separable, upsampling, reduction)

    @property
    def feature_names(self) -> dict[str, str]:
        """See :class:`PlannedNetwork`."""
        encoder = number_features("encoder", (f"encoder.{s}" for s in range(len(self.encoder))))
        return encoder | number_features("decoder", (f"decoder.blocks.{s}" for s in range(len(self.encoder) - 1)))

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """(B, input_channels, *spatial) -> logits (B, num_classes, *spatial), or a list with deep supervision."""
        x, skips = self.stem(x), []
        for stage in self.encoder:
            x = stage(x)
            skips.append(x)
        return self.decoder(skips)

    @staticmethod
    def initialize(module: nn.Module) -> None:
        """Xavier-normal initialisation of convolutions (Choi 2022, Table 2); called for every module."""
        if isinstance(module, nn.modules.conv._ConvNd):
            nn.init.xavier_normal_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


class MobileResidualUSENet(ResidualUSENet):
    """Residual-USE-Net with depthwise separable convolutions; the student of the paper.

    Source: Choi 2022, Section 2.2, Fig. 3 and 4. All convolutions of blocks are separable; the first layer of the
    network, shortcuts and upsampling are not. Nothing lies between the depthwise and the pointwise convolution.
    """

    separable = True


def conv_layer(
    layers: Layers, inputs: int, outputs: int, kernel: Size, stride: Size = 1, separable: bool = False
) -> nn.Sequential:
    """Convolution and normalisation; ``separable``: depthwise with the stride, then pointwise."""
    if not separable:
        return layers.conv_norm(inputs, outputs, kernel, stride)
    depthwise = layers.conv(inputs, inputs, kernel, stride, groups=inputs)
    return nn.Sequential(depthwise, *layers.conv_norm(inputs, outputs, 1))


class ResidualBlock(nn.Module):
    """Two convolutions; the shortcut is added before the last activation (Choi 2022, Fig. 4a)."""

    def __init__(
        self,
        layers: Layers,
        inputs: int,
        outputs: int,
        kernel: Size,
        stride: Size = 1,
        separable: bool = False,
    ):
        super().__init__()
        self.conv1 = conv_layer(layers, inputs, outputs, kernel, stride, separable)
        self.act1 = layers.act(outputs)
        self.conv2 = conv_layer(layers, outputs, outputs, kernel, 1, separable)
        same = inputs == outputs and all(s == 1 for s in layers.sizes(stride))
        self.shortcut = nn.Identity() if same else layers.conv_norm(inputs, outputs, 1, stride, bias=False)
        self.act2 = layers.act(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, *spatial) -> (B, outputs, *(spatial / stride))."""
        return self.act2(self.conv2(self.act1(self.conv1(x))) + self.shortcut(x))


class ResidualSqueezeExcitation(nn.Module):
    """x + x * SE(x), SE a two-layer perceptron of the channels' means (Choi 2022, Fig. 4c)."""

    def __init__(self, channels: int, reduction: int, layers: Layers):
        super().__init__()
        hidden = max(1, channels // reduction)
        self.weights = nn.Sequential(
            nn.Linear(channels, hidden), layers.act(hidden), nn.Linear(hidden, channels), nn.ReLU(inplace=True)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, *spatial) -> the same shape."""
        weights = self.weights(x.flatten(2).mean(2))
        return x + x * weights.view(*weights.shape, *[1] * (x.ndim - 2))


class USEDecoder(Decoder):
    """Upsampling, residual squeeze-and-excitation of both tensors, concatenation, a plain block; at every level."""

    def __init__(self, p: PlanArguments, layers: Layers, separable: bool, upsampling: str, reduction: int):
        super().__init__(p.deep_supervision)
        self.ups, self.excitations, self.blocks, self.seg_layers = (nn.ModuleList() for _ in range(4))
        for s in range(p.n_stages - 1, 0, -1):
            low, high, kernel = p.features_per_stage[s], p.features_per_stage[s - 1], p.kernel_sizes[s - 1]
            self.ups.append(self._up(layers, low, high, p.strides[s], upsampling))
            self.excitations.append(ResidualSqueezeExcitation(high, reduction, layers))
            block = []
            for inputs in (2 * high, high):
                block += [conv_layer(layers, inputs, high, kernel, 1, separable), layers.act(high)]
            self.blocks.append(nn.Sequential(*block))
            self.seg_layers.append(layers.conv(high, p.num_classes, 1, bias=False))
        self.freeze_unused()

    @staticmethod
    def _up(layers: Layers, inputs: int, outputs: int, stride: Size, upsampling: str) -> nn.Module:
        if upsampling == "transposed":
            return layers.up_conv(inputs, outputs, stride, bias=False)
        if upsampling != "interpolation":
            raise ValueError(f"upsampling is {upsampling!r}, expected transposed or interpolation")
        factor = layers.sizes(stride)
        conv = layers.conv_op(inputs, outputs, factor, padding="same", bias=False)
        return nn.Sequential(Upsample(factor, align_corners=True), conv)

    def forward(self, skips: Sequence[Tensor]) -> Tensor | list[Tensor]:
        """Features of every stage, highest resolution first -> logits."""
        x, features = skips[-1], []
        for up, excitation, block, skip in zip(self.ups, self.excitations, self.blocks, skips[-2::-1], strict=True):
            x = block(torch.cat((excitation(up(x)), excitation(skip)), 1))
            features.append(x)
        return self.outputs(features)


FAMILIES = (
    Family(
        "use-net",
        ResidualUSENet,
        "Choi 2022, Fig. 3-4 (teachers)",
        (32, 64, 128, 256, 512),
        {"n_blocks_per_stage": (1, 2, 3, 4, 5)},
        fixed_stages=False,
        smallest_patch=32,
    ),
    Family(
        "mobile-use-net",
        MobileResidualUSENet,
        "Choi 2022, Fig. 3-4 (student)",
        (32, 64, 128, 256, 512),
        {"n_blocks_per_stage": (1, 2, 3, 4, 5)},
        fixed_stages=False,
        smallest_patch=32,
    ),
)
