"""The ``"kd"`` block of a plans file as frozen, validated dataclasses.

Every number of a distillation lives here and is written into the plans, which nnU-Net copies into the model folder.
All keys have defaults, so that a plans file without the block works.
"""

import dataclasses
import json
import operator
import re
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar, Union

from nnunet_kd.errors import UserError

T = TypeVar("T")


def _number(
    default: Any, doc: str, minimum: float | None = None, above: float | None = None, maximum: float | None = None
) -> Any:
    return field(default=default, metadata={"doc": doc, "minimum": minimum, "above": above, "maximum": maximum})


def _value(default: Any, doc: str) -> Any:
    return field(default=default, metadata={"doc": doc})


def _block(cls: type, doc: str) -> Any:
    return field(default_factory=cls, metadata={"doc": doc})


_LIMITS = {"minimum": ">=", "above": ">", "maximum": "<="}
_COMPARE = {">=": operator.ge, ">": operator.gt, "<=": operator.le}

Ramp = Literal["none", "linear", "gaussian"]


@dataclass(frozen=True)
class Schedule:
    """Length, seed and precision of a training."""

    num_epochs: int = _number(1000, "epochs", minimum=1)
    iterations_per_epoch: int = _number(250, "training iterations per epoch", minimum=1)
    val_iterations_per_epoch: int = _number(50, "validation iterations per epoch", minimum=1)
    save_every: int = _number(50, "epochs between two resume checkpoints", minimum=1)
    seed: int | None = _number(
        None,
        "seed of the weights and of the main process; batches are repeatable too when nnUNet_n_proc_DA=0",
        minimum=0,
        maximum=2**32 - 1,
    )
    precision: Literal["default", "bf16", "fp32"] = _value(
        "default",
        "default: nnU-Net's (float16 autocast on CUDA, float32 elsewhere); bf16: bfloat16 autocast; fp32: no autocast",
    )


@dataclass(frozen=True)
class Optimizer:
    """Optimizer and learning rate; the defaults are nnU-Net's."""

    name: Literal["sgd", "adam", "adamw"] = _value("sgd", "optimizer")
    initial_lr: float = _number(1e-2, "initial learning rate", above=0)
    weight_decay: float = _number(3e-5, "weight decay", minimum=0)
    momentum: float = _number(0.99, "Nesterov momentum (sgd only)", minimum=0, maximum=1)
    lr_schedule: Literal["poly", "cosine", "constant"] = _value(
        "poly", "learning rate over the epochs; poly has exponent 0.9"
    )


@dataclass(frozen=True)
class HardLoss:
    """Loss against the reference segmentation."""

    name: Literal["dice_ce", "dice", "ce"] = _value("dice_ce", "nnU-Net's Dice + cross-entropy, or one of the two")
    weight: float = _number(1.0, "weight in the training loss of a student", minimum=0)


@dataclass(frozen=True)
class Teacher:
    """One trained nnU-Net model folder."""

    folder: str = _value(
        "", "TRAINER__PLANS__CONFIGURATION below nnUNet_results/DatasetXXX_NAME, or a path to a model folder (required)"
    )
    folds: tuple[int | str, ...] | None = _value(None, 'folds to use (integers or "all"); null: every finished fold')
    checkpoint: str = _value("checkpoint_final.pth", "checkpoint file inside a fold's folder")


@dataclass(frozen=True)
class Ensemble:
    """How the teachers predict and how their predictions are combined."""

    name: str = _value("ensemble", "readable part of the store's folder name (letters, digits, '-', '_', '.')")
    combine: Literal["probabilities", "logits"] = _value(
        "probabilities",
        "probabilities: as nnUNetv2_ensemble; logits: as nnUNetv2_predict over the folds of one model folder",
    )
    membership: Literal["all", "out_of_fold", "same_fold"] = _value(
        "all",
        "all teachers for every case; out_of_fold: those that did not train on the case; "
        "same_fold: those trained on exactly the student's training cases",
    )
    mirroring: bool = _value(True, "teachers predict with their test-time mirroring")
    step_size: float = _number(0.5, "sliding-window step as a fraction of the patch", above=0, maximum=1)
    use_gaussian: bool = _value(True, "Gaussian weighting of sliding windows")
    precision: Literal["default", "bf16"] = _value(
        "default",
        "default: as nnUNetv2_predict (float16 autocast on CUDA, float32 elsewhere); bf16: bfloat16 autocast on the "
        "CPU too",
    )
    from_folder: str | None = _value(
        None,
        "folder of probability maps (CASE.npz as nnU-Net writes them, original geometry) that takes the place of "
        "teachers",
    )


@dataclass(frozen=True)
class Store:
    """Soft labels on disk."""

    dtype: Literal["uint8", "float16"] = _value("uint8", "uint8: foreground in 1/255; float16: for those who need it")


