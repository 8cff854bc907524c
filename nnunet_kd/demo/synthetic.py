"""A seeded synthetic data set: three touching organs as a scanner would see them.

Shapes are drawn on a grid finer than the voxels and averaged, so voxels at borders mix the intensities of the tissues
they hold (partial volume). Look-alikes outside the organs, texture, a bias field and noise make them harder to find.
"""

import json
from pathlib import Path

import numpy as np
from SimpleITK import GetImageFromArray, WriteImage

ORGANS = {"large_organ": 1, "small_organ": 2, "vessel": 3}
SHAPE = (20, 40, 40)
SPACING_MM = (3.5, 1.75, 1.75)
DATASET_NAME = "Dataset999_KDDemo"

MEANS = np.array([80.0, 112.0, 142.0, 172.0])  # background and organs
SUBVOXELS = (4, 2, 2)
NOISE = 15.0


def make_case(
    rng: np.random.Generator,
    shape: tuple[int, int, int] = SHAPE,
    spacing_mm: tuple[float, float, float] = SPACING_MM,
    noise: float = NOISE,
) -> tuple[np.ndarray, np.ndarray, tuple[float, float, float]]:
    """Draws one image with its reference segmentation.

    Args:
        rng: source of all randomness.
        shape: voxels (z, y, x).
        spacing_mm: voxel size (z, y, x).
        noise: standard deviation of the noise; organ means are 30 apart.

    Returns:
        image (z, y, x) float32, label (z, y, x) uint8 and the spacing (z, y, x) in mm. A voxel's label is the tissue
        that fills most of it.
    """
    tissue, look_alike = _tissues(rng, _coordinates(rng, shape, spacing_mm))
    fractions = np.stack([_voxel_mean(tissue == k) for k in range(len(MEANS))])
    label = fractions.argmax(0).astype(np.uint8)

    means = MEANS + rng.normal(0, 4, len(MEANS))
    clean = np.tensordot(means, fractions, 1) + (means[2] - means[0]) * _voxel_mean(look_alike)
    image = clean + 5 * _smooth_noise(rng, shape, knots=8)
    image = image * (1 + 0.1 * _smooth_noise(rng, shape, knots=3)) + rng.normal(0, noise, shape)
    return image.astype(np.float32), label, spacing_mm


def write_dataset(
    raw_folder: Path, num_training: int = 12, num_unlabeled: int = 4, num_test: int = 6, seed: int = 0
) -> Path:
    """Writes ``Dataset999_KDDemo`` in nnU-Net's raw format, with two spacings and oblique patient geometry.

    Training cases are in ``imagesTr`` and ``labelsTr``, test cases in ``imagesTs`` and ``labelsTs``. Images without
    labels are in ``imagesUn``; they are meant for distillation on unlabeled images, which the demo does not use yet.

    Args:
        raw_folder: the ``nnUNet_raw`` folder.
        num_training: cases with labels to train on.
        num_unlabeled: cases of which only the image is written.
        num_test: cases with labels to evaluate on.
        seed: the same seed gives the same data set.

    Returns:
        the data set's folder.
    """
    folder = Path(raw_folder) / DATASET_NAME
    rng = np.random.default_rng(seed)
    for suffix, letter, number in (("Tr", "t", num_training), ("Un", "u", num_unlabeled), ("Ts", "e", num_test)):
        for index in range(number):
            spacing_mm = SPACING_MM if index % 3 else (3.0, 1.75, 1.75)
            image, label, spacing_mm = make_case(rng, spacing_mm=spacing_mm)
            direction, origin = _oblique_geometry(rng)
            name = f"KDDemo_{letter}{index:03d}"
            _write(image, folder / f"images{suffix}" / f"{name}_0000.nii.gz", spacing_mm, direction, origin)
            if suffix != "Un":
                _write(label, folder / f"labels{suffix}" / f"{name}.nii.gz", spacing_mm, direction, origin)
    dataset = {
        "channel_names": {"0": "MR"},
        "labels": {"background": 0, **ORGANS},
        "numTraining": num_training,
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(dataset, indent=2))
    return folder


