"""Unlabeled cases in the soft-label store and in a student's batches."""

import dataclasses

import numpy as np
import pytest
import torch
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from nnunetv2.run.run_training import get_trainer_from_args
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from nnunetv2.utilities.default_n_proc_DA import get_allowed_n_proc_DA
from nnunetv2.utilities.label_handling.label_handling import LabelManager

from nnunet_kd.cli import main
from nnunet_kd.data.mixed_batches import mix_in, start_workers, unlabeled_share, without_last, without_workers
from nnunet_kd.softlabels.locations import from_bytes, sample_locations, to_bytes
from nnunet_kd.softlabels.stores import open_store
from nnunet_kd.teachers.ensemble import TeachingEnsemble
from nnunet_kd.teachers.model import TeacherModel
from nnunet_kd.teachers.student_data import load_student
from nnunet_kd.utilities.errors import UserError
from tests.unit.toy_dataset import blob, make_toy

SCHEDULE = {"num_epochs": 2, "iterations_per_epoch": 2, "val_iterations_per_epoch": 1, "seed": 7}


def kd_block(toy, **unlabeled) -> dict:
    return {
        "schedule": SCHEDULE,
        "ensemble": {"from_folder": str(toy.root / "maps")},
        "distillation": {"kl": {"weight": 1.0}, "soft_dice": {"weight": 1.0}},
        "unlabeled": unlabeled,
    }


def write_maps(toy, names: dict[str, tuple[int, tuple[int, int, int]]]) -> None:
    """Probability maps, 0.9 for the blob's label."""
    (toy.root / "maps").mkdir(exist_ok=True)
    for name, (seed, shape) in names.items():
        segmentation = blob(shape, seed)[1]
        maps = np.full((3, *shape), 0.05, np.float32)
        for label in range(3):
            maps[label][segmentation == label] = 0.9
        np.savez(toy.root / "maps" / f"{name}.npz", probabilities=maps)


@pytest.fixture(name="toy")
def _toy(tmp_path, monkeypatch):
    toy = make_toy(tmp_path, monkeypatch)
    write_maps(toy, {f"case_{i}": (i, (22, 24, 20)) for i in range(4)})
    return toy


@pytest.fixture(name="semi")
def _semi(toy):
    """Two unlabeled cases, preprocessed, and plans that use them."""
    toy.add_unlabeled("new_1", "new_2")
    write_maps(toy, {f"new_{i}": (99 + i, (20, 24, 18)) for i in (1, 2)})
    main(["preprocess-unlabeled", "-d", "900", "-np", "1"])
    toy.write_plans(kd_block(toy, fraction=0.5), "Semi", batch_size=4)
    return toy


def trainer_of(plans: str):
    trainer = get_trainer_from_args(
        "900", "3d_fullres", 0, "nnUNetTrainerKDEnsemble", plans, device=torch.device("cpu")
    )
    trainer.on_train_start()
    trainer.on_train_epoch_start()
    return trainer


def weights_after(plans: str, steps: int = 3) -> dict[str, torch.Tensor]:
    trainer = trainer_of(plans)
    for _ in range(steps):
        trainer.train_step(next(trainer.dataloader_train))
    return trainer.network.state_dict()


def test_softlabels_covers_unlabeled_cases_and_knows_their_foreground(semi, capsys):
    main(["softlabels", "-d", "900", "-p", "Semi", "-device", "cpu"])
    printed = capsys.readouterr().out
    assert "4 labeled and 2 unlabeled cases" in printed
    main(["softlabels", "-d", "900", "-p", "Semi", "--verify"])
    assert "6 cases are whole" in capsys.readouterr().out
    kd, space = load_student(semi.preprocessed / "Semi.json", "3d_fullres", semi.raw)
    store = open_store(TeachingEnsemble.resolve(kd, space, semi.results, None))
    segmentation = blob((20, 24, 18), 100)[1]
    locations = store.locations("new_1")
    assert sorted(locations) == [1, 2]
    for label, voxels in locations.items():
        assert len(voxels) == (segmentation == label).sum()
        assert (segmentation[tuple(voxels[:, 1:].T)] == label).all()
    assert store.record("new_1")["reference_dice"] is None
    assert store.record("case_0")["reference_dice"][0] > 0.99
    with pytest.raises(UserError, match="was not exported as an unlabeled case"):
        store.locations("case_0")


def test_labeled_only_leaves_them_out(semi, capsys):
    main(["softlabels", "-d", "900", "-p", "Semi", "-device", "cpu", "--labeled_only"])
    assert "4 cases written" in capsys.readouterr().out
    main(["softlabels", "-d", "900", "-p", "Semi", "--verify", "--labeled_only"])
    assert "4 cases are whole" in capsys.readouterr().out


