"""A light decoder: scores of every resolution, upsampled and added up."""

from collections.abc import Sequence

from torch import Tensor, nn

from nnunet_kd.networks.arguments import PlanArguments
from nnunet_kd.networks.base import Decoder
from nnunet_kd.networks.layers import Layers, Upsample, resize


class ScoreDecoder(Decoder):
    """1x1 convolution of the features at each resolution; from the lowest up, scores are interpolated and added.

    Source: Long et al. 2015, Fig. 3 (skip connections of scores), with fixed interpolation.

    Args:
        p: the network's arguments.
        layers: makes the layers.
        channels: channels of the features, highest resolution first, none at full resolution.
    """

    def __init__(self, p: PlanArguments, layers: Layers, channels: Sequence[int]):
        super().__init__(p.deep_supervision)
        self.seg_layers = nn.ModuleList(layers.conv(c, p.num_classes, 1, bias=True) for c in reversed(channels))
        self.upsample = Upsample(layers.sizes(p.strides[1]))

    def forward(self, features: Sequence[Tensor]) -> Tensor | list[Tensor]:
        """Features, highest resolution first -> logits; the lowest resolution has no output of its own."""
        lowest, *others = features[::-1]
        scores = [self.seg_layers[0](lowest)]
        for layer, x in zip(list(self.seg_layers)[1:], others, strict=True):
            scores.append(layer(x) + resize(scores[-1], x.shape[2:]))
        full = self.upsample(scores[-1])
        return [full, *scores[:0:-1]] if self.deep_supervision else full
