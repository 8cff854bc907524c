"""Tests of nnunet_kd."""
