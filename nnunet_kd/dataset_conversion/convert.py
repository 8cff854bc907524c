"""From a raw folder to ``nnUNet_raw/DatasetXXX_NAME``: scan, describe, check everything, write, publish."""

import signal
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

from tqdm import tqdm

from nnunet_kd.dataset_conversion import target as targets
from nnunet_kd.dataset_conversion.cases import ROLES, Case, Role
from nnunet_kd.dataset_conversion.declare import RawDataset, Request
from nnunet_kd.dataset_conversion.describe import describe, summarise_log, write_description
from nnunet_kd.dataset_conversion.layout import choose_ending, locate
from nnunet_kd.dataset_conversion.pixels import READERS
from nnunet_kd.dataset_conversion.scan import Scan
from nnunet_kd.dataset_conversion.transfer import Outcome, Rules, transfer
from nnunet_kd.utilities.errors import UserError
from nnunet_kd.utilities.files import restore_replaced

FOLDERS: Mapping[Role, tuple[str, str]] = {
    "train": ("imagesTr", "labelsTr"),
    "test": ("imagesTs", "labelsTs"),
    "unlabeled": ("imagesUn", ""),
}
MOST_PROBLEMS = 200


def convert(dataset: RawDataset, request: Request) -> Path | None:
    """Converts a data set.

    Args:
        dataset: its declaration.
        request: what the user asked for.

    Returns:
        the new folder; None after a dry run.

    Raises:
        UserError: with every problem at once; nothing is left behind then, and an earlier data set is untouched.
    """
    dataset_id = dataset.dataset_id if request.dataset_id is None else request.dataset_id
    target = targets.target_folder(dataset_id, dataset.name)
    root = locate(request.raw, dataset)
    scan = Scan(root, request.allow_missing, request.allow_extra)
    dataset.find(scan, request.options)
    scan.finish(dataset.expected, extras=bool(dataset.markers))
    ending, mixture = choose_ending(scan.cases)
    scan.problems.extend(mixture)
    folds = dataset.splits(scan.cases["train"], request.options) if dataset.splits else []
    splits = [{"train": list(f.train), "val": list(f.val)} for f in folds]
    if not request.dry_run:
        restore_replaced(target)
        files = [f for role in ROLES for c in scan.cases[role] for f in (*c.images, *([c.label] if c.label else []))]
        refused = targets.check_target(target, request.overwrite, splits, files)
        refused += targets.check_space(target, files, request.link)
        if refused:  # at once: reading every image can take hours
            raise UserError(_list_problems(root, [*refused, *scan.problems]))
    print(describe(dataset, scan, folds, target, ending, request.link), flush=True)

    rules = Rules(
        ending, len(dataset.channel_names), dict(dataset.label_values), request.link, request.label_geometry,
        dataset.repair, 3 if dataset.reader == READERS[3] else 2, write=not request.dry_run and not scan.problems,
    )  # fmt: skip
    with ExitStack() as stack:
        staging = stack.enter_context(targets.Staging(target)) if rules.write else None
        outcomes = _transfer_all(scan.cases, staging.folder if staging else target, rules, request.processes)
        problems = [*scan.problems, *(p for o in outcomes.values() for p in o.problems)]
        if not any(o.problems for o in outcomes.values()):
            problems.extend(_check_labels(dataset, {v for o in outcomes.values() for v in o.values}, scan))
        if problems:
            raise UserError(_list_problems(root, problems))
        log = [line for o in outcomes.values() for line in o.log]
        print("\n".join(summarise_log(log)), end="\n" if log else "", flush=True)
        if staging is None:
            print("Everything is as it should be; nothing was written (--dry_run).")
            return None
        write_description(staging.folder, dataset, scan, folds, ending, request, log)
        staging.publish()
    if replaced := targets.replace_preprocessed_splits(target.name, splits):
        print(f"{replaced}: folds of the earlier data set replaced; plan and preprocess again")
    return target


def _transfer_all(
    cases: Mapping[Role, Sequence[Case]], folder: Path, rules: Rules, processes: int
) -> dict[tuple[str, str], Outcome]:
    """Checks, and while nothing is wrong writes, every case; outcomes in the order of the cases."""
    jobs = {(role, case.name): case for role in ROLES for case in cases[role]}
    if rules.write:
        for (role, _), case in jobs.items():
            images, labels = _places(folder, role)
            images.mkdir(exist_ok=True)
            if case.label is not None:
                labels.mkdir(exist_ok=True)
    done: dict[tuple[str, str], Outcome] = {}
    verb = "convert" if rules.write else "check"
    for key, outcome in tqdm(_run(jobs, folder, rules, processes), total=len(jobs), desc=verb, unit="case"):
        done[key] = outcome
    return {key: done[key] for key in jobs}


def _run(
    jobs: Mapping[tuple[Role, str], Case], folder: Path, rules: Rules, processes: int
) -> Iterator[tuple[tuple[Role, str], Outcome]]:
    """After the first problem the remaining cases are only checked."""
    if processes <= 1:
        for key, case in jobs.items():
            outcome = transfer(case, *_places(folder, key[0]), rules)
            if outcome.problems:
                rules = replace(rules, write=False)
            yield key, outcome
        return
    # Ctrl+C is this process's business; the workers end with it
    quiet = (signal.SIGINT, signal.SIG_IGN)
    with ProcessPoolExecutor(processes, get_context("spawn"), signal.signal, quiet) as pool:
        futures = {pool.submit(transfer, case, *_places(folder, key[0]), rules): key for key, case in jobs.items()}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BrokenProcessPool:
            raise UserError(
                f"{folder}: a worker process died, likely for want of memory; convert with fewer processes (-np)."
            ) from None
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _places(folder: Path, role: Role) -> tuple[Path, Path]:
    images, labels = FOLDERS[role]
    return folder / images, folder / labels


def _check_labels(dataset: RawDataset, seen: set[int], scan: Scan) -> list[str]:
    """A label that no case has is a sign of another variant of the data set."""
    absent = [name for name, value in dataset.labels.items() if value and value not in seen]
    if not absent or not scan.cases["train"]:
        return []
    text = f"{scan.root}: no case has the label {', '.join(absent)}"
    if scan.allow_missing:
        print(f"note: {text}")
        return []
    return [f"{text}; is this another variant of the data set? (--allow_missing accepts it)"]


def _list_problems(root: Path, problems: Sequence[str]) -> str:
    unique = list(dict.fromkeys(problems))
    lines = [f"  - {p}" for p in unique[:MOST_PROBLEMS]]
    if len(unique) > MOST_PROBLEMS:
        lines.append(f"  - ... and {len(unique) - MOST_PROBLEMS} more")
    noun = "problem" if len(unique) == 1 else "problems"
    return "\n".join([f"{root}: {len(unique)} {noun}; nothing was written.", *lines])
