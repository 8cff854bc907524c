"""Prostate MRI of six sites (Liu et al.), for training across sites."""

from collections.abc import Mapping, Sequence
from typing import Any

from nnunet_kd.dataset_conversion import splits
from nnunet_kd.dataset_conversion.cases import Case, Fold, Role
from nnunet_kd.dataset_conversion.declare import Option, RawDataset
from nnunet_kd.dataset_conversion.scan import Scan

SITES = ("RUNMC", "BMC", "I2CVB", "UCL", "BIDMC", "HK")
PAIRS = (("RUNMC", "BMC"), ("I2CVB", "UCL"), ("BIDMC", "HK"))
SPLIT = Option(
    "split",
    "leave_one_site_out: six folds, all cases in imagesTr; site_pairs: as Ben Loussaief et al. 2023, 15 percent of "
    "each site are test cases, fold 0 is the student's (all sites), folds 1 to 3 are the teachers' (two sites each); "
    "default: leave_one_site_out",
    choices=("leave_one_site_out", "site_pairs"),
    default="leave_one_site_out",
)
CASES = 116
PAPER = "Ben Loussaief et al. 2023, Sec. 3.1"


def find(scan: Scan, options: Mapping[str, Any]) -> None:
    """``RUNMC/Case00.nii.gz`` and ``RUNMC/Case00_Segmentation.nii.gz``, the word in whatever case."""
    for site in SITES:
        folder = scan.folder(site)
        if not folder.is_dir():
            scan.missing(f"{folder}: site {site} is missing.")
            continue
        images = [(path, match[1]) for path, match in scan.images(folder, r"(Case\d+)")]
        test = set(_held_out([f"{site}_{stem}" for _, stem in images], 0.15)) if _is_paired(options) else set()
        for path, stem in images:
            name = f"{site}_{stem}"
            role: Role = "test" if name in test else "train"
            scan.add(role, name, [path], scan.image(folder, f"{stem}_segmentation", "the label"), site)
    number = len(scan.cases["train"]) + len(scan.cases["test"])
    if number < CASES:
        scan.missing(f"{scan.root}: {number} cases, the full data set has {CASES} (--allow_missing accepts that).")


def make_splits(cases: Sequence[Case], options: Mapping[str, Any]) -> list[Fold]:
    """One fold for each site left out, or the folds of Ben Loussaief's student and three teachers."""
    if not _is_paired(options):
        return splits.leave_one_group_out(cases, SITES)
    # 5 % of all cases, out of the 85 % that are left here
    val = {n for s in SITES for n in _held_out([c.name for c in cases if c.group == s], 0.05 / 0.85)}
    folds = []
    for role, sites in (("student", SITES), *((f"teacher {i}", pair) for i, pair in enumerate(PAIRS, 1))):
        names = sorted(c.name for c in cases if c.group in sites)
        train = tuple(n for n in names if n not in val)
        note = f"{role}: {', '.join(sites)}; {PAPER}, drawn with a fixed seed"
        folds.append(Fold(train, tuple(n for n in names if n in val), note))
    return folds


def _is_paired(options: Mapping[str, Any]) -> bool:
    return options.get("split") == "site_pairs"


def _held_out(names: Sequence[str], fraction: float) -> list[str]:
    """At least one case of a site."""
    return splits.draw(names, max(1, round(fraction * len(names)))) if len(names) > 1 else []


DATASET = RawDataset(
    name="ProstateMultiSite",
    dataset_id=124,
    title="prostate, T2 MRI of six sites; 116 cases",
    layout="RUNMC/Case00.nii.gz and Case00_Segmentation.nii.gz, ..., and so BMC, I2CVB, UCL, BIDMC, HK",
    markers=("RUNMC", "runmc"),
    find=find,
    channel_names={0: "T2"},
    labels={"background": 0, "prostate": 1},
    label_values={0: 0, 1: 1, 2: 1},
    licence="terms of the parts (NCI-ISBI 2013, I2CVB, PROMISE12), see the download page",
    citation="Liu et al. 2020: MS-Net: Multi-Site Network for Improving Prostate Segmentation with Heterogeneous MRI "
    "Data, IEEE Trans. Med. Imaging 39(9); Liu et al. 2020: Shape-aware Meta-learning for Generalizing Prostate MRI "
    "Segmentation to Unseen Domains, MICCAI",
    page="https://liuquande.github.io/SAML/",
    splits=make_splits,
    options=(SPLIT,),
    notes=("UCL, BIDMC and HK come from PROMISE12: do not test on one what was trained on the other",),
    paper="Prostate",
)
