"""Miniature replicas of raw data sets: the real names, headers, label ids and orientation quirks, tiny arrays."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK as sitk

from nnunet_kd.dataset_conversion.images import same_locale

SHAPE = (6, 5, 4)
LPS = np.diag([-1.0, -1.0, 1.0])  # as most scanners' images arrive
RAS = np.eye(3)


def affine(spacing_mm: Sequence[float], direction: np.ndarray = LPS, origin_mm: Sequence[float] = (90, 120, -50)):
    """Voxel index -> mm."""
    result = np.eye(4)
    result[:3, :3] = direction * np.asarray(spacing_mm)
    result[:3, 3] = origin_mm
    return result


def label_array(values: Iterable[int], shape: Sequence[int] = SHAPE, seed: int = 0) -> np.ndarray:
    """Stacked boxes, one for each value, background around them; every value is there when it fits."""
    values = [v for v in values if v]
    result = np.zeros(shape, np.int16)
    inner = result[tuple(slice(n // 8, n - n // 8) for n in shape)]
    flat = np.repeat(np.roll(values, seed), -(-inner.size // len(values)))[: inner.size]
    inner[...] = flat.reshape(inner.shape, order="F")
    result.flat[0] = 0
    return result


def image_array(label: np.ndarray, seed: int = 0, dtype: str = "int16") -> np.ndarray:
    """Intensities that follow the labels, with noise."""
    noise = np.random.default_rng(seed).normal(0, 10, label.shape)
    return (-200 + 60 * np.sqrt(label) * (label > 0) + noise).astype(dtype)


def write_nifti(path: Path, array: np.ndarray, matrix: np.ndarray, dtype: str | None = None) -> None:
    """A NIfTI file whose sform and qform agree."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(array.astype(dtype or array.dtype), matrix)
    image.set_qform(matrix, 1)
    image.set_sform(matrix, 1)
    nib.save(image, path)


def edit_header(path: Path, **fields) -> None:
    """Changes fields of an uncompressed or compressed NIfTI header, nothing else."""
    image = nib.load(path)
    array = np.asanyarray(image.dataobj).copy()  # the file is written again
    header = image.header.copy()
    for key, value in fields.items():
        header[key] = value
    nib.save(nib.Nifti1Image(array, None, header), path)


def write_pair(
    image: Path, label: Path, values: Iterable[int], matrix: np.ndarray, seed: int = 0, shape=SHAPE, dtype="uint8"
) -> None:
    """An image and its label."""
    array = label_array(values, shape, seed)
    write_nifti(image, image_array(array, seed), matrix)
    write_nifti(label, array, matrix, dtype)


def segthor(root: Path, train: Iterable[int] = range(1, 41), test: Iterable[int] = range(41, 61), shape=SHAPE) -> Path:
    """``train/Patient_01/{Patient_01,GT}.nii.gz``, flat ``test/Patient_41.nii.gz``."""
    for n in train:
        folder = root / "train" / f"Patient_{n:02d}"
        write_pair(
            folder / f"{folder.name}.nii.gz", folder / "GT.nii.gz", (1, 2, 3, 4), affine((0.98, 0.98, 2.5)), n, shape
        )
    for n in test:
        array = label_array((1, 2, 3, 4), shape, n)
        write_nifti(root / "test" / f"Patient_{n:02d}.nii.gz", image_array(array, n), affine((0.98, 0.98, 2.5)))
    return root


