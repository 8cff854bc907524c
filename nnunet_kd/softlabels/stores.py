"""The soft-label store of an ensemble: where it is, how it is opened, and which cases it lacks."""

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import nnunet_kd
from nnunet_kd.softlabels.store import FORMAT, MANIFEST, SoftLabelStore
from nnunet_kd.teachers.ensemble import TeachingEnsemble, digest


def ensemble_id(ensemble: TeachingEnsemble) -> str:
    """Readable name and a short hash of the ensemble's identity.

    Earlier versions left the preprocessing out: where there is a store of theirs, and none of this one, it is the hash
    of the rest.
    """
    before = {key: value for key, value in ensemble.identity.items() if key != "preprocessing"}
    now, earlier = (f"{ensemble.kd.ensemble.name}-{digest(i)[:10]}" for i in (ensemble.identity, before))
    there = [(_folder(ensemble, i) / MANIFEST).is_file() for i in (now, earlier)]
    return earlier if there == [False, True] else now


def store_folder(ensemble: TeachingEnsemble) -> Path:
    """Where the soft labels of an ensemble live."""
    return _folder(ensemble, ensemble_id(ensemble))


def _folder(ensemble: TeachingEnsemble, name: str) -> Path:
    return ensemble.student.preprocessed / "kd_softlabels" / name / ensemble.student.folder.name


def open_store(ensemble: TeachingEnsemble, create: bool = True) -> SoftLabelStore:
    """Opens an ensemble's store.

    Args:
        ensemble: the teachers.
        create: make an empty one where there is none.

    Raises:
        UserError: when the folder holds other soft labels, or there is no store and none is to be made.
    """
    labels, dataset_json = ensemble.student.label_manager, ensemble.student.dataset_json
    manifest = {
        "format": FORMAT,
        "identity": ensemble.identity,
        "labels": {
            "regions": bool(labels.has_regions),
            "heads": int(labels.num_segmentation_heads),
            "definition": dataset_json["labels"],
            "regions_class_order": dataset_json.get("regions_class_order"),
        },
        "versions": {"nnunet_kd": nnunet_kd.__version__, "nnunetv2": version("nnunetv2")},
    }
    return (SoftLabelStore.create if create else SoftLabelStore.open)(store_folder(ensemble), manifest)


def missing_cases(ensemble: TeachingEnsemble, store: SoftLabelStore, cases: Sequence[str]) -> list[str]:
    """Those of ``cases`` that a store lacks, or holds broken or for another image than the preprocessed one.

    Raises:
        UserError: for a case whose preprocessed files cannot be read.
    """
    return [c for c in cases if store.fault(c, ensemble.student.preprocessed_image(c)) is not None]
