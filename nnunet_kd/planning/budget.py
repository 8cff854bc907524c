"""The student that keeps a budget: candidates are timed, ranked, and the first is taken."""

from nnunet_kd.planning import latency, ranking
from nnunet_kd.planning.draft import Draft
from nnunet_kd.planning.network import PlannedModel
from nnunet_kd.planning.student import StudentSpec, parse_student
from nnunet_kd.utilities.environment import torch_device
from nnunet_kd.utilities.errors import UserError


def choose_student(draft: Draft) -> tuple[Draft, list[str]]:
    """The draft with the student that keeps the budget, and tables of the candidates.

    Without a budget of milliseconds or a ranking by Dice the draft stays as it is; scaling keeps budgets of parameters.

    Raises:
        UserError: when nothing keeps the budget, or there are several configurations.
    """
    budget_ms, by_dice = draft.request.latency_budget_ms, draft.request.rank == "dice"
    if budget_ms is None and not by_dice:
        return draft, []
    if len(draft.chosen) != 1:
        flag = "--rank dice" if budget_ms is None else "--latency-budget"
        raise UserError(f"{flag}: is for one configuration; name it with -c.")

    def candidate(spec: StudentSpec) -> PlannedModel:
        plans = draft.with_student(spec).compose("candidate")
        return draft.models(plans, draft.chosen)[0]

    def dice(spec: StudentSpec) -> float:
        config = draft.with_student(spec).config
        return ranking.untrained_dice(candidate(spec), config, draft.paths.preprocessed, draft.paths.results)

    spec = parse_student(draft.config.student.architecture)
    candidates = ranking.shapes(spec) if by_dice else [spec]
    tables = []
    if budget_ms is not None:
        device = torch_device(draft.request.device)
        candidates, timed = latency.search(
            spec, budget_ms, lambda s: latency.time_patch(candidate(s), device), f"-c {draft.chosen[0]}", candidates
        )
        tables.append(latency.format_timed(timed, candidates[0], device))
    if by_dice:
        ranked = ranking.rank(candidates, dice)
        candidates = [r.spec for r in ranked]
        tables.append(ranking.format_ranked(ranked))
    return draft.with_student(candidates[0]), tables
