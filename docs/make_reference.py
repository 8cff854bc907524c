"""Writes docs/reference/configuration.md from nnunet_kd.config; ``--check`` only says whether it is up to date."""

import argparse
import html
import json
import sys
from itertools import groupby
from pathlib import Path

from nnunet_kd.config import KDConfig
from nnunet_kd.planning.recipes import load_recipe, recipe_names
from nnunet_kd.utilities.schema import iterate_keys

PAGE = Path(__file__).parent / "reference" / "configuration.md"

INTRODUCTION = """\
# The `"kd"` block

<!-- Made by `python docs/make_reference.py` from nnunet_kd/config.py and plans/*.json; do not edit by hand. -->

Every number of a distillation lives in the `"kd"` block of a plans file in
`nnUNet_preprocessed/DatasetXXX_NAME/`. `nnUNetv2_kd plan` writes it, nnU-Net copies it into the model folder with the
rest of the plans, and so a distilled model always says how it was made.

- All keys have defaults: plans without the block work.
- Set a key when you plan: `--set schedule.num_epochs=100 distillation.mse.weight=1`. The value is JSON (`true`, `null`,
  `0.5`, `["a"]`), or plain text where it is not JSON. The leading `kd.` may be left out. Or edit the plans file.
- An unknown key, a wrong type or an impossible value stops the command or the training with one sentence that names
  the key, what was found and what is allowed.
- Keys of `kd.teachers[]` belong to one entry of the list `kd.teachers`.
- The order of precedence of `nnUNetv2_kd plan` is: defaults, recipe, named options, `--set`.
"""


def code(text: str) -> str:
    """Text as code in a table's cell; a bare ``|`` would end the cell."""
    return f"`{text}`".replace("|", "\\|")


def prose(text: str) -> str:
    """Text in a table's cell, without what Markdown takes for a tag, bold print or the end of the cell."""
    return html.escape(text, quote=False).replace("__", "\\_\\_").replace("|", "\\|")


def table(rows: list[tuple[str, str, str, str]]) -> str:
    """Keys of one block as a Markdown table."""
    lines = ["| key | type | default | meaning |", "|---|---|---|---|"]
    lines += [f"| `{path}` | {code(kind)} | {code(default)} | {prose(doc)} |" for path, kind, default, doc in rows]
    return "\n".join(lines)


def recipe_section(name: str) -> str:
    """What a recipe sets, where it comes from, where it departs from that."""
    recipe = load_recipe(name)
    settings = [f"- `{path} = {value}`" for path, value in _leaves(recipe.kd, "kd")]
    notes = [f"- {note}" for note in recipe.notes]
    return "\n".join([f"### `{name}`", "", recipe.source, "", "It sets:", "", *settings, "", "Notes:", "", *notes])


def _leaves(value: object, path: str) -> list[tuple[str, str]]:
    if not isinstance(value, dict):
        return [(path, value if isinstance(value, str) else json.dumps(value))]
    return [leaf for key, inner in value.items() for leaf in _leaves(inner, f"{path}.{key}")]


def make_page() -> str:
    """The whole page."""
    parts = [INTRODUCTION]
    # Keys of the block itself stand between its sub-blocks; the stable sort brings each block together.
    rows = list(iterate_keys(KDConfig, "kd"))
    order = list(dict.fromkeys(_block(r) for r in rows))
    for block, keys in groupby(sorted(rows, key=lambda r: order.index(_block(r))), key=_block):
        parts.append(f"## `{block}`\n\n{table(list(keys))}\n")
    parts.append("## Recipes\n\n`nnUNetv2_kd plan --recipe NAME` starts from one of these presets.\n")
    parts += [f"{recipe_section(name)}\n" for name in recipe_names()]
    return "\n".join(parts)


def _block(row: tuple[str, str, str, str]) -> str:
    return row[0].rpartition(".")[0]


def main() -> None:
    """Writes or checks the page; exit code 1 when a check fails."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    check = parser.parse_args().check
    page = make_page()
    if not check:
        PAGE.write_text(page, encoding="utf-8")
        print(f"Wrote {PAGE}")
    elif not PAGE.is_file() or PAGE.read_text(encoding="utf-8") != page:
        sys.exit(f"{PAGE}: is not what nnunet_kd.config says; run python docs/make_reference.py.")


if __name__ == "__main__":
    main()
