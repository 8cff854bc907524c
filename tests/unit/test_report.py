"""``nnUNetv2_kd report`` on a small comparison: every file says the same, and what an independent count says."""

import base64
import csv
import errno
import json
import math
import os
import re
from html.parser import HTMLParser
from io import BytesIO
from unittest.mock import Mock

import numpy as np
import pytest
import SimpleITK as sitk
from matplotlib.image import imread
from PIL import Image
from scipy.stats import wilcoxon

from nnunet_kd.cli import main
from nnunet_kd.report import build
from nnunet_kd.report.plots import Plots
from tests.report_data import CASES, METHODS, MISSED_BY_TWIN, WITHOUT_TUMOR, arguments

MINUS = "\u2212"


class Tables(HTMLParser):
    """Rows of text of every table, by the id of its figure."""

    def __init__(self, page: str):
        super().__init__()
        self.rows: dict[str, list[list[str]]] = {}
        self.table, self.cell = "", None
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        named = dict(attributes)
        if tag == "figure":
            self.table = named.get("id", "")
            self.rows[self.table] = []
        elif tag == "tr":
            self.rows[self.table].append([])
        elif tag in ("td", "th"):
            self.cell = ""

    def handle_data(self, data):
        if self.cell is not None:
            self.cell += data

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self.rows[self.table][-1].append(self.cell.strip())
            self.cell = None


@pytest.fixture(scope="module")
def content(report):
    return json.loads((report / "report.json").read_text())


def dice(comparison, method, case, label):
    read = (comparison / folder / f"{case}.nii.gz" for folder in (method, "references"))
    a, b = (sitk.GetArrayFromImage(sitk.ReadImage(str(f))) == label for f in read)
    return 2 * (a & b).sum() / (a.sum() + b.sum()) if a.any() or b.any() else math.nan


def mean_dice(comparison, method, labels):
    values = np.array([[dice(comparison, method, case, k) for k in labels] for case in CASES])
    return np.ma.masked_invalid(values).mean(1).filled(np.nan)


def rows_of(file):
    with file.open(newline="") as f:
        return list(csv.DictReader(f))


def test_scores_are_an_independent_count_in_json_csv_markdown_and_page(comparison, report, content):
    page = Tables((report / "report.html").read_text()).rows["table-accuracy"]
    markdown = (report / "report.md").read_text()
    columns = page[1]
    for method in METHODS:
        expected = {name: [dice(comparison, method, c, k) for c in CASES] for name, k in (("liver", 1), ("<tumor>", 2))}
        expected["mean"] = np.nanmean(list(expected.values()), axis=0)
        for position, (label, values) in enumerate(expected.items()):
            mean, sd = np.nanmean(values), np.nanstd(values, ddof=1)
            [found] = [
                s for s in content["scores"] if (s["method"], s["metric"], s["label"]) == (method, "Dice", label)
            ]
            assert found["mean"] == pytest.approx(mean, abs=1e-12)
            assert found["sd"] == pytest.approx(sd, abs=1e-12)
            assert found["undefined"] == np.isnan(values).sum()
            [row] = [
                r
                for r in rows_of(report / "tables" / "scores.csv")
                if (r["method"], r["metric"], r["label"]) == (method, "Dice", label)
            ]
            assert float(row["mean"]) == found["mean"]
            [shown] = [r for r in page[2:] if r[0] == method]
            assert columns[1 + 3 * position] == "Dice"
            assert shown[1 + 3 * position].rstrip("○") == f"{mean:.3f}"
            [line] = [r for r in markdown.splitlines() if r.startswith(f"| {method} |")][1:2]  # below the structures
            assert line.split("|")[2 + 3 * position].strip(" *○") == f"{mean:.3f}"


