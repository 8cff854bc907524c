"""Result of a distillation, in a few lines."""

from nnunet_kd.distill.steps import Distillation
from nnunet_kd.utilities.files import load_json_file
from nnunet_kd.utilities.summaries import load_summary, validation_file


def summarise(distillation: Distillation) -> str:
    """Dice kept, gain over the twin, time, size and paths; on validation cases where there are no test cases."""
    lines = _of_validation(distillation) if distillation.test is None else _of_test_cases(distillation)
    folder = distillation.students["student"]
    if distillation.makes_bundle:
        lines.append(f"Bundle, which predicts without PyTorch and nnU-Net: {distillation.bundle}")
    else:
        lines.append("No bundle was made; pip install 'nnunet-kd[export]', and the same command again makes it.")
    return "\n".join([*lines, f"Model folder: {folder}, fold {distillation.fold}"])


def _of_test_cases(distillation: Distillation) -> list[str]:
    folder = distillation.on_test_cases / "report"
    report = load_json_file(folder / "report.json")
    means = {s["method"]: s for s in report["scores"] if s["metric"] == "Dice" and s["label"] == "mean"}
    dice = {method: score["common_mean"] for method, score in means.items()}  # of what all of them have
    lines = []
    ensemble = dice.get("ensemble")
    if dice["student"] is None or (distillation.teachers and not ensemble):
        lines.append("Dice of student and ensemble cannot be compared; the report says which structures are missing.")
    else:
        kept = f", the ensemble's is {ensemble:.4f}: {dice['student'] / ensemble:.1%} kept" if ensemble else ""
        lines.append(f"Dice {dice['student']:.4f}{kept}.")
        if dice.get("twin") is not None:
            gain = f"{100 * (dice['student'] - dice['twin']):+.1f} points by distillation"
            lines.append(f"Without teachers the same network has {dice['twin']:.4f}: {gain}.")
    if failures := means["student"]["failures"]:
        lines.append(f"The student missed or invented {failures} structures, which these means leave out.")
    return [*lines, report["headline"][-1]["sentence"], f"Report: {folder / 'report.html'}"]


def _of_validation(distillation: Distillation) -> list[str]:
    fold = distillation.fold
    if fold == "all":
        return ["Nothing was compared: fold all has seen every labeled case; name test cases with --test."]
    lines = ["On the validation cases of the fold, with which no choice should have been made before:"]
    for name, folder in distillation.students.items():
        lines.append(f"  {name}: Dice {load_summary(validation_file(folder, fold)).dice:.4f}")
    for teacher in distillation.teachers:
        if (own := teacher.validation_summary(fold)) is not None:
            lines.append(f"  one teacher, {teacher.folder.name}: Dice {own.dice:.4f}, on its own validation cases")
    if distillation.teachers:
        lines.append(
            "The other teachers may have been trained on these cases; only --test IMAGES LABELS tells what was kept."
        )
    return lines
