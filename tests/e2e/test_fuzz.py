"""Spoiled files and arguments: exit code 0 or 2, one sentence, no traceback, nothing half-written, in little time.

A failure names its input, which is its seed: ``pytest "tests/e2e/test_fuzz.py::test_input[NAME]"`` runs it alone.
"""

import pytest

from tests.fuzz.inputs import Input, inputs
from tests.fuzz.judge import find_fault
from tests.fuzz.workspace import Template, build

INPUTS = {i.name: i for i in inputs()}


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> Template:
    return build(tmp_path_factory.mktemp("template"))


def test_there_are_enough_inputs():
    assert len(INPUTS) >= 300


@pytest.mark.parametrize("spoiled", INPUTS.values(), ids=INPUTS)
def test_input(spoiled: Input, template, tmp_path):
    if fault := find_fault(spoiled, template, tmp_path):
        pytest.fail(fault, pytrace=False)
