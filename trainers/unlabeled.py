"""Unlabeled cases in the batches of a trainer."""

from typing import Any

from nnunet_kd.data.dataset import UnlabeledDataset
from nnunet_kd.data.mixed_batches import mix_in, start_workers, without_workers
from nnunet_kd.trainers.student import nnUNetTrainerKDStudent
from nnunet_kd.utilities.errors import UserError


class nnUNetTrainerKDUnlabeled(nnUNetTrainerKDStudent):
    """A student whose training batches may hold unlabeled cases, behind the labeled ones.

    A subclass says with :meth:`wants_unlabeled` whether it asks for them, and sets the other two attributes and
    ``unlabeled_per_batch`` in ``get_tr_and_val_datasets``. Without unlabeled cases everything is nnU-Net's own.
    """

    unlabeled: UnlabeledDataset | None = None
    labeled_per_batch = 0

    def wants_unlabeled(self) -> bool:
        """Whether the plans ask for unlabeled cases."""
        return self.kd.unlabeled.fraction > 0

    def check_configuration(self) -> None:
        """Refuses a cascaded student of unlabeled cases."""
        super().check_configuration()
        if self.wants_unlabeled() and self.is_cascaded:
            raise UserError(
                f"-c {self.configuration_name}: is cascaded, but unlabeled cases have no segmentation of the previous "
                "stage; name another configuration, or set unlabeled.fraction to 0."
            )

    def get_dataloaders(self) -> Any:
        """nnU-Net's, with unlabeled cases behind the labeled ones of each training batch where there are any."""
        if not self.wants_unlabeled():
            return super().get_dataloaders()
        with without_workers():
            training, validation = (a.data_loader for a in super().get_dataloaders())
        if self.unlabeled is not None:
            training = mix_in(
                training, self.unlabeled, self.labeled_per_batch, self.unlabeled_per_batch, self.label_manager
            )
        return start_workers(training, validation, pin_memory=self.device.type == "cuda")