def test_comparisons_are_those_of_scipy_corrected_by_holm(comparison, report, content):
    found = [c for c in content["comparisons"] if c["metric"] == "Dice"]
    assert [(c["first"], c["second"], c["label"]) for c in found] == [
        (a, b, label)
        for a, b in (("student", "ensemble"), ("undistilled twin", "ensemble"), ("student", "undistilled twin"))
        for label in ("liver", "<tumor>", "mean")
    ]
    p = []
    for c in found:
        k = {"liver": [1], "<tumor>": [2], "mean": [1, 2]}[c["label"]]
        a, b = (mean_dice(comparison, m, k) for m in (c["first"], c["second"]))
        difference = (a - b)[~np.isnan(a - b)]
        assert c["mean"] == pytest.approx(difference.mean(), abs=1e-12)
        assert (c["better"], c["worse"], c["n_cases"]) == (
            (difference > 0).sum(), (difference < 0).sum(), len(difference),
        )  # fmt: skip
        assert c["low"] <= c["mean"] <= c["high"]
        p.append(wilcoxon(difference, method="exact").pvalue)
        assert c["p"] == pytest.approx(p[-1], abs=1e-12)
    order = np.argsort(p)
    holm, largest = np.empty(9), 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (9 - rank) * p[i]))
        holm[i] = largest
    assert [c["p_adjusted"] for c in found] == pytest.approx(holm, abs=1e-12)
    assert [c["significant"] for c in found] == list(holm < 0.05)
    assert min(holm) < 0.05  # so that there is a ring to look for
    rows = Tables((report / "report.html").read_text()).rows["table-comparisons"]
    [shown] = [r for r in rows if r[:3] == [f"student {MINUS} ensemble", "Dice", "mean"]]
    assert shown[3] == f"{found[2]['mean']:+.4f}".replace("-", MINUS)
    assert shown[rows[0].index("corrected p")].endswith("○") == found[2]["significant"]


def test_undefined_values_are_null_empty_or_named_never_zero(report, content):
    per_case = content["per_case"]["student"][WITHOUT_TUMOR]["<tumor>"]
    assert per_case["Dice"] is None
    assert content["per_case"]["undistilled twin"][MISSED_BY_TWIN]["<tumor>"]["HD95"] is None
    [row] = [
        r
        for r in rows_of(report / "tables" / "cases.csv")
        if (r["method"], r["case"], r["label"]) == ("student", WITHOUT_TUMOR, "<tumor>")
    ]
    assert row["Dice"] == ""
    assert (row["nsd_tolerance_mm"], row["empty_masks"]) == ("1.0", "nan")
    assert "empty masks: both masks empty" in (report / "report.md").read_text()
    page = (report / "report.html").read_text()
    assert "undistilled twin HD95 of &lt;tumor&gt; in 2" in page
    json.loads((report / "report.json").read_text(), parse_constant=pytest.fail)
    assert not re.search(r"\bnan\b", page)


def test_the_headline_names_loss_gain_and_cost(report, content):
    loss, gain, cost = content["headline"]
    scores = {s["method"]: s["mean"] for s in content["scores"] if (s["metric"], s["label"]) == ("Dice", "mean")}
    points = 100 * (scores["student"] - scores["ensemble"])
    assert loss["figure"] == f"{points:.2f} points".replace("-", MINUS)
    assert f"student is {abs(points):.2f} points of Dice below ensemble" in loss["sentence"]
    assert "95 % confidence interval" in loss["sentence"]
    assert "points of Dice above undistilled twin" in gain["sentence"]
    assert "has 16.0 times fewer parameters" in cost["sentence"]
    # each case takes exactly a quarter of the time, so the interval has no width
    assert (
        "4.00 times less network time per case on cpu (95 % confidence interval 4.00 to 4.00 times, 3"
        in cost["sentence"]
    )
    for file in ("report.html", "report.md"):
        text = (report / file).read_text()
        assert all(s["sentence"] in text for s in content["headline"]), file


def test_costs_and_fronts(report, content):
    assert content["pareto_fronts"]["parameters"] == ["student", "ensemble"]
    assert content["network_time_ratios"]["student"] == pytest.approx({"factor": 4, "low": 4, "high": 4, "n": 3})
    rows = Tables((report / "report.html").read_text()).rows["table-costs"]
    header, student = rows[0], next(r for r in rows if r[0] == "student")
    shown = dict(zip(header, student, strict=True))
    assert shown["parameters"] == "250,000"
    assert shown["network s per case"] == "1.00 (0.500 to 2.00)"
    assert shown["times less than ensemble"] == "4.00 (4.00 to 4.00)"
    assert "peak device memory MB" not in header  # not measured


