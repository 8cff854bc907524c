"""Which teachers teach which case, and the identity of what they teach."""

import hashlib
import json
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from nnunet_kd.config import KDConfig
from nnunet_kd.teachers.fitness import check_labels, check_teacher, preprocessing_of, reader_of
from nnunet_kd.teachers.maps import reader_of_maps
from nnunet_kd.teachers.model import TeacherModel, find_teachers, keep_folds
from nnunet_kd.teachers.student_data import StudentSpace
from nnunet_kd.utilities.errors import UserError
from nnunet_kd.utilities.nnunet_files import read_dataset_json, read_splits
from nnunet_kd.utilities.orientation import check_readers, same_axes


@dataclass(frozen=True)
class TeachingEnsemble:
    """The teachers of a ``"kd"`` block for one student configuration and, for ``same_fold``, one fold."""

    kd: KDConfig
    student: StudentSpace
    models: tuple[TeacherModel, ...]
    fold: int | str | None

    @classmethod
    def resolve(
        cls, kd: KDConfig, student: StudentSpace, dataset_results: Path, fold: int | str | None
    ) -> "TeachingEnsemble":
        """Finds and checks the teachers.

        Args:
            kd: the ``"kd"`` block.
            student: the student's geometry.
            dataset_results: ``nnUNet_results/DatasetXXX_NAME``.
            fold: the student's fold; needed for membership ``same_fold`` only.

        Raises:
            UserError: for missing or unfit teachers, or a membership that leaves none.
        """
        ensemble = cls(kd, student, (), fold)
        if ensemble.maps is not None:
            where = f"kd.ensemble.from_folder {ensemble.maps}"
            check_readers(reader_of(student.plans_manager), ensemble.maps_reader, where)
            if (definition := ensemble.maps / "dataset.json").is_file():  # which nnUNetv2_predict leaves there
                check_labels(student, read_dataset_json(definition), where)
            return ensemble
        models = find_teachers(kd, student.plans_manager.plans_name, student.configuration, dataset_results)
        for model in models:
            check_teacher(student, model)
        ensemble = cls(kd, student, models, fold)
        if kd.ensemble.membership != "same_fold":
            return ensemble
        if fold is None:
            raise UserError(
                "kd.ensemble.membership is same_fold: the soft labels belong to one fold of the student; name it, -f."
            )
        mine = ensemble.training_cases(student.plans_manager.dataset_name, fold)
        kept = keep_folds(models, lambda m, f: ensemble.training_cases(m.plans_manager.dataset_name, f) == mine)
        if not kept:
            raise UserError(
                f"kd.ensemble.membership is same_fold, but no teacher was trained on exactly the cases of fold "
                f"{fold}; train "
                f"teachers on fold {fold} or use membership all or out_of_fold."
            )
        return cls(kd, student, kept, fold)

    @property
    def maps(self) -> Path | None:
        """Folder of probability maps that take the place of teachers."""
        source = self.kd.ensemble.from_folder
        return None if source is None else Path(source).expanduser()

    @cached_property
    def maps_reader(self) -> str:
        """Class name of the image reader in whose axes the maps lie; the student's where nothing else is known."""
        assert self.maps is not None
        return reader_of_maps(self.maps) or reader_of(self.student.plans_manager)

    def _turned(self, reader: str) -> dict[str, str]:
        """The reader in the identity: left out when its axes are the student's. Stores of older versions
        did not turn such soft labels to the student's axes, and are not to be taken for these.
        """
        return {} if same_axes(reader, reader_of(self.student.plans_manager)) else {"image_reader_writer": reader}

    def training_cases(self, dataset_name: str, fold: int | str) -> frozenset[str]:
        """Cases of the student's data set that a fold trains on; none when the fold belongs to another data set.

        Raises:
            UserError: when ``splits_final.json`` does not define the fold.
        """
        if dataset_name != self.student.plans_manager.dataset_name:
            return frozenset()
        if fold == "all":
            return frozenset(self.student.dataset.identifiers)
        if not 0 <= int(fold) < len(self._splits):
            raise UserError(
                f"{self.student.preprocessed / 'splits_final.json'}: defines {len(self._splits)} folds, not fold "
                f"{fold}; membership "
                f"{self.kd.ensemble.membership} needs to know which cases a teacher has seen."
            )
        return frozenset(self._splits[int(fold)]["train"])

    @cached_property
    def _splits(self) -> list[dict[str, list[str]]]:
        return read_splits(self.student.preprocessed / "splits_final.json")

    def models_for(self, case: str) -> tuple[TeacherModel, ...]:
        """Teachers of a case, by ``kd.ensemble.membership``; all of them for an unlabeled case, which none was
        trained on.

        Raises:
            UserError: when every teacher has trained on the case and the membership is ``out_of_fold``.
        """
        if self.kd.ensemble.membership != "out_of_fold" or not self.student.is_labeled(case):
            return self.models
        chosen = keep_folds(self.models, lambda m, f: case not in self.training_cases(m.plans_manager.dataset_name, f))
        if not chosen:
            raise UserError(
                f"case {case}: every teacher was trained on it, membership out_of_fold leaves none; train the other "
                "folds or use "
                "membership all."
            )
        return chosen

    def members(self) -> "list[TeachingEnsemble]":
        """One ensemble for each teacher network, in order; each has a store of its own."""
        return [replace(self, models=(model.with_folds([fold]),)) for model in self.models for fold in model.folds]

    def stores(self) -> "list[TeachingEnsemble]":
        """What is exported: the ensemble, or each of its members where ``kd.multi_teacher.source`` is ``stored``."""
        return self.members() if self.kd.multi_teacher.source == "stored" else [self]

    def seen_by_teachers(self, cases: list[str]) -> list[str]:
        """Those of ``cases`` that some teacher was trained on: results on them are optimistic."""
        trained: set[str] = set()
        for model in self.models:
            for fold in model.folds:
                if fold == "all" or int(fold) < len(self._splits):
                    trained |= self.training_cases(model.plans_manager.dataset_name, fold)
        return [c for c in cases if c in trained]

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What makes the soft labels what they are; two ensembles with equal identity have equal soft labels."""
        e, student = self.kd.ensemble, self.student
        identity: dict[str, Any] = {
            "dtype": self.kd.store.dtype,
            "data_identifier": student.folder.name,
            "preprocessing": preprocessing_of(
                student.plans_manager, student.configuration_manager, student.dataset_json
            ),
        }
        if self.maps is not None:
            files = [(f.name, f.stat().st_size) for f in sorted(self.maps.glob("[!.]*.npz"))]  # no temporaries
            source = {"from_folder": str(self.maps.resolve()), "files_sha256": digest(files)}
            return identity | source | self._turned(self.maps_reader)
        identity |= {
            k: getattr(e, k) for k in ("combine", "membership", "mirroring", "step_size", "use_gaussian", "precision")
        }
        identity["teachers"] = [
            {
                "dataset": m.plans_manager.dataset_name,
                "model": m.folder.name,
                "checkpoint": m.checkpoint,
                "folds": {str(f): m.checkpoint_sha256(f) for f in m.folds},
                **self._turned(reader_of(m.plans_manager)),
            }
            for m in self.models
        ]
        if e.membership == "out_of_fold":
            identity["splits_sha256"] = digest(self._splits)
        return identity

    def describe(self) -> str:
        """One line per model folder, for logs."""
        if self.maps is not None:
            return f"probability maps in {self.kd.ensemble.from_folder}"
        return "; ".join(f"{m.folder.name} folds {', '.join(map(str, m.folds))}" for m in self.models)


def digest(data: Any) -> str:
    """SHA-256 of what JSON can hold, hexadecimal."""
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()
