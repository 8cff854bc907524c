"""The dilated network of Noothout et al. 2022: 2D, and in three planes of a volume."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nnunet_kd.networks.base import Decoder, PlannedNetwork, check_stages, number_features
from nnunet_kd.networks.layers import Layers, Size

DILATIONS = (1, 1, 2, 4, 8, 16, 32, 1)


class DilatedNet(PlannedNetwork):
    """2D network of dilated convolutions at full resolution; on volumes it looks at slices of three planes.

    Source: Noothout et al. 2022, Section 2.1.3 and 4.1, Fig. 2(c); Table 1 counts 0.09 M parameters. Dilations and the
    widths of the two dense layers (3 and 6 times the other layers') are the authors' released code's.

    With ``conv_op`` Conv3d the network is the same 2D one. In training each step takes all slices of one plane, another
    plane each time. In evaluation it takes the slices of all planes and returns the logarithm of their mean
    probabilities, whose softmax is that mean: nnU-Net can use it as logits.

    Deviation: zero-padded convolutions, so that output and input have one size; the paper classifies the inner 55x55 of
    186x186 pixels. There is one resolution, hence no deep supervision.

    Args:
        input_channels: channels of the image.
        num_classes: channels of the logits.
        n_stages: convolutions before the dense layers; the paper has 8.
        features_per_stage: channels of each; the paper has 32.
        conv_op: ``torch.nn.Conv2d``, or ``torch.nn.Conv3d`` for three planes.
        kernel_sizes: of each convolution, without the plane's own axis: two numbers in 2D and in 3D.
        strides: all 1.
        dilations: of each convolution; None: those of the paper, for 8.
        dropout: probability, in the dense layers.
        planes: axes perpendicular to the planes; 0 alone for data with thick slices. Only for Conv3d.
        sigmoid: the outputs are regions with independent sigmoids. Only for Conv3d.
        norm_op: 2D normalisation in the dense layers; None: batch normalisation.
        norm_op_kwargs: arguments of ``norm_op``.
        nonlin: None: ReLU.
        nonlin_kwargs: arguments of ``nonlin``.
        deep_supervision: must be False.

    Raises:
        ValueError: for deep supervision, strides other than 1, or planes that are none.
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
        dilations: Sequence[int] | None = None,
        dropout: float = 0.5,
        planes: Sequence[int] = (0, 1, 2),
        sigmoid: bool = False,
        norm_op: type[nn.Module] | None = None,
        norm_op_kwargs: dict[str, Any] | None = None,
        nonlin: type[nn.Module] | None = None,
        nonlin_kwargs: dict[str, Any] | None = None,
        deep_supervision: bool = False,
    ):
        super().__init__(input_channels)
        dilations = DILATIONS if dilations is None else tuple(dilations)
        f = features_per_stage
        check_stages(n_stages, features_per_stage=f, kernel_sizes=kernel_sizes, strides=strides, dilations=dilations)
        self.volumetric = issubclass(conv_op, nn.Conv3d)
        if any(s != 1 for stride in strides for s in ([stride] if isinstance(stride, int) else stride)):
            raise ValueError("DilatedNet has one resolution: all strides must be 1")
        if deep_supervision:
            raise ValueError(
                "DilatedNet has one resolution and no deep supervision; train it with a trainer of nnunet_kd or with "
                "nnUNetTrainerNoDeepSupervision"
            )
        if not planes or set(planes) - {0, 1, 2}:
            raise ValueError(f"planes is {list(planes)}, expected some of 0, 1, 2")
        self.planes = tuple(planes)
        self.sigmoid = sigmoid
        self.step = 0
        layers = Layers(nn.Conv2d, norm_op, norm_op_kwargs, nonlin, nonlin_kwargs, bias=True)
        convolutions: list[nn.Module] = []
        for s in range(n_stages):
            inputs = f[s - 1] if s else input_channels
            convolutions += [layers.conv(inputs, f[s], kernel_sizes[s], dilation=dilations[s]), layers.act(f[s])]
        self.encoder = nn.Sequential(*convolutions)
        self.decoder = DenseDecoder(layers, f[-1], num_classes, dropout)

    @property
    def feature_names(self) -> dict[str, str]:
        """See :class:`PlannedNetwork`."""
        if self.volumetric:  # its layers see slices, not volumes
            return {}
        convolutions = number_features("encoder", (f"encoder.{i}" for i in range(1, len(self.encoder), 2)))
        return convolutions | number_features("decoder", ("decoder.dense",))

    def forward(self, x: Tensor) -> Tensor:
        """(B, input_channels, *spatial) -> logits (B, num_classes, *spatial)."""
        if not self.volumetric:
            return self.decoder(self.encoder(x))
        if self.training:
            self.step = (self.step + 1) % len(self.planes)
            return self._slices(x, self.planes[self.step])
        if len(self.planes) == 1:
            return self._slices(x, self.planes[0])
        logits = torch.stack([self._slices(x, plane) for plane in self.planes]).float()
        if self.sigmoid:
            return torch.logit(logits.sigmoid().mean(0), eps=1e-6)
        return logits.softmax(2).mean(0).clamp_min(1e-12).log()

    def _slices(self, x: Tensor, axis: int) -> Tensor:
        """Logits (B, num_classes, z, y, x) from all slices perpendicular to an axis."""
        slices = x.movedim(axis + 2, 1)
        logits = self.decoder(self.encoder(slices.flatten(0, 1)))
        return logits.unflatten(0, slices.shape[:2]).movedim(1, axis + 2)


class DenseDecoder(Decoder):
    """Two 1x1 convolutions after normalisation and dropout, and the output."""

    def __init__(self, layers: Layers, channels: int, num_classes: int, dropout: float):
        super().__init__(deep_supervision=False)
        dense: list[nn.Module] = []
        for inputs, outputs in ((channels, 3 * channels), (3 * channels, 6 * channels)):
            dense += [
                layers.norm(inputs),
                layers.dropout(dropout),
                layers.conv(inputs, outputs, 1),
                layers.act(outputs),
            ]
        self.dense = nn.Sequential(*dense)
        self.seg_layers = nn.ModuleList([layers.conv(6 * channels, num_classes, 1)])

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, y, x) -> logits (B, num_classes, y, x)."""
        return self.seg_layers[-1](self.dense(x))
