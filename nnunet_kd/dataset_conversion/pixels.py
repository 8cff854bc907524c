"""PNG and TIFF: 2D images without a physical size, and stacks with nnU-Net's spacing file beside them."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from nnunet_kd.data.read_images import ImageError, try_reading
from nnunet_kd.dataset_conversion.scan import split_ending
from nnunet_kd.utilities.files import write_json

TIFF = (".tif", ".tiff")
# nnU-Net 2.8.1 tries the reader of 2D images first, which takes a stack of 3 or 4 slices for colours
READERS = {2: "NaturalImage2DIO", 3: "Tiff3DIO"}


def is_pixels(path: Path) -> bool:
    """Whether the file's name says that it is PNG or TIFF."""
    return split_ending(path.name)[1] in (".png", *TIFF) and not path.is_dir()


def read_pixels(path: Path) -> tuple[np.ndarray, tuple[float, ...]]:
    """Values and spacing of a PNG or TIFF file.

    Returns:
        (y, x) or (y, x, channel) and a spacing of two numbers; or (z, y, x) and one of three, in mm, in this order.

    Raises:
        ImageError: when it cannot be read, or is neither.
    """
    if split_ending(path.name)[1] == ".png":
        from skimage import io

        values = try_reading(lambda: io.imread(path))
        if values.ndim not in (2, 3):
            raise ImageError(f"has {values.ndim} dimensions, a PNG has 2, or 3 with its colours")
        return values, (1.0, 1.0)
    axes, values = try_reading(lambda: _read_tiff(path))
    if values.ndim == 2:
        return values, (1.0, 1.0)
    if values.ndim == 3 and "S" in axes:
        return np.moveaxis(values, axes.index("S"), -1), (1.0, 1.0)
    if values.ndim == 3:
        return values, _read_spacing(path)
    raise ImageError(f"has the axes {axes} {list(values.shape)}, expected 2D, colours or one stack of slices")


def _read_tiff(path: Path) -> tuple[str, np.ndarray]:
    """Letters of the axes as tifffile gives them, S being the samples of a colour, and values."""
    import tifffile

    with tifffile.TiffFile(path) as file:
        series = file.series[0]
        return series.axes, series.asarray()


def _read_spacing(path: Path) -> tuple[float, ...]:
    """Of ``CASE.json`` beside ``CASE.tif`` or ``CASE_0000.tif``, as nnU-Net's Tiff3DIO has it; else 1, 1, 1."""
    stem = split_ending(path.name)[0]
    files = [path.with_name(f"{s}.json") for s in (stem, stem[:-5] if stem[-5:-4] == "_" else stem)]
    file = next((f for f in files if f.is_file()), None)
    if file is None:
        return (1.0, 1.0, 1.0)
    try:
        spacing = tuple(float(s) for s in json.loads(file.read_text(encoding="utf-8"))["spacing"])
    except (OSError, ValueError, KeyError, TypeError) as err:
        raise ImageError(f"its spacing file {file.name} cannot be read ({err})") from err
    if len(spacing) != 3 or not all(0 < s < np.inf for s in spacing):
        raise ImageError(f"its spacing file {file.name} says {list(spacing)}, expected three numbers > 0")
    return spacing


def has_constant_alpha(values: np.ndarray) -> bool:
    """Whether (y, x, channel) ends with a channel of opacity that says nothing."""
    return values.shape[-1] in (2, 4) and bool((values[..., -1] == values[0, 0, -1]).all())


def without_alpha(values: np.ndarray) -> np.ndarray:
    """(y, x, 3) of colours, (y, x) of a grey image."""
    return values[..., :3] if values.shape[-1] == 4 else values[..., 0]


def write_pixels(target: Path, values: np.ndarray, colours: bool = False) -> None:
    """A PNG or TIFF file without loss: (y, x), (y, x, channel) of ``colours`` or, with TIFF, (z, y, x)."""
    if target.suffix == ".png":
        from skimage import io

        io.imsave(target, values, check_contrast=False)
    else:
        import tifffile

        tifffile.imwrite(target, values, compression="zlib", photometric="rgb" if colours else "minisblack")


def write_spacing(file: Path, spacing_mm: Sequence[float]) -> None:
    """The spacing file of a stack; ``spacing_mm`` in the order z, y, x."""
    write_json(file, {"spacing": list(spacing_mm)})
