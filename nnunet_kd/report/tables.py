"""The report's tables as text: page and Markdown print the same cells."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd

from nnunet_kd.report.calibration import Calibration
from nnunet_kd.report.costs import Cost, ratio
from nnunet_kd.report.formats import (
    UNKNOWN,
    count,
    middle_and_range,
    number,
    of_metric,
    probability,
    significant,
    structures,
)
from nnunet_kd.report.measurements import HIGHER_IS_BETTER, MEAN
from nnunet_kd.report.numbers import Numbers

MARK = "○"


class Cell(NamedTuple):
    """A cell's text, whether it is the best of its column, and whether a ring marks it as significant."""

    text: str
    best: bool = False
    mark: bool = False


@dataclass(frozen=True)
class Table:
    """A table for readers.

    Attributes:
        key: its name in the page.
        caption: what it shows and how to read it.
        groups: headings above several columns as (heading, columns), or nothing.
        header: one heading for each column.
        rows: cells.
        left: columns at the left that hold words.
    """

    key: str
    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    groups: tuple[tuple[str, int], ...] = ()
    left: int = 1

    @property
    def marked(self) -> tuple[bool, ...]:
        """Whether a cell of each column has a mark: such columns keep a place for it."""
        return tuple(any(row[i].mark for row in self.rows) for i in range(len(self.header)))

    @property
    def flat_header(self) -> tuple[str, ...]:
        """Headings in one line: the group's, then the column's."""
        above = [group for group, span in self.groups for _ in range(span)] or [""] * len(self.header)
        return tuple(f"{group} {name}".strip() for group, name in zip(above, self.header, strict=True))


def cost_table(numbers: Numbers, costs: Mapping[str, Cost]) -> Table | None:
    """Size, work, time and memory of every method; the form is that of Noothout et al. 2022, Table 1."""
    if not costs:
        return None
    reference = costs.get(numbers.roles.reference)
    rows = []
    for name in numbers.methods:
        c = costs.get(name, Cost(name))
        times = ratio(reference.network_seconds, c.network_seconds) if reference is not None else None
        faster = UNKNOWN if times is None or c is reference else significant(times.factor)
        if times is not None and c is not reference and np.isfinite(times.low):
            faster += f" ({significant(times.low)} to {significant(times.high)})"
        flops = None if c.flops_per_case is None else c.flops_per_case / 1e9
        rows.append(
            (
                name, count(c.networks), count(c.parameters), count(c.passes_per_case), significant(flops),
                middle_and_range(c.network_seconds), faster, middle_and_range(c.predict_seconds),
                middle_and_range(c.memory_mb), middle_and_range(c.device_mb),
                middle_and_range(c.cpu_time_percent_s), middle_and_range(c.device_memory_time_mb_s),
            )
        )  # fmt: skip
    header = (
        "method", "networks", "parameters", "passes per case", "GFLOPs per case", "network s per case",
        f"times less than {numbers.roles.reference}", "nnUNetv2_predict s per case", "peak memory MB",
        "peak device memory MB", "CPU utilisation over time % s", "device memory over time MB s",
    )  # fmt: skip
    caption = (
        "Size and cost. Parameters and operations of all networks that predict together. Passes: windows × mirrored "
        "versions × networks. GFLOPs are counted, not timed: 2 per multiply-add. Times and memory: median (range); "
        "network s over the benchmarked cases, the others over runs. Ratio of network times: geometric mean over "
        "cases (95 % bootstrap interval)."
    )
    return _drop_empty_columns(Table("costs", caption, header, _cells(rows)), keep=3)


def structure_table(numbers: Numbers) -> Table | None:
    """How often each method misses or invents a class altogether; None where no method ever does."""
    counts = numbers.structures.set_index(["method", "label"]).astype(int)
    if not counts[["missed", "invented"]].to_numpy().any():
        return None
    header, columns = ["method"], [[Cell(name) for name in numbers.methods]]
    together = {"in all": counts.groupby("method", observed=True).sum()} if len(numbers.labels) > 1 else {}
    for title, found in {**together, **{label: counts.xs(label, level="label") for label in numbers.labels}}.items():
        for what, among in (("missed", "present"), ("invented", "absent")):
            failed, total = found[what].tolist(), found[among].iloc[0]
            if total:
                header.append(f"{title}: {what}")
                columns.append([Cell(f"{f} of {total}", best=f == min(failed) < max(failed)) for f in failed])
    caption = (
        "Structures that are missed altogether (the reference has them, the prediction nothing of them) or invented "
        "(the other way round). Look here first: they have no distance, so that the means of distances below leave "
        "them out. Bold: the fewest."
    )
    return Table("structures", caption, tuple(header), tuple(zip(*columns, strict=True)))


