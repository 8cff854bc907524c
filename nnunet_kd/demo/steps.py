"""The demo's commands, all of them nnU-Net's and this package's own."""

import shlex
from dataclasses import dataclass, field
from pathlib import Path

from nnunet_kd.demo.synthetic import DATASET_NAME

DATASET = ("-d", "999", "-c", "3d_fullres")
TEACHER_FOLDS = ("0", "1")
TEACHER_NETWORK = ("--student", "width=0.5")
SMALL_NETWORK = ("--student", "width=0.25,blocks=0.5,decoder=1")
OPTIMIZER = ("optimizer.name=adam", "optimizer.initial_lr=0.003")
# Stock nnUNetv2_predict averages logits over folds: so the table's ensemble is exactly what teaches.
DISTILLATION = ("ensemble.combine=logits",)
ITERATIONS_PER_EPOCH = 40
TEACHER_EPOCHS, STUDENT_EPOCHS = 5, 4


@dataclass(frozen=True)
class Model:
    """A trained model of the demo and how it predicts.

    Attributes:
        key: name of its folder of predictions, and in the report.
        name: name in the table.
        trainer: nnU-Net's ``-tr``.
        plans: nnU-Net's ``-p``.
        folds: trained folds, averaged at prediction.
    """

    key: str
    name: str
    trainer: str
    plans: str
    folds: tuple[str, ...] = ("all",)

    @property
    def folder_name(self) -> str:
        """nnU-Net's name of the model folder."""
        return f"{self.trainer}__{self.plans}__3d_fullres"

    @property
    def prediction_title(self) -> str:
        """Title of the step that predicts the test cases."""
        return f"{self.name}: test cases"


ENSEMBLE = Model(
    "ensemble",
    f"ensemble of {len(TEACHER_FOLDS)} teachers",
    "nnUNetTrainerKDTeacher",
    "KDDemoTeacher",
    folds=TEACHER_FOLDS,
)
STUDENT = Model("student", "distilled student", "nnUNetTrainerKDEnsemble", "KDDemoStudent")
TWIN = Model("twin", "undistilled twin", "nnUNetTrainerKDTeacher", "KDDemoStudent")
MODELS = (ENSEMBLE, STUDENT, TWIN)


@dataclass(frozen=True)
class Step:
    """A command and what it is for; ``variables`` are set for it alone."""

    title: str
    command: tuple[str, ...]
    variables: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return " ".join([*(f"{k}={v}" for k, v in self.variables.items()), shlex.join(self.command)])


def make_steps(folder: Path, device: str, seed: int) -> list[Step]:
    """All commands, in order.

    Args:
        folder: the demo's folder.
        device: cpu, cuda or mps.
        seed: seed of the weights and batches.
    """
    plan = ("nnUNetv2_kd", "plan", *DATASET, "-p", "nnUNetPlans")
    teachers = ("--teachers", f"{ENSEMBLE.folder_name}:{','.join(ENSEMBLE.folds)}")
    return [
        Step(
            "nnU-Net plans and preprocesses",
            ("nnUNetv2_plan_and_preprocess", *DATASET, "--verify_dataset_integrity", "-npfp", "2", "-np", "2"),
        ),
        Step(
            "plans for the teachers",
            (
                *plan,
                "--role",
                "teacher",
                *TEACHER_NETWORK,
                "-o",
                ENSEMBLE.plans,
                "--set",
                *settings(TEACHER_EPOCHS, seed),
            ),
        ),
        *(train(f"teacher {i}", ENSEMBLE, fold, device) for i, fold in enumerate(ENSEMBLE.folds, 1)),
        Step(
            "plans for the student",
            (
                *(*plan, *SMALL_NETWORK, *teachers, "-o", STUDENT.plans),
                *("--set", *settings(STUDENT_EPOCHS, seed), *DISTILLATION),
            ),
        ),
        Step(
            "soft labels: what the teachers say about every training case",
            ("nnUNetv2_kd", "softlabels", *DATASET, "-p", STUDENT.plans, "-device", device),
        ),
        train("the student, with distillation", STUDENT, "all", device),
        train("its twin: the same plans, without distillation", TWIN, "all", device),
        *(predict(model, folder, device) for model in MODELS),
        report(folder),
    ]


def settings(epochs: int, seed: int) -> tuple[str, ...]:
    """Settings of a short training that is the same every time."""
    return (
        f"schedule.num_epochs={epochs}",
        f"schedule.iterations_per_epoch={ITERATIONS_PER_EPOCH}",
        "schedule.val_iterations_per_epoch=1",
        f"schedule.seed={seed}",
        *OPTIMIZER,
    )


def train(title: str, model: Model, fold: str, device: str) -> Step:
    """Trains one fold; without augmentation workers, the batches are the same at every run.

    One worker is enough for the few validation cases, and each takes seconds to start.
    """
    command = ("nnUNetv2_train", "999", "3d_fullres", fold, "-tr", model.trainer, "-p", model.plans, "-device", device)
    return Step(title, command, {"nnUNet_n_proc_DA": "0", "nnUNet_def_n_proc": "1"})


def predict(model: Model, folder: Path, device: str) -> Step:
    """Predicts the test cases with stock nnU-Net."""
    images, output = folder / "nnUNet_raw" / DATASET_NAME / "imagesTs", folder / "predictions" / model.key
    command = (
        *("nnUNetv2_predict", *DATASET, "-tr", model.trainer, "-p", model.plans, "-f", *model.folds),
        *("-i", str(images), "-o", str(output), "-device", device, "-npp", "1", "-nps", "1"),
    )
    return Step(model.prediction_title, command)


def model_spec(model: Model, folder: Path) -> str:
    """The model as ``--model`` of ``nnUNetv2_kd report`` and ``benchmark`` takes it."""
    path = folder / "nnUNet_results" / DATASET_NAME / model.folder_name
    return f"{model.key}={path}:{','.join(model.folds)}"


def report(folder: Path) -> Step:
    """Compares the predictions; the networks' times are in ``benchmark.json`` by then."""
    raw = folder / "nnUNet_raw" / DATASET_NAME
    methods = (("--method", f"{model.key}={folder / 'predictions' / model.key}") for model in MODELS)
    models = (("--model", model_spec(model, folder)) for model in MODELS)
    command = (
        *("nnUNetv2_kd", "report", "--reference", str(raw / "labelsTs"), "--images", str(raw / "imagesTs")),
        *(word for pair in (*methods, *models) for word in pair),
        *(
            "--benchmark",
            str(folder / "benchmark.json"),
            "-np",
            "1",
            "--title",
            "The demo",
            "-o",
            str(folder / "report"),
        ),
    )
    return Step("the report: ensemble, student and twin on the test cases", command)
