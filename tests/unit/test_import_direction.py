"""Who may import whom (docs/explanation/architecture.md)."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LAYERS = {
    "errors": 0,
    "files": 1,
    "programs": 1,
    "schema": 1,
    "ranks": 1,
    "dotted_names": 1,
    "safe_files": 1,
    "loss_terms": 2,
    "cross_teaching_terms": 2,
    "config": 2,
    "losses": 3,
    "networks": 3,
    "environment": 4,
    "nnunet_files": 4,
    "teachers": 4,
    "teacher_gap": 4,
    "feature_taps": 4,
    "online_teachers": 4,
    "curves": 4,
    "averaging": 4,
    "random_state": 4,
    "peers": 4,
    "softlabels": 4,
    "data": 4,
    "planning": 4,
    "inheritance": 4,
    "trainers": 5,
    "_discovery": 6,
    "inference": 7,
    "evaluation": 7,
    "dataset_conversion": 7,
    "export": 7,
    "forked": 1,
    "distill": 8,
    "demo": 9,
    "commands": 10,
    "cli": 11,
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