def acdc(
    root: Path, train: Iterable[int] = range(1, 101), test: Iterable[int] = range(101, 151), sform_code=1, shape=SHAPE
) -> Path:
    """Patients with ``Info.cfg``, a film and two frames; the sform is the identity, the qform holds the spacing."""
    for part, numbers in (("training", train), ("testing", test)):
        for n in numbers:
            folder = root / "database" / part / f"patient{n:03d}"
            folder.mkdir(parents=True)
            ed, es = 1, 9 + n % 4
            (folder / "Info.cfg").write_text(f"ED: {ed}\nES: {es}\nGroup: DCM\nHeight: 184.0\nNbFrame: 30\n")
            write_nifti(folder / f"{folder.name}_4d.nii.gz", np.zeros((2, 2, 2, 3), np.int16), affine((1.5, 1.5, 8)))
            for frame in (ed, es):
                image = folder / f"{folder.name}_frame{frame:02d}.nii.gz"
                label = folder / f"{folder.name}_frame{frame:02d}_gt.nii.gz"
                write_pair(image, label, (1, 2, 3), affine((1.5, 1.5, 8.0)), n + frame, shape)
                for file in (image, label):
                    rows = {f"srow_{a}": np.eye(4)[i] for i, a in enumerate("xyz")}
                    edit_header(file, sform_code=sform_code, **rows)
    return root


def lits(
    root: Path, train: Iterable[int] = range(131), test: Iterable[int] = range(70), shape=SHAPE, pixdim=(0.7, 0.7, 2.0)
) -> Path:
    """Two batch folders; orientation varies; volumes 28 to 47 have identity affines, their size in pixdim."""
    for n in train:
        folder = root / f"Training Batch {1 if n < 28 else 2}"
        image, label = folder / f"volume-{n}.nii", folder / f"segmentation-{n}.nii"
        write_pair(image, label, (1, 2), affine((0.7, 0.7, 2.0), (LPS, RAS)[n % 2]), n, shape)
        if 28 <= n <= 47:
            rows = {f"srow_{a}": np.eye(4)[i] for i, a in enumerate("xyz")}
            for file in (image, label):
                edit_header(file, qform_code=0, pixdim=[1, *pixdim, 0, 0, 0, 0], **rows)
    for n in test:
        array = label_array((1, 2), shape, n)
        write_nifti(root / "Test" / f"test-volume-{n}.nii", image_array(array, n), affine((0.7, 0.7, 2.0)))
    return root


def kits19(root: Path, numbers: Iterable[int] = range(300), shape=SHAPE) -> Path:
    """Slices come first; case 160 is 512 x 796; from 210 on there are no labels."""
    for n in numbers:
        size = (2, 512, 796) if n == 160 else (shape[2], *shape[:2])
        folder = root / "data" / f"case_{n:05d}"
        array = label_array((1, 2), size, n)
        matrix = affine((3.0, 0.8, 0.8), RAS, (0, 0, 0))
        write_nifti(folder / "imaging.nii.gz", image_array(array, n, "float32"), matrix)
        if n < 210:
            write_nifti(folder / "segmentation.nii.gz", array, matrix, "uint8")
    (root / "data" / "kits.json").write_text("[]")
    return root


def flare22(
    root: Path, labeled: int = 50, unlabeled: Iterable[int] = range(1, 2001), validation: int = 50, shape=SHAPE
) -> Path:
    """Labeled, several unlabeled folders, ``ValidationSet``."""
    matrix = affine((0.8, 0.8, 2.5), RAS)
    values = range(1, 14)
    for n in range(1, labeled + 1):
        folder = root / "Training" / "FLARE22_LabeledCase50"
        write_pair(
            folder / "images" / f"FLARE22_Tr_{n:04d}_0000.nii.gz", folder / "labels" / f"FLARE22_Tr_{n:04d}.nii.gz",
            values, matrix, n, shape,
        )  # fmt: skip
    for n in unlabeled:
        folder = root / f"FLARE22_UnlabeledCase{'1-1000' if n <= 1000 else '1001-2000'}"
        array = image_array(label_array(values, shape, n), n)
        write_nifti(folder / f"Case_{n:05d}_0000.nii.gz", array, matrix)
    for n in range(1, validation + 1):
        array = image_array(label_array(values, shape, n), n)
        write_nifti(root / "ValidationSet" / f"FLARETs_{n:04d}_0000.nii.gz", array, matrix)
    return root


