"""The U-Net-like and the residual network of Noothout et al. 2022."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nnunet_kd.networks.arguments import PlanArguments
from nnunet_kd.networks.base import Decoder, PlannedNetwork, number_features
from nnunet_kd.networks.family import Family
from nnunet_kd.networks.layers import Layers, Size


class NoothoutUNet(PlannedNetwork):
    """U-Net with max pooling, batch normalisation and ReLU.

    Source: Noothout et al. 2022, Section 2.1.1, Fig. 2(a); Table 1 counts 5.64 M parameters in 3D.

    Zero-padded 3x3x3 convolutions, each followed by batch normalisation and ReLU, two for each stage and level; max
    pooling; transposed convolutions whose kernel is the stride. The order of convolution, normalisation and activation
    and the transposed convolutions are the authors' released code's.

    Deviation: 1x1 convolutions at the decoder's lower levels for nnU-Net's deep supervision; the paper has none.

    Args:
        n_conv_per_stage: convolutions of a stage; those of a level of the decoder are as many.
        **plan: see :class:`PlanArguments`.
    """

    def __init__(self, *, n_conv_per_stage: int = 2, **plan: Any):
        p = PlanArguments(**plan)
        super().__init__(p.input_channels)
        p.check()
        f, k, layers = p.features_per_stage, p.kernel_sizes, p.layers(bias=True)
        self.encoder = nn.ModuleList(
            nn.Sequential(
                nn.Identity() if s == 0 else layers.pool("max", p.strides[s]),
                _convolutions(layers, f[s - 1] if s else p.input_channels, f[s], k[s], n_conv_per_stage),
            )
            for s in range(p.n_stages)
        )
        ups, blocks, heads = [], [], []
        for s in range(p.n_stages - 1, 0, -1):
            ups.append(layers.up_conv(f[s], f[s - 1], p.strides[s]))
            blocks.append(_convolutions(layers, 2 * f[s - 1], f[s - 1], k[s - 1], n_conv_per_stage))
            heads.append(layers.conv(f[s - 1], p.num_classes, 1))
        self.decoder = UpDecoder(ups, blocks, heads, p.deep_supervision, skips=True)

    @property
    def feature_names(self) -> dict[str, str]:
        """See :class:`PlannedNetwork`."""
        encoder = number_features("encoder", (f"encoder.{s}" for s in range(len(self.encoder))))
        return encoder | number_features("decoder", (f"decoder.blocks.{s}" for s in range(len(self.encoder) - 1)))

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """(B, input_channels, *spatial) -> logits (B, num_classes, *spatial), or a list with deep supervision."""
        skips = []
        for stage in self.encoder:
            x = stage(x)
            skips.append(x)
        return self.decoder(skips)


class NoothoutResNet(PlannedNetwork):
    """Two strided convolutions, six residual blocks at the lowest resolution, two transposed convolutions; no skips.

    Source: Noothout et al. 2022, Section 2.1.2, Fig. 2(b); Table 1: (23.17 - 2 * 5.64 - 2 * 0.09) / 2 = 5.86 M
    parameters in 3D.

    Pre-activated residual blocks, dropout inside them and around the 1x1 convolution before the output, which has a
    ReLU, are the authors' released code's.

    Deviation: 1x1 convolutions at the decoder's lower levels for nnU-Net's deep supervision; the paper has none.

    Args:
        n_blocks: residual blocks.
        dropout: probability.
        **plan: see :class:`PlanArguments`.
    """

    def __init__(self, *, n_blocks: int = 6, dropout: float = 0.5, **plan: Any):
        p = PlanArguments(**plan)
        super().__init__(p.input_channels)
        p.check()
        f, k, layers = p.features_per_stage, p.kernel_sizes, p.layers(bias=True)
        inputs = [p.input_channels, *f]
        self.encoder = nn.Sequential(
            *(layers.conv_norm_act(inputs[s], f[s], k[s], p.strides[s]) for s in range(p.n_stages)),
            *(PreActivatedBlock(layers, f[-1], k[-1], dropout) for _ in range(n_blocks)),
        )
        ups, blocks, heads = [], [], []
        for s in range(p.n_stages - 1, 0, -1):
            ups.append(layers.up_conv(f[s], f[s - 1], p.strides[s], kernel=k[s]))
            blocks.append(nn.Sequential(layers.norm(f[s - 1]), layers.act(f[s - 1])))
            heads.append(layers.conv(f[s - 1], p.num_classes, 1))
        dense = layers.dropout(dropout), layers.conv(f[0], f[0], 1), layers.act(f[0]), layers.dropout(dropout)
        heads[-1] = nn.Sequential(*dense, heads[-1])
        self.decoder = UpDecoder(ups, blocks, heads, p.deep_supervision, skips=False)

    @property
    def feature_names(self) -> dict[str, str]:
        """See :class:`PlannedNetwork`."""
        strided = len(
            list(self.decoder.get_submodule("blocks").children())
        )  # one stage more than that, the last with the residual blocks behind it
        encoder = number_features("encoder", (f"encoder.{s}" for s in (*range(strided), len(self.encoder) - 1)))
        return encoder | number_features("decoder", (f"decoder.blocks.{s}" for s in range(strided)))

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """(B, input_channels, *spatial) -> logits (B, num_classes, *spatial), or a list with deep supervision."""
        return self.decoder([self.encoder(x)])


def _convolutions(layers: Layers, inputs: int, outputs: int, kernel: Size, number: int) -> nn.Sequential:
    return nn.Sequential(*(layers.conv_norm_act(inputs if i == 0 else outputs, outputs, kernel) for i in range(number)))


class PreActivatedBlock(nn.Module):
    """x + two convolutions, each after normalisation and activation, with dropout of single values."""

    def __init__(self, layers: Layers, channels: int, kernel: Size, dropout: float):
        super().__init__()
        self.body = nn.Sequential(
            layers.norm(channels),
            layers.act(channels),
            layers.conv(channels, channels, kernel),
            layers.norm(channels),
            layers.dropout(dropout, whole_channels=False),
            layers.act(channels),
            layers.conv(channels, channels, kernel),
            layers.dropout(dropout, whole_channels=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, *spatial) -> the same shape."""
        return x + self.body(x)


