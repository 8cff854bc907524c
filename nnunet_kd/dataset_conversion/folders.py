"""Any folder of images and any folder of labels as a data set."""

import re
from collections import Counter
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from nnunet_kd.data.read_images import ImageError
from nnunet_kd.dataset_conversion.declare import RawDataset
from nnunet_kd.dataset_conversion.pixels import READERS, has_constant_alpha, is_pixels, read_pixels, without_alpha
from nnunet_kd.dataset_conversion.scan import ENDINGS, Scan, abridge, children, split_ending
from nnunet_kd.utilities.errors import UserError

LABEL_SUFFIX = re.compile(r"[_-](seg|segmentation|label|labels|mask|gt)$", re.IGNORECASE)
LARGEST_VALUE = 2**32 - 1  # label files hold integers of 32 bits at most
CHANNEL = re.compile(r"(.+)_(\d{4})")


def folders_dataset(
    images: Path,
    labels: Path,
    unlabeled: Path | None,
    tests: Path | None,
    names: str,
    channels: str | None,
    dataset_id: int,
    dataset_name: str | None,
) -> RawDataset:
    """Declares a data set made of folders.

    Args:
        images: ``CASE.ending``, ``CASE_0000.ending`` (``_0001`` ... for further channels), or one folder for each case
            with a DICOM series.
        labels: ``CASE.ending``, or with ``_seg``, ``_segmentation``, ``_label``, ``_mask``, ``_gt`` after the case.
        unlabeled: further images, for ``imagesUn``.
        tests: further images, for ``imagesTs``; their labels are looked for in ``labels`` too.
        names: of the labels, see :func:`parse_names`.
        channels: nnU-Net's channel names, joined by commas; None: by what a PNG or TIFF holds, else ``image``.
        dataset_id: nnU-Net's number.
        dataset_name: as in ``DatasetXXX_NAME``; None: the name of the folder above the images.

    Raises:
        UserError: for what is not possible.
    """
    for flag, folder in (("-i", images), ("-l", labels), ("-u", unlabeled), ("-t", tests)):
        if folder is not None and not folder.is_dir():
            raise UserError(f"{flag} {folder}: {'is not a folder' if folder.exists() else 'no such folder'}.")
    given = [f.resolve() for f in (images, labels, unlabeled, tests) if f is not None]
    if len(set(given)) < len(given):
        raise UserError(f"-i {images}: the same folder is given twice; images and labels need folders of their own.")
    table, values = parse_names(names)
    colours, reader = _look_at_first(images)
    channel_names = channels.split(",") if channels is not None else colours
    if not all(c.strip() for c in channel_names):
        raise UserError(f"--channels {channels}: expected names joined by commas, such as T1,T2.")
    name = dataset_name or re.sub(r"\W", "", images.resolve().parent.name) or "Folders"
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name) or "__" in name:
        raise UserError(f"--dataset_name {name}: expected letters, digits, '-' and single '_'.")
    note = "channel 'image' is normalised by its mean and deviation; name CT channels CT (--channels CT)"
    return RawDataset(
        name=name,
        dataset_id=dataset_id,
        title=f"images of {images.resolve().name}, labels of {labels.resolve().name}",
        layout="",
        markers=(),
        find=partial(find, labels=labels, unlabeled=unlabeled, tests=tests, channels=len(channel_names)),
        channel_names={i: c.strip() for i, c in enumerate(channel_names)},
        labels=table,
        label_values=values,
        licence="not stated",
        citation="not stated",
        page="not stated",
        reader=reader,
        notes=(note,) if channel_names == ["image"] else (),
    )


def parse_names(text: str) -> tuple[dict[str, int], dict[int, int]]:
    """Label names and the table of values.

    Args:
        text: ``"liver,tumor"`` for values 1 and 2, or ``"255=vessel"``, ``"1=prostate,2=prostate"`` (merged).

    Returns:
        name -> new value, background first; raw value -> new value.

    Raises:
        UserError: for a text of another form.
    """
    parts = [p.strip() for p in text.split(",")]
    labels, values = {"background": 0}, {0: 0}
    explicit = any("=" in p for p in parts)
    for position, part in enumerate(parts, 1):
        raw, _, name = part.rpartition("=") if explicit else (str(position), "", part)
        raw, name = raw.strip(), name.strip()
        if not name or not raw.isdecimal():
            raise UserError(f"--names {text!r}: found {part!r}; expected NAME,NAME,... or VALUE=NAME,VALUE=NAME,...")
        if len(raw) > 10 or int(raw) > LARGEST_VALUE:
            raise UserError(f"--names: found the value {raw[:20]}, expected {LARGEST_VALUE} at most.")
        if (int(raw) == 0) != (name == "background"):
            raise UserError(f"--names {text!r}: found {part!r}; the value 0 is the background, and no other value is.")
        if int(raw) in values and int(raw) != 0:
            raise UserError(f"--names {text!r}: the value {raw} has two names.")
        if name in labels and not explicit:
            raise UserError(f"--names {text!r}: {name!r} is there twice; write 1={name},2={name} to merge two labels.")
        values[int(raw)] = labels.setdefault(name, len(labels))
    if len(labels) < 2:
        raise UserError(f"--names {text!r}: name at least one label.")
    return labels, values


