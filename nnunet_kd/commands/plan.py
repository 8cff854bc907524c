"""``nnUNetv2_kd plan``."""

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnunet_kd.commands.options import add_device
from nnunet_kd.networks.family import family_names

if TYPE_CHECKING:
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    from nnunet_kd.config import KDConfig
    from nnunet_kd.planning import latency
    from nnunet_kd.planning.cost import PredictionCost
    from nnunet_kd.planning.student import StudentSpec
    from nnunet_kd.teachers.model import TeacherModel

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
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    from nnunet_kd.inheritance.start import named_member
    from nnunet_kd.planning import plans as planning
    from nnunet_kd.planning import ranking, recipes
    from nnunet_kd.planning.next_steps import next_commands
    from nnunet_kd.planning.patch import check_patch
    from nnunet_kd.planning.student import parse_arguments
    from nnunet_kd.planning.weights import initial_weights
    from nnunet_kd.utilities.environment import dataset_paths
    from nnunet_kd.utilities.errors import UserError
    from nnunet_kd.utilities.files import write_json
    from nnunet_kd.utilities.nnunet_files import check_plans, read_dataset_json

    if args.rank == "dice" and args.params is None and args.latency_budget is None:
        raise UserError("--rank dice: compares students that keep a budget; give --params or --latency-budget.")
    if args.batch_size is not None and args.batch_size < 1:
        raise UserError(f"--batch_size {args.batch_size}: expected at least 1.")
    if args.tr and (args.teachers or args.role == "teacher"):
        raise UserError(
            "-tr: names the trainer of the default teachers; leave it out beside --teachers and --role teacher."
        )
    paths = dataset_paths(args.d)
    preprocessed, results = paths.preprocessed, paths.results
    base = planning.load_base_plans(preprocessed, args.p)
    chosen = list(dict.fromkeys(args.c or base["configurations"]))
    order = planning.training_order(base, chosen)
    dataset_json = read_dataset_json(preprocessed / "dataset.json")

    recipe = recipes.load_recipe(args.recipe) if args.recipe else None
    teachers = [recipes.parse_teacher(t, results) for t in args.teachers]
    student = join_params(args.student, args.params)
    settings = list(args.set)
    if args.inherit_from:
        named_member(args.inherit_from, results)  # is it there?
        settings.append(f"student.inherit_from={json.dumps(args.inherit_from)}")
    config = recipes.make_kd_block(recipe, args.role, args.p, student, teachers, settings, args.tr)
    arguments = parse_arguments(args.student_arg)

    def compose(name: str, config: "KDConfig") -> dict[str, Any]:
        plans = planning.compose_plans(
            base,
            name,
            chosen,
            config,
            dataset_json,
            args.batch_size,
            args.patch_size,
            arguments,
            args.keep_resampling,
        )
        check_plans(plans, name)
        return plans

    def dice(spec: "StudentSpec") -> float:
        candidate = with_student(config, spec)
        plans = compose("candidate", candidate)
        return ranking.untrained_dice(plans, chosen[0], dataset_json, candidate, preprocessed, results)

    if args.o and not args.list_taps:  # before candidates are measured for minutes
        planning.check_target(preprocessed / f"{planning.check_plans_name(args.o)}.json", args.p, args.overwrite)
    tables_of_candidates: list[str] = []
    if args.latency_budget is not None or args.rank == "dice":
        config, tables_of_candidates = choose_student(args, chosen, config, dataset_json, compose, dice)
    name = planning.check_plans_name(args.o or planning.default_plans_name(args.p, config))
    file = preprocessed / f"{name}.json"
    if not args.list_taps:
        planning.check_target(file, args.p, args.overwrite)

    plans = compose(name, config)
    for c in order:
        check_patch(PlansManager(plans), c, dataset_json)
    if args.list_taps:
        print(
            "\n\n".join(taps(PlansManager(base), PlansManager(plans), c, dataset_json, config, results) for c in order)
        )
        return
    weights = initial_weights(Path(args.weights), plans, order, dataset_json) if args.weights else {}
    tables, missing = compare(PlansManager(base), PlansManager(plans), order, dataset_json, config, results)
    write_json(file, plans)
    weight_files = {c: w.write(preprocessed, name) for c, w in weights.items()}

    for table in tables_of_candidates:
        print(table)
    print(f"Wrote {file}")
    for c, w in weights.items():
        print(f"Wrote {weight_files[c]}: {w.loaded} of {w.total} tensors are from {args.weights}")
    if recipe:
        print("\n".join([f"Recipe {recipe.name}: {recipe.source}", *(f"  - {n}" for n in recipe.notes)]))
    print(tables)
    for note in notes(PlansManager(plans), order, config, preprocessed, args.d, results):
        print(f"\nNote: {note}")
    print("\n" + next_commands(PlansManager(plans), order, config, args.d, missing, weight_files))


