"""Imported once by the process from which every command is forked, so that none of them waits for imports."""

import contextlib

import nnunetv2.inference.predict_from_raw_data
import nnunetv2.run.run_training  # noqa: F401
import torch
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

with contextlib.redirect_stdout(None):
    recursive_find_trainer_class_by_name("nnUNetTrainerKDTeacher")  # imports all trainers on its way

# nnU-Net gives a training on the CPU all cores; here each training has one, and several run at a time.
torch.set_num_threads(1)
torch.set_num_threads = lambda threads: None