def test_calibration_only_of_methods_with_probabilities(report, content):
    assert [c["method"] for c in content["calibration"]] == ["ensemble", "student"]
    for c in content["calibration"]:
        bins = c["bins"]
        # every voxel has the confidence 0.82
        assert [n > 0 for n in bins["count"]] == [i == 12 for i in range(15)]
        accuracy = sum(bins["correct"]) / sum(bins["count"])
        assert c["ece"] == pytest.approx(abs(accuracy - 0.82), abs=1e-6)
    assert set(content["calibration_comparisons"]) == {"student"}
    assert len(rows_of(report / "tables" / "calibration.csv")) == 2 * len(CASES)


def test_every_method_shows_its_worst_median_and_best_case(comparison, report, content):
    for method in METHODS:
        means = {c: np.nanmean([dice(comparison, method, c, k) for k in (1, 2)]) for c in CASES}
        ordered = sorted(CASES, key=lambda c: means[c])
        shown = {s["kind"]: s["case"] for s in content["shown_cases"] if s["method"] == method}
        assert shown == {"worst": ordered[0], "median": ordered[5], "best": ordered[-1]}


def test_the_page_holds_everything_and_the_folder_every_plot(report, content):
    page = (report / "report.html").read_text()
    assert not re.findall(r"""(?:src|href)=["'](?!data:|#)""", page)
    assert "url(http" not in page
    assert "<script" not in page
    assert "<tumor>" not in page  # names are escaped
    stems = {f.stem for f in (report / "plots").iterdir()}
    assert {"accuracy_Dice", "paired_student_ensemble_Dice", "cost", "reliability", "case_student_worst"} <= stems
    assert all((report / "plots" / f"{s}.{kind}").stat().st_size > 500 for s in stems for kind in ("png", "svg"))
    pictures = re.findall(r"\]\((plots/[^)]+)\)", (report / "report.md").read_text())
    assert len(pictures) > 12
    assert all((report / p).is_file() for p in pictures)
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))


def test_pictures_in_the_page_are_small_and_have_the_pixels_of_the_files(report, content):
    page = (report / "report.html").read_text()
    embedded = re.findall(r'id="figure-(case_[^"]+)"[^>]*><img [^>]*base64,([^"]+)"', page)
    assert len(embedded) == len(content["shown_cases"])
    for stem, data in embedded:
        file, small = report / "plots" / f"{stem}.png", base64.b64decode(data)
        assert len(small) < 0.6 * file.stat().st_size
        exact, shown = (np.asarray(Image.open(f).convert("RGB"), float) for f in (file, BytesIO(small)))
        assert shown.shape == exact.shape
        assert np.abs(shown - exact).mean() < 6


def test_provenance(comparison, report, content):
    told = content["provenance"]
    assert told["references"]["number"] == len(CASES)
    assert len({f["sha256"] for f in told["predictions"].values()} | {told["references"]["sha256"]}) == 4
    assert set(told["versions"]) >= {"nnunet_kd", "nnunetv2", "torch"}
    assert content["evaluation_settings"]["empty_masks"] == "nan"
    assert any("Not checked" in note for note in content["notes"])


