"""The mistakes that tests must see still have their place in the code."""

import re

import pytest
import yaml

from benchmarks.mutants import MUTANTS, Mutant

ROOT = MUTANTS.parents[1]
LIST = [Mutant(**m) for m in yaml.safe_load(MUTANTS.read_text())]


@pytest.mark.parametrize("mutant", LIST, ids=[m.name for m in LIST])
def test_every_edit_is_of_text_that_is_there_once_and_names_a_test_that_there_is(mutant):
    assert (ROOT / mutant.file).read_text().count(mutant.old) == 1
    for test in mutant.tests.split():
        file, *names = test.split("::")
        code = (ROOT / file).read_text()
        assert all(re.search(rf"^def {re.escape(name.partition('[')[0])}\(", code, re.MULTILINE) for name in names)
