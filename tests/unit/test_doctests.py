"""Every public loss has an example in its docstring, and the examples give what they print."""

import doctest
import importlib
import inspect
import pkgutil

import pytest
from torch import nn

import nnunet_kd.losses

MODULES = sorted(m.name for m in pkgutil.walk_packages(nnunet_kd.losses.__path__, "nnunet_kd.losses."))
PUBLIC = {name: getattr(nnunet_kd.losses, name) for name in nnunet_kd.losses.__all__}
LOSSES = {
    name: thing
    for name, thing in PUBLIC.items()
    if inspect.isfunction(thing) or (inspect.isclass(thing) and issubclass(thing, nn.Module))
}


@pytest.mark.parametrize("module", MODULES)
def test_examples_give_what_they_print(module):
    failed, _ = doctest.testmod(
        importlib.import_module(module), optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    )
    assert failed == 0, "the differences are in the captured output"


@pytest.mark.parametrize("name", LOSSES)
def test_every_public_loss_has_an_example(name):
    found = doctest.DocTestFinder(recurse=False).find(LOSSES[name], name)
    assert any(test.examples for test in found), f"{name}: no >>> in its docstring"