def test_two_methods_without_names_that_say_anything(comparison, tmp_path, capsys):
    for name, source in (("a", "ensemble"), ("b", "student")):
        (tmp_path / name).mkdir()
        for case in CASES[:4]:
            (tmp_path / name / f"{case}.nii.gz").symlink_to(comparison / source / f"{case}.nii.gz")
    words = ["--reference", str(comparison / "references"), "-djfile", str(comparison / "dataset.json")]
    words += ["--method", f"a={tmp_path / 'a'}", "--method", f"b={tmp_path / 'b'}", "--metrics", "NSD", "-np", "1"]
    main(["report", *words, "-o", str(tmp_path / "out")])
    content = json.loads((tmp_path / "out" / "report.json").read_text())
    assert content["roles"] == {"student": "b", "ensemble": "a", "twin": None}
    assert content["cases"] == CASES[:4]
    assert content["calibration"] == []
    assert content["costs"] == {}
    assert "NSD below a" in content["headline"][0]["sentence"]
    assert content["headline"][1]["figure"] == "\u2013"
    assert any("4 of 12 reference cases" in w for w in content["warnings"])
    assert any("too few" in w for w in content["warnings"])
    assert "WARNING" in capsys.readouterr().out
    assert "table-costs" not in (tmp_path / "out" / "report.html").read_text()

    # a report is replaced only when told to
    with pytest.raises(SystemExit):
        main(["report", *words, "-o", str(tmp_path / "out")])
    assert "--overwrite" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--method", "x=nowhere"], "nowhere is not a folder"),
        (["--method", "student=."], "used twice"),
        (["--method", "no folder"], "expected NAME=FOLDER"),
        (["--twin", "nobody"], "no such method"),
        (["--twin", "student", "--student", "student"], "one role"),
        (["--metrics", "RVD"], "--metrics RVD"),
        (["--images", "nowhere"], "--images nowhere"),
        (["--reference", "nowhere"], "--reference nowhere"),
        (["--method", "empty=tests"], "--method empty"),
        (["--benchmark", "nowhere.json"], "nowhere.json"),
        (["--groups", "nowhere.csv"], "nowhere.csv"),
        (["--soft_labels", "nowhere"], "no soft labels here"),
        (["--model", "nobody=nowhere"], "nobody"),
        (["-np", "0"], "-np 0"),
    ],
)
def test_a_mistake_is_one_sentence_and_leaves_nothing(comparison, tmp_path, capsys, more, message):
    output = tmp_path / "out"
    with pytest.raises(SystemExit) as stop:
        main(arguments(comparison, output, ("ensemble", "student"), *more))
    assert stop.value.code == 2
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("nnunet_kd: ")]
    assert len(error) == 1
    assert message in error[0]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS])
def test_a_disk_that_fails_keeps_the_old_report_and_leaves_nothing(comparison, tmp_path, capsys, monkeypatch, code):
    output = make_old_report(tmp_path / "out")
    monkeypatch.setattr(build, "draw_plots", Mock(side_effect=OSError(code, os.strerror(code))))
    with pytest.raises(SystemExit) as stop:
        main(arguments(comparison, output, ("ensemble", "student"), "--overwrite"))
    assert stop.value.code == 2
    assert os.strerror(code) in capsys.readouterr().err.splitlines()[-1]
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    assert (output / "report.html").read_text() == "old"


def make_old_report(folder):
    folder.mkdir()
    for name in ("report.html", "report.json"):
        (folder / name).write_text("old")
    return folder


def test_the_next_run_finds_what_a_killed_one_left(comparison, tmp_path, monkeypatch):
    """The old report, put aside, is the report; a half-made one goes; the folder is replaced through a link too."""
    gone = f"00000000-{2**30}-1-{'0' * 32}"
    for name in (f".out.replaced-{gone}", f".report-{gone}"):
        os.utime(make_old_report(tmp_path / name), (0, 0))
        for file in (tmp_path / name).iterdir():
            os.utime(file, (0, 0))
    (tmp_path / "link").symlink_to("out")
    output = tmp_path / "link"
    monkeypatch.setattr(build, "draw_plots", Mock(return_value=Plots()))
    monkeypatch.setattr(build, "write_report", lambda report, plots, folder: (folder / "report.html").write_text("new"))
    with pytest.raises(SystemExit):
        main(arguments(comparison, output, ("ensemble", "student")))
    assert (tmp_path / "out" / "report.html").read_text() == "old"
    main(arguments(comparison, output, ("ensemble", "student"), "--overwrite"))
    assert (tmp_path / "out" / "report.html").read_text() == "new"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["link", "out"]


