"""What networks that are trained together teach each other: settings, and the weighted, ramped sum of the terms."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from nnunet_kd.losses.peer_term import PEER_TERMS, PeerOutputs, PeerTerm
from nnunet_kd.losses.term import RAMP, Ramp, Term, TermSettings
from nnunet_kd.utilities.errors import UserError
from nnunet_kd.utilities.schema import block, number, value


@dataclass(frozen=True)
class UnlabeledTerms(Term):
    """Everything that is learned on unlabeled cases (Choi 2022: lambda_ssl)."""

    weight: float = number(0.1, "weight of all unlabeled terms (lambda_ssl); 0: no unlabeled cases are used", minimum=0)
    ramp: Ramp = value("gaussian", RAMP)


@dataclass(frozen=True)
class CrossTeachingSettings(TermSettings[PeerTerm]):
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
    unlabeled: UnlabeledTerms = block(UnlabeledTerms, "everything that is learned on unlabeled cases")
    deep_supervision: bool = value(False, "hard-label loss at the lower-resolution outputs too, as in nnU-Net")
    export_teachers: bool = value(True, "write the other networks as model folders when the training ends")

    def active(self) -> dict[str, PeerTerm]:
        """The terms whose weight is not 0 and that these networks can follow, by name."""
        settings = {name: getattr(self, cls.field(name, "")[0]) for name, cls in PEER_TERMS.terms.items()}
        terms = {n: s if isinstance(s, PeerTerm) else PEER_TERMS.terms[n](weight=s) for n, s in settings.items()}
        students = self.between == "students"
        return {n: t for n, t in terms.items() if t.weight > 0 and t.applies(len(self.teachers), students)}

    def check(self, path: str) -> None:
        """Not more networks than there is work for.

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


class CrossTeachingLoss(nn.Module):
    r"""What networks that are trained together teach each other, weighted and ramped.

    .. math:: \lambda_\mathrm{dis} KL_\mathrm{labeled} +
              \lambda_\mathrm{ssl} (L_\mathrm{ctl} + L_\mathrm{psv} + \lambda_\mathrm{dis} KL_\mathrm{unlabeled})

    Source: Choi 2022, Section 2.2; the supervised loss is not part of it.

    Example:
        >>> import torch
        >>> from nnunet_kd.config import CrossTeaching
        >>> student, first, second = torch.randn(3, 4, 2, 8, 8)
        >>> loss = CrossTeachingLoss(CrossTeaching(teachers=("A", "B")), sigmoid=False)
        >>> sorted(loss(student, [first, second], labeled=2, progress=1.0))
        ['cross_teaching', 'distillation', 'distillation_unlabeled', 'pseudo_supervision']
    """

    def __init__(self, config: CrossTeachingSettings, sigmoid: bool):
        """Args:
        config: weights, ramps and switches.
        sigmoid: region-based labels.
        """
        super().__init__()
        self.config, self.sigmoid, self.terms = config, sigmoid, config.active()

    def curves(self) -> tuple[str, ...]:
        """Names of the values that :meth:`forward` returns."""
        names = []
        for name, term in self.terms.items():
            names += [name] * (term.on_labeled or self.config.unlabeled.weight > 0)
            names += [f"{name}_unlabeled"] * (term.on_labeled and self.config.unlabeled.weight > 0)
        return tuple(names)

    def forward(self, student: Tensor, others: Sequence[Tensor], labeled: int, progress: float) -> dict[str, Tensor]:
        """Value of each active term.

        Args:
            student: logits of the student (B, C, *spatial), the labeled cases first.
            others: logits of the other networks: two teachers, one, or the second student.
            labeled: number of labeled cases.
            progress: fraction of the training that has passed, in [0, 1].
        """
        outputs = PeerOutputs(student, tuple(others), self.config.between == "students", self.sigmoid)
        of_labeled, of_unlabeled = outputs.of_cases(slice(0, labeled)), outputs.of_cases(slice(labeled, None))
        semi = self.config.unlabeled.weight_at(progress)
        values: dict[str, Tensor] = {}
        for name, term in self.terms.items():
            weight = term.weight_at(progress)
            if term.on_labeled:
                values[name] = weight * term.loss(of_labeled)
            if self.config.unlabeled.weight > 0:
                key = f"{name}_unlabeled" if term.on_labeled else name
                values[key] = semi * weight * term.loss(of_unlabeled)
        return values