class UpDecoder(Decoder):
    """Level by level: upsampling, concatenation with the skip connection where there is one, a block."""

    def __init__(
        self,
        ups: Sequence[nn.Module],
        blocks: Sequence[nn.Module],
        heads: Sequence[nn.Module],
        deep_supervision: bool,
        skips: bool,
    ):
        super().__init__(deep_supervision)
        self.ups = nn.ModuleList(ups)
        self.blocks = nn.ModuleList(blocks)
        self.seg_layers = nn.ModuleList(heads)
        self.freeze_unused()
        self.skips = skips

    def forward(self, features: Sequence[Tensor]) -> Tensor | list[Tensor]:
        """Features, highest resolution first -> logits; without skip connections only the last are used."""
        x, levels = features[-1], []
        for i, (up, block) in enumerate(zip(self.ups, self.blocks, strict=True)):
            x = up(x)
            x = block(torch.cat((x, features[-2 - i]), 1) if self.skips else x)
            levels.append(x)
        return self.outputs(levels)


FAMILIES = (
    Family(
        "noothout-unet",
        NoothoutUNet,
        "Noothout et al. 2022, Fig. 2(a)",
        (32, 64, 128, 256),
        fixed_stages=False,
        smallest_patch=8,
    ),
    Family(
        "noothout-resnet",
        NoothoutResNet,
        "Noothout et al. 2022, Fig. 2(b)",
        (32, 64, 128),
        fixed_stages=False,
        smallest_patch=4,
    ),
)
