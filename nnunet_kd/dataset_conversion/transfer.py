"""One case from its raw files into the new data set: everything is checked before anything is written."""

import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import SimpleITK as sitk

from nnunet_kd.data.read_images import ImageError, check_finite
from nnunet_kd.dataset_conversion import headers, images, pixels
from nnunet_kd.dataset_conversion.cases import Case
from nnunet_kd.dataset_conversion.images import Geometry
from nnunet_kd.dataset_conversion.scan import abridge, split_ending
from nnunet_kd.utilities.errors import UserError


@dataclass(frozen=True)
class Rules:
    """What holds for every case of a conversion.

    Attributes:
        ending: file ending of the new data set.
        num_channels: nnU-Net's channels of a case.
        label_values: raw value -> new value.
        link: ``hard``, ``symbolic`` or None for copies.
        label_geometry: ``strict``: a label must lie exactly on its image; ``image``: it takes the image's geometry.
        repair: mends NIfTI headers of this data set.
        dimensions: of every PNG and TIFF image.
        write: False only checks.
    """

    ending: str
    num_channels: int
    label_values: Mapping[int, int]
    link: str | None = None
    label_geometry: str = "strict"
    repair: Callable[[Any], str | None] | None = None
    dimensions: int = 2
    write: bool = True


@dataclass(frozen=True)
class Outcome:
    """Result of a case: problems, what was done to which file, the new label values it has."""

    problems: tuple[str, ...]
    log: tuple[tuple[Path, str], ...]
    values: frozenset[int]


@dataclass(frozen=True)
class _Labels:
    """Values of a label file, and the distinct ones among them."""

    array: np.ndarray
    present: tuple[int, ...]


@dataclass(frozen=True)
class _Source:
    """A raw file that was read: its geometry, after a repair if it needed one."""

    path: Path
    geometry: Geometry
    header: Any = None  # NIfTI alone
    repaired: bool = False
    drops_alpha: bool = False


def transfer(case: Case, image_folder: Path, label_folder: Path, rules: Rules) -> Outcome:
    """Checks one case and, when nothing is wrong and ``rules.write``, writes it.

    Args:
        case: where the raw files are.
        image_folder, label_folder: of the new data set; exist.
        rules: what holds for every case.

    Raises:
        UserError: when a file cannot be written.
    """
    problems: list[str] = []
    log: list[tuple[Path, str]] = []
    sources = [s for i in case.images if (s := _check_image(i, len(case.images), rules, problems, log)) is not None]
    for other in sources[1:]:
        for difference in other.geometry.differences(sources[0].geometry):
            problems.append(f"{other.path}: differs from {sources[0].path.name} in {difference}.")
    label, values = None, None
    if case.label is not None:
        label, values = _check_label(case.label, sources[0] if sources else None, rules, problems, log)
    if rules.write and not problems:
        try:
            for channel, source in enumerate(sources):
                _write_image(source, image_folder / f"{case.name}_{channel:04d}{rules.ending}", rules)
            if label is not None and values is not None:
                _write_label(label, values, sources[0], label_folder / f"{case.name}{rules.ending}", rules)
        except (OSError, RuntimeError) as err:
            reason = getattr(err, "strerror", None) or str(err).strip().splitlines()[-1]
            raise UserError(f"{image_folder.parent}: {case.name} cannot be written ({reason}).") from None
    found = {rules.label_values[v] for v in (values.present if values else ()) if v in rules.label_values}
    return Outcome(tuple(problems), tuple(log), frozenset(found))


def _check_image(
    path: Path, num_files: int, rules: Rules, problems: list[str], log: list[tuple[Path, str]]
) -> _Source | None:
    try:
        source, voxels = _read(path, rules, log)
        if not source.repaired:
            images.check_nnunet_reads(path, rules.ending)
        check_finite(voxels)
    except ImageError as err:
        problems.append(f"{path}: {err}.")
        return None
    dimensions = len(source.geometry.shape)
    if pixels.is_pixels(path) and dimensions != rules.dimensions:
        problems.append(f"{path}: is {dimensions}D, expected {rules.dimensions}D; convert them as two data sets.")
        return None
    channels = num_files * (voxels.shape[2] if voxels.ndim > dimensions else 1)
    if channels > rules.num_channels and voxels.ndim > dimensions and pixels.has_constant_alpha(voxels):
        log.append((path, "alpha channel left out, which is the same in every pixel"))
        source, channels = replace(source, drops_alpha=True), channels - num_files
    if channels != rules.num_channels:
        problems.append(f"{path}: the case has {channels} channels, expected {rules.num_channels}.")
    return source