@dataclass(frozen=True)
class Term:
    """Weight and ramp of one distillation term; weight 0 switches it off."""

    weight: float = _number(0.0, "weight in the training loss; 0 switches the term off", minimum=0)
    ramp: Ramp = _value("none", "how the weight rises: at once, linearly, or as exp(-5 (1 - t)^2)")
    ramp_length: float = _number(1.0, "fraction of the training over which the weight rises", above=0, maximum=1)


@dataclass(frozen=True)
class KLTerm(Term):
    """Kullback-Leibler divergence with temperature (Hinton et al. 2015)."""

    temperature: float = _number(2.0, "softmax temperature T; the term carries T^2", above=0)
    direction: Literal["teacher_student", "student_teacher"] = _value(
        "teacher_student", "teacher_student: KL(teacher || student); student_teacher: the reverse"
    )


@dataclass(frozen=True)
class SoftCETerm(Term):
    """Cross-entropy with soft targets; on by default (docs/results/hippocampus.md)."""

    weight: float = _number(1.0, "weight in the training loss; 0 switches the term off", minimum=0)


@dataclass(frozen=True)
class SoftDiceTerm(Term):
    """Soft Dice loss against the soft labels; on by default (docs/results/hippocampus.md)."""

    weight: float = _number(1.0, "weight in the training loss; 0 switches the term off", minimum=0)
    batch_dice: bool = _value(True, "sums over the batch as well as over space before the ratio is taken")


@dataclass(frozen=True)
class Distillation:
    """Terms between the student's output and the soft labels."""

    kl: KLTerm = _block(KLTerm, "Kullback-Leibler divergence, nats per voxel")
    mse: Term = _block(Term, "mean squared error of probabilities (Noothout et al. 2022)")
    soft_ce: SoftCETerm = _block(SoftCETerm, "cross-entropy with soft targets, nats per voxel")
    soft_dice: SoftDiceTerm = _block(SoftDiceTerm, "1 - Dice against the soft labels")
    deep_supervision: bool = _value(True, "also at the lower-resolution outputs, with nnU-Net's weights")


@dataclass(frozen=True)
class Student:
    """The network that is distilled."""

    architecture: str = _value("same", "how the plans' network was derived from the base plans; for the record")
    start: Literal["random", "best_member"] = _value(
        "random",
        "initial weights; best_member: those of the teacher fold with the highest validation Dice (same architecture)",
    )
    mirroring: bool = _value(
        False, "let nnUNetv2_predict mirror the student at test time (8 passes in 3D instead of 1)"
    )
    check_teachers: bool = _value(
        True, "after validation, compare with the teachers on the same cases and warn when there was little to distil"
    )


@dataclass(frozen=True)
class KDConfig:
    """The whole ``"kd"`` block."""

    recipe: str | None = _value(None, "name of the recipe the block was made from; for the record")
    role: Literal["student", "teacher"] = _value("student", "which trainers the plans are for")
    base_plans: str | None = _value(None, "plans the file was derived from; for the record")
    schedule: Schedule = _block(Schedule, "length, seed, precision")
    optimizer: Optimizer = _block(Optimizer, "optimizer and learning rate")
    hard_loss: HardLoss = _block(HardLoss, "loss against the reference segmentation")
    teachers: tuple[Teacher, ...] = _value(
        (), "teachers; empty: every finished fold of <default_teacher>__<base plans>__<configuration>"
    )
    default_teacher: str = _value("nnUNetTrainer", "trainer of the teachers that an empty list stands for")
    ensemble: Ensemble = _block(Ensemble, "how teachers predict and are combined")
    store: Store = _block(Store, "soft labels on disk")
    distillation: Distillation = _block(Distillation, "terms between student and soft labels")
    student: Student = _block(Student, "the network that is distilled")

    @classmethod
    def from_plans(cls, plans: Mapping[str, Any]) -> "KDConfig":
        """Reads the ``"kd"`` block of a plans dictionary; without one, all defaults.

        Raises:
            UserError: for an unknown key, a wrong type or an impossible value, with the key's path.
        """
        return from_dict(cls, plans.get("kd", {}), "kd")


