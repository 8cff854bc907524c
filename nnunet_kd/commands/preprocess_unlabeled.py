"""``nnUNetv2_kd preprocess-unlabeled``."""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """nnU-Net's letters, and where the images are."""
    add = parser.add_argument
    add("-d", required=True, metavar="DATASET", help="data set name or ID")
    add("-c", default="3d_fullres", metavar="CONFIGURATION", help="student configuration (3d_fullres)")
    add("-p", default="nnUNetPlans", metavar="PLANS", help="student plans (nnUNetPlans)")
    add("-i", nargs="+", default=[], metavar="FOLDER", help="further folders of images, beside the data set's imagesUn")
    add(
        "--test",
        nargs="+",
        default=[],
        metavar="FOLDER",
        help="folders of test images that must not be among the unlabeled ones, beside the data set's imagesTs",
    )
    add("-np", type=int, metavar="N", help="worker processes (nnU-Net's nnUNet_def_n_proc)")
    add("--num_parts", type=int, default=1, help="number of machines that share the work")
    add("--part_id", type=int, default=0, help="which of them this is, from 0")
    add("--skip-bad", action="store_true", help="leave broken and mismatching images out instead of stopping")


def run(args: argparse.Namespace) -> None:
    """Finds, checks and preprocesses the unlabeled images, then says what comes next."""
    from nnunet_kd.utilities.environment import dataset_paths

    paths = dataset_paths(args.d)
    from dataclasses import replace  # the following import torch, which takes seconds
    from pathlib import Path

    from nnunetv2.configuration import default_num_processes

    from nnunet_kd.data.image_cases import find_cases, refuse_known
    from nnunet_kd.data.preprocess_unlabeled import preprocess_cases
    from nnunet_kd.planning.next_steps import after_preprocessing_unlabeled
    from nnunet_kd.softlabels.export import shard
    from nnunet_kd.teachers.fitness import channel_names
    from nnunet_kd.teachers.student_data import UNLABELED_IMAGES, load_student
    from nnunet_kd.utilities.errors import UserError

    processes = default_num_processes if args.np is None else args.np
    if processes < 1:
        raise UserError(f"-np {processes}: expected at least 1.")
    kd, space = load_student(paths.preprocessed / f"{args.p}.json", args.c, paths.raw)
    if space.configuration_manager.previous_stage_name is not None:
        raise UserError(
            f"-c {args.c}: is cascaded; unlabeled cases have no segmentation of the previous stage. Name another."
        )
    folders = [Path(f).expanduser() for f in args.i]
    own = paths.raw / UNLABELED_IMAGES if paths.raw is not None else None
    if own is not None and own.is_dir():
        folders.insert(0, own)
    if not folders:
        raise UserError(f"{own or UNLABELED_IMAGES}: no such folder; put the images there or name a folder with -i.")

    ending = space.dataset_json["file_ending"]
    channels = len(channel_names(space.dataset_json))
    found, misnamed = find_cases(folders, channels, ending)
    if not found and not misnamed:
        raise UserError(f"{', '.join(map(str, folders))}: no image CASE_0000{ending} there.")
    tests = [Path(f).expanduser() for f in args.test]
    if gone := [f for f in tests if not f.is_dir()]:
        raise UserError(f"--test {gone[0]}: no such folder.")
    if paths.raw is not None:
        tests += [paths.raw / "imagesTr", paths.raw / "imagesTs"]
    refuse_known(found, tests, ending)

    if not args.skip_bad:
        _refuse(misnamed)
    mine = set(shard([c.name for c in found], args.num_parts, args.part_id))
    summary = preprocess_cases(space, [c for c in found if c.name in mine], processes)
    print(
        f"{summary.written} cases preprocessed, {summary.already_there} were there already; "
        f"{len(replace(space).unlabeled_cases)} cases in {space.unlabeled_folder}"  # a copy has not listed them yet
    )
    if not args.skip_bad:
        _refuse(summary.faults)
    for name, fault in sorted({**misnamed, **summary.faults}.items()):
        print(f"skipped: {name}: {fault}")
    print(f"Next: {after_preprocessing_unlabeled(kd, args.p, args.d, args.c)}")


def _refuse(faults: dict[str, str]) -> None:
    from nnunet_kd.data.image_cases import listing
    from nnunet_kd.utilities.errors import UserError

    if faults:
        bad = listing([f"{name}: {fault}" for name, fault in sorted(faults.items())])
        raise UserError(
            f"{len(faults)} unlabeled images cannot be used ({bad}); "
            "mend or remove them, or leave them out with --skip-bad."
        )