def _check_label(
    path: Path, image: _Source | None, rules: Rules, problems: list[str], log: list[tuple[Path, str]]
) -> tuple[_Source | None, _Labels | None]:
    try:
        label, values = _read(path, rules, log)
    except ImageError as err:
        problems.append(f"{path}: {err}.")
        return None, None
    if values.ndim != len(label.geometry.shape):
        problems.append(f"{path}: is a colour image; a label has one value per pixel.")
        return None, None
    if image is not None:
        differences = label.geometry.differences(image.geometry)
        may_adapt = rules.label_geometry == "image" or image.repaired
        if differences and may_adapt and label.geometry.shape == image.geometry.shape:
            log.append((path, "geometry of the image taken, which differed"))
        elif differences:
            hint = "" if differences[0].startswith("shape") else " (--label_geometry image takes the image's)"
            problems.append(f"{path}: differs from its image in {', '.join(differences)}{hint}.")
        elif not label.repaired:
            try:
                images.check_nnunet_reads(path, rules.ending)
            except ImageError as err:
                problems.append(f"{path}: {err}.")
    distinct = np.unique(values)
    odd = distinct[~(np.isfinite(distinct) & (distinct == np.round(distinct)))]
    if odd.size:
        problems.append(f"{path}: has values that are not whole numbers, such as {odd[0]:.6g}.")
        return None, None
    present = tuple(int(v) for v in distinct)
    if unknown := [v for v in present if v not in rules.label_values]:
        problems.append(
            f"{path}: has label values {abridge([str(v) for v in unknown])}, which the data set should not have; "
            f"known ones are {abridge([str(v) for v in sorted(rules.label_values)])}."
        )
    elif not any(rules.label_values[v] for v in present):
        log.append((path, "holds background only"))
    return label, _Labels(values, present)


def _read(path: Path, rules: Rules, log: list[tuple[Path, str]]) -> tuple[_Source, np.ndarray]:
    geometry, voxels = images.read_image(path)
    if not images.is_nifti(path):
        return _Source(path, geometry), voxels
    header = images.load_header(path)
    original = header.binaryblock
    done = rules.repair(header) if rules.repair else None
    if done:
        log.append((path, done))
    return _Source(path, images.nifti_geometry(header), header, header.binaryblock != original), voxels


def _write_image(source: _Source, target: Path, rules: Rules) -> None:
    if pixels.is_pixels(source.path):
        _write_pixels(source, target, rules)
    elif source.path.is_dir() or not images.is_nifti(source.path):
        if not source.path.is_dir() and split_ending(source.path.name)[1] == rules.ending:
            place(source.path, target, rules.link)
        else:
            sitk.WriteImage(images.read_volume(source.path), str(target), useCompression=True)
    elif source.repaired or split_ending(source.path.name)[1] != rules.ending:
        headers.rewrite(source.path, target, source.header if source.repaired else None)
    else:
        place(source.path, target, rules.link)


def _write_pixels(source: _Source, target: Path, rules: Rules) -> None:
    """PNG among TIFF images becomes TIFF; stacks get nnU-Net's spacing file."""
    is_tiff = split_ending(source.path.name)[1] in pixels.TIFF
    if source.drops_alpha or is_tiff != (rules.ending == ".tif"):
        values = images.read_image(source.path)[1]
        values = pixels.without_alpha(values) if source.drops_alpha else values
        pixels.write_pixels(target, values, colours=values.ndim == 3)
    else:
        place(source.path, target, rules.link)
    if rules.dimensions == 3:
        name = target.name[: -len(f"_0000{rules.ending}")]
        pixels.write_spacing(target.with_name(f"{name}.json"), source.geometry.spacing_mm[::-1])


def _write_label(label: _Source, values: _Labels, image: _Source, target: Path, rules: Rules) -> None:
    """Places the file as it is when it is integer, right in values and geometry; writes a new one otherwise."""
    same_values = all(rules.label_values[v] == v for v in values.present)
    is_integer = np.issubdtype(values.array.dtype, np.integer)
    same_ending = split_ending(label.path.name)[1].replace(".tiff", ".tif") == rules.ending
    same_place = not label.geometry.differences(image.geometry)
    if rules.ending == ".tif" and rules.dimensions == 3:
        pixels.write_spacing(target.with_suffix(".json"), image.geometry.spacing_mm[::-1])
    if same_values and is_integer and same_ending and same_place and not label.repaired:
        place(label.path, target, rules.link)
        return
    new = remap(values.array, rules.label_values)
    if rules.ending in (".png", ".tif"):
        pixels.write_pixels(target, new)
    elif label.header is not None and (same_place or image.header is not None):
        header = label.header.copy()
        if not same_place:
            headers.copy_geometry(image.header, header)
        header.set_data_dtype(new.dtype)
        header.set_slope_inter(1, 0)
        header["cal_min"] = header["cal_max"] = 0
        nib.save(nib.Nifti1Image(new, None, header), target)
    else:
        volume = sitk.GetImageFromArray(new if label.header is None else new.transpose())
        volume.CopyInformation(images.read_volume(label.path if same_place else image.path))
        sitk.WriteImage(volume, str(target), useCompression=True)


def remap(values: np.ndarray, table: Mapping[int, int]) -> np.ndarray:
    """Label values through a table, as the smallest unsigned integers that hold the new ones.

    Args:
        values: whole numbers, of any dtype, all of them in the table.
        table: raw value -> new value.
    """
    raw = np.array(sorted(table), dtype=np.int64)
    new = np.array([table[v] for v in raw.tolist()], np.uint8 if max(table.values()) < 256 else np.uint16)
    result = np.empty(values.shape, new.dtype)
    for slice_of_result, slice_of_values in zip(result, values, strict=True):  # indices of 64 bits for a slice only
        slice_of_result[...] = new[np.searchsorted(raw, slice_of_values.astype(np.int64))]
    return result


def place(source: Path, target: Path, link: str | None) -> None:
    """Puts a file at another place unchanged: a copy, a hard link or a symbolic link."""
    source = source.resolve()
    if link == "hard":
        os.link(source, target)
    elif link == "symbolic":
        os.symlink(source, target)
    else:
        shutil.copyfile(source, target)
