"""From what a user asks for to a distillation whose teachers are there and whose name is free."""

import shlex

from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_kd.config import KDConfig
from nnunet_kd.distill.request import Request
from nnunet_kd.distill.steps import Distillation
from nnunet_kd.export.packages import missing_packages
from nnunet_kd.planning import plans as planning
from nnunet_kd.planning.kd_block import inherited_block, make_kd_block, parse_teacher
from nnunet_kd.planning.next_steps import has_networks_that_teach, missing_peers
from nnunet_kd.planning.recipes import load_recipe
from nnunet_kd.planning.student import join_params
from nnunet_kd.teachers.model import find_teachers
from nnunet_kd.utilities.environment import dataset_paths, torch_device
from nnunet_kd.utilities.errors import UserError
from nnunet_kd.utilities.files import write_whole


def prepare(request: Request) -> Distillation:
    """Checks what is asked for and finds the teachers, before anything is run.

    Raises:
        UserError: for what would make nnU-Net or the commands fail later.
    """
    request.check()
    paths = dataset_paths(request.dataset)
    base = planning.load_base_plans(paths.preprocessed, request.base_plans)
    planning.training_order(base, [request.configuration])
    recipe = load_recipe(request.recipe) if request.recipe else None
    teachers = [parse_teacher(t, paths.results) for t in request.teachers]
    inherited = inherited_block(base)
    student = join_params(request.student, request.params)
    kd = make_kd_block(inherited, recipe, None, request.base_plans, student, teachers, request.settings)
    name = planning.check_plans_name(request.name or default_name(request, kd))
    taught = has_networks_that_teach(kd)
    if request.test and not (taught or request.twin):
        raise UserError("--test: no trained networks teach this student, with which it could be compared; add --twin.")
    if missing := missing_peers(kd, paths.preprocessed):
        raise UserError(
            f"{paths.preprocessed / missing[0]}.json: not there; cross_teaching.teachers names its network."
        )
    configuration = PlansManager(base).get_configuration(request.configuration)
    if configuration.previous_stage_name is not None:
        raise UserError(
            f"-c {request.configuration}: is the second stage of a cascade, which distill does not run; use the "
            "commands that nnUNetv2_kd plan prints."
        )
    return Distillation(
        dataset=request.dataset,
        configuration=request.configuration,
        plans=name,
        fold=request.fold,
        plan_command=request.plan_command(name),
        kd=kd,
        teachers=find_teachers(kd, request.base_plans, request.configuration, paths.results) if taught else (),
        preprocessed=paths.preprocessed,
        results=paths.results,
        output=paths.results / f"distill_{name}" / f"{request.configuration}_fold_{request.fold}",
        device=torch_device(request.device).type,
        processes=request.processes,
        test=request.test and (request.test[0].absolute(), request.test[1].absolute()),
        twin=request.twin,
        data_folder=paths.preprocessed / configuration.data_identifier,
        base_plans=request.base_plans,
        makes_bundle=can_make_bundles(),
    )


def default_name(request: Request, kd: KDConfig) -> str:
    """Name of the plans, known before candidates of a budget are timed."""
    name = planning.default_plans_name(request.base_plans, kd)
    if request.latency_budget_ms is None:
        return name
    return f"{name.removesuffix('_same')}_{request.latency_budget_ms:g}ms".replace(".", "p")


def can_make_bundles() -> bool:
    """Whether the packages of the extra ``export`` are there."""
    return not missing_packages()


def claim(distillation: Distillation) -> None:
    """Checks what nnU-Net will load, and records how the plans are made, so that no other one continues with them.

    Raises:
        UserError: for a teacher's file that may hold more than data, or plans of that name that were made otherwise.
    """
    for teacher in distillation.teachers:
        teacher.check()  # nnUNetv2_predict_from_modelfolder runs what a checkpoint holds
    command, file = shlex.join(distillation.plan_command), distillation.output.parent / "plan.txt"
    plans = distillation.preprocessed / f"{distillation.plans}.json"
    if plans.is_file() and not (file.is_file() and file.read_text(encoding="utf-8") == command):
        raise UserError(f"{plans}: is there already and was made otherwise; choose another name with -o.")
    distillation.output.mkdir(parents=True, exist_ok=True)
    write_whole(file, lambda f: f.write_text(command, encoding="utf-8"))
