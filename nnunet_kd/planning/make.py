"""Plans from what a user asks for: written, compared with the teachers, with the next commands."""

from pathlib import Path

from nnunet_kd.planning.budget import choose_student
from nnunet_kd.planning.comparison import compare
from nnunet_kd.planning.draft import Draft, Request, make_draft
from nnunet_kd.planning.next_steps import next_commands, teaching_source
from nnunet_kd.planning.notes import notes
from nnunet_kd.planning.patch import check_patch
from nnunet_kd.planning.plans import check_plans_name, check_target, default_plans_name
from nnunet_kd.planning.taps import describe_taps
from nnunet_kd.planning.weights import initial_weights
from nnunet_kd.utilities.files import write_json


def make_plans(request: Request) -> str:
    """Writes KD plans, and weights where a file of them is given.

    Returns:
        What was written, teachers and student compared, notes, the next commands.

    Raises:
        UserError: for what cannot be planned; nothing is written then.
    """
    draft = make_draft(request)
    if draft.config.role == "student":
        teaching_source(draft.config)  # is there such a trainer?
    if request.name:
        _target(draft, request.name)  # before candidates are measured for minutes
    draft, lines = choose_student(draft)
    name = request.name or default_plans_name(request.base_plans, draft.config)
    file = _target(draft, name)
    plans = draft.compose(name)
    models = draft.models(plans, draft.order)
    for model in models:
        check_patch(model)
    weights = initial_weights(request.weights, models) if request.weights else {}
    tables, missing = compare(draft, plans)
    write_json(file, plans)
    weight_files = {c: w.write(file.parent, name) for c, w in weights.items()}

    lines.append(f"Wrote {file}")
    for c, w in weights.items():
        lines.append(f"Wrote {weight_files[c]}: {w.loaded} of {w.total} tensors are from {request.weights}")
    if draft.recipe:
        lines += [f"Recipe {draft.recipe.name}: {draft.recipe.source}", *(f"  - {n}" for n in draft.recipe.notes)]
    lines.append(tables)
    lines += [f"\nNote: {note}" for note in notes(draft, models)]
    commands = next_commands(models[0].plans, draft.order, draft.config, request.dataset, missing, weight_files)
    return "\n".join([*lines, "\n" + commands])


def show_taps(request: Request) -> str:
    """Features of student and teachers, with shapes, and the pairs of layers; nothing is written.

    Raises:
        UserError: for what cannot be planned.
    """
    draft, _ = choose_student(make_draft(request))
    plans = draft.compose(check_plans_name(request.name or default_plans_name(request.base_plans, draft.config)))
    models = draft.models(plans, draft.order)
    for model in models:
        check_patch(model)
    return "\n\n".join(describe_taps(draft, model) for model in models)


def _target(draft: Draft, name: str) -> Path:
    """The file to write, where it may be written."""
    file = draft.paths.preprocessed / f"{check_plans_name(name)}.json"
    check_target(file, draft.request.base_plans, draft.request.overwrite)
    return file