def test_the_last_cases_of_a_batch_are_unlabeled_and_enter_the_soft_terms_only(semi):
    trainer = trainer_of("Semi")
    batch = next(trainer.dataloader_train)
    assert [k.startswith("new_") for k in batch["keys"]] == [False, False, True, True]
    assert batch["data"].shape == (4, 1 + 3, 16, 16, 16)
    assert batch["data"][2:, 1:-1].max() > 0.5, "soft labels of unlabeled cases travel with them"

    def terms(targets, data):
        with torch.no_grad():
            return trainer.training_losses(data, targets)[1]

    before = terms(batch["target"], batch["data"])
    other_target = [torch.cat((t[:2], 1 - t[2:].clamp(0, 1))) for t in batch["target"]]
    after = terms(other_target, batch["data"])
    for name in before:
        assert before[name] == after[name], "the segmentation of an unlabeled case must have no effect"
    other_soft = batch["data"].clone()
    other_soft[2:, 1] = 0
    changed = terms(batch["target"], other_soft)
    assert changed["kd_hard"] == before["kd_hard"]
    assert changed["kd_kl"] != before["kd_kl"]
    result = trainer.train_step(batch)
    assert all(np.isfinite(v).all() for v in result.values())


def test_foreground_is_sampled_from_the_soft_labels(semi):
    trainer = trainer_of("Semi")
    loader = trainer.dataloader_train.data_loader.unlabeled
    loader.transforms, loader.oversample_foreground_percent = None, 1.0
    for _ in range(5):
        foreground = next(loader)["data"][:, 1:-1].sum(1).amax((1, 2, 3))
        assert (foreground > 0.85).all(), "every patch holds a voxel that the teachers call foreground"


def test_without_unlabeled_cases_the_training_is_bit_identical(toy, semi):
    plain = kd_block(toy)
    plain.pop("unlabeled")
    toy.write_plans(plain, "Plain", batch_size=4)
    toy.write_plans(kd_block(toy, fraction=0.0, voxel_weight="entropy"), "Zero", batch_size=4)
    expected = weights_after("Plain")
    zero = weights_after("Zero")  # the unlabeled cases are there, and not asked for
    semi_supervised = weights_after("Semi")
    folder = load_student(toy.preprocessed / "Semi.json", "3d_fullres", toy.raw)[1].unlabeled_folder
    for file in folder.iterdir():
        file.unlink()
    none_there = weights_after("Semi")  # asked for, and not there
    for key, value in expected.items():
        assert torch.equal(value, zero[key])
        assert torch.equal(value, none_there[key])
    assert any(not torch.equal(v, semi_supervised[k]) for k, v in expected.items())


@pytest.mark.parametrize("voxel_weight", ["confidence", "entropy"])
def test_weighted_voxels_train(semi, voxel_weight):
    semi.write_plans(kd_block(semi, fraction=0.5, voxel_weight=voxel_weight), "Weighted", batch_size=2)
    trainer = trainer_of("Weighted")
    assert np.isfinite(trainer.train_step(next(trainer.dataloader_train))["loss"])


def test_what_cannot_work_is_one_sentence(semi, capsys):
    semi.write_plans(kd_block(semi, fraction=0.5), "One", batch_size=1)
    with pytest.raises(SystemExit):
        trainer_of("One")
    assert "a batch of 1 has no room" in capsys.readouterr().err
    block = kd_block(semi, fraction=0.5)
    block["distillation"] = {t: {"weight": 0.0} for t in ("kl", "mse", "soft_ce", "soft_dice")}
    semi.write_plans(block, "NoTerms", batch_size=2)
    with pytest.raises(SystemExit):
        trainer_of("NoTerms")
    assert "unlabeled cases enter the soft-label terms only" in capsys.readouterr().err


def test_share_of_a_batch():
    assert [unlabeled_share(f, 4) for f in (0, 0.1, 0.5, 0.75, 1)] == [0, 1, 2, 3, 3]
    with pytest.raises(ValueError, match="no room"):
        unlabeled_share(0.5, 1)
    batch = torch.arange(6).reshape(3, 2)
    assert without_last(0, batch) is batch
    assert torch.equal(without_last(1, [batch])[0], batch[:2])


