"""``nnUNetv2_kd distill``."""

import argparse
import os
import shlex
import sys
from pathlib import Path

from nnunet_kd.commands.options import add_device

PLAN_OPTIONS = ("--rank", "--inherit-from")
PLAN_LISTS = ("--student-arg", "--patch_size")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What is distilled from what, and on which cases the result is judged."""
    add = parser.add_argument
    add("-d", required=True, metavar="DATASET", help="data set ID or name")
    add("-c", required=True, metavar="CONFIGURATION", help="configuration of the student")
    add("-p", default="nnUNetPlans", metavar="PLANS", help="base plans; default: nnUNetPlans")
    add("-f", default="all", metavar="FOLD", help="fold of the student, a number or all; default: all")
    add("--teachers", nargs="+", default=[], metavar="TEACHER", help="as in nnUNetv2_kd plan; default: every finished "
        "fold of nnUNetTrainer__PLANS__CONFIGURATION")  # fmt: skip
    add("--student", metavar="SPEC", help="the network, as in nnUNetv2_kd plan; default: same")
    add("--student-arg", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="as in nnUNetv2_kd plan")
    add("--params", metavar="N", help="budget of parameters, as in nnUNetv2_kd plan")
    add("--latency-budget", type=float, metavar="MS", help="milliseconds for one patch, as in nnUNetv2_kd plan")
    add("--rank", choices=("params", "dice"), help="as in nnUNetv2_kd plan")
    add("--recipe", metavar="RECIPE", help="preset of the kd block, as in nnUNetv2_kd plan")
    add("--inherit-from", metavar="MODELFOLDER:FOLD", help="as in nnUNetv2_kd plan")
    add("--patch_size", nargs="+", default=[], metavar="N", help="as in nnUNetv2_kd plan")
    add("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="values of the kd block")
    add("--iterations", type=int, metavar="N", help="length of the training, as in nnUNetv2_kd plan")
    add("--test", nargs=2, type=Path, metavar=("IMAGES", "LABELS"), help="test cases: images, named as for "
        "nnUNetv2_predict, and their reference segmentations")  # fmt: skip
    add("--twin", action="store_true", help="also train the same network without teachers, and compare")
    add("-o", metavar="NAME", help="name of the student's plans; default: as in nnUNetv2_kd plan")
    add_device(parser)
    add("-np", type=int, default=1, metavar="N", help="processes for preprocessing and export; default: 1")
    add("--dry-run", action="store_true", help="print the commands and stop")


def run(args: argparse.Namespace) -> None:
    """Runs, or prints, every command from the plans to the report."""
    from nnunet_kd.distill.request import Request
    from nnunet_kd.planning.schedule import settings_of_length

    request = Request(
        dataset=args.d,
        configuration=args.c,
        base_plans=args.p,
        fold=args.f,
        name=args.o,
        student=args.student,
        params=args.params,
        latency_budget_ms=args.latency_budget,
        recipe=args.recipe,
        teachers=tuple(args.teachers),
        settings=(*settings_of_length(args.iterations), *args.set),
        plan_options=tuple(plan_options(args)),
        test=args.test and (args.test[0], args.test[1]),
        twin=args.twin,
        device=args.device,
        processes=args.np,
    )
    request.check()  # before torch is imported, which takes seconds
    from nnunet_kd.distill.prepare import claim, prepare
    from nnunet_kd.distill.run import run_steps
    from nnunet_kd.distill.summary import summarise

    distillation = prepare(request)
    groups = distillation.steps()
    if args.dry_run:
        for step in (step for group in groups for step in group):
            print(f"# {step.title}\n{step}")
        return
    claim(distillation)
    if distillation.device == "cpu":  # threads that wait leave the cores to the step beside theirs
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    go_on = shlex.join(["nnUNetv2_kd", *sys.argv[1:]])
    run_steps(groups, distillation.output / "logs", distillation.device == "cpu", go_on)
    print(f"\n{summarise(distillation)}")


def plan_options(args: argparse.Namespace) -> list[str]:
    """What is handed to ``nnUNetv2_kd plan`` as it is."""
    options = []
    for option in PLAN_OPTIONS:
        if (value := getattr(args, option.lstrip("-").replace("-", "_"))) is not None:
            options += [option, value]
    for option in PLAN_LISTS:
        if values := getattr(args, option.lstrip("-").replace("-", "_")):
            options += [option, *values]
    return options
