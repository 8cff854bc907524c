"""Brain MRI of the MICCAI 2012 multi-atlas labeling challenge, merged into six tissue classes."""

from collections.abc import Mapping, Sequence
from typing import Any

from nnunet_kd.dataset_conversion import splits
from nnunet_kd.dataset_conversion.cases import Case, Fold, Role
from nnunet_kd.dataset_conversion.declare import RawDataset
from nnunet_kd.dataset_conversion.scan import Scan

# The challenge's 134 classes, by class of Moeskops et al. 2016. The papers name the six classes, not the ids: this
# table is ours, made from the names of the labels. Cortex has one id for each hemisphere, right before left.
CORTEX = (
    *(
        100,
        102,
        104,
        106,
        108,
        112,
        114,
        116,
        118,
        120,
        122,
        124,
        128,
        132,
        134,
        136,
        138,
        140,
        142,
        144,
        146,
        148,
        150,
    ),
    *(
        152,
        154,
        156,
        160,
        162,
        164,
        166,
        168,
        170,
        172,
        174,
        176,
        178,
        180,
        182,
        184,
        186,
        190,
        192,
        194,
        196,
        198,
        200,
    ),
    *(202, 204, 206),
)
TISSUES = {
    # hippocampi (47, 48) are allocortex
    "cGM": (*(i + side for i in CORTEX for side in (0, 1)), 47, 48),
    "BS": (35,),
    "WM": (44, 45),
    "vCSF": (4, 11, 49, 50, 51, 52),  # third, fourth, inferior lateral and lateral ventricles
    # accumbens, amygdala, caudate, pallidum, putamen, thalamus proper, ventral diencephalon, basal forebrain
    "BGT": (23, 30, 31, 32, 36, 37, 55, 56, 57, 58, 59, 60, 61, 62, 75, 76),
    "CB": (38, 39, 40, 41, 71, 72, 73),  # exterior, white matter, vermal lobules
}
OUTSIDE = (46, 69)  # extraventricular CSF, optic chiasm: none of the six
# The challenge left these out of its evaluation; they go to background.
UNRELIABLE = (
    *(1, 2, 3, *range(5, 11), *range(12, 23), *range(24, 30), 33, 34, 42, 43, 53, 54, *range(63, 69), 70, 74),
    *(*range(80, 94), 97, 98, 99, 110, 111, 126, 127, 130, 131, 158, 159, 188, 189),
)


def find(scan: Scan, options: Mapping[str, Any]) -> None:
    """``training-images/1000_3.nii.gz`` and ``training-labels/1000_3_glm.nii.gz``, ``testing-`` alike."""
    roles: dict[str, Role] = {"training": "train", "testing": "test"}
    for name, role in roles.items():
        labels = scan.folder(f"{name}-labels")
        for path, match in scan.images(scan.folder(f"{name}-images"), r"\d+_\d+"):
            label = None
            if role == "train" or any(scan.images(labels, rf"{match[0]}_glm")):
                label = scan.image(labels, f"{match[0]}_glm", "the label")
            scan.add(role, match[0], [path], label)


def make_splits(cases: Sequence[Case], options: Mapping[str, Any]) -> list[Fold]:
    """nnU-Net's folds as 0 to 4, Noothout's 13 + 2 as the last one."""
    return [*splits.five_folds(cases), *splits.hold_out(cases, 2, "Noothout et al. 2022, Sec. 4")]


DATASET = RawDataset(
    name="MICCAI2012Brain",
    dataset_id=112,
    title="six brain tissues, T1 MRI (MICCAI 2012 multi-atlas labeling); 15 training and 20 test cases",
    layout="training-images/1000_3.nii.gz, training-labels/1000_3_glm.nii.gz, ..., testing-images/, testing-labels/",
    markers=("training-images",),
    find=find,
    channel_names={0: "T1"},
    labels={"background": 0} | {tissue: i for i, tissue in enumerate(TISSUES, 1)},
    label_values=dict.fromkeys((0, *OUTSIDE, *UNRELIABLE), 0)
    | {raw: i for i, ids in enumerate(TISSUES.values(), 1) for raw in ids},
    licence="images: OASIS terms of use; labels: CC BY-NC by Neuromorphometrics, Inc.; see the download page",
    citation="Landman and Warfield 2012: MICCAI 2012 Workshop on Multi-Atlas Labeling; Marcus et al. 2007: Open Access "
    "Series of Imaging Studies (OASIS), J. Cogn. Neurosci. 19(9); classes: Moeskops et al. 2016: Automatic "
    "segmentation of MR brain images with a convolutional neural network, IEEE Trans. Med. Imaging 35(5)",
    page="http://www.neuromorphometrics.com/2012_MICCAI_Challenge_Data.html",
    expected={"train": 15, "test": 20},
    splits=make_splits,
    notes=("the table that merges 134 labels into six classes was made from the labels' names, not by the papers",),
    paper="Brain",
)
