"""RA-UNet as Qin et al. 2021 use it as a teacher, in 2D and 3D."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from nnunet_kd.networks.base import Decoder, PlannedNetwork, check_stages, number_features
from nnunet_kd.networks.layers import Layers, Size
from nnunet_kd.networks.resnet import ResNetEncoder


class RAUNet(PlannedNetwork):
    """ResNet-34 encoder, attention that weighs the skip connections' channels, LinkNet decoder.

    Source: Qin et al. 2021, Table I and II (22.1 M parameters). The paper cites Jin et al. 2020 for RA-UNet; the
    network of the authors' released code, which has this number of parameters, is a ResNet-34 with augmented attention
    modules, and it is what is built here.

    Deviations: the image enters with its own channels, not three times; the last three layers are a transposed and two
    zero-padded convolutions with kernel 3, so that the sizes fit whatever the stride; 1x1 convolutions at the decoder's
    lower levels for nnU-Net's deep supervision. The batch needs at least two images: the attention normalises means
    over the whole image.

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
        n_blocks_per_stage: Sequence[int] = (0, 0, 3, 4, 6, 3),
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
        self.decoder = RADecoder(layers, num_classes, features_per_stage, kernel_sizes[1], strides, deep_supervision)

    @property
    def feature_names(self) -> dict[str, str]:
        """See :class:`PlannedNetwork`."""
        encoder = number_features("encoder", ("encoder.stem", *(f"encoder.stages.{s}" for s in range(4))))
        attended = (f"decoder.attention.{s}" for s in range(3))
        return encoder | number_features("decoder", (*attended, "decoder.ups.3", "decoder.full"))

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """(B, input_channels, *spatial) -> logits (B, num_classes, *spatial), or a list with deep supervision."""
        return self.decoder(self.encoder(x))


class AugmentedAttention(nn.Module):
    """high + w * conv(low); w a softmax over channels, from the means of both (Ni et al. 2019, Fig. 3)."""

    def __init__(self, layers: Layers, channels: int):
        super().__init__()
        self.pool = layers.global_pool()
        self.high = layers.conv_norm_act(channels, channels, 1, bias=True)
        self.low = layers.conv_norm_act(channels, channels, 1, bias=True)
        self.weights = nn.Sequential(layers.conv(channels, channels, 1, bias=True), nn.Softmax(dim=1))
        self.conv = layers.conv_norm_act(channels, channels, 1, bias=True)

    def forward(self, high: Tensor, low: Tensor) -> Tensor:
        """Two tensors (B, C, *spatial) -> the same shape."""
        weights = self.weights(self.low(self.pool(low)) + self.high(self.pool(high)))
        return high + self.conv(low) * weights


def link_block(layers: Layers, inputs: int, outputs: int, stride: Size) -> nn.Sequential:
    """1x1 to a quarter of the channels, transposed convolution with twice the stride as kernel, 1x1."""
    hidden, stride = max(1, inputs // 4), layers.sizes(stride)
    kernel = [2 * s if s % 2 == 0 else s for s in stride]
    padding = [s // 2 if s % 2 == 0 else 0 for s in stride]
    transposed = type(layers.up_conv(1, 1, 1))
    return nn.Sequential(
        layers.conv_norm_act(inputs, hidden, 1, bias=True),
        transposed(hidden, hidden, kernel, stride, padding),
        layers.norm(hidden),
        layers.act(hidden),
        layers.conv_norm_act(hidden, outputs, 1, bias=True),
    )


class RADecoder(Decoder):
    """Four LinkNet blocks, attention at the first three, three convolutions to full resolution."""

    def __init__(
        self,
        layers: Layers,
        num_classes: int,
        features: Sequence[int],
        kernel: Size,
        strides: Sequence[Size],
        deep_supervision: bool,
    ):
        super().__init__(deep_supervision)
        steps = range(5, 1, -1)
        self.ups = nn.ModuleList(link_block(layers, features[s], features[s - 1], strides[s]) for s in steps)
        self.attention = nn.ModuleList(AugmentedAttention(layers, features[s]) for s in (4, 3, 2))
        last = max(8, features[1] // 2)
        self.full = nn.Sequential(
            layers.up_conv(features[1], last, strides[1], kernel=kernel, bias=True),
            layers.act(last),
            layers.conv(last, last, kernel, bias=True),
            layers.act(last),
        )
        heads = [layers.conv(features[s - 1], num_classes, 1, bias=True) for s in steps]
        self.seg_layers = nn.ModuleList([*heads, layers.conv(last, num_classes, kernel, bias=True)])
        self.freeze_unused()

    def forward(self, features: Sequence[Tensor]) -> Tensor | list[Tensor]:
        """Features of the encoder, highest resolution first -> logits."""
        x, levels = features[-1], []
        for i, up in enumerate(self.ups):
            x = up(x)
            if i < len(self.attention):
                x = self.attention[i](x, features[-2 - i])
            levels.append(x)
        return self.outputs([*levels, self.full(x)])
