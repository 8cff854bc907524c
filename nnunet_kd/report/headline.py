"""Three sentences: what the student loses, what distillation gains, what it saves."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nnunet_kd.evaluation.statistics import Significance
from nnunet_kd.report.costs import Cost, Ratio, ratio
from nnunet_kd.report.formats import MINUS, UNKNOWN, number, of_metric, probability, significant
from nnunet_kd.report.measurements import HIGHER_IS_BETTER, SHARES
from nnunet_kd.report.numbers import Numbers, failed_apart


@dataclass(frozen=True)
class Statement:
    """One sentence of the headline.

    Attributes:
        key: ``loss``, ``gain`` or ``cost``.
        figure: the number it is about, with its unit, or a dash.
        caption: what the figure is, in a few words.
        sentence: the whole of it, with its interval.
    """

    key: str
    figure: str
    caption: str
    sentence: str


def make_headline(
    numbers: Numbers, costs: Mapping[str, Cost], significance: Significance, device: str | None
) -> tuple[Statement, Statement, Statement]:
    """Difference from the ensemble, gain over the twin, ratio of cost.

    Args:
        numbers: the report's; the headline is about its first shown metric.
        costs: of the methods, where known.
        significance: how p-values were judged.
        device: where times were measured.
    """
    roles = numbers.roles
    return (
        _accuracy("loss", numbers, roles.ensemble, "ensemble", "difference from the ensemble", significance),
        _accuracy("gain", numbers, roles.twin, "undistilled twin", "gain over the undistilled twin", significance),
        _cost(numbers, costs, device),
    )


def _accuracy(
    key: str, numbers: Numbers, other: str | None, role: str, caption: str, significance: Significance
) -> Statement:
    student, metric = numbers.roles.student, numbers.shown[0]
    if other is None:
        flag = "--ensemble" if key == "loss" else "--twin"
        return Statement(key, UNKNOWN, caption, f"No method is the {role}: the {caption} is not known ({flag}).")
    test = numbers.test(student, other, metric)
    assert test is not None, (student, other)
    figure = _amount(test.mean, numbers, metric, sign=True) if test.n_cases else UNKNOWN
    sentence = _difference(test, numbers, significance)
    title = f"{metric}: {caption}"
    if failures := failed_apart(test):
        sentence = f"{failures[0].upper()}{failures[1:]}, do not enter into {metric}. {sentence}"
    if more := test.first_failures - test.second_failures:  # counts before any distance
        figure = f"{more:+d} failure{'' if abs(more) == 1 else 's'}".replace("-", MINUS)
        title = f"structures missed or invented: {caption}"
    return Statement(key, figure, title, sentence)


def _difference(test: Any, numbers: Numbers, significance: Significance) -> str:
    """How much two methods differ on what both have."""
    metric = test.metric
    if test.n_cases == 0:
        return f"{test.first} and {test.second} have no case in common on which {metric} is defined."
    where = "above" if test.mean > 0 else "below" if test.mean < 0 else "level with"
    values = [of_metric(mean, metric) for mean in (test.first_mean, test.second_mean)]
    amount = "" if test.mean == 0 else f"{_amount(abs(test.mean), numbers, metric)} of {metric} "
    groups = f", {test.n_groups} groups" if numbers.groups is not None else ""
    both = " that both have" if failed_apart(test) and len(numbers.labels) > 1 else ""
    better = f"; lower {metric} is better" if HIGHER_IS_BETTER[metric] is False else ""
    return (
        f"{test.first} is {amount}{where} {test.second}: {values[0]} against {values[1]}, {numbers.over}{both}, "
        f"{test.n_cases} cases{groups} ({_interval(test)}; {_judgement(test, significance)}){better}."
    )


def _amount(value: float, numbers: Numbers, metric: str, sign: bool = False) -> str:
    if metric in SHARES:
        return f"{number(100 * value, 2, sign)} points"
    return f"{of_metric(value, metric, sign)} {numbers.unit(metric)}".strip()


def _interval(test: Any) -> str:
    scale, decimals = (100, 2) if test.metric in SHARES else (1, 3)
    percent = f"{100 * test.confidence:g} % confidence interval of the difference"
    low, high = (number(scale * v, decimals, sign=True) for v in (test.low, test.high))
    return f"{percent} {low} to {high}" if low != UNKNOWN else "too few cases for a confidence interval"


def _judgement(test: Any, significance: Significance) -> str:
    verdict = "significant" if test.significant else "not significant"
    corrected = f", {significance.correction.capitalize()}-corrected" if significance.correction else ""
    return f"p = {probability(test.p_adjusted)}{corrected}, {verdict} at {significance.level:g}"


def _cost(numbers: Numbers, costs: Mapping[str, Cost], device: str | None) -> Statement:
    student, other = numbers.roles.student, numbers.roles.reference
    caption = f"less network time than {other}"
    if student not in costs or other not in costs:
        missing = " and ".join(name for name in (student, other) if name not in costs)
        return Statement("cost", UNKNOWN, "cost", f"The cost of {missing} is not known (--model, --benchmark).")
    s, o = costs[student], costs[other]
    parts, figure = [], UNKNOWN
    if s.parameters and o.parameters:
        factor = o.parameters / s.parameters
        parts.append(f"has {_times(factor, 'fewer', 'more')} parameters ({_millions(s)} against {_millions(o)})")
        figure, caption = _factor(factor), f"fewer parameters than {other}"
    if s.flops_per_case and o.flops_per_case:
        factor = o.flops_per_case / s.flops_per_case
        parts.append(f"needs {_times(factor, 'fewer', 'more')} counted operations per case")
    times = ratio(o.network_seconds, s.network_seconds)
    if times is not None:
        where = f" on {device}" if device else ""
        less = _times(times.factor, "less", "more")
        parts.append(f"spends {less} network time per case{where} ({_ratio_interval(times)})")
        figure, caption = _factor(times.factor), f"less network time than {other}"
    if not parts:
        return Statement(
            "cost", UNKNOWN, "cost", f"Nothing that was measured compares the cost of {student} and {other}."
        )
    text = parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
    return Statement("cost", figure, caption, f"Compared with {other}, {student} {text}.")


def _ratio_interval(times: Ratio) -> str:
    if significant(times.low) == UNKNOWN:
        return f"{times.n} case"
    return f"95 % confidence interval {significant(times.low)} to {significant(times.high)} times, {times.n} cases"


def _times(factor: float, less: str, more: str) -> str:
    return f"{significant(factor)} times {less}" if factor >= 1 else f"{significant(1 / factor)} times {more}"


def _factor(factor: float) -> str:
    return f"{significant(factor)} ×"


def _millions(cost: Cost) -> str:
    return f"{significant((cost.parameters or 0) / 1e6)} M"
