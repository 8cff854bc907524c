"""Imported once by the process from which the commands of a distillation are forked, so that none waits for it."""

import contextlib

import nnunetv2.ensembling.ensemble
import nnunetv2.inference.predict_from_raw_data
import nnunetv2.run.run_training  # noqa: F401
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

with contextlib.redirect_stdout(None):
    recursive_find_trainer_class_by_name("nnUNetTrainerKDTeacher")  # imports all trainers on its way
