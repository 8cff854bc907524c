"""The table of inputs: which command reads which file, and how that file is spoiled."""

import random
import resource
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.fuzz.arguments import ARGUMENTS, expand
from tests.fuzz.mutators import BLOSC, CHECKPOINT, IMAGE, JSON, KD, LABEL, MAP, PICKLE, Spoil
from tests.fuzz.workspace import CHECKPOINT as TEACHER_FILE
from tests.fuzz.workspace import DATA, IMAGES, LAST, MODEL, RAW

STORE = "STORE"
PAIR = ["--method", "ensemble=comparison/ensemble", "--method", "student=comparison/student"]
COMMANDS: dict[str, list[str]] = {
    "plan": ["plan", "-d", "900", "-c", "3d_fullres", "--student", "width=0.5", "-o", "New"],
    "plan with teachers": [
        *("plan", "-d", "900", "-c", "3d_fullres", "--student", "width=0.5", "-o", "New", "--teachers", MODEL),
    ],
    "softlabels": ["softlabels", "-d", "900", "-p", "Student", "-device", "cpu"],
    "verify": ["softlabels", "-d", "900", "-p", "Student", "-device", "cpu", "--verify"],
    "import": ["softlabels", "-d", "900", "-p", "FromMaps", "-device", "cpu"],
    "raters": [
        *("softlabels", "-d", "900", "-p", "FromMaps", "-device", "cpu", "--raters", "raters/A", "raters/B"),
    ],
    "unlabeled": ["preprocess-unlabeled", "-d", "900", "-p", "Student", "-np", "1"],
    "predict": [
        *("predict", "-i", f"{RAW}/imagesUn", "-o", "predicted", "--coarse", f"{MODEL}:0", "--fine", f"{MODEL}:0"),
        *("-device", "cpu", "--disable_tta"),
    ],
    "evaluate": [
        *("evaluate", "-i", "comparison/student", "-r", "comparison/references", "-o", "evaluated", "-np", "1"),
        *("-djfile", "comparison/dataset.json"),
    ],
    "report": [
        *("report", "--reference", "comparison/references", "-djfile", "comparison/dataset.json", *PAIR, "-np", "1"),
        *("-o", "report", "--benchmark", "comparison/benchmark.json", "--groups", "comparison/groups.csv"),
        *("--soft_labels", STORE, "--model", f"student={MODEL}"),
    ],
    "benchmark": ["benchmark", "--model", f"student={MODEL}", "-i", f"{RAW}/imagesUn", "-o", "measured", "-device"],
    "convert": [
        *("convert", "folders", "-i", "download/images", "-l", "download/labels", "-d", "77", "--names", "a,b"),
        *("--dataset_name", "New", "-np", "1"),
    ],
    "distill": [
        *("distill", "-d", "900", "-c", "3d_fullres", "-o", "New", "-device", "cpu", "--dry-run", "--teachers", MODEL),
    ],
    "export": ["export", "-m", MODEL, "-f", "0", "-o", "bundle"],
    "train": [
        *("nnUNetv2_train", "900", "3d_fullres", "0", "-tr", "nnUNetTrainerKDEnsemble", "-p", "Student"),
        *("-device", "cpu"),
    ],
}
COMMANDS["benchmark"].append("cpu")
COMMANDS |= {"demo": ["demo"], "env": ["env"]}


@dataclass(frozen=True)
class Input:
    """One run of a command in a workspace of which one file or one argument is spoiled.

    Attributes:
        name: says what is done, and is the seed.
        command: name and arguments; ``STORE`` stands for the folder of the soft labels.
        file: what is spoiled, below the workspace; None: nothing.
        spoil: how.
        environment: further variables.
        limits: of the process, as for :func:`resource.setrlimit`.
    """

    name: str
    command: tuple[str, ...]
    file: str | None = None
    spoil: Spoil | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    limits: Mapping[int, int] = field(default_factory=dict)

    def apply(self, root: Path, store: str) -> list[str]:
        """Spoils the file and returns the command line."""
        if self.file is not None and self.spoil is not None:
            self.spoil(root / self.file.replace(STORE, store), random.Random(zlib.crc32(self.name.encode())))
        words = [word.replace(STORE, store) for word in self.command]
        return words if words[0].startswith("nnUNet") else ["nnUNetv2_kd", *words]


