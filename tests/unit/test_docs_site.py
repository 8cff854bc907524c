"""The documentation as a site: built strictly, with links checked, complete without another server."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytest.importorskip("material", reason='needs pip install -e ".[docs]"')


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The whole site; a page outside the navigation, a dead link or a dead anchor would fail here."""
    folder = tmp_path_factory.mktemp("site")
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    result = subprocess.run(
        build, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    )
    assert result.returncode == 0, result.stderr
    return folder


def pages(site: Path) -> dict[str, str]:
    return {str(file.relative_to(site)): file.read_text(encoding="utf-8") for file in sorted(site.rglob("*.html"))}


def test_every_page_is_there(site):
    sources = {file.relative_to(ROOT / "docs").with_suffix(".html") for file in ROOT.glob("docs/**/*.md")}
    assert {*map(str, sources), "index.html", "contributing.html", "changelog.html"} <= {*pages(site)}


def test_links_between_the_top_level_and_docs_are_those_of_the_site(site):
    html = pages(site)
    assert 'href="getting-started/first-student.html"' in html["index.html"]
    assert 'src="images/data-flow.svg"' in html["index.html"]
    assert 'href="LICENSE.txt"' in html["index.html"]
    assert (site / "LICENSE.txt").read_text(encoding="utf-8") == (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert 'href="../contributing.html#tests"' in html["reference/commands.html"]
    assert 'href="docs/' not in "".join(html.values())


def test_every_formula_is_mathml(site):
    html = pages(site)
    for name, page in html.items():
        assert "arithmatex" not in page, name
        for formula in re.findall(r"<math.*?</math>", page, re.DOTALL):
            assert "\\" not in formula, f"{name}: {formula}"  # a command that the converter does not know
    assert html["explanation/reconstruction.html"].count('display="block"') == 3
    assert "$" not in re.sub(r"<code.*?</code>", "", html["reference/metrics.html"], flags=re.DOTALL)


def test_no_page_loads_anything_from_another_server(site):
    for name, page in pages(site).items():
        assert not re.findall(r"<(?:script|img|iframe)[^>]*src=\"(?:https?:)?//[^\"]*", page), name
        assert not re.findall(r"<link[^>]*rel=\"(?:stylesheet|preconnect|icon)\"[^>]*href=\"(?:https?:)?//", page), name


def test_bars_in_tables_are_bare(site):
    assert r"\|" not in "".join(re.findall(r"<td.*?</td>", pages(site)["reference/configuration.html"], re.DOTALL))
