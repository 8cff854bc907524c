"""What is imported is what the project's metadata ask for."""

import subprocess
import sys

from nnunet_kd.export.packages import NEEDED
from tests.declared import declared

IMPORT_ALL = """
from tests.declared import hide
hide([])
import importlib, pkgutil, nnunet_kd
names = [m.name for m in pkgutil.walk_packages(nnunet_kd.__path__, "nnunet_kd.")]
for name in names:
    importlib.import_module(name)
print(len(names))
"""


def test_all_modules_are_there_without_any_extra():
    result = subprocess.run([sys.executable, "-W", "ignore", "-c", IMPORT_ALL], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert int(result.stdout.split()[-1]) > 150


def test_what_an_export_imports_comes_with_its_extra():
    assert not set(NEEDED) & declared([])
    assert set(NEEDED) < declared(["export"])
    assert "nncf" in declared(["export"])
