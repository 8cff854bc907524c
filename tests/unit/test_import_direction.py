"""Who may import whom (docs/explanation/architecture.md)."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LAYERS = {
    "utilities": 0,
    "losses": 1,
    "networks": 1,
    "config": 2,
    "teachers": 3,
    "softlabels": 4,
    "data": 4,
    "planning": 4,
    "inheritance": 4,
    "teaching": 5,
    "trainers": 6,
    "_discovery": 7,
    "inference": 8,
    "evaluation": 8,
    "dataset_conversion": 8,
    "export": 8,
    "benchmark": 9,
    "report": 10,
    "distill": 11,
    "demo": 12,
    "commands": 13,
    "cli": 14,
}
TORCH_ONLY = ("losses", "networks")


def modules():
    for folder, package in ((ROOT / "nnunet_kd", "nnunet_kd"), (ROOT / "trainers", "nnunet_kd.trainers")):
        for file in sorted(folder.rglob("*.py")):
            yield file, ".".join((package, *file.relative_to(folder).with_suffix("").parts))


def imports(file):
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module


RUNTIME = {"numpy", "scipy", "SimpleITK", "nibabel", "imageio", "tifffile", "openvino", "onnxruntime"}


def test_the_runtime_of_a_bundle_imports_nothing_of_the_rest():
    for file in (ROOT / "nnunet_kd" / "export" / "runtime").glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and node.level:
                assert node.level == 1, file
            else:
                names = [n.name for n in node.names] if isinstance(node, ast.Import) else []
                names += [node.module] if isinstance(node, ast.ImportFrom) else []
                for name in names:
                    assert name.split(".")[0] in RUNTIME | sys.stdlib_module_names, f"{file} imports {name}"


@pytest.mark.parametrize(("file", "module"), [pytest.param(*m, id=m[1]) for m in modules()])
def test_a_module_imports_only_from_its_own_layer_or_below(file, module):
    parts = module.split(".")
    if len(parts) == 2 and parts[1] == "__init__":
        return
    layer = LAYERS[parts[1]]
    for name in imports(file):
        target = name.split(".")
        if target[0] == "nnunet_kd" and len(target) > 1:
            assert LAYERS[target[1]] <= layer, f"{module} imports {name}"
        if parts[1] in TORCH_ONLY:
            assert target[0] not in ("nnunetv2", "batchgenerators", "batchgeneratorsv2"), f"{module} imports {name}"
