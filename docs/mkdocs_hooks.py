"""What the site needs beyond Markdown: pages from the repository's top level, and formulas as MathML."""

import html
import posixpath
import re
from pathlib import Path

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
# Files outside of docs/ that pages link to -> their place on the site.
TOP_LEVEL = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "LICENSE": "LICENSE.txt",
}
RELATIVE_LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)[^)\s#]+|(?<=src=\")(?![a-z]+:)[^\"#]+")
FORMULA = re.compile(r'<(span|div) class="arithmatex">\s*\\[(\[](.*?)\\[)\]]\s*</\1>', re.DOTALL)
CELL = re.compile(r"<td.*?</td>", re.DOTALL)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the files of the repository's top level."""
    for name, place in TOP_LEVEL.items():
        files.append(File.generated(config, place, abs_src_path=str(ROOT / name)))
    return files


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Turns links between files of the repository into links between files of the site."""
    here = page.file.src_uri
    if here == "index.md":
        page.meta["hide"] = ["navigation"]  # the only page of its room
    in_repository = {place: name for name, place in TOP_LEVEL.items()}.get(here, f"docs/{here}")

    def on_site(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(in_repository), link[0]))
        place = TOP_LEVEL.get(target, target.removeprefix("docs/"))
        return posixpath.relpath(place, posixpath.dirname(here) or ".")

    return RELATIVE_LINK.sub(on_site, markdown)


def on_page_content(content: str, **_: object) -> str:
    """Writes formulas as MathML, which browsers show without a script, and bars in tables as GitHub does."""
    return CELL.sub(lambda cell: cell[0].replace(r"\|", "|"), FORMULA.sub(_mathml, content))


def _mathml(formula: re.Match[str]) -> str:
    display = "block" if formula[1] == "div" else "inline"
    return convert(html.unescape(formula[2]).strip(), display=display)
