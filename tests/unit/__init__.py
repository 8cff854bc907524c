"""Tests that need no nnU-Net training."""