def join_params(student: str | None, params: str | None) -> str | None:
    """``--student`` with the budget of ``--params``."""
    from nnunet_kd.planning.student import parse_number

    if params is None:
        return student
    parse_number(params)
    return f"params={params}" if student in (None, "same") else f"{student},params={params}"


def with_student(config: "KDConfig", spec: "StudentSpec") -> "KDConfig":
    """The ``"kd"`` block for another student."""
    from nnunet_kd.planning.student import format_student

    return replace(config, student=replace(config.student, architecture=format_student(spec)))


def choose_student(
    args: argparse.Namespace,
    chosen: Sequence[str],
    config: "KDConfig",
    dataset_json: dict[str, Any],
    compose: Callable[[str, "KDConfig"], dict[str, Any]],
    dice: "Callable[[StudentSpec], float]",
) -> "tuple[KDConfig, list[str]]":
    """The ``"kd"`` block with the student that keeps the budget, and tables of the candidates."""
    from nnunet_kd.planning import latency, ranking
    from nnunet_kd.planning.student import parse_student
    from nnunet_kd.utilities.environment import torch_device
    from nnunet_kd.utilities.errors import UserError

    budget_ms = args.latency_budget
    flag = "--rank dice" if budget_ms is None else "--latency-budget"
    if budget_ms is not None and not 0 < budget_ms < float("inf"):
        raise UserError(f"--latency-budget {budget_ms:g}: expected milliseconds, greater than 0.")
    if len(chosen) != 1:
        raise UserError(f"{flag}: is for one configuration; name it with -c.")
    spec = parse_student(config.student.architecture)
    candidates = ranking.shapes(spec) if args.rank == "dice" else [spec]
    tables = []
    if budget_ms is not None:
        device = torch_device(args.device)

        def run(spec: "StudentSpec") -> "latency.Timed":
            plans = compose("candidate", with_student(config, spec))
            return latency.time_patch(plans, chosen[0], dataset_json, device)

        candidates, timed = latency.search(spec, budget_ms, run, f"-c {chosen[0]}", candidates)
        tables.append(latency.format_timed(timed, candidates[0], device))
    if args.rank == "dice":
        ranked = ranking.rank(candidates, dice)
        candidates = [r.spec for r in ranked]
        tables.append(ranking.format_ranked(ranked))
    return with_student(config, candidates[0]), tables


def compare(
    base: "PlansManager",
    plans: "PlansManager",
    order: Sequence[str],
    dataset_json: dict[str, Any],
    config: "KDConfig",
    results: Path,
) -> tuple[str, list[str]]:
    """One table per configuration, and the configurations whose default teacher is not trained yet."""
    from nnunet_kd.planning.cost import LEGEND, format_table, measure

    is_student = config.role == "student"
    mirrored = config.student.mirroring or not is_student
    parts, missing = [], []
    for c in order:
        rows = teacher_costs(c, base.plans_name, config, results) if is_student else []
        if not rows:
            missing.append(c)
            reference_mirrored = config.ensemble.mirroring or not is_student
            rows = [measure(base, c, dataset_json, f"{base.plans_name} {c}", mirrored=reference_mirrored)]
        new = measure(plans, c, dataset_json, f"{plans.plans_name} ({config.role})", mirrored=mirrored)
        table = format_table(rows, new, "teachers / student" if is_student else "base / teacher")
        parts.append(f"\n{c}\n{table}")
    words = {True: "mirrored", False: "not mirrored"}
    use = f"teachers {words[config.ensemble.mirroring]}, student {words[mirrored]}" if is_student else "both mirrored"
    return "\n".join([*parts, "", LEGEND.format(use=use)]), missing


