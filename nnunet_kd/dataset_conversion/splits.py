"""Folds for ``splits_final.json``: by patient, by site, or with the numbers of cases that a paper names."""

import random
from collections.abc import Sequence

from nnunet_kd.dataset_conversion.cases import Case, Fold

SEED = 12345  # nnU-Net's own for its five folds


def five_folds(cases: Sequence[Case]) -> list[Fold]:
    """nnU-Net's five folds, drawn over groups: the cases of a patient stay together.

    Where every case is its own group these are the folds that nnU-Net itself would make. Fewer groups than five give
    no folds.
    """
    from nnunetv2.utilities.crossval_split import generate_crossval_split

    groups = sorted({c.group for c in cases})
    if len(groups) < 5:
        return []
    what = "nnU-Net's five folds" + (" over patients" if len(groups) < len(cases) else "")
    return [_fold(cases, s["val"], what) for s in generate_crossval_split(groups)]


def hold_out(cases: Sequence[Case], number: int, source: str) -> list[Fold]:
    """One fold with ``number`` groups for validation, drawn once with a fixed seed.

    Args:
        cases: the training cases.
        number: groups (cases, patients) to validate on.
        source: whose numbers they are, for the note. A paper that draws at random does not say which cases it drew.
    """
    groups = sorted({c.group for c in cases})
    if len(groups) <= number:
        return []
    fold = _fold(cases, draw(groups, number), "")
    text = f"{source}: {len(groups) - number} for training, {number} for validation, drawn with a fixed seed"
    return [Fold(fold.train, fold.val, text)]


def leave_one_group_out(cases: Sequence[Case], groups: Sequence[str]) -> list[Fold]:
    """One fold for each group that there is, in the order given: validation on it, training on the others."""
    there = [g for g in groups if any(c.group == g for c in cases)]
    return [_fold(cases, [g], f"{g} left out") for g in there] if len(there) > 1 else []


def draw(names: Sequence[str], number: int) -> list[str]:
    """``number`` of the names, the same ones on every machine."""
    return sorted(random.Random(SEED).sample(sorted(names), number))


def _fold(cases: Sequence[Case], held_out: Sequence[str], note: str) -> Fold:
    val = set(held_out)
    names = sorted((c.name, c.group in val) for c in cases)
    return Fold(tuple(n for n, v in names if not v), tuple(n for n, v in names if v), note)
