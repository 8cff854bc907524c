"""Writes a report: page, Markdown, JSON and CSV."""

import dataclasses
import re
import shlex
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from markupsafe import Markup

from nnunet_kd.evaluation.table import by_metric, distance_unit
from nnunet_kd.report import formats
from nnunet_kd.report.content import Report, to_json
from nnunet_kd.report.overlays import class_line
from nnunet_kd.report.plots import Plots
from nnunet_kd.report.style import ERROR_COLORS
from nnunet_kd.report.tables import (
    MARK,
    Cell,
    Table,
    accuracy_table,
    calibration_table,
    case_table,
    cost_table,
    spread_table,
    structure_table,
    test_tables,
)
from nnunet_kd.utilities.files import write_csv, write_json


def write_report(report: Report, plots: Plots, folder: Path) -> None:
    """Writes everything but the plots, which are there already, into ``folder``."""
    n = report.numbers
    write_json(folder / "report.json", to_json(report))
    _write_tables(report, folder / "tables")
    content = {
        "report": report,
        "n": n,
        "plots": plots,
        "tables": {table.key: table for table in _tables(report)},
        "calibration_sentences": _calibration_sentences(report),
        "settings_lines": _settings_lines(n.settings),
        "class_lines": [class_line(i) for i in range(len(n.labels))],
        "error_colors": ERROR_COLORS,
    }
    for name, environment in (("report.html", _environment(autoescape=True)), ("report.md", _markdown())):
        (folder / name).write_text(environment.get_template(f"{name}.j2").render(content), encoding="utf-8")


def _environment(**options: Any) -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("nnunet_kd.report", "templates"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        **options,
    )
    environment.filters["shell"] = _shell_lines
    return environment


def _markdown() -> jinja2.Environment:
    """What templates for Markdown need: everything that is not marked as safe is text, never HTML."""
    environment = _environment(finalize=_markdown_text)
    environment.filters.update(cell=_markdown_cell, code=_code_span, block=_code_block)
    return environment


def _tables(report: Report) -> list[Table]:
    n = report.numbers
    optional = [structure_table(n), cost_table(n, report.costs), calibration_table(report.calibration)]
    return [accuracy_table(n), spread_table(n), *test_tables(n), case_table(n), *(t for t in optional if t is not None)]


def _calibration_sentences(report: Report) -> list[str]:
    reference = report.numbers.roles.reference
    return [
        f"Error per case, {name} − {reference}: {formats.number(r.mean, 4, True)} (95 % confidence interval "
        f"{formats.number(r.low, 4, True)} to {formats.number(r.high, 4, True)}, {r.n_cases} cases, p = "
        f"{formats.probability(r.p)}); below 0, {name} is the better calibrated."
        for name, r in report.calibration_tests.items()
    ]


def _settings_lines(settings: Mapping[str, Any]) -> dict[str, str]:
    """What a reader must know of the metrics."""
    tolerances, unit = settings.get("nsd_tolerance_mm", {}), distance_unit(settings)
    lines = {"empty masks": "; ".join(settings.get("rules", ()))}
    if tolerances:
        lines[f"NSD tolerance ({unit})"] = ", ".join(f"{name} {t:g}" for name, t in tolerances.items())
    if settings.get("ignore_label") is not None:
        lines["ignore label"] = str(settings["ignore_label"])
    return {name: text for name, text in lines.items() if text}


def _shell_lines(arguments: Sequence[str]) -> str:
    """A command line to copy, one line for each option."""
    lines = [[]]  # type: list[list[str]]
    for word in arguments:
        if word.startswith("-") and lines[-1]:
            lines.append([])
        lines[-1].append(word)
    return " \\\n    ".join(shlex.join(line) for line in lines)


def _markdown_text(value: Any) -> str:
    """One line of text, in which tags are shown and not followed."""
    return value if isinstance(value, Markup) else escape(" ".join(str(value).splitlines()), quote=False)


def _markdown_cell(cell: Cell | str) -> Markup:
    """A cell of a table, or a heading."""
    content = Cell(cell) if isinstance(cell, str) else cell
    text = _markdown_text(content.text).replace("|", "\\|") + (MARK if content.mark else "")
    return Markup(f"**{text}**" if content.best else text)


def _code_span(value: Any) -> Markup:
    text = " ".join(str(value).splitlines())
    ticks = "`" * (_longest_run_of_ticks(text) + 1)
    space = " " if "`" in text else ""
    return Markup(f"{ticks}{space}{text}{space}{ticks}")


def _code_block(value: str) -> Markup:
    ticks = "`" * max(3, _longest_run_of_ticks(value) + 1)
    return Markup(f"{ticks}bash\n{value}\n{ticks}")


def _longest_run_of_ticks(text: str) -> int:
    return max(map(len, re.findall("`+", text)), default=0)


def _write_tables(report: Report, folder: Path) -> None:
    """The numbers at full precision."""
    folder.mkdir()
    n = report.numbers
    cases = by_metric(n.table).reset_index()
    cases["nsd_tolerance_mm"] = [n.settings["nsd_tolerance_mm"][label] for label in cases["label"]]
    cases["empty_masks"] = n.settings["empty_masks"]
    tables = {"scores": n.scores, "structures": n.structures, "comparisons": n.tests, "cases": cases}
    if report.costs:
        tables["costs"] = pd.DataFrame(map(dataclasses.asdict, report.costs.values()), dtype=object).map(_joined)
    if report.calibration:
        errors = {c.method: pd.Series(c.case_errors) for c in report.calibration}
        tables["calibration"] = pd.concat(errors, names=["method", "case"]).rename("ece").reset_index()
    for name, table in tables.items():
        write_table(folder / f"{name}.csv", table)


def write_table(file: Path, table: pd.DataFrame) -> None:
    """Writes a table as CSV at full precision; an empty field where undefined."""
    rows = table.itertuples(index=False, name=None)
    write_csv(file, [list(table), *([None if value != value else value for value in row] for row in rows)])


def _joined(value: Any) -> Any:
    return " ".join(map(str, value)) if isinstance(value, tuple) else value