SITE_SIZES = {"RUNMC": 30, "BMC": 30, "I2CVB": 19, "UCL": 13, "BIDMC": 12, "HK": 12}


def prostate(root: Path, sizes: dict[str, int] | None = None, shape=SHAPE) -> Path:
    """Six sites; the word ``segmentation`` is written in two ways; two zones."""
    for site, size in (sizes or SITE_SIZES).items():
        for n in range(size):
            word = "segmentation" if n % 2 else "Segmentation"
            folder = root / site
            write_pair(
                folder / f"Case{n:02d}.nii.gz", folder / f"Case{n:02d}_{word}.nii.gz", (1, 2), affine((0.6, 0.6, 3.0)),
                n, shape, "float64",
            )  # fmt: skip
    return root


def promise12(root: Path, train: Iterable[int] = range(50), test: Iterable[int] = range(30), shape=SHAPE) -> Path:
    """MetaImage pairs of header and raw file."""
    for n in train:
        folder = root / f"TrainingData_Part{1 + n // 17}"
        array = label_array((1,), shape, n)
        _write_mhd(folder / f"Case{n:02d}.mhd", image_array(array, n))
        _write_mhd(folder / f"Case{n:02d}_segmentation.mhd", array.astype(np.int8))
    for n in test:
        _write_mhd(root / "TestData" / f"Case{n:02d}.mhd", image_array(label_array((1,), shape, n), n))
    return root


def _write_mhd(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    volume = sitk.GetImageFromArray(array.transpose())
    volume.SetSpacing((0.625, 1 / 3, 3.6000001))
    volume.SetOrigin((-77.1234567891, 1 / 7, 12.0))
    volume.SetDirection((1.0, 0.0, 0.0, 0.0, 0.6, -0.8, 0.0, 0.8, 0.6))
    sitk.WriteImage(volume, str(path))


def brain(root: Path, train: int = 15, test: int = 20, ids: Sequence[int] | None = None, shape=(12, 10, 8)) -> Path:
    """Sparse ids up to 207 with names ``1000_3``; some files are not compressed."""
    from nnunet_kd.dataset_conversion.Dataset112_MICCAI2012Brain import OUTSIDE, TISSUES

    ids = ids or [i for tissue in TISSUES.values() for i in tissue] + [*OUTSIDE, 63, 64]
    for part, first, size in (("training", 1000, train), ("testing", 1100, test)):
        for n in range(first, first + size):
            write_pair(
                root / f"{part}-images" / f"{n}_3.nii.gz", root / f"{part}-labels" / f"{n}_3_glm.nii.gz", ids,
                affine((1, 1, 1), RAS), n, shape, "int16",
            )  # fmt: skip
    return root


def dicom_series(folder: Path, array: np.ndarray, series: str = "1", skip: Sequence[int] = ()) -> Path:
    """One file for each slice (z, y, x), 2.5 mm apart; ``skip`` leaves slices out."""
    folder.mkdir(parents=True, exist_ok=True)
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for z, pixels in enumerate(array):
        if z in skip:
            continue
        image = sitk.GetImageFromArray(pixels.astype(np.int16))
        image.SetSpacing((0.75, 0.75))
        tags = {
            "0008|0060": "CT",
            "0020|000d": "1.2.826.0.1.3680043.2.1125.1",
            "0020|000e": f"1.2.826.0.1.3680043.2.1125.1.{series}",
            "0008|0018": f"1.2.826.0.1.3680043.2.1125.1.{series}.{z + 1}",
            "0020|0032": f"-10\\-20\\{30 + 2.5 * z}",
            "0020|0037": "1\\0\\0\\0\\1\\0",
            "0020|0013": str(z),
            "0018|0050": "2.5",
        }
        for key, value in tags.items():
            image.SetMetaData(key, value)
        writer.SetFileName(str(folder / f"{series}_{z:03d}.dcm"))
        with same_locale():
            writer.Execute(image)
    return folder
