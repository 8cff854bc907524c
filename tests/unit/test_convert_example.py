"""The example of a new data set in CONTRIBUTING.md does what the page says."""

import json
import re
from pathlib import Path

import pytest

from nnunet_kd.dataset_conversion.convert import convert
from nnunet_kd.dataset_conversion.declare import RawDataset, Request
from nnunet_kd.utilities.errors import UserError
from tests import replicas

PAGE = Path(__file__).resolve().parents[2] / "CONTRIBUTING.md"


@pytest.fixture
def dataset() -> RawDataset:
    (code,) = re.findall(r"^```python\n(.*?Dataset077_Spleen\.py.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    namespace: dict = {}
    exec(compile(code, str(PAGE), "exec"), namespace)
    return namespace["DATASET"]


@pytest.fixture
def raw(tmp_path) -> Path:
    for n in range(1, 13):
        label = replicas.label_array((255,), seed=n)
        matrix = replicas.affine((0.8, 0.8, 5.0))
        replicas.write_nifti(
            tmp_path / "download" / "scans" / f"s{n:02d}.nii.gz", replicas.image_array(label > 0), matrix
        )
        replicas.write_nifti(tmp_path / "download" / "masks" / f"s{n:02d}_MASK.nii.gz", label, matrix, "uint8")
    return tmp_path / "download"


def test_the_example_converts(dataset, raw, nnunet_raw):
    target = convert(dataset, Request(raw))
    assert target == nnunet_raw / "Dataset077_Spleen"
    description = json.loads((target / "dataset.json").read_text())
    assert (description["numTraining"], description["labels"]) == (12, {"background": 0, "spleen": 1})
    assert description["licence"] == "CC BY 4.0"
    folds = json.loads((target / "splits_final.json").read_text())
    assert len(folds) == 5
    patient = {f"s{n:02d}": (n + 1) // 2 for n in range(1, 13)}
    for fold in folds:
        assert not {patient[c] for c in fold["train"]} & {patient[c] for c in fold["val"]}


def test_the_example_lists_what_is_wrong(dataset, raw, nnunet_raw):
    (raw / "masks" / "s03_MASK.nii.gz").unlink()
    (raw / "scans" / "s05.nii.gz").write_bytes(b"")
    (raw / "scans" / "s13.nii.gz").write_bytes((raw / "scans" / "s01.nii.gz").read_bytes())
    with pytest.raises(UserError) as error:
        convert(dataset, Request(raw))
    for words in ("s03_mask: the mask is missing", "s05.nii.gz: cannot be read", "s13_mask: the mask is missing"):
        assert words in str(error.value)
    assert list(nnunet_raw.iterdir()) == []
