"""Plans from what a user asks for: written, compared with the teachers, with the next commands."""

from pathlib import Path

from nnunet_kd.planning.budget import choose_student
from nnunet_kd.planning.comparison import compare
from nnunet_kd.planning.draft import Draft, make_draft
from nnunet_kd.planning.next_steps import commands_of_seeds, next_commands, teaching_source
from nnunet_kd.planning.notes import notes
from nnunet_kd.planning.patch import check_patch
from nnunet_kd.planning.plans import check_plans_name, check_target, default_plans_name
from nnunet_kd.planning.request import Request
from nnunet_kd.planning.taps import describe_taps
from nnunet_kd.planning.weights import initial_weights
from nnunet_kd.utilities.files import write_json


def make_plans(request: Request) -> str:
    """Writes KD plans, one file for each seed, and weights where a file of them is given.

    Returns:
        What was written, teachers and student compared, notes, the next commands.

    Raises:
        UserError: for what cannot be planned; nothing is written then.
    """
    draft = make_draft(request)
    if draft.config.role == "student":
        teaching_source(draft.config)  # is there such a trainer?
    if request.name:
        _targets(draft, request.name)  # before candidates are measured for minutes
    draft.check_teachers()
    draft, lines = choose_student(draft)
    files = _targets(draft, request.name or default_plans_name(request.base_plans, draft.config))
    drafts = (
        dict(zip(files, map(draft.with_seed, request.seeds), strict=True))
        if request.seeds
        else dict.fromkeys(files, draft)
    )
    written = {name: d.compose(name) for name, d in drafts.items()}
    name, plans = next(iter(written.items()))
    models = draft.models(plans, draft.order)
    for model in models:
        check_patch(model)
    weights = initial_weights(request.weights, models) if request.weights else {}
    tables, missing = compare(draft, plans)
    for n, file in files.items():
        write_json(file, written[n])
    weight_files = {c: w.write(files[name].parent, name) for c, w in weights.items()}

    lines += [f"Wrote {file}" for file in files.values()]
    if inherited := draft.inherited:
        lines.append(f"From {request.base_plans}: {', '.join(inherited)}; other values with --set or --iterations.")
    for c, w in weights.items():
        lines.append(f"Wrote {weight_files[c]}: {w.loaded} of {w.total} tensors are from {request.weights}")
    if draft.recipe:
        lines += [f"Recipe {draft.recipe.name}: {draft.recipe.source}", *(f"  - {n}" for n in draft.recipe.notes)]
    lines.append(tables)
    lines += [f"\nNote: {note}" for note in notes(draft, models)]
    if request.seeds:
        commands = commands_of_seeds(list(files), draft.order, request.dataset)
    else:
        commands = next_commands(models, draft.config, request.dataset, draft.paths.preprocessed, missing, weight_files)
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


def _targets(draft: Draft, name: str) -> dict[str, Path]:
    """Names of the plans, and the files to write, where they may be written."""
    names = [f"{name}_seed{seed}" for seed in draft.request.seeds] or [name]
    files = {n: draft.paths.preprocessed / f"{check_plans_name(n)}.json" for n in names}
    for file in files.values():
        check_target(file, draft.request.base_plans, draft.request.overwrite)
    return files