def accuracy_table(numbers: Numbers) -> Table:
    """Mean of every metric and class; the form is that of Noothout et al. 2022, Table 2."""
    columns = [(label, metric) for label in numbers.columns for metric in numbers.shown]
    best = {(label, metric): numbers.best(metric, label) for label, metric in columns}
    rows = []
    for name in numbers.methods:
        row = [Cell(name)]
        for label, metric in columns:
            test = numbers.test(name, numbers.roles.reference, metric, label)
            mean = numbers.score(name, metric, label).common_mean
            mark = test is not None and test.significant and np.isfinite(mean)
            row.append(Cell(of_metric(mean, metric), name in best[label, metric], bool(mark)))
        rows.append(tuple(row))
    caption = (
        f"Mean over {len(numbers.cases)} cases, of what all methods have. Bold: best of the column; where the mean "
        f"leaves out structures that were missed or invented, whoever has fewest of them. {MARK}: differs "
        f"significantly from {numbers.roles.reference}.{_classes(numbers)} Distances in {numbers.distance_unit}."
        f"{_undefined(numbers)}"
    )
    groups = (("", 1), *((title, len(numbers.shown)) for title in numbers.columns.values()))
    return Table("accuracy", caption, ("method", *(m for _, m in columns)), tuple(rows), groups)


def spread_table(numbers: Numbers) -> Table:
    """Mean and standard deviation of all metrics that have a better and a worse, mean over classes."""
    # VOE is 1 - IoU
    metrics = [m for m in numbers.metrics if m in HIGHER_IS_BETTER and m != "IoU"]
    best = {m: numbers.best(m) for m in metrics}
    rows = []
    for name in numbers.methods:
        scores = [numbers.score(name, m) for m in metrics]
        texts = [
            f"{of_metric(s.common_mean, s.metric)} ± {of_metric(s.common_sd, s.metric)}" if s.common_n else UNKNOWN
            for s in scores
        ]
        rows.append((Cell(name), *(Cell(t, name in best[s.metric]) for t, s in zip(texts, scores, strict=True))))
    caption = f"All metrics, {numbers.over}: mean ± standard deviation over cases, of what all methods have."
    header = ("method", *map(numbers.title, metrics))
    return Table("spread", caption, header, tuple(rows))


def test_tables(numbers: Numbers) -> list[Table]:
    """The student's comparisons, and all others."""
    roles = numbers.roles
    tests = numbers.tests
    of_student = (tests["first"] == roles.student) & tests["second"].isin([roles.ensemble, roles.twin])
    is_corrected = (tests["p_adjusted"].dropna() != tests["p"].dropna()).any()
    corrected = " Corrected p: for all tests of the metric, over classes and pairs of methods." if is_corrected else ""
    groups = "" if numbers.groups is None else " Groups are resampled as a whole, and tested by their mean difference."
    left_out = (
        " Failures left out: structures that the first / the second method misses or invents; they have no value."
        if tests[["first_failures", "second_failures"]].to_numpy().any()
        else ""
    )
    caption = (
        "Paired comparisons on the cases and classes that both have: first minus second method, the mean of the "
        f"differences with its 95 % bootstrap interval, Wilcoxon signed-rank test.{corrected}{groups} {MARK}: "
        f"significant.{left_out}"
    )
    tables = [_test_table(numbers, "comparisons", f"{caption} The student's comparisons.", tests[of_student])]
    if not of_student.all():
        others = "Paired comparisons of the other methods."
        tables.append(_test_table(numbers, "other-comparisons", others, tests[~of_student]))
    return tables


