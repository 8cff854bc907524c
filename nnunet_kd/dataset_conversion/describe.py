"""Description of a conversion: printed before it, and written into the new data set."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from nnunet_kd import __version__
from nnunet_kd.dataset_conversion.cases import ROLES, Case, Fold
from nnunet_kd.dataset_conversion.declare import GROUPS, RawDataset, Request
from nnunet_kd.dataset_conversion.scan import Scan, abridge
from nnunet_kd.utilities.files import load_json_file, write_json

HOW = {None: "copied", "hard": "linked (hard links)", "symbolic": "linked (symbolic links)"}


def describe(
    dataset: RawDataset, scan: Scan, folds: Sequence[Fold], target: Path, ending: str, link: str | None
) -> str:
    """What was found and what will be written."""
    lines = [f"{dataset.name}: {dataset.title}", f"  found in   {scan.root}"]
    for role in ROLES:
        cases = scan.cases[role]
        labels = sum(c.label is not None for c in cases)
        lines.append(
            f"  {role:<9}  {len(cases)} cases{_share(cases, dataset.expected.get(role))}, {labels} with labels"
        )
    lines += [
        f"  labels     {', '.join(f'{v} {k}' for k, v in dataset.labels.items())}",
        f"  channels   {', '.join(dataset.channel_names.values())}",
        f"  writes     {target}, {ending}; files that need no change are {HOW[link]}",
        f"  folds      {len(folds) or 'left to nnU-Net'}",
        *(f"    {i}: {len(f.train)} + {len(f.val)}  {f.note}" for i, f in enumerate(folds)),
        f"  licence    {dataset.licence}",
        *(f"note: {note}" for note in (*dataset.notes, *scan.notes)),
    ]
    return "\n".join(lines)


def _share(cases: Sequence[Case], full: int | Sequence[str] | None) -> str:
    if full is None:
        return ""
    if isinstance(full, int):
        return f" ({len(cases)} of {full})"
    groups = {c.group for c in cases}
    kind = " patients" if len(groups) < len(cases) else ""
    return f" ({len(groups & set(full))} of {len(full)}{kind})"


def summarise_log(log: Sequence[tuple[Path, str]]) -> list[str]:
    """One line for each thing that was done, with the names of the first files; ``conversion.json`` has them all."""
    files: dict[str, list[str]] = {}
    for path, text in log:
        files.setdefault(text, []).append(path.name)
    return [f"log: {text} ({len(names)}: {abridge(names, 5)})" for text, names in files.items()]


def write_description(
    folder: Path,
    dataset: RawDataset,
    scan: Scan,
    folds: Sequence[Fold],
    ending: str,
    request: Request,
    log: Sequence[tuple[Path, str]],
) -> None:
    """Writes ``dataset.json``, ``conversion.json``, and where they apply ``splits_final.json`` and ``groups.csv``."""
    from nnunetv2.dataset_conversion.generate_dataset_json import generate_dataset_json

    labels: dict[str, int | tuple[int, ...]] = dict(dataset.labels)
    if request.options.get("regions"):
        labels = {name: values if len(values) > 1 else values[0] for name, values in dataset.regions.items()}
    generate_dataset_json(
        str(folder),
        dict(dataset.channel_names),
        labels,
        len(scan.cases["train"]),
        ending,
        dataset_name=dataset.name,
        reference=dataset.page,
        description=dataset.title,
        license=dataset.licence,
        converted_by=f"nnUNetv2_kd convert, nnunet_kd {__version__}",
        overwrite_image_reader_writer=dataset.reader,
        regions_class_order=list(dataset.labels.values())[1:] if request.options.get("regions") else None,
        numTest=len(scan.cases["test"]),
        numUnlabeled=len(scan.cases["unlabeled"]),
    )
    file = folder / "dataset.json"
    # nnU-Net 2.8.1 writes the release in place of the citation
    write_json(file, load_json_file(file) | {"citation": dataset.citation})
    if folds:
        write_json(folder / "splits_final.json", [{"train": list(f.train), "val": list(f.val)} for f in folds])

    groups = [(c.name, c.group) for role in ROLES for c in scan.cases[role]]
    if any(name != group for name, group in groups):
        rows = ["case,group", *(f"{name},{group}" for name, group in groups)]
        (folder / GROUPS).write_text("\n".join(rows) + "\n", encoding="utf-8")

    def relative(text: str) -> str:
        return text.replace(str(scan.root) + os.sep, "").replace(str(scan.root), ".")

    conversion = {
        "options": {k: (relative(str(v)) if isinstance(v, Path) else v) for k, v in request.options.items()},
        "folds": [f.note for f in folds],
        "notes": [relative(n) for n in (*dataset.notes, *scan.notes)],
        "log": [f"{os.path.relpath(path, scan.root)}: {text}" for path, text in log],
        "cases": {
            role: {
                c.name: {
                    "images": [os.path.relpath(i, scan.root) for i in c.images],
                    "label": None if c.label is None else os.path.relpath(c.label, scan.root),
                }
                for c in scan.cases[role]
            }
            for role in ROLES
        },
    }
    write_json(folder / "conversion.json", conversion)


def print_list(datasets: Sequence[RawDataset]) -> None:
    """Prints the data sets that can be converted."""
    rows = [("name", "-d", "what"), *((d.name, str(d.dataset_id), d.title) for d in datasets)]
    width = max(len(r[0]) for r in rows)
    for name, number, what in rows:
        print(f"{name:<{width}}  {number:>3}  {what}")
    print(
        f"{'folders':<{width}}  {'':>3}  any folders of images and labels (NIfTI, MHA, NRRD, PNG, TIFF, DICOM series)"
    )
    print("\nnnUNetv2_kd convert NAME --help: layout, options, download page.", file=sys.stdout)
    print("Medical Segmentation Decathlon: nnU-Net's own nnUNetv2_convert_MSD_dataset.")
