"""Coarse-to-fine prediction with nnU-Net's own pieces: exact where the box is the image, cheap where it is not."""

import json
from contextlib import nullcontext

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.run.run_training import get_trainer_from_args

from nnunet_kd.cli import main
from nnunet_kd.inference.box import Box
from nnunet_kd.inference.coarse_to_fine import CoarseToFine, Settings, check_models
from nnunet_kd.inference.region import fitted, prepare, resample_region
from nnunet_kd.inference.stage import Stage
from nnunet_kd.teachers.model import find_model
from nnunet_kd.utilities.errors import UserError
from tests.unit.toy_dataset import blob, make_toy, plans_of, write_image

TEACHER = {"role": "teacher", "schedule": {"seed": 3}}


def embed(shape=(40, 60, 50), at=(8, 30, 12), seed=5):
    """A blob in a larger field of view of noise."""
    image, segmentation = blob((20, 22, 24), seed)
    large = np.random.default_rng(seed).normal(100, 5, shape).astype(np.float32)
    labels = np.zeros(shape, np.uint8)
    box = tuple(slice(a, a + s) for a, s in zip(at, image.shape, strict=True))
    large[box], labels[box] = image, segmentation
    return large, labels


class Threshold:
    """Stands for a predictor: what is bright is class 2, what is less so class 1; counts the voxels it was given."""

    def __init__(self, never: bool = False):
        self.never, self.seen = never, []

    def predict_logits_from_preprocessed_data(self, data):
        self.seen.append(tuple(data.shape[1:]))
        x = data[0]
        if self.never:
            return torch.stack((torch.ones_like(x), torch.zeros_like(x), torch.zeros_like(x)))
        return torch.stack((torch.full_like(x, 2.0), 2 * x, 3 * x - 2))


@pytest.fixture(name="model", scope="module")
def _model(tmp_path_factory):
    """A model folder with random weights, written by nnU-Net's own trainer."""
    with pytest.MonkeyPatch.context() as patch:
        toy = make_toy(tmp_path_factory.mktemp("toy"), patch, cases=2)
        toy.write_plans(TEACHER, "Random")
        trainer = get_trainer_from_args(
            "900", "3d_fullres", 0, "nnUNetTrainerKDTeacher", "Random", device=torch.device("cpu")
        )
        trainer.on_train_start()
        trainer.save_checkpoint(f"{trainer.output_folder}/checkpoint_final.pth")
        yield toy, toy.results / "nnUNetTrainerKDTeacher__Random__3d_fullres"


def stage_of(folder, **threshold) -> Stage:
    return Stage(find_model(folder), Threshold(**threshold))


def write_input(folder, image, spacing_mm=(1.0, 1.0, 1.0)):
    write_image(folder / "one_0000.nii.gz", image, spacing_mm)
    return folder


def stock(folder, image_file):
    predictor = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(folder), (0,))
    image, properties = predictor.plans_manager.image_reader_writer_class().read_images([str(image_file)])
    return predictor.predict_single_npy_array(image, properties)


def read(file):
    return sitk.GetArrayFromImage(sitk.ReadImage(str(file)))


@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0, 1.0), (0.9, 1.1, 2.5)])
def test_when_the_box_is_the_image_the_result_is_nnunets(model, tmp_path, spacing_mm):
    _, folder = model
    image, _ = blob((21, 19, 23), 8)
    image[:2] = 0  # nnU-Net crops this away
    source = write_input(tmp_path / "in", image, spacing_mm)
    models = ["--coarse", str(folder), "--fine", f"{folder}:0"]
    main(["predict", "-i", str(source), "-o", str(tmp_path / "out"), *models, "--margin", "100", "-device", "cpu"])
    expected = stock(folder, source / "one_0000.nii.gz")
    assert len(np.unique(expected)) > 1, "one label alone would prove nothing"
    np.testing.assert_array_equal(read(tmp_path / "out" / "one.nii.gz"), expected)
    record = json.loads((tmp_path / "out" / "coarse_to_fine.json").read_text())
    assert record["cases"]["one"]["found"] is True


