"""RA-UNet as Qin et al. 2021 use it as a teacher, in 2D and 3D."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from nnunet_kd.networks.arguments import PlanArguments
from nnunet_kd.networks.base import Decoder, PlannedNetwork, number_features
from nnunet_kd.networks.family import Family
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
        n_blocks_per_stage: residual blocks for each stage; none in the first two.
        **plan: see :class:`PlanArguments`; the first convolution has kernel 7 where the plans' is more than 1, and the
            third stride is the max pooling's.
    """

    def __init__(self, *, n_blocks_per_stage: Sequence[int] = (0, 0, 3, 4, 6, 3), **plan: Any):
        p = PlanArguments(**plan)
        super().__init__(p.input_channels)
        layers = p.layers()
        self.encoder = ResNetEncoder(p, layers, n_blocks_per_stage)
        self.decoder = RADecoder(p, layers)

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

    def __init__(self, p: PlanArguments, layers: Layers):
        super().__init__(p.deep_supervision)
        features, kernel, strides = p.features_per_stage, p.kernel_sizes[1], p.strides
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
        heads = [layers.conv(features[s - 1], p.num_classes, 1, bias=True) for s in steps]
        self.seg_layers = nn.ModuleList([*heads, layers.conv(last, p.num_classes, kernel, bias=True)])
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


FAMILIES = (
    Family("ra-unet", RAUNet, "Qin et al. 2021, Table I (teacher)", (0, 64, 64, 128, 256, 512), smallest_patch=32),
)
