"""A data set of tiny random blobs in nnU-Net's folders: raw, preprocessed, plans; for tests that take seconds."""

import json
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from tests.unit.test_plan_command import DATASET, DATASET_JSON, make_plans


def plans_of(kd: dict | None = None, name: str = "nnUNetPlans") -> dict:
    """Plans that nnU-Net can preprocess and train with; 2d and 3d_fullres."""
    plans = make_plans()
    plans["plans_name"] = name
    plans["configurations"] = {c: deepcopy(plans["configurations"][c]) for c in ("2d", "3d_fullres")}
    for configuration in plans["configurations"].values():
        configuration["architecture"]["arch_kwargs"]["features_per_stage"] = [8, 8, 8]
    return plans | ({"kd": kd} if kd is not None else {})


def blob(shape: tuple[int, int, int], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Image and segmentation (z, y, x): label 1 in a ball, label 2 in its core, noise everywhere."""
    rng = np.random.default_rng(seed)
    centre = [s * rng.uniform(0.4, 0.6) for s in shape]
    radius = np.sqrt(sum((g - c) ** 2 for g, c in zip(np.indices(shape), centre, strict=True)))
    segmentation = (radius < min(shape) * 0.35).astype(np.uint8) + (radius < min(shape) * 0.2)
    image = 100 + 50.0 * segmentation + rng.normal(0, 5, shape)
    return image.astype(np.float32), segmentation.astype(np.uint8)


def write_image(file: Path, array: np.ndarray, spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> None:
    """A NIfTI file; ``spacing_mm`` is (x, y, z)."""
    file.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing_mm)
    sitk.WriteImage(image, str(file))


@dataclass(frozen=True)
class Toy:
    """Folders of the data set."""

    root: Path

    @property
    def raw(self) -> Path:
        return self.root / "raw" / DATASET

    @property
    def preprocessed(self) -> Path:
        return self.root / "preprocessed" / DATASET

    @property
    def results(self) -> Path:
        return self.root / "results" / DATASET

    def write_plans(
        self,
        kd: dict | None = None,
        name: str = "nnUNetPlans",
        batch_size: int = 2,
        features: Sequence[int] = (8, 8, 8),
    ) -> None:
        """Plans into the preprocessed folder."""
        plans = plans_of(kd, name)
        for configuration in plans["configurations"].values():
            configuration["batch_size"] = batch_size
            configuration["architecture"]["arch_kwargs"]["features_per_stage"] = list(features)
        (self.preprocessed / f"{name}.json").write_text(json.dumps(plans))

    def preprocess(self, *names: str, plans: str = "nnUNetPlans", configuration: str = "3d_fullres") -> None:
        """As nnU-Net preprocesses labeled cases."""
        manager = PlansManager(str(self.preprocessed / f"{plans}.json"))
        settings = manager.get_configuration(configuration)
        folder = self.preprocessed / settings.data_identifier
        folder.mkdir(exist_ok=True)
        for name in names:
            for file in folder.glob(f"{name}[._]*"):  # blosc2 does not overwrite
                file.unlink()
            DefaultPreprocessor(verbose=False).run_case_save(
                str(folder / name),
                [str(self.raw / "imagesTr" / f"{name}_0000.nii.gz")],
                str(self.raw / "labelsTr" / f"{name}.nii.gz"),
                manager,
                settings,
                DATASET_JSON,
            )

    def add_unlabeled(self, *names: str, folder: str = "imagesUn", shape: tuple[int, int, int] = (20, 24, 18)) -> None:
        """Raw images without labels."""
        for i, name in enumerate(names):
            write_image(self.raw / folder / f"{name}_0000.nii.gz", blob(shape, 100 + i)[0])


def make_toy(root: Path, monkeypatch, cases: int = 4, configurations: Sequence[str] = ("3d_fullres",)) -> Toy:
    """Raw and preprocessed labeled cases ``case_0`` ...; sets nnU-Net's variables for the test."""
    toy = Toy(root)
    for variable in ("raw", "preprocessed", "results"):
        (root / variable / DATASET).mkdir(parents=True)
        monkeypatch.setenv(f"nnUNet_{variable}", str(root / variable))
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    monkeypatch.setenv("nnUNet_def_n_proc", "1")
    for i in range(cases):
        image, segmentation = blob((22, 24, 20), i)
        write_image(toy.raw / "imagesTr" / f"case_{i}_0000.nii.gz", image)
        write_image(toy.raw / "labelsTr" / f"case_{i}.nii.gz", segmentation)
    toy.write_plans()
    for folder in (toy.raw, toy.preprocessed):
        (folder / "dataset.json").write_text(json.dumps(DATASET_JSON))
    (toy.preprocessed / "dataset_fingerprint.json").write_text("{}")
    names = [f"case_{i}" for i in range(cases)]
    splits = [{"train": names[1:], "val": names[:1]}]
    (toy.preprocessed / "splits_final.json").write_text(json.dumps(splits))
    for configuration in configurations:
        toy.preprocess(*names, configuration=configuration)
    return toy


def without_figures(monkeypatch) -> None:
    """nnU-Net's progress.png takes seconds in each epoch; the end-to-end tests look at it."""
    monkeypatch.setattr("nnunetv2.training.logging.nnunet_logger.MetaLogger.plot_progress_png", lambda *_: None)


def run_epoch(trainer):
    """One epoch as nnU-Net's run_training does it."""
    trainer.on_epoch_start()
    trainer.on_train_epoch_start()
    trainer.on_train_epoch_end(
        [trainer.train_step(next(trainer.dataloader_train)) for _ in range(trainer.num_iterations_per_epoch)]
    )
    with torch.no_grad():
        trainer.on_validation_epoch_start()
        trainer.on_validation_epoch_end(
            [trainer.validation_step(next(trainer.dataloader_val)) for _ in range(trainer.num_val_iterations_per_epoch)]
        )
    trainer.on_epoch_end()
