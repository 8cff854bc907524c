"""The demo's commands, all of them nnU-Net's and this package's own."""

from dataclasses import dataclass
from pathlib import Path

from nnunet_kd.demo.synthetic import DATASET_NAME
from nnunet_kd.distill.request import Request
from nnunet_kd.distill.step import Step

DATASET = ("-d", "999", "-c", "3d_fullres")
TEACHER_FOLDS = ("0", "1")
TEACHER_NETWORK = ("--student", "width=0.5")
SMALL_NETWORK = "width=0.25,blocks=0.5,decoder=1"
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


def teacher_steps(device: str, seed: int) -> list[list[Step]]:
    """From the raw data set to trained teachers; the steps of one group need nothing of each other.

    Args:
        device: cpu, cuda or mps.
        seed: seed of the weights and batches.
    """
    prepare = ["nnUNetv2_plan_and_preprocess", *DATASET, "--verify_dataset_integrity", "-npfp", "2", "-np", "2"]
    plan = ["nnUNetv2_kd", "plan", *DATASET, "-p", "nnUNetPlans", "--role", "teacher", *TEACHER_NETWORK]
    plan += ["-o", ENSEMBLE.plans, "--set", *settings(TEACHER_EPOCHS, seed)]
    return [
        [Step("nnU-Net plans and preprocesses", prepare, "plan_and_preprocess")],
        [Step("plans for the teachers", plan, "plan_teachers")],
        [_train(f"teacher {i}", fold, device) for i, fold in enumerate(ENSEMBLE.folds, 1)],
    ]


def _train(title: str, fold: str, device: str) -> Step:
    """Trains a teacher; without augmentation workers, the batches are the same at every run."""
    command = ["nnUNetv2_train", "999", "3d_fullres", fold, "-tr", ENSEMBLE.trainer, "-p", ENSEMBLE.plans]
    variables = {"nnUNet_n_proc_DA": "0", **({"OMP_NUM_THREADS": "1"} if device == "cpu" else {})}
    log = f"train_{title.replace(' ', '_')}"
    command += ["-device", device]
    return Step(title, command, log, epochs=TEACHER_EPOCHS, validates=True, variables=variables)


def student_request(folder: Path, device: str, seed: int) -> Request:
    """What the demo asks ``nnUNetv2_kd distill`` for.

    Args:
        folder: the demo's folder.
        device: cpu, cuda or mps.
        seed: seed of the weights and batches.
    """
    raw = folder / "nnUNet_raw" / DATASET_NAME
    return Request(
        dataset="999",
        configuration="3d_fullres",
        name=STUDENT.plans,
        student=SMALL_NETWORK,
        teachers=(f"{ENSEMBLE.folder_name}:{','.join(ENSEMBLE.folds)}",),
        settings=(*settings(STUDENT_EPOCHS, seed), *DISTILLATION),
        test=(raw / "imagesTs", raw / "labelsTs"),
        twin=True,
        device=device,
    )


def settings(epochs: int, seed: int) -> tuple[str, ...]:
    """Settings of a short training that is the same every time."""
    return (
        f"schedule.num_epochs={epochs}",
        f"schedule.iterations_per_epoch={ITERATIONS_PER_EPOCH}",
        "schedule.val_iterations_per_epoch=1",
        f"schedule.seed={seed}",
        *OPTIMIZER,
    )
