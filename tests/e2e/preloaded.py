"""Imported once by the process from which every command of the end-to-end tests is forked."""

import contextlib
import importlib
import pkgutil
import re

import nnunetv2.ensembling.ensemble
import nnunetv2.experiment_planning.plan_and_preprocess_entrypoints
import nnunetv2.inference.predict_from_raw_data
import nnunetv2.run.run_training  # noqa: F401
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

import nnunet_kd

with contextlib.redirect_stdout(None):
    recursive_find_trainer_class_by_name("nnUNetTrainerKDTeacher")  # imports all of nnU-Net's own trainers on its way
for module in pkgutil.walk_packages(nnunet_kd.__path__, "nnunet_kd."):
    if not re.search(r"dataset_conversion\.Dataset|_discovery|__main__", module.name):
        with contextlib.suppress(ImportError):  # of an extra that is not installed
            importlib.import_module(module.name)
