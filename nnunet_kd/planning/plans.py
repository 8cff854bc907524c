"""KD plans: base plans with scaled networks and a ``"kd"`` block, for the same preprocessed data."""

import re
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager

from nnunet_kd.config import KDConfig
from nnunet_kd.planning.network import PlannedModel, count_parameters
from nnunet_kd.planning.request import find_base_plans
from nnunet_kd.planning.resampling import with_fast_resampling
from nnunet_kd.planning.student import parse_student, student_architecture
from nnunet_kd.utilities.errors import UserError
from nnunet_kd.utilities.files import load_json_file
from nnunet_kd.utilities.nnunet_files import read_plans
from nnunet_kd.utilities.schema import to_dict

LONGEST_PLANS_NAME = 180


def load_base_plans(preprocessed: Path, plans_name: str) -> dict[str, Any]:
    """Reads base plans; configurations of plans older than nnU-Net 2.5 get an ``architecture``.

    Raises:
        UserError: when the file is missing, with the command that makes it, or unreadable.
    """
    plans = read_plans(find_base_plans(preprocessed, plans_name))
    for name, configuration in plans["configurations"].items():
        if "UNet_class_name" in configuration:
            plans["configurations"][name] = ConfigurationManager(configuration).configuration
    return plans


def check_plans_name(name: str) -> str:
    """Returns a name that nnU-Net can put into a model folder's name.

    Raises:
        UserError: for characters other than letters, digits, ``-`` and ``_``, for ``__``, and when it is too long.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name) or "__" in name or name.endswith("_"):
        raise UserError(f"-o {name}: expected letters, digits, '-' and single '_', without .json.")
    if len(name) > LONGEST_PLANS_NAME:
        raise UserError(
            f"-o {name[:40]}...: has {len(name)} letters, expected at most {LONGEST_PLANS_NAME}: folders are named "
            "TRAINER__PLANS__CONFIGURATION; choose a shorter name with -o."
        )
    return name


def default_plans_name(base_plans: str, config: KDConfig) -> str:
    """``nnUNetPlansKD_width0p25`` for a student, ``nnUNetPlansKDTeacher`` for a teacher of the same architecture."""
    role = "Teacher" if config.role == "teacher" else ""
    spec = config.student.architecture
    if role and spec == "same":
        return f"{base_plans}KDTeacher"
    return f"{base_plans}KD{role}_" + spec.replace("=", "").replace(",", "_").replace(".", "p")


def training_order(plans: dict[str, Any], chosen: Sequence[str]) -> list[str]:
    """Chosen configurations, each after the previous stages that its cascade needs.

    Raises:
        UserError: for a configuration that the plans do not have.
    """
    manager = PlansManager(plans)
    order: list[str] = []
    for configuration in chosen:
        stages: list[str] = []
        stage: str | None = configuration
        while stage is not None and stage not in stages:
            if stage not in manager.available_configurations:
                there = ", ".join(manager.available_configurations)
                raise UserError(f"-c {stage}: no such configuration in {plans['plans_name']}; there are {there}.")
            stages.insert(0, stage)
            stage = manager.get_configuration(stage).previous_stage_name
        order += [s for s in stages if s not in order]
    return order


def compose_plans(
    base: dict[str, Any],
    name: str,
    chosen: Sequence[str],
    config: KDConfig,
    dataset_json: dict[str, Any],
    batch_size: int | None = None,
    patch_size: Sequence[int] | None = None,
    arguments: Mapping[str, Any] | None = None,
    keep_resampling: bool = False,
) -> dict[str, Any]:
    """KD plans from base plans.

    Kept are the chosen configurations, those they inherit from and their previous stages. A network that several
    configurations inherit is scaled once, where it is defined.

    Args:
        base: base plans.
        name: name of the new plans, equal to the file name's stem.
        chosen: configurations to keep.
        config: the ``"kd"`` block; ``config.student.architecture`` says how networks are scaled.
        dataset_json: gives input channels and classes, for a budget of parameters.
        batch_size: replaces the batch size of the chosen configurations.
        patch_size: replaces their patch size.
        arguments: arguments of the student's class that are set directly.
        keep_resampling: a student's probabilities are resampled as the base plans say, not by the faster function.

    Raises:
        UserError: for configurations that are missing and networks that cannot be changed as asked.
    """
    plans = deepcopy(base)
    ancestors = _ancestors(base)
    kept = {a for c in training_order(base, chosen) for a in (c, *ancestors[c])}
    configurations = {c: v for c, v in plans["configurations"].items() if c in kept}
    plans |= {"plans_name": name, "configurations": configurations, "kd": to_dict(config)}
    for c, configuration in configurations.items():
        _keep_next_stages(configuration, kept)
        if batch_size is not None and c in chosen:
            configuration["batch_size"] = batch_size
        if patch_size is not None and c in chosen:
            configuration["patch_size"] = _check_patch_size(patch_size, PlansManager(base).get_configuration(c))
        if config.role == "student" and not keep_resampling:
            configuration |= with_fast_resampling(configuration)

    spec = parse_student(config.student.architecture)
    regions = PlansManager(base).get_label_manager(dataset_json).has_regions
    for c, configuration in configurations.items():
        if "architecture" not in configuration:
            continue
        users = [k for k in kept if _source_of_architecture(k, base, ancestors) == c]

        def count(architecture: dict[str, Any], c: str = c, users: list[str] = users) -> int:
            trial = {
                **plans,
                "configurations": {**configurations, c: {**configurations[c], "architecture": architecture}},
            }
            models = (PlannedModel(PlansManager(trial), user, dataset_json) for user in users)
            return max(count_parameters(model.build("meta")) for model in models)

        where = f"{base['plans_name']}, {c}"
        configuration["architecture"] = student_architecture(
            configuration["architecture"], spec, count, where, arguments, regions
        )
    return plans


def _check_patch_size(patch_size: Sequence[int], configuration: ConfigurationManager) -> list[int]:
    if len(patch_size) != len(configuration.patch_size) or min(patch_size) < 1:
        now = " ".join(map(str, configuration.patch_size))
        raise UserError(f"--patch_size {' '.join(map(str, patch_size))}: expected one number per axis, as in {now}.")
    return list(patch_size)


def _ancestors(plans: dict[str, Any]) -> dict[str, list[str]]:
    """Configurations that each configuration inherits from, nearest first."""
    result = {}
    for name in plans["configurations"]:
        chain: list[str] = []
        parent = plans["configurations"][name].get("inherits_from")
        while parent is not None and parent not in chain:
            if parent not in plans["configurations"]:
                raise UserError(f"{plans['plans_name']}: {name} inherits from {parent}, which is not there.")
            chain.append(parent)
            parent = plans["configurations"][parent].get("inherits_from")
        result[name] = chain
    return result


def _source_of_architecture(name: str, plans: dict[str, Any], ancestors: dict[str, list[str]]) -> str | None:
    return next((c for c in (name, *ancestors[name]) if "architecture" in plans["configurations"][c]), None)


def _keep_next_stages(configuration: dict[str, Any], kept: set[str]) -> None:
    stages = configuration.get("next_stage")
    if stages is None:
        return
    left = [s for s in ([stages] if isinstance(stages, str) else stages) if s in kept]
    if not left:
        del configuration["next_stage"]
    elif not isinstance(stages, str):
        configuration["next_stage"] = left


def check_target(file: Path, base_plans: str, overwrite: bool) -> None:
    """Refuses to write over anything but KD plans, and over those unless ``overwrite``.

    Raises:
        UserError: says what is there and how to go on.
    """
    if file.stem == base_plans:
        raise UserError(f"-o {file.stem}: is the name of the base plans; choose another.")
    if not file.exists():
        return
    if not overwrite:
        raise UserError(f"{file}: exists; choose another name with -o, or add --overwrite.")
    if "kd" not in load_json_file(file):
        raise UserError(
            f"{file}: was not written by nnUNetv2_kd plan and is not overwritten; choose another name with -o."
        )
