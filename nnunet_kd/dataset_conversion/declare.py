"""What a data set's own file declares; nothing here reads an image."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nnunet_kd.dataset_conversion.cases import Case, Fold, Role
from nnunet_kd.dataset_conversion.scan import Scan

GROUPS = "groups.csv"
REPRODUCE = "docs/how-to/reproduce-the-papers.md"


@dataclass(frozen=True)
class Option:
    """An option of one data set: a choice when ``choices`` are given, a folder when ``is_folder``, else a switch."""

    flag: str
    help: str
    choices: tuple[str, ...] = ()
    default: str | None = None
    is_folder: bool = False


REGIONS = Option(
    "regions", "region-based labels: the organ includes its tumour, as the challenges and the papers evaluate it"
)


@dataclass(frozen=True)
class RawDataset:
    """A data set as it is downloaded, and what it shall become.

    Attributes:
        name: as in ``DatasetXXX_NAME``.
        dataset_id: default of ``-d``.
        title: one line.
        layout: the raw layout in words, for messages and ``--help``.
        markers: glob patterns; a folder in which one of them finds something is the data set's.
        find: adds the cases to a :class:`~nnunet_kd.dataset_conversion.scan.Scan`.
        channel_names: nnU-Net's; the name decides on the normalisation.
        labels: nnU-Net's names and consecutive values, background first.
        label_values: value in the raw files -> value of ``labels``; a value that is not listed is an error.
        licence, citation, page: for ``dataset.json``; the page is where the data are downloaded.
        expected: for each role the groups (cases, patients) of the full data set by name, or its number of cases.
        splits: makes the folds from the training cases; None leaves the splits to nnU-Net.
        repair: mends a NIfTI header that is known to be broken, in place; returns what it did, or None.
        reader: nnU-Net's reader, where the one that it takes by the file ending will not do.
        regions: region-based labels that take the place of ``labels`` when the option ``regions`` is set; a later one
            lies within the earlier ones.
        options: of this data set alone.
        notes: what a user should know before the conversion.
        paper: heading of the data set's section in docs/how-to/reproduce-the-papers.md.
    """

    name: str
    dataset_id: int
    title: str
    layout: str
    markers: tuple[str, ...]
    find: Callable[[Scan, Mapping[str, Any]], None]
    channel_names: Mapping[int, str]
    labels: Mapping[str, int]
    label_values: Mapping[int, int]
    licence: str
    citation: str
    page: str
    expected: Mapping[Role, int | Sequence[str]] = field(default_factory=dict)
    splits: Callable[[Sequence[Case], Mapping[str, Any]], list[Fold]] | None = None
    repair: Callable[[Any], str | None] | None = None
    reader: str | None = None
    regions: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    options: tuple[Option, ...] = ()
    notes: tuple[str, ...] = ()
    paper: str = ""


@dataclass(frozen=True)
class Request:
    """What the user asked for.

    Attributes:
        raw: folder of the download.
        dataset_id: nnU-Net's number; None: the data set's default.
        overwrite: replace a data set of this ID and name.
        link: ``hard``, ``symbolic`` or None for copies.
        processes: worker processes; 1 converts in this one.
        allow_missing, allow_extra: leave out incomplete cases, and files that the layout does not know.
        label_geometry: ``strict`` or ``image``.
        dry_run: check everything, write nothing.
        options: of the data set, by flag.
    """

    raw: Path
    dataset_id: int | None = None
    overwrite: bool = False
    link: str | None = None
    processes: int = 1
    allow_missing: bool = False
    allow_extra: bool = False
    label_geometry: str = "strict"
    dry_run: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)


def numbered(pattern: str, first: int, last: int) -> tuple[str, ...]:
    """Case names ``pattern.format(n)`` for n from ``first`` to ``last``."""
    return tuple(pattern.format(n) for n in range(first, last + 1))
