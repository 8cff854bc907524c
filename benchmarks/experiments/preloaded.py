"""Imported once by the process from which every command is forked, so that none of them waits for imports."""

import torch

import nnunet_kd.distill.preloaded  # noqa: F401

# nnU-Net gives a training on the CPU all cores; here each training has one, and several run at a time.
torch.set_num_threads(1)
torch.set_num_threads = lambda threads: None