def _coordinates(rng: np.random.Generator, shape: tuple[int, ...], spacing_mm: tuple[float, ...]) -> np.ndarray:
    """Positions of the sub-voxels in mm from the centre, smoothly warped: (3, Z, Y, X)."""
    fine = [n * s for n, s in zip(shape, SUBVOXELS, strict=True)]
    axes = [(np.arange(n) - (n - 1) / 2) * mm / s for n, mm, s in zip(fine, spacing_mm, SUBVOXELS, strict=True)]
    warp = np.stack([_smooth_noise(rng, tuple(fine), knots=7) for _ in range(3)])
    return np.stack(np.meshgrid(*axes, indexing="ij")) + 3.0 * warp


def _tissues(rng: np.random.Generator, position: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Tissue index of every sub-voxel and the mask of the look-alikes, which are background."""
    large_centre = np.array([0.0, 2.0, -10.0]) + rng.uniform(-3, 3, 3)
    large_radii = np.array([22.0, 21.0, 17.0]) * rng.uniform(0.85, 1.15, 3)
    small_radii = np.array([14.0, 11.0, 12.0]) * rng.uniform(0.85, 1.15, 3)
    towards = np.array([rng.uniform(-0.3, 0.3), rng.uniform(-0.6, 0.2), 1.0])
    towards /= np.linalg.norm(towards)
    contact = large_centre + towards / np.linalg.norm(towards / large_radii)
    small_centre = contact + 0.75 * towards / np.linalg.norm(towards / small_radii)

    large = _ellipsoid(position, large_centre, large_radii)
    small = _ellipsoid(position, small_centre, small_radii)
    z, phase = position[0], rng.uniform(0, 2 * np.pi)
    centreline = contact[1:, None, None, None] + np.stack([3 * np.sin(z / 12 + phase) + 8, 2 * np.cos(z / 12 + phase)])
    vessel = np.linalg.norm(position[1:] - centreline, axis=0) - rng.uniform(3.5, 4.5)

    tissue = np.zeros(position.shape[1:], np.uint8)
    tissue[(large < 0) & (large <= small)] = 1
    tissue[(small < 0) & (small < large)] = 2
    tissue[vessel < 0] = 3
    return tissue, _look_alikes(rng, position) & (tissue == 0)


def _look_alikes(rng: np.random.Generator, position: np.ndarray, number: int = 3) -> np.ndarray:
    mask = np.zeros(position.shape[1:], bool)
    for _ in range(number):
        centre = np.array([rng.uniform(-30, 30), rng.choice([-28, 30]), rng.uniform(-30, 30)])
        mask |= _ellipsoid(position, centre, rng.uniform(4, 8, 3)) < 0
    return mask


def _ellipsoid(position: np.ndarray, centre: np.ndarray, radii: np.ndarray) -> np.ndarray:
    """About the distance to the surface in mm, negative inside."""
    scaled = (position - centre[:, None, None, None]) / radii[:, None, None, None]
    return (np.linalg.norm(scaled, axis=0) - 1) * radii.mean()


def _smooth_noise(rng: np.random.Generator, shape: tuple[int, ...], knots: int) -> np.ndarray:
    """Normal noise at ``knots`` points per axis, blended by Gaussians of their spacing's width; unit variance."""
    noise = rng.normal(0, 1, (knots,) * len(shape))
    for n in shape:
        distance = np.linspace(0, knots - 1, n)[:, None] - np.arange(knots)
        weights = np.exp(-(distance**2) / 2)
        noise = np.tensordot(noise, weights / np.linalg.norm(weights, axis=1, keepdims=True), (0, 1))
    return noise


def _voxel_mean(fine: np.ndarray) -> np.ndarray:
    """Mean over the sub-voxels of each voxel: the fraction of the voxel that a mask fills."""
    blocks = [size for n, s in zip(fine.shape, SUBVOXELS, strict=True) for size in (n // s, s)]
    return fine.reshape(blocks).mean((1, 3, 5))


def _oblique_geometry(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Direction (3, 3) of a scan tilted by a few degrees with two axes reversed, and an origin in mm."""
    angle = np.deg2rad(rng.uniform(-12, 12))
    tilt = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
    return tilt @ np.diag([-1.0, -1.0, 1.0]), rng.uniform(-80, 80, 3)


def _write(
    array: np.ndarray, path: Path, spacing_mm: tuple[float, ...], direction: np.ndarray, origin: np.ndarray
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = GetImageFromArray(array)
    image.SetSpacing([float(s) for s in reversed(spacing_mm)])
    image.SetDirection(direction.ravel().tolist())
    image.SetOrigin(origin.tolist())
    WriteImage(image, str(path), useCompression=True)
