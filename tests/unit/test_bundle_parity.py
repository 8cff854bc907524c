"""Bundles predict what nnU-Net's own predictor does, on real images, for whatever its planner writes."""

import contextlib
import json
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

from nnunet_kd.export import bundle
from nnunet_kd.export.describe import describe
from nnunet_kd.export.runtime import load
from nnunet_kd.export.runtime.main import main
from nnunet_kd.teachers.model import find_model
from tests.model_folders import FAST_RESAMPLING, dataset_json, make_model

ROOT = Path(__file__).resolve().parents[2]
REGIONS = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "tip": 3, "ignore": 4}
FOUR = {"background": 0, "a": 1, "b": 2, "c": 3}


@dataclass(frozen=True)
class Setting:
    """A model and the images that it predicts; ``make`` is for :func:`make_model`."""

    images: str
    dataset: dict[str, Any] = field(default_factory=dataset_json)
    folds: tuple[int | str, ...] = (0,)
    make: dict[str, Any] = field(default_factory=dict)


SETTINGS = {
    "3D isotropic, two folds, mirrored": Setting(
        "hippocampus", folds=(0, 1), make={"spacing": [0.9, 0.8, 1.1], "mirror_axes": (0, 1, 2)}
    ),
    "3D anisotropic": Setting("acdc", make={"spacing": [8.0, 1.3, 1.25], "patch_size": [8, 96, 80]}),
    "3D anisotropic, torch": Setting(
        "acdc", dataset_json(FOUR), make={"spacing": [8.0, 1.3, 1.25], "patch_size": [8, 96, 80], **FAST_RESAMPLING}
    ),
    "2D": Setting("acdc", make={"configuration": "2d", "spacing": [1.3, 1.25], "patch_size": [96, 80]}),
    "2D, mirrored, torch": Setting(
        "acdc",
        folds=("all",),
        make={
            "configuration": "2d",
            "spacing": [1.7, 1.4],
            "patch_size": [96, 160],
            "mirror_axes": (0, 1),
            **FAST_RESAMPLING,
        },
    ),
    "regions, lower resolution": Setting(
        "hippocampus", dataset_json(REGIONS, regions_class_order=[2, 1, 3]), make={"spacing": [1.6, 1.5, 1.4]}
    ),
    "regions, torch": Setting(
        "hippocampus",
        dataset_json(REGIONS, regions_class_order=[1, 2, 3]),
        make={"spacing": [0.8] * 3, **FAST_RESAMPLING},
    ),
    "no resampling": Setting(
        "hippocampus",
        make={
            "resampling_fn_data": "no_resampling_hack",
            "resampling_fn_data_kwargs": {},
            "resampling_fn_probabilities": "no_resampling_hack",
            "resampling_fn_probabilities_kwargs": {},
        },
    ),
    "CT, nibabel": Setting(
        "hippocampus",
        make={
            "normalization_schemes": ["CTNormalization"],
            "plans_changes": {
                "image_reader_writer": "NibabelIO",
                "transpose_forward": [2, 0, 1],
                "transpose_backward": [1, 2, 0],
            },
            "patch_size": [40, 24, 32],
        },
    ),
    "turned, nibabel": Setting(
        "turned", make={"spacing": [1.1, 0.9, 0.8], "plans_changes": {"image_reader_writer": "NibabelIOWithReorient"}}
    ),
    "turned, SimpleITK": Setting(
        "turned", make={"spacing": [1.1, 0.9, 0.8], "plans_changes": {"image_reader_writer": "SimpleITKIOWithReorient"}}
    ),
    "channels, borders, masks, transposed": Setting(
        "channels",
        dataset_json(FOUR, channels=4),
        make={
            "normalization_schemes": [
                "ZScoreNormalization",
                "ZScoreNormalization",
                "RescaleTo01Normalization",
                "NoNormalization",
            ],
            "use_mask_for_norm": [True, False, False, False],
            "spacing": [1.2, 0.9, 1.0],
            "plans_changes": {"transpose_forward": [1, 2, 0], "transpose_backward": [2, 0, 1]},
        },
    ),
    "pictures": Setting(
        "pictures",
        dataset_json(FOUR, channels=3, file_ending=".png"),
        make={
            "configuration": "2d",
            "patch_size": [32, 40],
            "normalization_schemes": ["RGBTo01Normalization"] * 3,
            "plans_changes": {"image_reader_writer": "NaturalImage2DIO"},
        },
    ),
    "TIFF": Setting(
        "tiff",
        dataset_json(FOUR, file_ending=".tif"),
        make={"spacing": [1.5, 1.0, 1.0], "plans_changes": {"image_reader_writer": "Tiff3DIO"}},
    ),
}


def real_image(kind: str) -> Path:
    """File of a real image; the tests are skipped where there is none."""
    for folder in (os.environ.get("NNUNET_KD_TEST_DATA"), ROOT.parent / "shared" / "data"):
        if folder and (found := sorted((Path(folder) / kind / "images").glob("*_0000.nii.gz"))):
            return found[0]
    pytest.skip(f"no real images of {kind}: set NNUNET_KD_TEST_DATA")


