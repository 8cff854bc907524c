"""Soft labels in nnU-Net's data loader and augmentation, without touching either."""
