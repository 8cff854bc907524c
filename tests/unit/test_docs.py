"""The documentation says what the code does: reference, links, commands, keys."""

import argparse
import importlib
import importlib.util
import re
import shlex
from pathlib import Path

import pytest

from nnunet_kd.cli import COMMANDS
from nnunet_kd.config import KDConfig
from nnunet_kd.planning.recipes import recipe_names
from nnunet_kd.planning.student import parse_student
from nnunet_kd.utilities.schema import apply_settings, from_dict, iterate_keys

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "CHANGELOG")] + sorted(ROOT.glob("docs/**/*.md"))
PROGRAM = "nnUNetv2_kd"


def parser_of(command: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"{PROGRAM} {command}")
    importlib.import_module(f"nnunet_kd.commands.{command.replace('-', '_')}").add_arguments(parser)
    return parser


def fenced_blocks(text: str) -> list[str]:
    return [block for _, block in re.findall(r"^(```+|~~~+)[^\n]*\n(.*?)^\1$", text, re.DOTALL | re.MULTILINE)]


def commands_in(block: str):
    """Argument lists of every ``nnUNetv2_kd`` in a block of shell lines; shell variables count as 0."""
    lines = re.sub(r"\$\{?\w+\}?", "0", block.replace("\\\n", " "))
    for command in re.findall(rf"(?<![\w./-]){PROGRAM} ([^&;|)\n]*)", lines):
        yield shlex.split(command, comments=True)


def all_commands():
    for page in PAGES:
        for block in fenced_blocks(page.read_text(encoding="utf-8")):
            for words in commands_in(block):
                yield pytest.param(words, id=f"{page.name}: {' '.join(words)}"[:100])


def anchors(text: str) -> set[str]:
    """Names that the headings of a page get on GitHub."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


def test_the_reference_is_what_the_code_says():
    spec = importlib.util.spec_from_file_location("make_reference", ROOT / "docs" / "make_reference.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for file, page in module.pages().items():
        assert file.read_text(encoding="utf-8") == page, "run python docs/make_reference.py"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_relative_link_resolves(page):
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)|(?:src|href|srcset)=\"([^\"]+)\"", text):
        link = next(filter(None, target))
        if re.match(r"[a-z]+:", link):
            continue
        file, _, anchor = link.partition("#")
        where = (page.parent / file).resolve() if file else page
        assert where.exists(), f"{page.relative_to(ROOT)}: {link}"
        if anchor:
            assert anchor in anchors(where.read_text(encoding="utf-8")), f"{page.relative_to(ROOT)}: {link}"


@pytest.mark.parametrize("words", list(all_commands()))
def test_every_printed_command_parses(words):
    if words[0].startswith("-"):
        assert words in (["--help"], ["-h"], ["--version"])
        return
    assert words[0] in COMMANDS
    if "--help" in words:
        return
    args = parser_of(words[0]).parse_args(words[1:])
    if words[0] == "plan":
        from_dict(KDConfig, apply_settings({}, args.set), "kd")
        parse_student(args.student or "same")
        assert args.recipe in (None, *recipe_names())


def test_the_first_commands_of_the_readme_are_there():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "pip install . && nnUNetv2_kd demo" in readme
    assert 'pip install -e ".[test]" && pytest' in readme


def test_every_flag_is_in_the_command_reference():
    page = (ROOT / "docs" / "reference" / "commands.md").read_text(encoding="utf-8")
    for command in COMMANDS:
        section = re.search(rf"^## `{command}`$(.*?)(?=^## |\Z)", page, re.DOTALL | re.MULTILINE)
        assert section, command
        documented = set(re.findall(r"`(--?[\w-]+)", section[1]))
        flags = {option for action in parser_of(command)._actions for option in action.option_strings}
        assert flags - {"-h", "--help"} <= documented, command


def test_every_key_that_is_named_exists():
    keys = {path.replace("[]", "") for path, *_ in iterate_keys(KDConfig, "kd")}
    known = keys | {".".join(k.split(".")[:i]) for k in keys for i in range(1, 5)}
    for page in PAGES:
        for name in re.findall(r"`(kd(?:\.[a-z_]+)+)", page.read_text(encoding="utf-8")):
            assert name in known, f"{page.relative_to(ROOT)}: {name}"
