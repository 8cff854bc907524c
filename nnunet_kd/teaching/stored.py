"""Teaching from soft labels on disk."""

from typing import Any

import numpy as np
from torch import Tensor

from nnunet_kd.data.dataset import SoftLabelDataset, UnlabeledDataset
from nnunet_kd.data.transforms import with_soft_labels
from nnunet_kd.losses.soft_targets import SoftTargets
from nnunet_kd.softlabels.channels import unpack
from nnunet_kd.softlabels.export import Exporter, shard
from nnunet_kd.softlabels.store import SoftLabelStore
from nnunet_kd.softlabels.stores import missing_cases, open_store
from nnunet_kd.teachers.ensemble import TeachingEnsemble
from nnunet_kd.teaching.reference import Reference
from nnunet_kd.teaching.source import Teaching, TeachingSource
from nnunet_kd.teaching.weights import check_single_teachers, check_weights, weigh, weighted_mean
from nnunet_kd.utilities.errors import UserError
from nnunet_kd.utilities.random_state import unchanged_random_state
from nnunet_kd.utilities.ranks import number_of_ranks, waiting_for_all


class StoredEnsemble(TeachingSource):
    """Soft labels of the ensemble, from its store; what is missing is exported first."""

    stores_soft_labels = True
    stores: tuple[SoftLabelStore, ...] = ()

    def check(self) -> None:
        """Refuses a student that would learn nothing, and a start from teachers that there are not."""
        super().check()
        kd = self.training.kd
        active = kd.distillation.active()
        if not active and kd.hard_loss.weight == 0:
            raise UserError("kd.distillation: all weights are 0 and kd.hard_loss.weight too; nothing would be learned.")
        if kd.student.start == "best_member" and kd.ensemble.from_folder is not None:
            raise UserError(
                "kd.student.start: best_member needs teachers, but the soft labels were imported; use random."
            )
        if self.wants_unlabeled(kd) and not active:
            raise UserError(
                "kd.unlabeled.fraction: unlabeled cases enter the soft-label terms only, but all weights of "
                "kd.distillation are 0; set one or set the fraction to 0."
            )

    def ensembles(self, ensemble: TeachingEnsemble) -> list[TeachingEnsemble]:
        """Those that have a store each."""
        return [ensemble]

    def prepare(self, training: Any, validation: Any, batch_size: int) -> Any:
        """Training cases with soft labels, exported first where they are missing."""
        data, ensemble = self.training.data, self.training.ensemble()
        unlabeled = self.use_unlabeled(batch_size)
        cases = [*training.identifiers, *unlabeled]
        self.stores = tuple(self._export_missing(e, cases, training.identifiers) for e in self.ensembles(ensemble))
        self.describe_teachers(ensemble, validation.identifiers)
        if unlabeled:
            self.unlabeled = UnlabeledDataset(data, self.stores)
        return SoftLabelDataset(training, self.stores)

    def _export_missing(self, ensemble: TeachingEnsemble, cases: list[str], labeled: list[str]) -> SoftLabelStore:
        """The ensemble's store after the cases that it lacked were exported; under DDP the ranks share them."""
        store, rank = open_store(ensemble), self.training.rank
        if missing := missing_cases(ensemble, store, cases):
            self.training.log(f"Soft labels of {len(missing)} cases are missing, exporting them to {store.folder}")
        # Shares are cut from all cases: what is missing changes while the other ranks export.
        mine = shard(cases, number_of_ranks(), rank)
        with waiting_for_all(), unchanged_random_state():  # a seed gives the same batches with and without it
            Exporter(ensemble, self.training.device).run(mine, progress=bool(missing) and rank == 0)
        dice = np.array([store.record(c)["reference_dice"] for c in labeled], dtype=float)
        self.training.log(
            f"Soft labels against the reference, mean Dice of {len(labeled)} training cases: {np.nanmean(dice):.4f}"
        )
        return store

    def wrap_transforms(self, transforms: Any, image_channels: int) -> Any:
        """nnU-Net's transforms, applied to the soft labels too."""
        return with_soft_labels(transforms, image_channels)

    def teach(self, data: Tensor, images: Tensor, reference: Reference) -> Teaching:
        """From the channels behind the images."""
        (probabilities,), known = unpack(data[:, images.shape[1] :], self.training.sigmoid)
        return Teaching(SoftTargets(probabilities, known))


class StoredTeachers(StoredEnsemble):
    """Soft labels of every teacher network, each from a store of its own; weighed anew for every batch."""

    def check(self) -> None:
        """Also refuses maps from elsewhere, and teachers that differ from case to case."""
        super().check()
        check_single_teachers(self.training.kd, self.training.trainer)

    def ensembles(self, ensemble: TeachingEnsemble) -> list[TeachingEnsemble]:
        """One for each network."""
        check_weights(self.training.kd.multi_teacher, ensemble)
        return ensemble.stores()

    def teach(self, data: Tensor, images: Tensor, reference: Reference) -> Teaching:
        """From the channels behind the images, one group for each teacher."""
        t = self.training
        probabilities, known = unpack(data[:, images.shape[1] :], t.sigmoid, len(self.stores))
        weights = weigh(t.kd.multi_teacher, probabilities, known, reference, t.sigmoid)
        return Teaching(SoftTargets(weighted_mean(probabilities, weights), known), weights)
