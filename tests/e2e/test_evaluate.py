"""``nnUNetv2_kd evaluate`` on real hippocampus masks: nnU-Net's numbers, other packages' numbers, time."""

import json
import resource
import shutil
import subprocess

import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage

from nnunet_kd.evaluation.metrics import mask_metrics
from nnunet_kd.evaluation.table import case_values
from nnunet_kd.utilities.programs import find_program
from nnunet_kd.utilities.summaries import load_summary
from tests.e2e.conftest import real_data
from tests.reference.segmentation_pairs import PACKAGES, TOLERANCE_MM

CASES = 40


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """References, and predictions with the errors of a coarse network: each label smoothed and grown a little."""
    root = tmp_path_factory.mktemp("evaluate")
    for name in ("predictions", "references"):
        (root / name).mkdir()
    for file in sorted((real_data() / "hippocampus" / "labels").glob("*.nii.gz"))[:CASES]:
        shutil.copy(file, root / "references")
        reference = sitk.ReadImage(str(file))
        array = sitk.GetArrayFromImage(reference)
        smooth = [ndimage.gaussian_filter((array == label).astype(float), 1.5) for label in (0, 1, 2)]
        prediction = sitk.GetImageFromArray(np.argmax([0.8 * smooth[0], *smooth[1:]], axis=0).astype(np.uint8))
        prediction.CopyInformation(reference)
        sitk.WriteImage(prediction, str(root / "predictions" / file.name))
    labels = {"background": 0, "anterior": 1, "posterior": 2}
    content = {"channel_names": {"0": "MRI"}, "labels": labels, "numTraining": 1, "file_ending": ".nii.gz"}
    (root / "dataset.json").write_text(json.dumps(content))
    return root


@pytest.fixture(scope="module")
def evaluated(folders):
    """Output folder of the command with two workers, and the CPU seconds that it and its workers took."""
    command = ["evaluate", "-i", folders / "predictions", "-r", folders / "references", "-np", "2"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([find_program("nnUNetv2_kd"), *map(str, command), "-o", str(folders / "out")], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return folders / "out", after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_every_case_takes_a_fraction_of_a_second(evaluated):
    """10 s of CPU for 40 cases, start included: 10 s on one core, whatever else the machine does meanwhile."""
    output, cpu_seconds = evaluated
    cases = len(load_summary(output / "summary.json").cases)
    assert cpu_seconds < 10 * max(cases, 20) / CASES


def test_the_summary_is_nnunets_own_and_more(folders, evaluated):
    from nnunetv2.evaluation.evaluate_predictions import compute_metrics_on_folder, load_summary_json
    from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

    theirs = compute_metrics_on_folder(
        str(folders / "references"), str(folders / "predictions"), None, SimpleITKIO(), ".nii.gz", [1, 2], None, 1
    )
    mine = load_summary_json(str(evaluated[0] / "summary.json"))
    assert {m: mine["foreground_mean"][m] for m in theirs["foreground_mean"]} == pytest.approx(
        theirs["foreground_mean"]
    )
    for label in (1, 2):
        assert {m: mine["mean"][label][m] for m in theirs["mean"][label]} == pytest.approx(theirs["mean"][label])
    for row, other in zip(mine["metric_per_case"], theirs["metric_per_case"], strict=True):
        assert (row["prediction_file"], row["reference_file"]) == (other["prediction_file"], other["reference_file"])
        assert row["metrics"][2]["Dice"] == pytest.approx(other["metrics"][2]["Dice"])


@pytest.mark.parametrize("package", PACKAGES)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_agreement_with_an_independent_package_on_real_masks(folders, evaluated, package):
    pytest.importorskip(package)
    read = load_summary(evaluated[0] / "summary.json")
    for case in read.cases[:10]:
        images = [sitk.ReadImage(str(folders / f / f"{case}.nii.gz")) for f in ("predictions", "references")]
        spacing_mm = images[0].GetSpacing()[::-1]
        prediction, reference = (sitk.GetArrayFromImage(image) for image in images)
        for value, label in ((1, "anterior"), (2, "posterior")):
            pair = prediction == value, reference == value
            theirs = PACKAGES[package](*pair, spacing_mm)
            mine = mask_metrics(*pair, spacing_mm, np.prod(spacing_mm) / 1000, TOLERANCE_MM)
            assert {m: mine[m] for m in theirs} == pytest.approx(theirs, rel=1e-5, abs=1e-6)
            written = {m: case_values(read.table, m, label)[case] for m in theirs}
            assert written == pytest.approx(theirs, rel=1e-5, abs=1e-6)