def _test_table(numbers: Numbers, key: str, caption: str, tests: pd.DataFrame) -> Table:
    titles = numbers.columns | ({MEAN: MEAN} if len(numbers.labels) > 1 else {})
    rows = []
    for t in tests.itertuples():
        m, failures = t.metric, (t.first_failures, t.second_failures)
        interval = f"{of_metric(t.low, m, True)} to {of_metric(t.high, m, True)}" if t.low == t.low else UNKNOWN
        texts = (
            f"{t.first} − {t.second}", m, titles[t.label], of_metric(t.mean, m, True), interval,
            of_metric(t.median, m, True), f"{t.better} / {t.ties} / {t.worse}",
            f"{failures[0]} / {failures[1]}" if any(failures) else UNKNOWN, count(t.n_groups), probability(t.p),
        )  # fmt: skip
        rows.append((*map(Cell, texts), Cell(probability(t.p_adjusted), mark=t.significant)))
    header = (
        "first − second", "metric", "class", "mean", "95 % interval", "median", "better / equal / worse",
        "failures left out", "n", "p", "corrected p",
    )  # fmt: skip
    return _drop_empty_columns(Table(key, caption, header, tuple(rows), left=3), keep=7)


def calibration_table(results: Sequence[Calibration]) -> Table | None:
    """Expected calibration error of the methods with probabilities."""
    if not results:
        return None
    rows = [
        (
            r.method, count(len(r.case_errors)), count(r.curve.count.sum()), number(r.curve.error, 4),
            f"{number(r.mean, 4)} ± {number(r.sd, 4)}", number(r.overconfidence, 4, sign=True),
        )
        for r in results
    ]  # fmt: skip
    header = ("method", "cases", "voxels", "ECE", "ECE per case", "confidence − accuracy")
    caption = (
        "Calibration near the organs. ECE: expected calibration error, 15 bins, all voxels together; then mean ± "
        "standard deviation over cases. Confidence − accuracy: above 0 is over-confident."
    )
    return Table("calibration", caption, header, _cells(rows))


def case_table(numbers: Numbers) -> Table:
    """The first metric of every case and method."""
    metric = numbers.shown[0]
    values, left_out = numbers.values(metric)[[*numbers.methods]], numbers.left_out(metric)[[*numbers.methods]]
    rows = [
        (
            case,
            *(of_metric(v, metric) + structures(n) for v, n in zip(values.loc[case], left_out.loc[case], strict=True)),
        )
        for case in numbers.cases
    ]
    caption = f"{numbers.title(metric)} of every case, {numbers.over}."
    return Table("cases", caption, ("case", *numbers.methods), _cells(rows))


def _undefined(numbers: Numbers) -> str:
    """Says which of the shown means leave values out, and which methods have none that could be compared."""
    scores = numbers.scores[numbers.scores["metric"].isin(numbers.shown)]
    undefined = scores[(scores["label"] != MEAN) & (scores["undefined"] > 0)]
    if undefined.empty:
        return ""
    parts = [f"{s.method} {s.metric} of {s.label} in {s.undefined}" for s in undefined.itertuples()]
    more = f" and {len(parts) - 12} more" if len(parts) > 12 else ""
    alone = (scores["common_mean"].isna() & scores["mean"].notna()).any()
    dash = f" {UNKNOWN}: not comparable, it has no value of a class that others have." if alone else ""
    return f" Undefined and left out of all methods' means (cases): {', '.join(parts[:12])}{more}.{dash}"


def _cells(rows: Sequence[Sequence[str]]) -> tuple[tuple[Cell, ...], ...]:
    return tuple(tuple(Cell(text) for text in row) for row in rows)


def _drop_empty_columns(table: Table, keep: int) -> Table:
    kept = [i for i in range(len(table.header)) if i < keep or any(row[i].text != UNKNOWN for row in table.rows)]
    rows = tuple(tuple(row[i] for i in kept) for row in table.rows)
    return Table(table.key, table.caption, tuple(table.header[i] for i in kept), rows, left=table.left)


def _classes(numbers: Numbers) -> str:
    return " The mean over classes is taken in each case first." if len(numbers.labels) > 1 else ""
