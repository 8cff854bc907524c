"""Runs one input and says what is wrong with how the command took it."""

import fnmatch
import re
import resource
import shutil
from pathlib import Path

from nnunet_kd.demo.run import MARKER
from tests.e2e.commands import run_separately
from tests.fuzz.inputs import Input
from tests.fuzz.workspace import Template, environment

SECONDS, MEMORY = 30, 8 << 30  # of the processor: other programs may be running
LIMITS = {resource.RLIMIT_CPU: SECONDS, resource.RLIMIT_AS: MEMORY}
LONGEST_SENTENCE = 1500
# What may be there after a refusal: what a command writes case by case, whole, and goes on with.
KEPT = {
    "softlabels": ["preprocessed/*/kd_softlabels/*", "preprocessed/*/kd_raters*"],
    "preprocess-unlabeled": ["preprocessed/*/kd_unlabeled/*", "preprocessed/*/kd_unlabeled"],
    "predict": ["predicted", "predicted/*"],
    "evaluate": ["evaluated"],
    "benchmark": ["measured", "measured/logs", "measured/logs/*"],
    "demo": ["nnunet_kd_demo*"],  # with the logs that its sentence names
    "nnUNetv2_train": ["results/*/nnUNetTrainerKDEnsemble__*", "preprocessed/*/kd_softlabels/*"],
}
TEMPORARY = re.compile(r"(^|/)\.[^/]*$|\.tmp$")
PROGRESS = re.compile(r"\d+%\||\d+it \[|it/s\]|^\s*$")


def find_fault(spoiled: Input, template: Template, folder: Path) -> str | None:
    """Runs the input in a copy of the workspace below ``folder``; None when all is as it should be."""
    root = folder / "a" / "b" / "c" / "workspace"  # what climbs out of it stays in the folder
    template.copy(root)
    command = spoiled.apply(root, template.store)
    before = contents(folder)
    variables = environment(root) | dict(spoiled.environment)
    code, printed, errors = run_separately(command, variables, 20 * SECONDS, root, {**LIMITS, **spoiled.limits})
    fault = _fault_of_words(code, errors) or _fault_of_files(spoiled.command[0], code, before, contents(folder))
    shutil.rmtree(root)
    if fault is None:
        return None
    return f"{spoiled.name}: {fault}\n{printed[-500:]}\n{errors[-2500:]}"


def contents(folder: Path) -> dict[str, tuple[int, int]]:
    """Everything below a folder: path -> size and time of the last change (0 for folders)."""
    found = {}
    for path in folder.rglob("*"):
        status = path.lstat()
        is_folder = path.is_dir() and not path.is_symlink()
        found[str(path.relative_to(folder))] = (0, 0) if is_folder else (status.st_size, status.st_mtime_ns)
    return found


def _fault_of_words(code: int, errors: str) -> str | None:
    errors = errors.partition(" its last lines:\n")[0]  # the log of another program's failure is quoted
    lines = [line for line in re.split(r"[\r\n]+", errors) if not PROGRESS.search(line)]
    if "Traceback" in errors:
        places = re.findall(r'File "[^"]*?/(nnunet_kd/[^"]*|trainers/[^"]*)", line (\d+), in (\w+)', errors)
        last = next((x for x in reversed(lines) if re.match(r"[\w.]*(Error|Exception|Interrupt|Exit)\b", x)), lines[-1])
        where = " in ".join(places[-1][::2]) if places else "?"
        return f"traceback ({where}): {last[:160]}"
    if code not in (0, 2):
        return f"exit code {code}: {lines[-1] if lines else 'says nothing'}"
    if code == 0:
        return None
    sentences = [i for i, line in enumerate(lines) if re.match(r"nnunet_kd: |nnUNetv2_kd[\w -]*: error: ", line)]
    if len(sentences) != 1:
        return f"{len(sentences)} sentences"
    if not all(line.startswith("  - ") for line in lines[sentences[0] + 1 :]):
        return f"says more after its sentence: {lines[sentences[0] + 1][:160]}"
    if max(map(len, lines)) > LONGEST_SENTENCE:
        return f"a sentence of {max(map(len, lines))} characters"
    if "weights_only" in errors:
        return "advises to load with weights_only"
    return None


def _fault_of_files(command: str, code: int, before: dict, after: dict) -> str | None:
    inside = "a/b/c/workspace/"
    if outside := sorted(p for p in {*before, *after} if before.get(p) != after.get(p) and not p.startswith(inside)):
        return f"writes outside of the workspace: {outside[0]}"
    changed = sorted(p.removeprefix(inside) for p in {*before, *after} if before.get(p) != after.get(p))
    if hidden := [p for p in changed if TEMPORARY.search(p) and Path(p).name != MARKER]:
        return f"leaves {hidden[0]}"
    if "executed" in changed:
        return "runs what a file holds"
    kept = KEPT.get(command, [])
    if code == 2 and (left := [p for p in changed if not any(fnmatch.fnmatch(p, k) for k in kept)]):
        return f"refuses, and yet changes {left[0]}"
    return None
