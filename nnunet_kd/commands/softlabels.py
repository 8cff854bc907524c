"""``nnUNetv2_kd softlabels``."""

import argparse
from pathlib import Path

from nnunet_kd.commands.options import add_device


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """nnU-Net's letters, and what is special to soft labels."""
    parser.add_argument("-d", required=True, metavar="DATASET", help="data set name or ID")
    parser.add_argument("-c", default="3d_fullres", metavar="CONFIGURATION", help="student configuration (3d_fullres)")
    parser.add_argument("-p", default="nnUNetPlans", metavar="PLANS", help="student plans (nnUNetPlans)")
    parser.add_argument("-f", default=None, metavar="FOLD", help="student fold; only for ensemble.membership same_fold")
    add_device(parser, "where the teachers run")
    parser.add_argument("--num_parts", type=int, default=1, help="number of machines that share the export")
    parser.add_argument("--part_id", type=int, default=0, help="which of them this is, from 0")
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--from",
        dest="from_folder",
        metavar="FOLDER",
        help="import CASE.npz probability maps (as nnU-Net writes them) instead of predicting; recorded in the plans",
    )
    source.add_argument(
        "--raters",
        nargs="+",
        metavar="FOLDER",
        help="import the mean of several raters' masks, one folder each, named as in labelsTr; recorded in the plans",
    )
    parser.add_argument(
        "--combine",
        choices=["probabilities", "logits"],
        help="average as nnUNetv2_ensemble does, or as nnUNetv2_predict does over folds; recorded in the plans",
    )
    parser.add_argument("--labeled_only", action="store_true", help="leave the preprocessed unlabeled cases out")
    parser.add_argument("--verify", action="store_true", help="only check shape and SHA-256 of every case of the store")


def run(args: argparse.Namespace) -> None:
    """Exports, imports or verifies a store, then says what comes next."""
    from nnunet_kd.utilities.environment import dataset_paths
    from nnunet_kd.utilities.errors import UserError

    paths = dataset_paths(args.d)
    if args.f not in (None, "all") and not args.f.isdecimal():
        raise UserError(f"-f {args.f}: expected a fold's number, or all.")
    from nnunet_kd.softlabels.choices import record_choice  # the following import torch, which takes seconds
    from nnunet_kd.teachers.ensemble import TeachingEnsemble
    from nnunet_kd.teachers.student_data import load_student

    fold = int(args.f) if args.f not in (None, "all") else args.f
    plans_file = paths.preprocessed / f"{args.p}.json"
    from_folder = args.from_folder if args.raters is None else _average(plans_file, paths.raw, args)
    if from_folder is not None or args.combine is not None:
        record_choice(plans_file, from_folder, args.combine)
    kd, student = load_student(plans_file, args.c, paths.raw)
    ensemble = TeachingEnsemble.resolve(kd, student, paths.results, fold)
    for store in ensemble.stores():
        if args.verify:
            _verify(store, args.labeled_only)
        else:
            _export(store, args)


def _average(plans_file: Path, raw: Path | None, args: argparse.Namespace) -> str:
    """Folder of the mean of the raters' masks."""
    from nnunet_kd.softlabels.choices import load_kd_plans
    from nnunet_kd.softlabels.raters import average_raters
    from nnunet_kd.teachers.student_data import load_student

    load_kd_plans(plans_file)  # before the work
    kd, student = load_student(plans_file, args.c, raw)
    raters = [Path(folder).expanduser() for folder in args.raters]
    return str(average_raters(student, raters, _cases(kd, student, args.labeled_only)))


def _export(ensemble, args: argparse.Namespace) -> None:
    from nnunet_kd.softlabels.export import Exporter, shard
    from nnunet_kd.softlabels.stores import ensemble_id, missing_cases, open_store
    from nnunet_kd.utilities.environment import torch_device

    everything = _cases(ensemble.kd, ensemble.student, args.labeled_only)
    cases = shard(everything, args.num_parts, args.part_id)
    print(f"ensemble {ensemble_id(ensemble)}: {ensemble.describe()}")
    if unlabeled := sum(not ensemble.student.is_labeled(c) for c in everything):
        print(f"{len(everything) - unlabeled} labeled and {unlabeled} unlabeled cases")
    summary = Exporter(ensemble, torch_device(args.device)).run(cases)
    store = open_store(ensemble)
    size = sum(store.file(c).stat().st_size for c in store.cases())
    print(
        f"{summary.written} cases written in {summary.seconds:.1f} s, {summary.already_there} were there already; "
        f"{len(store.cases())} cases, {size / 1e6:.2f} MB in {store.folder}"
    )
    if left := missing_cases(ensemble, store, everything):
        print(f"{len(left)} cases are left for the other parts")
    else:
        print(f"Next: nnUNetv2_train {args.d} {args.c} FOLD -tr {ensemble.kd.student.trainer} -p {args.p}")


def _cases(kd, student, labeled_only: bool) -> list[str]:
    """Cases that the student learns from; without a share of the batches unlabeled cases are not needed."""
    return student.cases(labeled_only or kd.unlabeled.fraction == 0)


def _verify(ensemble, labeled_only: bool) -> None:
    from tqdm import tqdm

    from nnunet_kd.data.image_cases import listing
    from nnunet_kd.softlabels.store import MISSING
    from nnunet_kd.softlabels.stores import open_store
    from nnunet_kd.utilities.errors import UserError

    store, student = open_store(ensemble, create=False), ensemble.student
    needed = _cases(ensemble.kd, student, labeled_only)
    there = store.cases()
    passed_over = [c for c in student.cases() if c in there and c not in needed]
    images = {c: student.preprocessed_image(c) for c in needed}
    results = {
        case: fault
        for case, fault in tqdm(store.verify(images), total=len({*images, *there}), desc="verify", unit="case")
        if case not in passed_over
    }
    bad = [f"{case}: {fault}" for case, fault in results.items() if fault not in (None, MISSING)]
    if bad:
        raise UserError(
            f"{store.folder}: {len(bad)} of {len(results)} cases are not as they should be ({listing(bad)}); "
            "remove those files and export again."
        )
    missing = [c for c, fault in results.items() if fault == MISSING]
    if labeled := [c for c in missing if student.is_labeled(c)]:
        raise UserError(f"{store.folder}: {len(labeled)} cases are missing ({listing(labeled)}); export them first.")
    print(f"{len(results) - len(missing)} cases are whole: {store.folder}")
    if missing:
        print(f"{len(missing)} unlabeled cases are not exported: {listing(missing)}")
