"""Students' plans resample probabilities by nnU-Net's faster function, which gives the labels of its default one."""

import os
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager
from scipy.ndimage import gaussian_filter

from nnunet_kd.config import KDConfig
from nnunet_kd.planning.plans import compose_plans
from nnunet_kd.planning.resampling import FAST_LINEAR, LINEAR, with_fast_resampling
from nnunet_kd.utilities.schema import from_dict
from tests.unit.test_plan_command import DATASET_JSON, RESAMPLING
from tests.unit.toy_dataset import plans_of

ROOT = Path(__file__).resolve().parents[2]


def composed(role: str = "student", **changes) -> dict:
    base = plans_of()
    for configuration in base["configurations"].values():
        configuration |= changes
    config = from_dict(KDConfig, {"role": role}, "kd")
    return compose_plans(base, "New", list(base["configurations"]), config, DATASET_JSON)["configurations"]


def test_a_students_plans_name_the_faster_function_and_keep_the_rest():
    for configuration in composed().values():
        assert configuration["resampling_fn_probabilities"] == FAST_LINEAR
        assert configuration["resampling_fn_probabilities_kwargs"] == {"is_seg": False, "force_separate_z": None}
        assert configuration["resampling_fn_data"] == LINEAR  # the preprocessed data are shared
        assert callable(ConfigurationManager(configuration).resampling_fn_probabilities)


def test_teachers_plans_and_other_interpolation_stay_as_they_are():
    assert composed("teacher")["2d"]["resampling_fn_probabilities"] == LINEAR
    cubic = RESAMPLING["resampling_fn_probabilities_kwargs"] | {"order": 3}
    assert composed(resampling_fn_probabilities_kwargs=cubic)["2d"]["resampling_fn_probabilities"] == LINEAR
    none = {"resampling_fn_probabilities": "no_resampling_hack", "resampling_fn_probabilities_kwargs": {}}
    assert composed(**none)["2d"]["resampling_fn_probabilities"] == "no_resampling_hack"


def test_the_switch_keeps_the_base_plans_own():
    base = plans_of()
    config = from_dict(KDConfig, {"role": "student"}, "kd")
    kept = compose_plans(base, "New", ["2d"], config, DATASET_JSON, keep_resampling=True)["configurations"]["2d"]
    assert {k: kept[k] for k in RESAMPLING} == RESAMPLING


def test_a_configuration_that_inherits_its_resampling_has_no_entry_of_its_own():
    assert with_fast_resampling({"inherits_from": "3d_fullres"}) == {"inherits_from": "3d_fullres"}


def real_labels(kind: str) -> np.ndarray:
    """A reference segmentation (z, y, x): hippocampus (isotropic), ACDC (anisotropic)."""
    for folder in (os.environ.get("NNUNET_KD_TEST_DATA"), ROOT.parent / "shared" / "data"):
        files = sorted((Path(folder) / kind / "labels").glob("*.nii.gz")) if folder else []
        if files:
            return sitk.GetArrayFromImage(sitk.ReadImage(str(files[0])))
    pytest.skip(f"no real images of {kind}: set NNUNET_KD_TEST_DATA")


@pytest.mark.parametrize("regions", [False, True])
@pytest.mark.parametrize(
    ("kind", "shape", "spacing", "new_spacing"),
    [
        ("hippocampus", (61, 70, 33), (1.0, 1.0, 1.0), (0.7, 0.8, 1.1)),
        ("acdc", (13, 211, 180), (10.0, 1.5, 1.5), (7.0, 1.2, 1.4)),
        ("acdc", None, (10.0, 1.5, 1.5), (10.0, 1.25, 1.25)),  # a 2D configuration: slices stay
    ],
)
def test_labels_of_real_cases_are_those_of_the_default_function(kind, shape, spacing, new_spacing, regions):
    labels = real_labels(kind)
    shape = shape or (labels.shape[0], 190, 190)
    smooth = np.stack([gaussian_filter((labels == c).astype(np.float32), 0.7) for c in range(labels.max() + 1)])
    noise = np.random.default_rng(0).normal(0, 0.02, smooth.shape)
    logits = np.log((smooth + 0.01 + np.abs(noise)) / (1.01 - smooth) if regions else smooth + 0.01 + np.abs(noise))

    def segmentation(configuration: dict) -> np.ndarray:
        resample = ConfigurationManager(deepcopy(configuration)).resampling_fn_probabilities
        result = np.asarray(resample(logits.astype(np.float32), shape, spacing, new_spacing))
        return (result > 0).astype(np.uint8) if regions else result.argmax(0)

    base = plans_of()["configurations"]["3d_fullres"]
    default, fast = segmentation(base), segmentation(with_fast_resampling(base))
    assert default.shape[-3:] == shape
    assert len(np.unique(default)) == (2 if regions else labels.max() + 1)
    assert (default != fast).mean() <= 1e-6
