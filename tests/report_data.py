"""A small comparison on disk: references, predictions of three methods, probabilities, images, a benchmark."""

import csv
import json
from pathlib import Path

import numpy as np
import SimpleITK as sitk

SHAPE, SPACING_MM = (8, 20, 24), (3.0, 1.5, 1.0)
CASES = [f"case_{i:02d}" for i in range(12)]
TITLE = "A & B <report>"
LABELS = {"background": 0, "liver": 1, "<tumor>": 2}
# chance that a voxel of a method's label border is lost, and how sure its probabilities are
METHODS = {"ensemble": 0.1, "student": 0.25, "undistilled twin": 0.5}
WITHOUT_TUMOR = CASES[3]
MISSED_BY_TWIN = CASES[5]


def write_comparison(folder: Path) -> Path:
    """Writes everything below ``folder`` and returns it."""
    rng = np.random.default_rng(7)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "dataset.json").write_text(
        json.dumps({"channel_names": {"0": "CT"}, "labels": LABELS, "numTraining": 1, "file_ending": ".nii.gz"})
    )
    for number, case in enumerate(CASES):
        reference = _reference(number)
        if case == WITHOUT_TUMOR:
            reference[reference == 2] = 0
        write_image(folder / "references" / f"{case}.nii.gz", reference)
        image = 50.0 * reference + rng.normal(0, 10, SHAPE)
        write_image(folder / "images" / f"{case}_0000.nii.gz", image.astype(np.float32))
        for method, lost in METHODS.items():
            prediction = np.where(rng.random(SHAPE) < lost, 0, reference).astype(np.uint8)
            if case == MISSED_BY_TWIN and "twin" in method:
                prediction[prediction == 2] = 0
            write_image(folder / method / f"{case}.nii.gz", prediction)
            if method != "undistilled twin":
                one_hot = np.stack([prediction == k for k in range(3)]).astype(np.float32)
                np.savez_compressed(folder / method / f"{case}.npz", probabilities=0.73 * one_hot + 0.09)
    with (folder / "groups.csv").open("w", newline="") as f:
        csv.writer(f).writerows([("case", "group"), *((c, f"patient {i // 2}") for i, c in enumerate(CASES))])
    (folder / "benchmark.json").write_text(json.dumps(benchmark()))
    return folder


def benchmark() -> dict:
    """Costs of all methods; the student's network is exactly 4 times as fast as the ensemble's."""
    counts = {"networks": 1, "parameters": 250_000, "passes_per_case": 1, "flops_per_case": 2e9}
    many = {"networks": 2, "parameters": 4_000_000, "passes_per_case": 16, "flops_per_case": 4e11}
    seconds = {"ensemble": [4.0, 8.0, 2.0], "student": [1.0, 2.0, 0.5], "undistilled twin": [1.1, 2.1, 0.4]}
    models = {
        name: {
            "cost": many if name == "ensemble" else counts,
            "network_seconds": values,
            "predict_seconds_per_case": [values[0] + 3, values[0] + 4],
            "peak_rss_mb": [900.0],
            "peak_device_mb": None,
            "device_memory_time_mb_s": None,
            "cpu_time_percent_s": [50.0],
        }
        for name, values in seconds.items()
    }
    return {"device": "cpu", "machine": "test", "versions": {}, "cases": 3, "runs": 2, "models": models}


def arguments(folder: Path, output: Path, methods=tuple(METHODS), *more: str) -> list[str]:
    """Command line of a report on the comparison."""
    named = [word for name in methods for word in ("--method", f"{name}={folder / name}")]
    reference = ["--reference", str(folder / "references"), "-djfile", str(folder / "dataset.json")]
    return ["report", *reference, *named, "-np", "1", "-o", str(output), *more]


def write_image(file: Path, array: np.ndarray) -> None:
    """A NIfTI file with the anisotropic spacing of the comparison."""
    file.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(SPACING_MM[::-1])
    sitk.WriteImage(image, str(file))


def _reference(number: int) -> np.ndarray:
    """A liver with a tumor beside it, of a size that differs between cases."""
    z, y, x = np.indices(SHAPE)
    label = ((z - 3.5) ** 2 / 8 + (y - 10) ** 2 / (30 + 4 * number) + (x - 9) ** 2 / 40 < 1).astype(np.uint8)
    label[(abs(z - 4) < 2) & (abs(y - 10) < 3 + number // 3) & (abs(x - 17) < 3)] = 2
    return label