def test_names_are_no_html_no_formula_and_no_mathematics(comparison, tmp_path, monkeypatch):
    names = "<script>alert(1)</script>", "+1|`a` $\\frac$"
    monkeypatch.setattr(build, "choose_shown", lambda *_: [])
    words = ["report", "--reference", str(comparison / "references"), "-djfile", str(comparison / "dataset.json")]
    for name, folder in zip(names, ("ensemble", "student"), strict=True):
        words += ["--method", f"{name}={comparison / folder}"]
    main([*words, "-np", "1", "-o", str(tmp_path / "out"), "--title", "<b>bold</b>", "--metrics", "Dice"])
    markdown = (tmp_path / "out" / "report.md").read_text()
    prose = re.sub(r"(`+).*?[^`]\1(?!`)", "", markdown, flags=re.DOTALL)  # without code
    assert not re.search(r"<\w", prose)
    assert "&lt;script" in prose
    assert "&lt;b&gt;bold" in prose.splitlines()[0]
    header = next(line for line in markdown.splitlines() if line.startswith("| case |"))
    assert len(re.findall(r"(?<!\\)\|", header)) == 4
    assert "<script" not in (tmp_path / "out" / "report.html").read_text()
    rows = rows_of(tmp_path / "out" / "tables" / "scores.csv")
    assert {r["method"] for r in rows} == {names[0], f"'{names[1]}"}
    assert all(float(r["mean"]) == float(r["mean"]) for r in rows if r["mean"])


def test_a_folder_of_someone_else_is_never_replaced(comparison, tmp_path, capsys):
    (tmp_path / "thesis.txt").write_text("words")
    with pytest.raises(SystemExit):
        main(arguments(comparison, tmp_path, ("ensemble", "student"), "--overwrite"))
    assert "not a report's folder" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


def test_one_class_in_two_dimensions_is_tested_once_and_shown_large(tmp_path):
    """PNG files, one class, groups: no mean over classes, no doubled tests, a window around the cell."""
    y, x = np.indices((60, 90))
    cell = ((y - 30) ** 2 + (x - 40) ** 2 < 150).astype(np.uint8)
    for i in range(6):
        for name, radius in (("reference", 150), ("big", 130 + i), ("small", 100 - i)):
            (tmp_path / name).mkdir(exist_ok=True)
            label = ((y - 30) ** 2 + (x - 40) ** 2 < radius).astype(np.uint8)
            sitk.WriteImage(sitk.GetImageFromArray(label), str(tmp_path / name / f"c{i}.png"))
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "cell": 1}, "file_ending": ".png"}))
    (tmp_path / "groups.csv").write_text("case,group\n" + "".join(f"c{i},{i // 2}\n" for i in range(6)))
    words = [
        "report",
        "--reference",
        str(tmp_path / "reference"),
        "-djfile",
        str(tmp_path / "dataset.json"),
        "-np",
        "1",
    ]
    words += ["--method", f"big={tmp_path / 'big'}", "--method", f"small={tmp_path / 'small'}"]
    main([*words, "--groups", str(tmp_path / "groups.csv"), "-o", str(tmp_path / "out")])
    content = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [(c["metric"], c["label"], c["n_groups"]) for c in content["comparisons"]] == [
        (metric, "mean", 3) for metric in ("Dice", "HD95", "NSD")
    ]
    assert any("3 groups are too few" in w for w in content["warnings"])
    page = (tmp_path / "out" / "report.html").read_text()
    assert "mean over classes" not in page
    assert "6 cases of 3 groups" in page
    for text in (page, (tmp_path / "out" / "report.md").read_text()):
        assert "Distances in pixels" in text
        assert "HD95 (pixels)" in text
        assert "NSD tolerance (pixels): cell 1" in text
        assert not re.search(r"\bmm\b", text)
    picture = imread(tmp_path / "out" / "plots" / "case_small_worst.png")[..., :3]
    blue = (picture[..., 2] - picture[..., 0] > 0.3).nonzero()[0]  # the contour
    assert np.ptp(blue) > 0.5 * len(picture) * np.sqrt(cell.sum()) / 40
