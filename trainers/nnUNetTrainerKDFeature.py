"""Feature distillation from one frozen teacher in memory."""

from nnunet_kd.teachers.ensemble import TeachingEnsemble
from nnunet_kd.teaching.memory import networks_of
from nnunet_kd.trainers.online import nnUNetTrainerKDOnline
from nnunet_kd.utilities.errors import UserError


class nnUNetTrainerKDFeature(nnUNetTrainerKDOnline):
    """Trains a student on the reference, on one teacher's predictions and on its features.

    L = L_seg + alpha L_PM + beta_1 L_IM + beta_2 L_RA, or any other terms of ``kd.distillation`` and ``kd.features``.

    Source: Qin et al. 2021, Eq. 9; Ben Loussaief et al. 2023, Eq. 5 (one teacher).
    """

    def load_teachers(self, ensemble: TeachingEnsemble) -> None:
        """Loads the one teacher.

        Raises:
            UserError: when the plans name several networks.
        """
        networks = list(networks_of(ensemble.models))
        if len(networks) != 1:
            raise UserError(
                f"kd.teachers: nnUNetTrainerKDFeature has one teacher network, found {len(networks)} "
                f"({ensemble.describe()}); name one fold (plan --teachers FOLDER:0), set ensemble.membership=same_fold "
                "or use nnUNetTrainerKDMultiTeacher."
            )
        super().load_teachers(ensemble)