@pytest.mark.parametrize(
    ("voxels", "spacing", "sentence"),
    [
        (np.nan, 1.0, "1 voxels are NaN or infinite"),
        (0.0, 1e6, "its spacing cannot be right"),
        (np.zeros(2, np.float32), 1.0, "holds 2 channels, expected 1"),
    ],
    ids=["NaN", "spacing", "4D"],
)
def test_an_image_that_nnunet_would_misread_is_refused_in_one_sentence(
    model, tmp_path, capsys, voxels, spacing, sentence
):
    image = np.ones((6, 7, 8, *np.shape(voxels)), np.float32)
    image[1, 2, 3] = voxels
    (tmp_path / "in").mkdir()
    nib.save(nib.Nifti1Image(image, np.diag([spacing] * 3 + [1])), tmp_path / "in" / "one_0000.nii.gz")
    models = ["--coarse", str(model[1]), "--fine", str(model[1])]
    with pytest.raises(SystemExit):
        main(["predict", "-i", str(tmp_path / "in"), "-o", str(tmp_path / "out"), *models, "-device", "cpu"])
    message = capsys.readouterr().err
    assert f"one_0000.nii.gz: {'' if 'NaN' in sentence else 'h'}" in message
    assert sentence in message
    assert "Traceback" not in message


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"channel_names": {"0": "T1"}}, "--coarse takes the image channels CT, --fine takes T1"),
        ({"channel_names": {"0": "CT", "1": "T1"}}, "--coarse takes the image channels CT, --fine takes CT, T1"),
        ({"channel_names": {"0": "ct"}}, None),
    ],
)
def test_both_models_must_see_the_same_channels(model, change, sentence):
    coarse, fine = find_model(model[1]), find_model(model[1])
    fine.dataset_json.update(change)
    with nullcontext() if sentence is None else pytest.raises(UserError, match=sentence):
        check_models(coarse, fine)


def test_a_second_stage_of_a_cascade_is_refused(model):
    cascaded = find_model(model[1])
    cascaded.configuration_manager.configuration["previous_stage"] = "3d_lowres"
    with pytest.raises(UserError, match=r"--fine .*refines the prediction of another configuration"):
        check_models(find_model(model[1]), cascaded)


def test_an_empty_coarse_mask_falls_back_to_the_whole_image(model):
    _, folder = model
    image, _ = embed()
    coarse, fine = stage_of(folder, never=True), stage_of(folder)
    result = CoarseToFine(coarse, fine, Settings()).predict(image[None], {"spacing": [1.0, 1.0, 1.0]})
    assert not result.found
    assert result.box == Box.whole(image.shape)
    assert fine.predictor.seen == [image.shape]


def test_logits_that_are_not_finite_are_no_background(model):
    _, folder = model
    image, _ = embed()
    image[3, 4, 5] = np.inf
    method = CoarseToFine(stage_of(folder), stage_of(folder), Settings())
    with pytest.raises(UserError, match="model nnUNetTrainerKDTeacher__Random__3d_fullres: its logits for this image"):
        method.predict(image[None], {"spacing": [1.0, 1.0, 1.0]})


@pytest.mark.parametrize("spacing_mm", [[1.0, 1.0, 1.0], [2.0, 1.3, 0.8]])
def test_the_fine_network_sees_the_box_only_and_the_result_is_pasted_back(model, spacing_mm):
    _, folder = model
    image, labels = embed()
    coarse, fine, full = stage_of(folder), stage_of(folder), stage_of(folder)
    settings = Settings(margin=0.2, keep_largest=True)
    result = CoarseToFine(coarse, fine, settings).predict(image[None], {"spacing": spacing_mm})
    assert result.found
    truth = Box.around(labels > 0)
    assert truth.intersection(result.box) == truth, "all foreground is in the box"
    assert np.prod(result.box.shape) < 0.4 * image.size
    assert np.prod(fine.predictor.seen[0]) < 0.4 * np.prod(coarse.predictor.seen[0])
    assert result.segmentation.shape == image.shape
    outside = result.segmentation.copy()
    outside[result.box.slices] = 0
    assert not outside.any()
    plain = CoarseToFine(stage_of(folder, never=True), full, settings).predict(image[None], {"spacing": spacing_mm})
    # The box is resampled by itself: where spacings differ, its grid lies otherwise, by a part of a voxel.
    assert (result.segmentation == plain.segmentation).mean() > 0.995
    overlap = (
        ((result.segmentation > 0) & (labels > 0)).sum() * 2 / ((result.segmentation > 0).sum() + (labels > 0).sum())
    )
    assert overlap > 0.8


def test_the_box_is_at_least_a_patch(model):
    _, folder = model
    image = np.random.default_rng(0).normal(100, 1, (40, 40, 40)).astype(np.float32)
    image[20:22, 20:22, 20:22] = 4000
    fine = stage_of(folder)
    CoarseToFine(stage_of(folder), fine, Settings()).predict(image[None], {"spacing": [1.0, 1.0, 1.0]})
    assert fine.predictor.seen == [(16, 16, 16)]


