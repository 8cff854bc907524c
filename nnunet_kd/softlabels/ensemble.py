"""Which teachers teach which case, and the identity of what they teach."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

import nnunet_kd
from nnunet_kd.config import KDConfig
from nnunet_kd.errors import UserError
from nnunet_kd.nnunet_files import read_dataset_json, read_plans, read_splits
from nnunet_kd.softlabels.geometry import StudentSpace, check_teacher, preprocessing_of, reader_of
from nnunet_kd.softlabels.maps import reader_of_maps
from nnunet_kd.softlabels.orientation import check_readers, same_axes
from nnunet_kd.softlabels.store import FORMAT, MANIFEST, SoftLabelStore
from nnunet_kd.teachers import TeacherModel, find_teachers


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
            return ensemble
        base = kd.base_plans or student.plans_manager.plans_name
        default_folder = f"{kd.default_teacher}__{base}__{student.configuration}"
        models = tuple(find_teachers(kd.teachers, dataset_results, default_folder))
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
        kept = tuple(
            m.with_folds([f for f in m.folds if ensemble.training_cases(m.plans_manager.dataset_name, f) == mine])
            for m in models
        )
        kept = tuple(m for m in kept if m.folds)
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
        """What the identity has to say of a reader: nothing when its axes are the student's. Stores of older versions
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
        chosen = tuple(
            m.with_folds([f for f in m.folds if case not in self.training_cases(m.plans_manager.dataset_name, f)])
            for m in self.models
        )
        chosen = tuple(m for m in chosen if m.folds)
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
            files = [(f.name, f.stat().st_size) for f in sorted(self.maps.glob("*.npz"))]
            source = {"from_folder": str(self.maps.resolve()), "files_sha256": _digest(files)}
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
            identity["splits_sha256"] = _digest(self._splits)
        return identity

    @cached_property
    def ensemble_id(self) -> str:
        """Readable name and a short hash of :attr:`identity`.

        Earlier versions left the preprocessing out: where there is a store of theirs, and none of this one, it is the
        hash of the rest.
        """
        before = {key: value for key, value in self.identity.items() if key != "preprocessing"}
        now, earlier = (f"{self.kd.ensemble.name}-{_digest(i)[:10]}" for i in (self.identity, before))
        there = [(self._folder(i) / MANIFEST).is_file() for i in (now, earlier)]
        return earlier if there == [False, True] else now

    @property
    def store_folder(self) -> Path:
        """Where the soft labels live."""
        return self._folder(self.ensemble_id)

    def _folder(self, ensemble_id: str) -> Path:
        return self.student.preprocessed / "kd_softlabels" / ensemble_id / self.student.folder.name

    def open_store(self, create: bool = True) -> SoftLabelStore:
        """Opens the ensemble's store.

        Args:
            create: make an empty one where there is none.

        Raises:
            UserError: when the folder holds other soft labels, or there is no store and none is to be made.
        """
        labels = self.student.label_manager
        manifest = {
            "format": FORMAT,
            "identity": self.identity,
            "labels": {
                "regions": bool(labels.has_regions),
                "heads": int(labels.num_segmentation_heads),
                "definition": self.student.dataset_json["labels"],
                "regions_class_order": self.student.dataset_json.get("regions_class_order"),
            },
            "versions": {"nnunet_kd": nnunet_kd.__version__, "nnunetv2": version("nnunetv2")},
        }
        return (SoftLabelStore.create if create else SoftLabelStore.open)(self.store_folder, manifest)

    def missing(self, store: SoftLabelStore, cases: Sequence[str]) -> list[str]:
        """Those of ``cases`` that the store lacks, or holds broken or for another image than the preprocessed one.

        Raises:
            UserError: for a case whose preprocessed files cannot be read.
        """
        return [c for c in cases if store.fault(c, self.student.preprocessed_image(c)) is not None]

    def describe(self) -> str:
        """One line per model folder, for logs."""
        if self.maps is not None:
            return f"probability maps in {self.kd.ensemble.from_folder}"
        return "; ".join(f"{m.folder.name} folds {', '.join(map(str, m.folds))}" for m in self.models)


def _digest(data: Any) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def load_student(plans_file: Path, configuration: str, raw: Path | None) -> tuple[KDConfig, StudentSpace]:
    """Reads a plans file in ``nnUNet_preprocessed/DatasetXXX_NAME`` and checks that it has the configuration.

    Raises:
        UserError: for missing plans, a bad ``"kd"`` block or an unknown configuration.
    """
    plans = read_plans(plans_file, configuration)
    kd = KDConfig.from_plans(plans)
    dataset_json = read_dataset_json(plans_file.parent / "dataset.json")
    return kd, StudentSpace(PlansManager(plans), configuration, dataset_json, plans_file.parent, raw)
