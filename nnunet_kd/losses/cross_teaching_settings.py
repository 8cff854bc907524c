"""Settings of networks that are trained together: a block of the ``"kd"`` block."""

import re
from dataclasses import dataclass
from typing import Literal

from nnunet_kd.losses.term import RAMP, Ramp, Term
from nnunet_kd.utilities.errors import UserError
from nnunet_kd.utilities.schema import block, number, value


@dataclass(frozen=True)
class OnlineKLTerm(Term):
    """Distillation from networks that are trained at the same time (Choi 2022: lambda_dis)."""

    weight: float = number(10.0, "weight in the training loss (lambda_dis); 0 switches the term off", minimum=0)
    ramp: Ramp = value("gaussian", RAMP)
    temperature: float = number(1.0, "softmax temperature T; the term carries T^2", above=0)
    direction: Literal["teacher_student", "student_teacher"] = value(
        "teacher_student", "teacher_student: KL(teacher || student); student_teacher: the reverse"
    )


@dataclass(frozen=True)
class UnlabeledTerm(Term):
    """Everything that is learned on unlabeled cases (Choi 2022: lambda_ssl)."""

    weight: float = number(0.1, "weight of all unlabeled terms (lambda_ssl); 0: no unlabeled cases are used", minimum=0)
    ramp: Ramp = value("gaussian", RAMP)


@dataclass(frozen=True)
class CrossTeaching:
    """Networks that are trained together by nnUNetTrainerKDCrossTeaching (Choi 2022)."""

    teachers: tuple[str, ...] = value(
        (),
        "up to two other networks: names of plans in the data set's preprocessed folder whose architecture they have, "
        'or "same" for the student\'s; empty: the student alone',
    )
    between: Literal["teachers", "students"] = value(
        "teachers",
        "teachers: the two of the list teach each other, and both teach the student; students: the student and the one "
        "of the list teach each other, and nobody else teaches",
    )
    cross_teaching_weight: float = number(
        1.0, "weight of cross teaching among the unlabeled terms; needs two networks that do it", minimum=0
    )
    pseudo_supervision_weight: float = number(
        1.0, "weight of the teachers' mean as pseudo-labels of the student, among the unlabeled terms", minimum=0
    )
    distillation: OnlineKLTerm = block(OnlineKLTerm, "divergence between student and the teachers' mean")
    unlabeled: UnlabeledTerm = block(UnlabeledTerm, "everything that is learned on unlabeled cases")
    deep_supervision: bool = value(False, "hard-label loss at the lower-resolution outputs too, as in nnU-Net")
    export_teachers: bool = value(True, "write the other networks as model folders when the training ends")

    @property
    def distills(self) -> bool:
        """Whether the student learns from the teachers' probabilities."""
        return self.between == "teachers" and bool(self.teachers) and self.distillation.weight > 0

    @property
    def supervises(self) -> bool:
        """Whether the student learns from the teachers' pseudo-labels."""
        return self.between == "teachers" and bool(self.teachers) and self.pseudo_supervision_weight > 0

    @property
    def crosses(self) -> bool:
        """Whether two networks learn each other's pseudo-labels."""
        return self.cross_teaching_weight > 0 and len(self.teachers) == (2 if self.between == "teachers" else 1)

    def check(self, path: str) -> None:
        """Not more networks than there is work for, and unlabeled cases only where something learns from them.

        Raises:
            UserError: names the key.
        """
        most = 2 if self.between == "teachers" else 1
        if len(self.teachers) > most:
            raise UserError(f"{path}.teachers: found {len(self.teachers)}, expected at most {most} ({self.between}).")
        if self.between == "students" and len(self.teachers) != 1:
            raise UserError(f"{path}.teachers: found none, two students need the plans of the second one.")
        if bad := [t for t in self.teachers if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", t)]:
            raise UserError(f"{path}.teachers: found {bad[0]!r}, expected a plans name without .json, or same.")
