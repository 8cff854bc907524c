"""The example of a new data set in CONTRIBUTING.md does what the page says."""

import json
import re
import sys
from pathlib import Path

import pytest

from nnunet_kd.cli import main
from nnunet_kd.dataset_conversion.convert import convert
from nnunet_kd.dataset_conversion.declare import RawDataset, Request
from nnunet_kd.dataset_conversion.registry import find_datasets
from nnunet_kd.utilities.errors import UserError
from tests import replicas

PAGE = Path(__file__).resolve().parents[2] / "CONTRIBUTING.md"


@pytest.fixture
def extension(tmp_path, monkeypatch) -> Path:
    """The example as a file of a user's own folder."""
    (code,) = re.findall(r"^```python\n(.*?Dataset077_Spleen\.py.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    file = tmp_path / "mine" / "dataset_conversion" / "Dataset077_Spleen.py"
    file.parent.mkdir(parents=True)
    file.write_text(code)
    monkeypatch.setenv("NNUNET_KD_EXTENSIONS", str(tmp_path / "mine"))
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield file
    sys.modules.pop(file.stem, None)


@pytest.fixture
def dataset(extension) -> RawDataset:
    return find_datasets()["Spleen"]


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


def test_the_convert_command_offers_it(extension, raw, nnunet_raw, capsys):
    main(["convert", "Spleen", "-i", str(raw), "-np", "2"])
    assert "spleen, CT; 12 scans of 6 patients" in capsys.readouterr().out
    assert (nnunet_raw / "Dataset077_Spleen" / "dataset.json").is_file()


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        ("DATASET = 1\n", "declares no data set; it needs DATASET = RawDataset(...)"),
        ("from nnunet_kd.dataset_conversion.Dataset027_ACDC import DATASET\n", "ACDC, which is there already"),
        ("import not_installed\n", "cannot be imported (ModuleNotFoundError"),
    ],
)
def test_a_file_that_declares_nothing_new_is_refused_in_one_sentence(extension, capsys, code, sentence):
    extension.write_text(code)
    with pytest.raises(SystemExit) as stop:
        main(["convert", "--list"])
    assert stop.value.code == 2
    message = capsys.readouterr().err
    assert str(extension) in message
    assert sentence in message
    assert message.count("\n") == 1
