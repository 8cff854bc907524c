"""Fixtures of the unit tests."""

from pathlib import Path

import pytest

from nnunet_kd.cli import main
from tests.report_data import METHODS, TITLE, arguments, write_comparison


@pytest.fixture(scope="session")
def comparison(tmp_path_factory) -> Path:
    """Folder with references, predictions, images and a benchmark."""
    return write_comparison(tmp_path_factory.mktemp("comparison"))


@pytest.fixture(scope="session")
def report(comparison, tmp_path_factory) -> Path:
    """Folder of the report on it."""
    output = tmp_path_factory.mktemp("report") / "new" / "report"
    more = ["--images", str(comparison / "images"), "--benchmark", str(comparison / "benchmark.json")]
    main(arguments(comparison, output, tuple(METHODS), *more, "--title", TITLE))
    return output


@pytest.fixture
def nnunet_raw(tmp_path, monkeypatch):
    """nnU-Net's three folders, empty; returns ``nnUNet_raw``."""
    for name in ("raw", "preprocessed", "results"):
        folder = tmp_path / "nnunet" / name
        folder.mkdir(parents=True)
        monkeypatch.setenv(f"nnUNet_{name}", str(folder))
    return tmp_path / "nnunet" / "raw"
