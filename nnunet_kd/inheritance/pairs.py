"""Which layer of a student takes over which layer of its teacher, in nnU-Net's plain and residual U-Nets.

Both networks are walked from input to output in segments: stages of the encoder, then levels of the decoder.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet
from dynamic_network_architectures.building_blocks.residual import BasicBlockD
from dynamic_network_architectures.building_blocks.simple_conv_blocks import ConvDropoutNormReLU
from torch import Tensor, nn

UNET = PlainConvUNet | ResidualEncoderUNet


class CannotInheritError(ValueError):
    """The student cannot be a reconstruction of the teacher; the text says why."""


@dataclass(eq=False)
class Space:
    """Channels that layers share: those of one convolution, or of all that a residual sum adds up.

    Attributes:
        teacher: number of channels in the teacher.
        student: number of channels in the student.
        sources: modules of the teacher whose outputs lie in the space; they decide which channels are kept.
        kept: channels of the teacher that the student keeps, once they are chosen.
    """

    teacher: int
    student: int
    sources: list[nn.Module] = field(default_factory=list)
    kept: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Layer:
    """A convolution of the student and the target that it is fitted to.

    Attributes:
        name: of the student's convolution, for logs.
        conv: the student's convolution, transposed or not.
        norm: the student's normalisation behind it; None without.
        source: the module of the teacher whose output, or input, is the target.
        teacher_norm: the teacher's normalisation behind ``source``, whose scale and shift are copied. None: the
            student's are fitted, since what is normalised in the student is a sum in the teacher.
        space: channels of the target; None: all are kept, as those of a segmentation layer.
        target_is_input: the target is what goes into ``source``.
        block: the student's residual block, whose shortcut is subtracted from a target that is a sum.
    """

    name: str
    conv: Any
    norm: Any
    source: nn.Module
    teacher_norm: Any
    space: Space | None
    target_is_input: bool = False
    block: Any = None

    @property
    def is_scores(self) -> bool:
        """Whether it is a segmentation layer."""
        return self.space is None

    @property
    def fits_norm(self) -> bool:
        """Whether the normalisation behind it is fitted instead of copied."""
        return self.norm is not None and self.teacher_norm is None


@dataclass(frozen=True, eq=False)
class Segment:
    """A part of the student that is run by itself: ``run(*inputs)``, inputs being outputs of earlier segments.

    Attributes:
        layers: what is solved in it, in the order in which it is run.
        run: the student's modules of this segment.
        inputs: positions of earlier segments, -1 for the image.
    """

    layers: Sequence[Layer]
    run: Callable[..., Tensor]
    inputs: Sequence[int]


@dataclass(frozen=True, eq=False)
class Pairing:
    """All segments, in the order of the forward pass, and all spaces."""

    segments: Sequence[Segment]
    spaces: Sequence[Space]

    @property
    def layers(self) -> list[Layer]:
        """All layers, in the order of the forward pass."""
        return [layer for segment in self.segments for layer in segment.layers]


def matched(student: int, teacher: int) -> list[int]:
    """Index of the teacher's layer that each layer of a student's stage is fitted to; the last is fitted to the last.

    Where the student has fewer layers, one of its layers does the work of several.

    Raises:
        CannotInheritError: when the student has more layers than the teacher.
    """
    if student > teacher:
        raise CannotInheritError(f"a stage of the student has {student} layers, the teacher's has {teacher}")
    return [(i + 1) * teacher // student - 1 for i in range(student)]


def pair_layers(student: nn.Module, teacher: nn.Module) -> Pairing:
    """Pairs the layers of a student with those of a teacher that is at least as wide and deep.

    Raises:
        CannotInheritError: for networks that are not nnU-Net's own, or do not fit each other.
    """
    for network, role in ((student, "student"), (teacher, "teacher")):
        if type(network) not in (PlainConvUNet, ResidualEncoderUNet):
            raise CannotInheritError(f"the {role} is a {type(network).__name__}, not one of nnU-Net's U-Nets")
    if type(student) is not type(teacher):
        raise CannotInheritError(f"the student is a {type(student).__name__}, the teacher a {type(teacher).__name__}")
    return _Walk(student, teacher).pairing()


class _Walk:
    def __init__(self, student: Any, teacher: Any) -> None:
        self.student, self.teacher = student, teacher
        self.spaces: list[Space] = []
        self.names = {module: name for name, module in student.named_modules()}
        self.stages = len(student.encoder.stages)
        available = len(teacher.encoder.stages)
        if self.stages > available:
            raise CannotInheritError(f"the student has {self.stages} stages, the teacher {available}")
        strides = [list(s) for s in student.encoder.strides]
        if strides != [list(s) for s in teacher.encoder.strides[: self.stages]]:
            raise CannotInheritError("student and teacher have other strides")

    def pairing(self) -> Pairing:
        if isinstance(self.student, ResidualEncoderUNet):
            encoder = self._residual_encoder()
        else:
            encoder = [
                Segment(self._convs(student[-1].convs, teacher[-1].convs), student, [i - 1])
                for i, (student, teacher) in enumerate(
                    zip(self.student.encoder.stages, self.teacher.encoder.stages, strict=False)
                )
            ]
        return Pairing([*encoder, *self._decoder()], self.spaces)

    def _space(self, student: int, teacher: int, source: nn.Module) -> Space:
        if student > teacher:
            raise CannotInheritError(f"a layer of the student has {student} channels, the teacher's has {teacher}")
        self.spaces.append(Space(teacher, student, [source]))
        return self.spaces[-1]

    def _layer(self, conv: Any, teacher: Any, space: Space | None, norms: tuple[Any, Any] = (None, None)) -> Layer:
        same = ("kernel_size",) if space is None else ("kernel_size", "dilation", "groups")
        if any(getattr(conv, a) != getattr(teacher, a) for a in same):
            raise CannotInheritError(f"{self.names[conv]} has another kernel than the teacher's layer")
        if type(norms[0]) is not type(norms[1]) or isinstance(norms[0], nn.GroupNorm | nn.LayerNorm):
            raise CannotInheritError(f"the normalisation after {self.names[conv]} is not one by channel, or another")
        return Layer(self.names[conv], conv, norms[0], teacher, norms[1], space)

    def _convs(self, student: Sequence[Any], teacher: Sequence[Any]) -> list[Layer]:
        """Layers of a stack of convolution, normalisation and activation."""
        layers = []
        for block, m in zip(student, matched(len(student), len(teacher)), strict=True):
            other = teacher[m]
            space = self._space(block.output_channels, other.output_channels, other)
            layers.append(self._layer(block.conv, other.conv, space, (_norm(block), _norm(other))))
        return layers

    def _residual_encoder(self) -> list[Segment]:
        student, teacher = self.student.encoder, self.teacher.encoder
        stem = self._convs(student.stem.convs, teacher.stem.convs)
        stream = stem[-1].space
        assert stream is not None
        segments = [Segment(stem, student.stem, [-1])]
        for i, (stage, other) in enumerate(zip(student.stages, teacher.stages, strict=False)):
            layers, stream = self._residual_stage(stage.blocks, other.blocks, stream)
            segments.append(Segment(layers, stage, [i]))
        return segments

    def _residual_stage(
        self, student: Sequence[Any], teacher: Sequence[Any], stream: Space
    ) -> tuple[list[Layer], Space]:
        """Layers of a stage, and the channels of the residual sums in it."""
        if any(type(b) is not BasicBlockD for b in (*student, *teacher)):
            raise CannotInheritError("residual blocks are not all nnU-Net's basic blocks")
        if any(b.apply_se for b in (*student, *teacher)):
            raise CannotInheritError("residual blocks have squeeze and excitation")
        incoming = stream
        if _projects(teacher[0]) or _projects(student[0]):
            stream = self._space(student[0].output_channels, teacher[0].output_channels, teacher[0])
            stream.sources = []
        stream.sources += list(teacher)
        layers: list[Layer] = []
        before = -1
        for block, m in zip(student, matched(len(student), len(teacher)), strict=True):
            same_start = incoming is stream or _projects(block)
            layers += self._residual_block(block, teacher[m], stream, follows=m == before + 1, same_start=same_start)
            before, incoming = m, stream
        return layers, stream

    def _residual_block(
        self, student: Any, teacher: Any, stream: Space, follows: bool, same_start: bool
    ) -> list[Layer]:
        """Layers of a block.

        Args:
            student: the student's block.
            teacher: the teacher's.
            stream: channels of their sums.
            follows: what goes into both is the same, as the student has left out no block before.
            same_start: the channels that come in are those of the sum, or are projected to them.
        """
        inner = self._space(student.output_channels, teacher.output_channels, teacher.conv1)
        first, second = (student.conv1, teacher.conv1), (student.conv2, teacher.conv2)
        layers = [self._layer(first[0].conv, first[1].conv, inner, (_norm(first[0]), _norm(first[1])))]
        if _projects(student):
            layers.append(self._projection(student.skip[-1], teacher, stream, follows))
        if follows and same_start and _projects(student) == _projects(teacher):
            norms = _norm(second[0]), _norm(second[1])
            layers.append(self._layer(second[0].conv, second[1].conv, stream, norms))
        else:
            layers.append(self._fitted(second[0], teacher.nonlin2, stream, target_is_input=True, block=student))
        return layers

    def _projection(self, student: Any, block: Any, stream: Space, follows: bool) -> Layer:
        """The convolution of a student's shortcut: it gives what the teacher's block adds."""
        if follows and _projects(block):
            teacher = block.skip[-1]
            return self._layer(student.conv, teacher.conv, stream, (_norm(student), _norm(teacher)))
        pooled = isinstance(block.skip, nn.Module)
        return self._fitted(student, block.skip if pooled else block, stream, target_is_input=not pooled)

    def _fitted(self, student: Any, source: nn.Module, space: Space, **options: Any) -> Layer:
        """A layer that has no equal in the teacher, so that its normalisation is fitted."""
        return Layer(self.names[student.conv], student.conv, _norm(student), source, None, space, **options)

    def _decoder(self) -> list[Segment]:
        student, teacher = self.student.decoder, self.teacher.decoder
        encoder_segments = self.stages + isinstance(self.student, ResidualEncoderUNet)
        skipped = len(teacher.stages) - len(student.stages)
        segments = []
        for i, stage in enumerate(student.stages):
            up, up_teacher = student.transpconvs[i], teacher.transpconvs[i + skipped]
            space = self._space(up.out_channels, up_teacher.out_channels, up_teacher)
            seg, seg_teacher = student.seg_layers[i], teacher.seg_layers[i + skipped]
            layers = [
                self._layer(up, up_teacher, space),
                *self._convs(stage.convs, teacher.stages[i + skipped].convs),
                self._layer(seg, seg_teacher, None),
            ]
            inputs = [encoder_segments + i - 1, encoder_segments - 2 - i]
            segments.append(Segment(layers, _Level(up, stage, seg), inputs))
        return segments


class _Level:
    """One level of nnU-Net's decoder; the segmentation layer is run for its input only."""

    def __init__(self, up: nn.Module, stage: nn.Module, seg: nn.Module):
        self.up, self.stage, self.seg = up, stage, seg

    def __call__(self, below: Tensor, skip: Tensor) -> Tensor:
        x = self.stage(torch.cat((self.up(below), skip), 1))
        self.seg(x)
        return x


def is_transposed(conv: Any) -> bool:
    """Whether a convolution is a transposed one."""
    return isinstance(conv, nn.ConvTranspose2d | nn.ConvTranspose3d)


def _norm(block: ConvDropoutNormReLU) -> nn.Module | None:
    return getattr(block, "norm", None)


def _projects(block: Any) -> bool:
    """Whether a residual block's shortcut has a convolution."""
    return isinstance(block.skip, nn.Sequential) and isinstance(block.skip[-1], ConvDropoutNormReLU)
