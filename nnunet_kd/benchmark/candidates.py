"""Which models are measured, and on which images."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from nnunetv2.utilities.utils import get_identifiers_from_splitted_dataset_folder

from nnunet_kd.benchmark.model_spec import CHECKPOINT, ModelSpec
from nnunet_kd.teachers.fitness import channel_names
from nnunet_kd.teachers.model import TeacherModel
from nnunet_kd.utilities.errors import UserError
from nnunet_kd.utilities.files import list_folder


@dataclass(frozen=True)
class Candidate:
    """A model and how it predicts.

    Attributes:
        name: in the tables.
        models: its model folders, which predict one after another.
        mirroring: False for none; else over the axes that their checkpoints allow.
    """

    name: str
    models: tuple[TeacherModel, ...]
    mirroring: bool


@dataclass(frozen=True)
class Conditions:
    """Under which all candidates are measured alike.

    Attributes:
        cases: case -> its image files, one for each channel.
        runs: how often each is measured.
        device: where networks run.
        preprocessing_processes: nnU-Net's ``-npp``.
        export_processes: nnU-Net's ``-nps``.
    """

    cases: Mapping[str, Sequence[Path]]
    runs: int
    device: torch.device
    preprocessing_processes: int = 3
    export_processes: int = 3


def find_candidates(
    specs: Sequence[ModelSpec], without_mirroring: Sequence[str] = (), checkpoint: str = CHECKPOINT
) -> list[Candidate]:
    """The models with their folders, checked for being comparable on the same images.

    Raises:
        UserError: for missing folders, equal names, cascades, folders where ``nnUNetv2_predict`` cannot find them, or
            models of different images.
    """
    names = [s.name for s in specs]
    if doubles := [n for n in names if names.count(n) > 1]:
        raise UserError(f"--model {doubles[0]}: given twice; names must differ.")
    if unknown := [n for n in without_mirroring if n not in names]:
        raise UserError(f"--no_mirroring {unknown[0]}: no such model; there are {', '.join(names)}.")
    candidates = [Candidate(s.name, s.find(checkpoint), s.name not in without_mirroring) for s in specs]
    models = [m for c in candidates for m in c.models]
    for m in models:
        if m.configuration_manager.previous_stage_name is not None:
            raise UserError(f"{m.folder}: the second stage of a cascade cannot be measured without its first.")
        if not m.folder.parent.name.startswith("Dataset"):
            raise UserError(f"{m.folder}: nnUNetv2_predict needs it in a folder named DatasetXXX_NAME; move it there.")
    for what, of in (("file endings", file_ending), ("numbers of image channels", image_channels)):
        found = {str(of(m)): m.folder for m in models}
        if len(found) > 1:
            (a, first), (b, second), *_ = found.items()
            raise UserError(f"{first} and {second}: different {what} ({a}, {b}), so they take different images.")
    return candidates


def file_ending(model: TeacherModel) -> str:
    """Of the images that a model was trained with."""
    return model.dataset_json["file_ending"]


def image_channels(model: TeacherModel) -> int:
    """Image files of one case."""
    return len(channel_names(model.dataset_json))


def find_cases(images: Path, model: TeacherModel, number: int | None) -> dict[str, list[Path]]:
    """The first cases, in order of their names, of a folder of images named as nnU-Net wants them.

    Args:
        images: folder of CASE_0000.ENDING, CASE_0001.ENDING ...
        model: gives file ending and number of channels.
        number: of cases; None for all.

    Raises:
        UserError: when the folder holds no such images, too few cases, or not every channel of a case.
    """
    ending, channels = file_ending(model), image_channels(model)
    named = re.compile(rf".+_\d{{4}}{re.escape(ending)}")
    if not images.is_dir() or not any(named.fullmatch(f.name) for f in list_folder(images)):
        raise UserError(f"-i {images}: no images named CASE_0000{ending} there.")
    cases = [str(c) for c in get_identifiers_from_splitted_dataset_folder(str(images), ending)]
    if number is not None and not 1 <= number <= len(cases):
        raise UserError(f"-n {number}: expected 1 to {len(cases)}, the number of cases in {images}.")
    found = {case: [images / f"{case}_{c:04d}{ending}" for c in range(channels)] for case in cases[:number]}
    if missing := [f for files in found.values() for f in files if not f.is_file()]:
        raise UserError(f"-i {images}: {missing[0].name} is missing; the models take {channels} channels.")
    return found