def write_images(kind: str, folder: Path) -> None:
    """A real image, as it is or changed so that one more thing is to be got right."""
    folder.mkdir()
    file = real_image("acdc" if kind == "acdc" else "hippocampus")
    if kind in ("acdc", "hippocampus"):
        shutil.copy(file, folder)
        return
    image = sitk.ReadImage(str(file))
    voxels = sitk.GetArrayFromImage(image).astype(np.float32)
    if kind == "turned":
        sitk.WriteImage(sitk.DICOMOrient(image, "PSR"), str(folder / "case_0000.nii.gz"))
    elif kind == "channels":  # a dark border, holes, and one channel that is smaller than the others
        voxels = np.pad(voxels + 1, [(3, 5), (4, 0), (2, 7)])
        voxels[10:14, 15:19, 12:16] = 0
        for c in range(4):
            channel = sitk.GetImageFromArray(np.roll(voxels, c, 1) * (c + 1) if c < 3 else voxels / voxels.max())
            channel.SetSpacing((0.8, 1.0, 1.1))
            sitk.WriteImage(channel, str(folder / f"case_{c:04d}.nii.gz"))
    elif kind == "pictures":
        from skimage import io

        colours = (voxels[8:11] / voxels.max() * 255).astype(np.uint8).transpose(1, 2, 0)
        io.imsave(folder / "case_0000.png", colours, check_contrast=False)
    else:
        import tifffile

        tifffile.imwrite(folder / "case_0000.tif", (voxels / voxels.max() * 1000).astype(np.uint16))
        (folder / "case.json").write_text('{"spacing": [1.2, 1.0, 0.9]}')


def predict_with_nnunet(model: Path, folds: tuple, images: Path, output: Path) -> None:
    """nnU-Net's own predictor, with probabilities, in this process."""
    output.mkdir()
    ending = json.loads((model / "dataset.json").read_text())["file_ending"]
    cases = {f.name[: -len(f"_0000{ending}")]: [] for f in sorted(images.glob(f"*_0000{ending}"))}
    for case, files in cases.items():
        files += sorted(map(str, images.glob(f"{case}_*{ending}")))
    with contextlib.redirect_stdout(None):
        predictor = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False)
        predictor.initialize_from_trained_model_folder(str(model), folds)
        outputs = [str(output / case) for case in cases]
        predictor.predict_from_files_sequential(list(cases.values()), outputs, save_probabilities=True)


@pytest.fixture(scope="module", params=SETTINGS, ids=str)
def predicted(request, tmp_path_factory):
    """Folder with ``stock`` (nnU-Net's prediction), ``images`` and ``bundle``."""
    root, setting = tmp_path_factory.mktemp("parity"), SETTINGS[request.param]
    write_images(setting.images, root / "images")
    make = {"patch_size": [40, 32, 40]} | setting.make
    model = find_model(
        make_model(root / "results", dataset=setting.dataset, folds=setting.folds, **make), setting.folds
    )
    (root / "bundle").mkdir()
    bundle.write_bundle(model, describe(model), bundle.Settings(), root / "bundle")
    predict_with_nnunet(model.folder, setting.folds, root / "images", root / "stock")
    return root, setting


def read(model_reader: Any, file: Path) -> np.ndarray:
    return model_reader.read_seg(str(file))[0][0]


def reader_of(root: Path) -> Any:
    return find_model(next((root / "results").iterdir())).plans_manager.image_reader_writer_class()


@pytest.mark.parametrize("probabilities", [False, True])
def test_a_bundle_predicts_what_nnunet_predicts(predicted, tmp_path, probabilities):
    root, setting = predicted
    more = ["--save_probabilities"] if probabilities else []
    assert main(root / "bundle", ["-i", str(root / "images"), "-o", str(tmp_path), "-np", "1", *more]) == 0
    reader, ending = reader_of(root), setting.dataset["file_ending"]
    files = sorted((root / "stock").glob(f"*{ending}"))
    assert files
    for file in files:
        stock, own = read(reader, file), read(reader, tmp_path / file.name)
        assert own.shape == stock.shape
        assert len(np.unique(stock)) > 1
        assert (own != stock).mean() <= 1e-3
        if ending == ".nii.gz":
            a, b = (sitk.ReadImage(str(f)) for f in (file, tmp_path / file.name))
            for get in ("GetSpacing", "GetOrigin", "GetDirection", "GetPixelID"):
                assert np.allclose(getattr(a, get)(), getattr(b, get)(), atol=1e-5)
        if probabilities:
            name = file.name.removesuffix(ending)
            with np.load(root / "stock" / f"{name}.npz") as a, np.load(tmp_path / f"{name}.npz") as b:
                assert a["probabilities"].shape == b["probabilities"].shape
                difference = np.abs(a["probabilities"] - b["probabilities"])
                assert difference.mean() <= 1e-3
                # half precision of logits of up to 50; in the image's corners, which windows hardly see, of far more
                assert np.quantile(difference, 0.999) <= 0.02


def test_a_loaded_bundle_predicts_arrays(predicted):
    root, setting = predicted
    reader, ending = reader_of(root), setting.dataset["file_ending"]
    predictor = load(root / "bundle", threads=1)
    file = sorted((root / "stock").glob(f"*{ending}"))[0]
    name = file.name.removesuffix(ending)
    array, properties = reader.read_images(sorted(map(str, (root / "images").glob(f"{name}_*{ending}"))))
    segmentation = predictor.predict(array, properties["spacing"])
    assert segmentation.dtype == np.uint8
    assert (segmentation != read(reader, file)).mean() <= 1e-3