# command, what is spoiled, file, mutators, how many of them (0: all)
FILES: Sequence[tuple[str, str, str, Mapping[str, Spoil], int]] = [
    ("plan", "plans", f"{DATA}/nnUNetPlans.json", JSON, 14),
    ("plan", "dataset.json", f"{DATA}/dataset.json", JSON, 6),
    ("plan with teachers", "teacher's plans", f"{MODEL}/plans.json", JSON, 6),
    ("plan with teachers", "checkpoint", TEACHER_FILE, CHECKPOINT, 4),
    ("distill", "plans", f"{DATA}/nnUNetPlans.json", JSON, 5),
    ("distill", "teacher's plans", f"{MODEL}/plans.json", JSON, 5),
    ("export", "plans", f"{MODEL}/plans.json", JSON, 4),
    ("export", "checkpoint", TEACHER_FILE, CHECKPOINT, 3),
    ("softlabels", "plans", f"{DATA}/Student.json", JSON, 6),
    ("softlabels", "kd block", f"{DATA}/Student.json", KD, 8),
    ("softlabels", "splits", f"{DATA}/splits_final.json", JSON, 8),
    ("softlabels", "teacher's plans", f"{MODEL}/plans.json", JSON, 5),
    ("softlabels", "teacher's dataset.json", f"{MODEL}/dataset.json", JSON, 4),
    ("softlabels", "checkpoint", TEACHER_FILE, CHECKPOINT, 12),
    ("softlabels", "image", f"{IMAGES}/{LAST}.b2nd", BLOSC, 8),
    ("softlabels", "segmentation", f"{IMAGES}/{LAST}_seg.b2nd", BLOSC, 4),
    ("softlabels", "properties", f"{IMAGES}/{LAST}.pkl", PICKLE, 6),
    ("softlabels", "manifest", f"{STORE}/manifest.json", JSON, 6),
    ("verify", "soft labels", f"{STORE}/case_0.b2nd", BLOSC, 8),
    ("verify", "properties", f"{IMAGES}/case_0.pkl", PICKLE, 4),
    ("import", "map", "maps/case_1.npz", MAP, 0),
    ("raters", "mask", "raters/B/case_1.nii.gz", LABEL, 0),
    ("unlabeled", "image", f"{RAW}/imagesUn/new_0000.nii.gz", IMAGE, 0),
    ("unlabeled", "dataset.json", f"{DATA}/dataset.json", JSON, 5),
    ("predict", "image", f"{RAW}/imagesUn/new_0000.nii.gz", IMAGE, 8),
    ("predict", "plans", f"{MODEL}/plans.json", JSON, 8),
    ("predict", "checkpoint", TEACHER_FILE, CHECKPOINT, 5),
    ("evaluate", "prediction", "comparison/student/case_01.nii.gz", LABEL, 16),
    ("evaluate", "reference", "comparison/references/case_01.nii.gz", LABEL, 6),
    ("evaluate", "dataset.json", "comparison/dataset.json", JSON, 8),
    ("report", "benchmark.json", "comparison/benchmark.json", JSON, 10),
    ("report", "groups", "comparison/groups.csv", {k: v for k, v in JSON.items() if k in IMAGE}, 4),
    ("report", "probabilities", "comparison/student/case_01.npz", MAP, 4),
    ("report", "image", "comparison/images/case_01_0000.nii.gz", IMAGE, 2),
    ("report", "soft labels", f"{STORE}/case_0.b2nd", BLOSC, 3),
    ("report", "plans", f"{MODEL}/plans.json", JSON, 2),
    ("convert", "image", "download/images/case_1.nii.gz", IMAGE, 0),
    ("convert", "label", "download/labels/case_1.nii.gz", LABEL, 0),
    ("train", "kd block", f"{DATA}/Student.json", KD, 4),
    ("train", "checkpoint", TEACHER_FILE, CHECKPOINT, 3),
]


ENVIRONMENTS: Sequence[tuple[str, Mapping[str, str]]] = [
    *((c, {"nnUNet_def_n_proc": "abc"}) for c in ("plan", "evaluate", "convert", "unlabeled", "report", "env")),
    *((c, {"nnUNet_def_n_proc": "-3"}) for c in ("evaluate", "convert", "unlabeled")),
    *((c, {"nnUNet_preprocessed": "/dev/null/x"}) for c in ("plan", "softlabels", "unlabeled", "convert")),
    *((c, {"nnUNet_raw": "/dev/null/x"}) for c in ("plan", "unlabeled", "convert")),
    *((c, {"nnUNet_results": "/dev/null/x"}) for c in ("plan", "softlabels")),
    ("env", {"nnUNet_extTrainer": "a'b"}),
]


def inputs() -> Iterator[Input]:
    """All inputs, the names distinct."""
    for command, what, file, mutators, number in FILES:
        name = f"{command}, {what}"
        for mutator in _chosen(name, mutators, number):
            yield Input(f"{name}: {mutator}", tuple(COMMANDS[command]), file, mutators[mutator])
    for command, text in ARGUMENTS.items():
        for words in map(str.strip, text.split("|")):
            yield Input(f"{command} {' '.join(words.split())}", (*COMMANDS[command], *expand(words)))
    for command, variables in ENVIRONMENTS:
        name = ", ".join(f"{k}={v}" for k, v in variables.items())
        words = [w for w in COMMANDS[command] if not (w == "-np" or w == "1")]
        yield Input(f"{command}, {name}", tuple(words), environment=variables)
    for command in ("plan", "softlabels", "import", "unlabeled", "predict", "evaluate", "report", "convert", "demo"):
        full = {resource.RLIMIT_FSIZE: 3000}  # fails as a full disk does
        yield Input(f"{command}, full disk", tuple(COMMANDS[command]), limits=full)


def _chosen(name: str, mutators: Mapping[str, Spoil], number: int) -> Sequence[str]:
    """Some mutators, others for every name and always the same."""
    return random.Random(name).sample(list(mutators), number) if number else list(mutators)
