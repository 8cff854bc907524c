"""Teachers -> store: every case is predicted once, in the student's geometry."""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from nnunetv2.evaluation.evaluate_predictions import compute_tp_fp_fn_tn, region_or_label_to_mask
from nnunetv2.imageio.reader_writer_registry import recursive_find_reader_writer_by_name
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.label_handling.label_handling import LabelManager, convert_labelmap_to_one_hot
from tqdm import tqdm

from nnunet_kd.data.read_images import ImageError, preprocess_case, read_images
from nnunet_kd.softlabels.geometry import choose_path, from_original_geometry, to_student_space
from nnunet_kd.softlabels.locations import sample_locations
from nnunet_kd.softlabels.stores import missing_cases, open_store
from nnunet_kd.teachers.ensemble import TeachingEnsemble
from nnunet_kd.teachers.fitness import reader_of
from nnunet_kd.teachers.loading import finite_logits, load_predictor
from nnunet_kd.teachers.maps import read_map
from nnunet_kd.teachers.model import TeacherModel
from nnunet_kd.teachers.student_data import CaseSpace
from nnunet_kd.utilities.errors import UserError
from nnunet_kd.utilities.orientation import same_axes
from nnunet_kd.utilities.preprocessed import image_digest


@dataclass(frozen=True)
class ExportSummary:
    """What an export did; seconds are wall time."""

    written: int
    already_there: int
    seconds: float