def to_dict(config: Any) -> dict[str, Any]:
    """Plain JSON form of a configuration dataclass."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def from_dict(cls: type[T], data: Any, path: str) -> T:
    """Builds the frozen dataclass ``cls`` from JSON data.

    Args:
        cls: one of this module's dataclasses.
        data: what ``json.load`` gave.
        path: dotted name of ``data``, for messages.

    Raises:
        UserError: names the key's path, what was found and what is allowed.
    """
    if not isinstance(data, Mapping):
        raise UserError(f"{path}: found {data!r}, expected an object with the keys {', '.join(_names(cls))}.")
    hints = typing.get_type_hints(cls)
    unknown = sorted(set(data) - set(hints))
    if unknown:
        raise UserError(f"{path}.{unknown[0]}: unknown key; allowed are {', '.join(_names(cls))}.")
    values = {}
    for f in dataclasses.fields(cls):  # type: ignore[arg-type]
        if f.name in data:
            values[f.name] = _convert(hints[f.name], data[f.name], f"{path}.{f.name}", f.metadata)
    config = cls(**values)
    _check_names(config, path)
    return config


def _check_names(config: Any, path: str) -> None:
    if isinstance(config, Teacher) and not config.folder:
        raise UserError(f"{path}.folder: missing; expected TRAINER__PLANS__CONFIGURATION or a path to a model folder.")
    if isinstance(config, Teacher) and (not config.checkpoint or set(config.checkpoint) & set("/\\")):
        raise UserError(
            f"{path}.checkpoint: found {config.checkpoint!r}, expected a file name such as checkpoint_final.pth."
        )
    if isinstance(config, Ensemble) and not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*", config.name):
        raise UserError(f"{path}.name: found {config.name!r}, expected letters, digits, '-', '_' and '.'.")


def _names(cls: type) -> list[str]:
    return [f.name for f in dataclasses.fields(cls)]


def describe_type(hint: Any) -> str:
    """What a user may write for a type hint: ``integer``, ``"a" | "b"``, ``list of ...``."""
    origin = typing.get_origin(hint)
    if origin is Literal:
        return " | ".join(json.dumps(a) for a in typing.get_args(hint))
    if origin in (Union, types.UnionType):
        return " | ".join(describe_type(a) for a in typing.get_args(hint))
    if origin is tuple:
        return f"list of {describe_type(typing.get_args(hint)[0])}"
    if dataclasses.is_dataclass(hint):
        return "object"
    return {int: "integer", float: "number", bool: "true | false", str: "string", type(None): "null"}[hint]


def _convert(hint: Any, value: Any, path: str, limits: Mapping[str, Any]) -> Any:
    if dataclasses.is_dataclass(hint):
        return from_dict(typing.cast(type, hint), value, path)
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is tuple and isinstance(value, list | tuple):
        return tuple(_convert(args[0], v, f"{path}[{i}]", limits) for i, v in enumerate(value))
    if origin in (Union, types.UnionType):
        for option in args:
            if _fits(option, value):
                return _convert(option, value, path, limits)
    elif _fits(hint, value):
        _check_limits(value, path, limits)
        return float(value) if hint is float else value
    raise UserError(f"{path}: found {value!r}, expected {describe_type(hint)}.")


def _fits(hint: Any, value: Any) -> bool:
    origin = typing.get_origin(hint)
    if origin is Literal:
        return isinstance(value, str) and value in typing.get_args(hint)
    if origin is tuple:
        return isinstance(value, list | tuple)
    if dataclasses.is_dataclass(hint):
        return isinstance(value, Mapping)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint)


def _check_limits(value: Any, path: str, limits: Mapping[str, Any]) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return
    finite = value == value and abs(value) != float("inf")
    for name, sign in _LIMITS.items():
        limit = limits.get(name)
        if limit is not None and not (finite and _COMPARE[sign](value, limit)):
            raise UserError(f"{path}: found {value!r}, expected a number {sign} {limit}.")


def iterate_keys(cls: type = KDConfig, path: str = "kd") -> Iterator[tuple[str, str, str, str]]:
    """Every key of the block as (path, type, default, meaning), in order; the reference page is made from it."""
    hints = typing.get_type_hints(cls)
    for f in dataclasses.fields(cls):
        hint, name = hints[f.name], f"{path}.{f.name}"
        if dataclasses.is_dataclass(hint):
            yield from iterate_keys(typing.cast(type, hint), name)
            continue
        limits = [f"{sign} {f.metadata[k]}" for k, sign in _LIMITS.items() if f.metadata.get(k) is not None]
        yield name, ", ".join([describe_type(hint), *limits]), json.dumps(f.default), f.metadata["doc"]
        args = typing.get_args(hint)
        if args and dataclasses.is_dataclass(args[0]):
            yield from iterate_keys(typing.cast(type, args[0]), f"{name}[]")


def apply_settings(block: Mapping[str, Any], settings: list[str]) -> dict[str, Any]:
    """Applies ``key=value`` settings (``--set schedule.num_epochs=50``) to a ``"kd"`` block.

    Args:
        block: JSON form of the block.
        settings: ``dotted.key=value``; the value is JSON, or a plain string where JSON does not parse.

    Raises:
        UserError: for a setting without ``=`` or with a key that does not exist.
    """
    result = json.loads(json.dumps(block))
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise UserError(f"--set {setting}: expected KEY=VALUE, for example schedule.num_epochs=100.")
        try:
            value = json.loads(text)
        except json.JSONDecodeError:
            value = text
        *parents, last = key.removeprefix("kd.").split(".")
        target = result
        for parent in parents:
            target = target.setdefault(parent, {})
            if not isinstance(target, dict):
                raise UserError(f"--set {setting}: kd.{key} is not a key; docs/reference/configuration.md lists them.")
        target[last] = value
    return result