@pytest.mark.parametrize("kind", ["labels", "regions", "ignore"])
def test_locations_survive_the_store(kind):
    definitions = {
        "labels": ({"background": 0, "a": 1, "b": 2}, None),
        "regions": ({"background": 0, "whole": [1, 2], "core": 2}, [1, 2]),
        "ignore": ({"background": 0, "a": 1, "b": 2, "ignore": 3}, None),
    }
    labels = LabelManager(*definitions[kind])
    segmentation = blob((8, 9, 10), 0)[1]
    locations = sample_locations(segmentation, labels)
    back = from_bytes(to_bytes(locations))
    assert back.keys() == locations.keys()
    for key, voxels in locations.items():
        np.testing.assert_array_equal(back[key], voxels)
        assert np.isin(segmentation[tuple(voxels[:, 1:].T)], key).all()
    if kind == "ignore":
        assert (-1, 0, 1, 2) in back, "nnU-Net's data loader looks annotated voxels up under this key"
    absent = sample_locations(np.zeros((4, 4, 4), np.uint8), labels)
    assert all(len(v) == 0 for k, v in from_bytes(to_bytes(absent)).items() if k != (-1, 0, 1, 2))


class Cases:
    """nnU-Net's dataset interface over arrays in memory; the image says which data set it is of."""

    def __init__(self, value: float):
        self.value, self.identifiers = value, [f"{value}_a", f"{value}_b"]

    def load_case(self, identifier):
        shape = (1, 6, 20, 20)
        voxels = np.argwhere(np.ones(shape))
        return np.full(shape, self.value, np.float32), np.zeros(shape, np.int8), None, {"class_locations": {1: voxels}}


@pytest.mark.parametrize("patch", [(8, 8), (4, 8, 8)])
def test_batches_are_mixed_in_2d_and_3d(patch):
    labels = LabelManager({"background": 0, "a": 1}, None)
    mixed = mix_in(nnUNetDataLoader(Cases(1), 3, patch, patch, labels, 0.33), Cases(2), 2, 1, labels)
    batch = next(mixed)
    assert batch["data"].shape == (3, 1, *patch)
    assert [float(x.max()) for x in batch["data"]] == [1, 1, 2]
    assert batch["target"].shape == (3, 1, *patch)


class Spots(Cases):
    """One voxel of foreground in each case, whose image is -1 there."""

    def load_case(self, identifier):
        image, segmentation, previous, _ = super().load_case(identifier)
        image[0, 3, 10, 10] = -1
        return image, segmentation, previous, {"class_locations": {1: np.array([[0, 3, 10, 10]])}}


class Brighter(BasicTransform):
    """An augmentation that is easily seen."""

    def apply(self, data_dict, **params):
        return {**data_dict, "image": data_dict["image"] + 10}


def test_labeled_and_unlabeled_cases_are_oversampled_and_augmented_alike():
    labels = LabelManager({"background": 0, "a": 1}, None)
    np.random.seed(0)
    mixed = mix_in(
        nnUNetDataLoader(Spots(1), 3, (8, 8), (8, 8), labels, 0.5, transforms=Brighter()), Spots(2), 2, 1, labels
    )
    patches = torch.cat([next(mixed)["data"] for _ in range(150)])
    foreground = (patches == 9).flatten(1).any(1).view(150, 3).float().mean(0)
    assert ((foreground > 0.4) & (foreground < 0.65)).all(), f"{foreground}: half of them, and few more by chance"
    assert patches.min() == 9


def test_workers_are_nnunets_own(monkeypatch):
    monkeypatch.setenv("nnUNet_n_proc_DA", "1")
    labels = LabelManager({"background": 0, "a": 1}, None)
    with without_workers():
        assert get_allowed_n_proc_DA() == 0
    loaders = [nnUNetDataLoader(Cases(v), 2, (8, 8), (8, 8), labels, 0.33) for v in (1, 2)]
    augmenters = start_workers(*loaders, pin_memory=False)
    assert [a.num_processes for a in augmenters] == [1, 1]
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    assert [a.data_loader for a in start_workers(*loaders, pin_memory=False)] == loaders


def test_every_teacher_teaches_an_unlabeled_case(toy, monkeypatch):
    kd, space = load_student(toy.preprocessed / "nnUNetPlans.json", "3d_fullres", toy.raw)
    kd = dataclasses.replace(kd, ensemble=dataclasses.replace(kd.ensemble, membership="out_of_fold"))
    model = TeacherModel(toy.results / "T__nnUNetPlans__3d_fullres", "3d_fullres", (0,))
    model.__dict__["plans_manager"] = space.plans_manager  # a model folder's own plans, without the folder
    ensemble = TeachingEnsemble(kd, space, (model,), None)
    space.__dict__["unlabeled_cases"] = ["new_1"]
    assert ensemble.models_for("new_1") == (model,)
    assert [m.folds for m in ensemble.models_for("case_0")] == [(0,)], "a validation case of the teacher's fold"
    with pytest.raises(UserError, match="every teacher was trained on it"):
        ensemble.models_for("case_1")