def teacher_models(configuration: str, base_plans: str, config: "KDConfig", results: Path) -> "Sequence[TeacherModel]":
    """The teachers; empty when the default teacher is not trained yet."""
    from nnunet_kd.teachers.model import NotTrainedError, find_teachers

    try:
        return find_teachers(config, base_plans, configuration, results)
    except NotTrainedError:
        if config.teachers:
            raise
        return ()


def teacher_costs(configuration: str, base_plans: str, config: "KDConfig", results: Path) -> "list[PredictionCost]":
    """Costs of the teachers, from their own folders; empty when the default teacher is not trained yet."""
    from nnunet_kd.planning.cost import measure

    return [
        measure(
            m.plans_manager,
            m.configuration,
            m.dataset_json,
            m.folder.name,
            m.trainer_name,
            len(m.folds),
            config.ensemble.mirroring,
        )
        for m in teacher_models(configuration, base_plans, config, results)
    ]


def taps(
    base: "PlansManager",
    plans: "PlansManager",
    configuration: str,
    dataset_json: dict[str, Any],
    config: "KDConfig",
    results: Path,
) -> str:
    """Features of the student and of each teacher, for the student's patch, and the pairs of layers."""
    from nnunet_kd.planning.cost import STOCK_TRAINER
    from nnunet_kd.planning.taps import describe_pairs, list_taps

    patch = plans.get_configuration(configuration).patch_size
    pairs = config.features.pairs
    name = f"{plans.plans_name} ({config.role})"
    mine, theirs = [p.student for p in pairs], [p.teacher for p in pairs]
    student = list_taps(name, plans, configuration, dataset_json, STOCK_TRAINER, patch, mine)
    lines = [f"{configuration}, patch {' x '.join(map(str, patch))}", str(student)]
    for m in teacher_models(configuration, base.plans_name, config, results):
        teacher = list_taps(
            m.folder.name, m.plans_manager, m.configuration, m.dataset_json, m.trainer_name, patch, theirs
        )
        lines += [str(teacher), describe_pairs(student, teacher, config.features)]
    return "\n".join(lines)


def notes(
    plans: "PlansManager", order: Sequence[str], config: "KDConfig", preprocessed: Path, dataset: str, results: Path
) -> list[str]:
    """What a user should know before going on."""
    result = []
    for c in order:
        identifier = plans.get_configuration(c).data_identifier
        if not (preprocessed / identifier).is_dir():
            command = f"nnUNetv2_preprocess -d {dataset} -plans_name {config.base_plans} -c {c}"
            result.append(f"{preprocessed / identifier} is missing; preprocess with: {command}")
        if plans.get_configuration(c).network_arch_class_name.startswith("nnunet_kd."):
            result.append(f"checkpoints of {c} need the package nnunet_kd at prediction, not its trainers.")
        previous = plans.get_configuration(c).previous_stage_name
        if previous:
            result.append(f"{c} refines the prediction of {previous}, whose cost comes on top.")
        one = config.role == "student" and config.student.trainer == "nnUNetTrainerKDFeature"
        models = teacher_models(c, str(config.base_plans), config, results) if one else []
        if (networks := sum(len(m.folds) for m in models)) > 1 and config.ensemble.membership != "same_fold":
            result.append(
                f"nnUNetTrainerKDFeature has one teacher network, {c} has {networks}; name one with --teachers "
                "FOLDER:FOLD, set ensemble.membership=same_fold, or use nnUNetTrainerKDMultiTeacher."
            )
    for teacher in config.cross_teaching.teachers:
        if teacher != "same" and not (preprocessed / f"{teacher}.json").is_file():
            result.append(
                f"{teacher}.json is missing, whose network cross_teaching.teachers names; make it with: "
                f"nnUNetv2_kd plan -d {dataset} -c {' '.join(order)} --role teacher -o {teacher} --student ..."
            )
    if config.teachers and len(order) > 1:
        result.append(f"these teachers teach every configuration of {plans.plans_name}; -c keeps only one.")
    return result
