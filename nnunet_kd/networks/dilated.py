"""The dilated network of Noothout et al. 2022: 2D, and in three planes of a volume."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from nnunet_kd.networks.arguments import PlanArguments
from nnunet_kd.networks.base import Decoder, PlannedNetwork, number_features
from nnunet_kd.networks.family import Family
from nnunet_kd.networks.layers import Layers

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
        dilations: of each convolution; None: those of the paper, for 8.
        dropout: probability, in the dense layers.
        planes: axes perpendicular to the planes; 0 alone for data with thick slices. Only for Conv3d.
        sigmoid: the outputs are regions with independent sigmoids. Only for Conv3d.
        **plan: see :class:`PlanArguments`. Stages are the convolutions before the dense layers; kernels have two
            numbers in 3D too, strides are 1, ``norm_op`` is 2D and the dense layers', ``deep_supervision`` is False.

    Raises:
        ValueError: for deep supervision, strides other than 1, or planes that are none.
    """

    def __init__(
        self,
        *,
        dilations: Sequence[int] | None = None,
        dropout: float = 0.5,
        planes: Sequence[int] = (0, 1, 2),
        sigmoid: bool = False,
        **plan: Any,
    ):
        p = PlanArguments(**plan)
        super().__init__(p.input_channels)
        dilations = DILATIONS if dilations is None else tuple(dilations)
        p.check(dilations=dilations)
        self.volumetric = issubclass(p.conv_op, nn.Conv3d)
        if any(s != 1 for stride in p.strides for s in ([stride] if isinstance(stride, int) else stride)):
            raise ValueError("DilatedNet has one resolution: all strides must be 1")
        if p.deep_supervision:
            raise ValueError(
                "DilatedNet has one resolution and no deep supervision; train it with a trainer of nnunet_kd or with "
                "nnUNetTrainerNoDeepSupervision"
            )
        if not planes or set(planes) - {0, 1, 2}:
            raise ValueError(f"planes is {list(planes)}, expected some of 0, 1, 2")
        self.planes = tuple(planes)
        self.sigmoid = sigmoid
        self.step = 0
        layers = replace(p, conv_op=nn.Conv2d).layers(bias=True)
        convolutions: list[nn.Module] = []
        inputs = p.input_channels
        for f, kernel, dilation in zip(p.features_per_stage, p.kernel_sizes, dilations, strict=True):
            convolutions += [layers.conv(inputs, f, kernel, dilation=dilation), layers.act(f)]
            inputs = f
        self.encoder = nn.Sequential(*convolutions)
        self.decoder = DenseDecoder(layers, inputs, p.num_classes, dropout)

    @classmethod
    def plan_arguments(
        cls, base: Mapping[str, Any], features: Sequence[int], fixed_stages: bool, regions: bool
    ) -> dict[str, Any]:
        """See :class:`PlannedNetwork`; kernels are 2D, strides 1, and only the axial plane of thick slices is used."""
        dim, number = len(base["strides"][0]), len(features)
        arguments = super().plan_arguments(base, features, fixed_stages, regions)
        arguments |= {"kernel_sizes": [[3, 3]] * number, "strides": [[1] * dim] * number}
        if dim == 3:
            thick = base["kernel_sizes"][0][0] == 1  # nnU-Net's sign of thick slices
            arguments |= {"planes": [0] if thick else [0, 1, 2], "sigmoid": regions}
        return arguments

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


FAMILIES = (Family("dilated", DilatedNet, "Noothout et al. 2022, Fig. 2(c)", (32,) * 8, smallest_patch=1),)
