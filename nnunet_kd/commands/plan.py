"""``nnUNetv2_kd plan``."""

import argparse
from pathlib import Path

from nnunet_kd.commands.options import add_device
from nnunet_kd.networks.family import family_names

DEFAULT_TRAINER = "nnUNetTrainer"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``plan``; nnU-Net's letters keep their meanings."""
    add = parser.add_argument
    add("-d", required=True, metavar="DATASET", help="data set ID or name")
    add("-c", nargs="+", metavar="CONFIGURATION", help="configurations to keep; default: all of the base plans")
    add("-p", default="nnUNetPlans", metavar="PLANS", help="base plans; default: nnUNetPlans")
    add("-tr", metavar="TRAINER", help=f"trainer of the default teachers; default: {DEFAULT_TRAINER}")
    add(
        "--teachers",
        nargs="+",
        default=[],
        metavar="TEACHER",
        help="model folders, TRAINER__PLANS__CONFIGURATION or a path, each with optional folds (:0,1,2 or :all); "
        "default: every finished fold of TRAINER__PLANS__CONFIGURATION",
    )
    add(
        "--recipe",
        metavar="RECIPE",
        help="preset of the kd block: qin2021, noothout2022, ...; a wrong name lists them all",
    )
    add(
        "--student",
        metavar="SPEC",
        help=f"network: same (default), or one of {', '.join(family_names())}; and changes of it, or of the base "
        "plans' network: width=0.25, depth=-1 (a stage less), blocks=0.5, decoder=1, params=500k (budget); joined by "
        "commas",
    )
    add(
        "--student-arg",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="arguments of the network's class, for example dropout=0.2",
    )
    add("--params", metavar="N", help="budget of parameters, as 500k or 1.5M; the same as params= in --student")
    add("--latency-budget", type=float, metavar="MS", help="milliseconds for one patch: width and depth are searched")
    add(
        "--rank",
        default="params",
        choices=("params", "dice"),
        help="with --params or --latency-budget: of the candidates that keep the budget the one with most parameters, "
        "or the one whose untrained reconstruction of the best teacher has the highest Dice (seconds for each)",
    )
    add(
        "--inherit-from",
        metavar="MODELFOLDER:FOLD",
        help="teacher whose reconstruction the student starts as; default: the one with the best validation",
    )
    add_device(parser, "where --latency-budget is timed", "cpu")
    add("--weights", metavar="FILE", help="local file of weights to start from (tensors only); nothing is downloaded")
    add("--role", choices=("teacher", "student"), help="which trainers the plans are for; default: student")
    add(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="values of the kd block, for example schedule.num_epochs=100",
    )
    add(
        "--iterations",
        type=int,
        metavar="N",
        help="length of the training, schedule.num_epochs x schedule.iterations_per_epoch: 20 epochs or more of at "
        "most 250 iterations; default: 250000, or as the base plans where they are KD plans",
    )
    add(
        "--seeds",
        metavar="N,N,...",
        help="with --role teacher: one plans file for each seed, NAME_seed1, NAME_seed2, ..., alike in everything else",
    )
    add("--batch_size", type=int, metavar="N", help="batch size of the configurations; default: the base plans'")
    add("--patch_size", type=int, nargs="+", metavar="N", help="patch size of the configurations; one number per axis")
    add(
        "--keep-resampling",
        action="store_true",
        help="a student's probabilities go back to the image's grid by the base plans' function; default: by nnU-Net's "
        "faster one, to the same labels",
    )
    add("-o", metavar="NAME", help="name of the new plans; default: PLANSKD_SPEC, as in nnUNetPlansKD_width0p25")
    add(
        "--list-taps",
        action="store_true",
        help="only print the features of student and teachers, with shapes, and the pairs of layers; writes nothing",
    )
    add("--overwrite", action="store_true", help="replace KD plans of the same name")


def run(args: argparse.Namespace) -> None:
    """Writes KD plans, compares teachers and student, prints the next commands."""
    from nnunet_kd.planning.request import Request
    from nnunet_kd.planning.schedule import parse_seeds, settings_of_length

    request = Request(
        dataset=args.d,
        configurations=tuple(args.c or ()),
        base_plans=args.p,
        trainer=args.tr,
        teachers=tuple(args.teachers),
        recipe=args.recipe,
        student=args.student,
        student_arguments=tuple(args.student_arg),
        params=args.params,
        latency_budget_ms=args.latency_budget,
        rank=args.rank,
        device=args.device,
        inherit_from=args.inherit_from,
        weights=Path(args.weights) if args.weights else None,
        role=args.role,
        settings=(*settings_of_length(args.iterations), *args.set),
        seeds=parse_seeds(args.seeds),
        batch_size=args.batch_size,
        patch_size=tuple(args.patch_size) if args.patch_size else None,
        keep_resampling=args.keep_resampling,
        name=args.o,
        overwrite=args.overwrite,
    )
    request.check()  # before torch is imported, which takes seconds
    from nnunet_kd.planning.make import make_plans, show_taps

    print(show_taps(request) if args.list_taps else make_plans(request))