@pytest.mark.parametrize("transpose", [[0, 1, 2], [1, 2, 0]])
def test_models_with_other_axes_agree_on_the_box(model, transpose, tmp_path):
    _, folder = model
    image, labels = embed()
    coarse, fine = stage_of(folder), stage_of(folder)
    plans = plans_of() | {"transpose_forward": transpose, "transpose_backward": list(np.argsort(transpose))}
    fine.model.plans_manager.plans.update({k: plans[k] for k in ("transpose_forward", "transpose_backward")})
    result = CoarseToFine(coarse, fine, Settings()).predict(image[None], {"spacing": [1.0, 1.5, 0.8]})
    truth = Box.around(labels > 0)
    assert truth.intersection(result.box) == truth
    assert ((result.segmentation > 0) & (labels > 0)).sum() > 0.7 * (labels > 0).sum()


def test_whole_volume_mode_passes_each_stage_once_through_its_patch(model):
    _, folder = model
    image, labels = embed()
    coarse, fine = (Stage(s.model, s.predictor, whole_region=True) for s in (stage_of(folder), stage_of(folder)))
    result = CoarseToFine(coarse, fine, Settings(margin=0.1)).predict(image[None], {"spacing": [2.0, 1.0, 1.0]})
    assert coarse.predictor.seen == fine.predictor.seen == [(16, 16, 16)]
    assert result.segmentation.shape == image.shape
    dice = 2 * ((result.segmentation > 0) & (labels > 0)).sum() / ((result.segmentation > 0).sum() + (labels > 0).sum())
    assert dice > 0.8


def test_a_fitted_region_is_the_patch_in_2d_and_3d(model):
    _, folder = model
    stage = stage_of(folder)
    image = np.random.default_rng(0).normal(size=(1, 9, 21, 30)).astype(np.float32)
    prepared = prepare(image, {"spacing": [3.0, 0.7, 1.1]}, stage.plans, stage.model.configuration_manager)
    for name, shape in (("3d_fullres", (16, 16, 16)), ("2d", (7, 16, 16))):
        configuration = stage.plans.get_configuration(name)
        region = Box((1, 2, 3), (8, 20, 29))
        data, properties = resample_region(
            prepared, region, stage.plans, fitted(prepared, region, stage.plans, configuration)
        )
        assert data.shape == (1, *shape)
        assert properties["shape_after_cropping_and_before_resampling"] == (7, 18, 26)


def test_what_is_there_is_kept_when_asked(model, tmp_path, capsys):
    _, folder = model
    source = write_input(tmp_path / "in", blob((18, 18, 18), 1)[0])
    command = [
        "predict",
        "-i",
        str(source),
        "-o",
        str(tmp_path / "out"),
        "--coarse",
        str(folder),
        "--fine",
        str(folder),
    ]
    command += ["-device", "cpu", "--disable_tta"]
    main(command)
    before = (tmp_path / "out" / "one.nii.gz").stat().st_mtime_ns
    main([*command, "--continue_prediction"])
    assert "All 1 cases were there already" in capsys.readouterr().out
    assert (tmp_path / "out" / "one.nii.gz").stat().st_mtime_ns == before
    names = sorted(f.name for f in (tmp_path / "out").iterdir())
    assert names == ["coarse_to_fine.json", "dataset.json", "one.nii.gz", "plans.json"]
    assert "one" in json.loads((tmp_path / "out" / "coarse_to_fine.json").read_text())["cases"]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"--coarse": "nowhere__a__b"}, "nowhere__a__b: no such model folder"),
        ({"--fine": "{folder}:7"}, "checkpoint_final.pth: no finished training"),
        ({"-chk": "other.pth"}, "other.pth: no finished training"),
        ({"-i": "{empty}"}, "no image CASE_0000.nii.gz there"),
        ({"-i": "{empty}/none"}, "none: no such folder of images"),
        ({"-o": "{source}"}, "is the folder of the images"),
        ({"--margin": "-1"}, "--margin -1.0: expected a number >= 0"),
        ({"--margin-mm": "nan"}, "--margin-mm nan: expected a number >= 0"),
        ({"-step_size": "0"}, "-step_size 0.0: expected a number from 0.01 to 1"),
        ({"-step_size": "1e-9"}, "-step_size 1e-09: expected a number from 0.01 to 1"),
    ],
)
def test_a_users_mistake_is_one_sentence(model, tmp_path, capsys, change, sentence):
    _, folder = model
    source = write_input(tmp_path / "in", blob((18, 18, 18), 1)[0])
    (tmp_path / "empty").mkdir()
    options = {"-i": source, "-o": tmp_path / "out", "--coarse": folder, "--fine": folder, "-device": "cpu"}
    change = {k: v.format(folder=folder, empty=tmp_path / "empty", source=source) for k, v in change.items()}
    with pytest.raises(SystemExit) as stop:
        main(["predict", *(str(x) for pair in (options | change).items() for x in pair)])
    assert stop.value.code == 2
    message = capsys.readouterr().err
    assert sentence in message
    assert message.count("\n") == 1
    assert not (tmp_path / "out").exists()
