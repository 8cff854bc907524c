"""A comparison of three methods and its report, made once."""

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