@dataclass
class Exporter:
    """Predicts cases with an ensemble; each network is loaded once, when it is first needed."""

    ensemble: TeachingEnsemble
    device: torch.device
    _predictors: dict[Path, nnUNetPredictor] = field(default_factory=dict)

    def run(self, cases: Sequence[str], progress: bool = True) -> ExportSummary:
        """Writes those of ``cases`` that the store lacks or holds for other images.

        Loading, predicting and writing overlap.

        Args:
            cases: case names of the student's preprocessed data, labeled or not.
            progress: show a progress bar.

        Raises:
            UserError: for a case that cannot be predicted; cases written so far stay.
        """
        store, student = open_store(self.ensemble), self.ensemble.student
        todo = missing_cases(self.ensemble, store, cases)
        start = perf_counter()
        patch = student.configuration_manager.patch_size
        with ThreadPoolExecutor(1) as loader, ThreadPoolExecutor(1) as writer:
            writing: Future | None = None
            loading = loader.submit(self._load, todo[0]) if todo else None
            for i, name in enumerate(tqdm(todo, desc="soft labels", unit="case", disable=not progress)):
                assert loading is not None
                case, inputs = loading.result()
                loading = loader.submit(self._load, todo[i + 1]) if i + 1 < len(todo) else None
                if not missing_cases(self.ensemble, store, [name]):  # another exporter was faster
                    continue
                probabilities = self.predict(case, inputs)
                if writing is not None:
                    writing.result()
                writing = writer.submit(self._write, store, case, probabilities, patch)
            if writing is not None:
                writing.result()
        return ExportSummary(len(todo), len(cases) - len(todo), perf_counter() - start)

    def predict(self, case: CaseSpace, inputs: dict[Path, tuple[torch.Tensor, dict]]) -> np.ndarray:
        """The ensemble's probabilities (C, z, y, x) of a case, float32.

        ``combine: probabilities`` averages over all members (Noothout et al. 2022, Section 2.2, and nnUNetv2_ensemble).
        ``combine: logits`` averages the logits of one model folder's folds as nnUNetv2_predict does, then the
        probabilities of the model folders as nnUNetv2_ensemble does.
        """
        if self.ensemble.maps is not None:
            return self._from_map(case)
        total: np.ndarray | None = None
        members = 0
        for model in self.ensemble.models_for(case.name):
            data, properties = inputs[model.folder]
            path = choose_path(self.ensemble.student, model)
            logits = [
                finite_logits(
                    partial(self._predict_logits, model, fold, data),
                    f"teacher {model.folder.name} fold {fold}",
                    f"case {case.name}",
                )
                for fold in model.folds
            ]
            if self.ensemble.kd.ensemble.combine == "logits":
                logits = [torch.stack(logits).float().mean(0)]
            for member in logits:
                probabilities = to_student_space(self.ensemble.student, model, path, member, properties, case)
                total = probabilities if total is None else total + probabilities
                members += 1
        assert total is not None
        return total / members

    def _predict_logits(self, model: TeacherModel, fold: int | str, data: torch.Tensor) -> torch.Tensor:
        bf16 = self.ensemble.kd.ensemble.precision == "bf16" and self.device.type == "cpu"
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            return self._predictor(model, fold).predict_sliding_window_return_logits(data).cpu()

    def _predictor(self, model: TeacherModel, fold: int | str) -> nnUNetPredictor:
        key = model.checkpoint_file(fold)
        if key not in self._predictors:
            settings = self.ensemble.kd.ensemble
            predictor = self._predictors[key] = load_predictor(model, fold, settings, self.device)
            if settings.mirroring and not predictor.allowed_mirroring_axes:
                tqdm.write(
                    f"Teacher {model.folder.name} fold {fold} is not mirrored, whatever ensemble.mirroring says: its "
                    "checkpoint allows no mirroring, as that of a student."
                )
        return self._predictors[key]

    def _load(self, name: str) -> tuple[CaseSpace, dict[Path, tuple[torch.Tensor, dict]]]:
        """The case and, per model folder, its input (C, z, y, x) and nnU-Net's properties."""
        student = self.ensemble.student
        case = CaseSpace.load(student, name)
        inputs = {}
        for model in self.ensemble.models_for(name):
            cm = model.configuration_manager
            if choose_path(student, model) == "direct":
                with student.reading(name):
                    data, properties = np.asarray(case.image[:], dtype=np.float32), case.properties
            else:
                files = student.image_files(name)
                data, properties = preprocess_case(model.plans_manager, cm, model.dataset_json, files)
            if cm.previous_stage_name is not None:
                data = np.vstack((data, self._previous_stage(model, name, data)))
            inputs[model.folder] = (torch.from_numpy(data), properties)
        return case, inputs

    def _previous_stage(self, model: TeacherModel, case: str, data: np.ndarray) -> np.ndarray:
        """One-hot segmentation (C - 1, z, y, x) of the stage before a cascaded teacher."""
        if not self.ensemble.student.is_labeled(case):
            raise UserError(
                f"teacher {model.folder.name}: is cascaded and cannot teach the unlabeled case {case}, of which there "
                "is no segmentation of the previous stage; name teachers that are not."
            )
        previous = model.configuration_manager.previous_stage_name
        stage = model.folder.with_name(f"{model.trainer_name}__{model.plans_name}__{previous}")
        folder = stage / "predicted_next_stage" / model.configuration
        try:
            dataset = type(self.ensemble.student.dataset)(str(self.ensemble.student.folder), [case], str(folder))
            segmentation = np.asarray(dataset.load_case(case)[2][:])
        except (FileNotFoundError, RuntimeError):
            raise UserError(
                f"{folder}: has no segmentation of case {case}, which the cascaded teacher {model.folder.name} needs; "
                f"train all folds of its configuration {previous}."
            ) from None
        if segmentation.shape != data.shape[1:]:
            raise UserError(
                f"teacher {model.folder.name}: a cascaded teacher can only teach a student that reads the same "
                f"preprocessed data (case {case}: {segmentation.shape} and {data.shape[1:]})."
            )
        labels = model.plans_manager.get_label_manager(model.dataset_json).foreground_labels
        return convert_labelmap_to_one_hot(segmentation, labels, output_dtype=data.dtype)

    def _from_map(self, case: CaseSpace) -> np.ndarray:
        """A map's probabilities (C, z, y, x) in the student's grid; another reader than the student's is asked for its
        axes.
        """
        folder, student = self.ensemble.maps, self.ensemble.student
        assert folder is not None
        probabilities, properties = read_map(folder, case.name, student.label_manager), case.properties
        reader = self.ensemble.maps_reader
        if not same_axes(reader, reader_of(student.plans_manager)):
            files = student.image_files(case.name)
            try:
                _, properties = read_images(recursive_find_reader_writer_by_name(reader)(), files)
            except ImageError as err:
                raise UserError(f"{files[0]}: {err}.") from err
        return from_original_geometry(student, probabilities, properties, case)

    def _write(self, store: Any, case: CaseSpace, probabilities: np.ndarray, patch: Sequence[int]) -> None:
        labels = self.ensemble.student.label_manager
        segmentation = np.asarray(labels.convert_probabilities_to_segmentation(probabilities))
        record: dict[str, Any] = {
            "teachers": [
                {"model": m.folder.name, "fold": str(f), "checkpoint": m.checkpoint}
                for m in self.ensemble.models_for(case.name)
                for f in m.folds
            ],
            "reference_dice": None,
            "image": image_digest(case.image),
        }
        if self.ensemble.student.is_labeled(case.name):
            with self.ensemble.student.reading(case.name):
                reference = np.asarray(case.reference[0])
            record["reference_dice"] = reference_dice(segmentation, reference, labels)
            store.write(case.name, probabilities, patch, record)
        else:
            store.write(case.name, probabilities, patch, record, sample_locations(segmentation, labels))


def reference_dice(segmentation: np.ndarray, reference: np.ndarray, labels: LabelManager) -> list[float | None]:
    """Dice of every foreground label or region; None where neither has it.

    Args:
        segmentation: (z, y, x).
        reference: (z, y, x) preprocessed reference; -1 is background outside the nonzero mask.
        labels: label definition; the ignore label is left out.
    """
    ignore = reference == labels.ignore_label if labels.has_ignore_label else None
    dice: list[float | None] = []
    for label in labels.foreground_regions if labels.has_regions else labels.foreground_labels:
        masks = (region_or_label_to_mask(a, label) for a in (reference, segmentation))
        tp, fp, fn, _ = compute_tp_fp_fn_tn(*masks, ignore)
        dice.append(float(2 * tp / (2 * tp + fp + fn)) if tp + fp + fn > 0 else None)
    return dice


def shard(cases: Sequence[str], num_parts: int, part_id: int) -> list[str]:
    """Every ``num_parts``-th case from ``part_id`` on, as nnUNetv2_predict shares them.

    Raises:
        UserError: for numbers that name no part.
    """
    if num_parts < 1 or not 0 <= part_id < num_parts:
        raise UserError(f"--num_parts {num_parts} --part_id {part_id}: part_id counts from 0 to num_parts - 1.")
    return sorted(cases)[part_id::num_parts]
