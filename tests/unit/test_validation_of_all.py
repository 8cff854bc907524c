"""Fold all is validated on its own training cases only where somebody needs that; threads are those of the variable."""

from types import SimpleNamespace

import pytest
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_kd.config import KDConfig
from nnunet_kd.trainers.base import nnUNetTrainerKDBase
from nnunet_kd.utilities.environment import limit_threads
from nnunet_kd.utilities.schema import from_dict


@pytest.mark.parametrize(
    ("role", "fold", "mode", "trained", "validates"),
    [
        ("student", "all", "teachers", True, False),
        ("student", "all", "teachers", False, True),  # nnUNetv2_train ... --val
        ("student", "all", "always", True, True),
        ("student", 0, "never", True, True),
        ("teacher", "all", "teachers", True, True),
        ("teacher", "all", "never", True, False),
    ],
)
def test_who_validates_fold_all(monkeypatch, role, fold, mode, trained, validates):
    called = []
    monkeypatch.setattr(nnUNetTrainer, "perform_actual_validation", lambda self, save: called.append(save))
    monkeypatch.setattr(nnUNetTrainerKDBase, "print_to_log_file", lambda self, *text: None)
    trainer = object.__new__(nnUNetTrainerKDBase)
    trainer.kd = from_dict(KDConfig, {"role": role, "schedule": {"validate_all": mode}}, "kd")
    trainer.plans_manager = SimpleNamespace(plans={"kd": {"role": role}})
    trainer.fold, trainer._has_trained = fold, trained
    trainer.configuration_manager = SimpleNamespace(next_stage_names=None)
    trainer.perform_actual_validation(False)
    assert called == [False] * validates
    trainer.configuration_manager = SimpleNamespace(next_stage_names=["3d_cascade_fullres"])
    trainer.perform_actual_validation(False)
    assert called == [False] * (validates + 1)  # the next stage reads its predictions


@pytest.mark.parametrize(
    ("device", "variable", "threads"),
    [("cpu", "1", [1]), ("cpu", "3", [3]), ("cpu", "", []), ("cpu", "0", []), ("cpu", "many", []), ("cuda", "1", [])],
)
def test_threads_on_the_cpu_are_those_of_the_variable(monkeypatch, device, variable, threads):
    found: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", found.append)
    monkeypatch.setenv("OMP_NUM_THREADS", variable)
    limit_threads(torch.device(device))
    assert found == threads
