"""Fixtures of the unit tests."""

import pytest


@pytest.fixture
def nnunet_raw(tmp_path, monkeypatch):
    """nnU-Net's three folders, empty; returns ``nnUNet_raw``."""
    for name in ("raw", "preprocessed", "results"):
        folder = tmp_path / "nnunet" / name
        folder.mkdir(parents=True)
        monkeypatch.setenv(f"nnUNet_{name}", str(folder))
    return tmp_path / "nnunet" / "raw"
