"""Prediction beyond nnU-Net's own: coarse to fine."""