def find(
    scan: Scan, options: Mapping[str, Any], labels: Path, unlabeled: Path | None, tests: Path | None, channels: int
) -> None:
    """Pairs images with labels by their names."""
    label_files = _labels(scan, labels)
    cases = _cases(scan, scan.root, set(label_files), channels)
    for case, files in cases.items() if label_files else ():
        if case not in label_files:
            scan.missing(f"{files[0]}: there is no label {case} in {labels}; images without labels belong to -u.")
        else:
            scan.add("train", case, files, label_files[case])
    if unlabeled is not None:
        for case, files in _cases(scan, unlabeled, set(), channels).items():
            scan.add("unlabeled", case, files)
    if tests is not None:
        for case, files in _cases(scan, tests, set(label_files), channels).items():
            scan.add("test", case, files, label_files.get(case))
    for path in sorted(set(label_files.values()) - scan.known) if cases else ():
        scan.extra(f"{path}: there is no image of that name.")


def _labels(scan: Scan, folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in children(folder):
        stem, ending = split_ending(path.name)
        if ending or (path.is_dir() and any(children(path))):
            case = LABEL_SUFFIX.sub("", stem)
            if found.setdefault(case, path) != path:
                scan.problem(f"{path}: {found[case].name} is a label of the same case; remove one of the two.")
    if not found:
        scan.problem(_nothing(folder, "labels"))
    return found


def _nothing(folder: Path, what: str) -> str:
    """What is in a folder without any file of a known format."""
    endings = Counter(p.suffix.lower() or p.name for p in children(folder) if p.is_file())
    found = abridge([f"{number} {ending}" for ending, number in endings.most_common()], 6) or "no file"
    return f"{folder}: no {what} there ({', '.join(ENDINGS)}, or folders with DICOM series); found {found}."


def _cases(scan: Scan, folder: Path, label_stems: set[str], channels: int) -> dict[str, list[Path]]:
    """Case -> its files in the order of the channels; one with channels missing or doubled is noted and left out."""
    found: dict[str, dict[int, Path]] = {}
    for path in children(folder):
        stem, ending = split_ending(path.name)
        if not ending and not path.is_dir():
            continue
        match = None if stem in label_stems else CHANNEL.fullmatch(stem)
        case, channel = (match[1], int(match[2])) if match else (stem, 0)
        files = found.setdefault(case, {})
        if files.setdefault(channel, path) != path:
            scan.problem(f"{path}: {files[channel].name} is the same channel of the same case; remove one of the two.")
    if not found:
        scan.problem(_nothing(folder, "images"))
    complete = {}
    for case, files in found.items():
        is_colour = len(files) == 1 and channels > 1 and is_pixels(files[min(files)])
        if sorted(files) == list(range(channels)) or is_colour:
            complete[case] = [files[c] for c in sorted(files)]
        else:
            there = ", ".join(f"{c:04d}" for c in sorted(files))
            scan.missing(f"{folder / case}: has the channels {there}; {channels} are expected, from 0000.")
    return complete


def _look_at_first(images: Path) -> tuple[list[str], str | None]:
    """Names of the channels that the first image holds, and nnU-Net's reader where its choice could be wrong."""
    first = next((p for p in children(images) if split_ending(p.name)[1]), None)
    if first is None or not is_pixels(first):
        return ["image"], None
    try:
        values, spacing_mm = read_pixels(first)
    except ImageError:  # reported later with all other problems, when every image is read
        return ["image"], None
    if len(spacing_mm) == 2 and values.ndim == 3:
        values = without_alpha(values) if has_constant_alpha(values) else values
    colours = ["R", "G", "B", "A"][: values.shape[2]] if values.ndim > len(spacing_mm) else ["image"]
    return colours, None if split_ending(first.name)[1] == ".png" else READERS[len(spacing_mm)]
