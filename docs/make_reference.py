"""Writes what docs/reference says of configuration and networks; ``--check`` only says whether it is up to date."""

import argparse
import html
import json
import sys
from itertools import groupby
from pathlib import Path

from nnunet_kd.config import KDConfig
from nnunet_kd.networks.family import Family, families
from nnunet_kd.planning.recipes import load_recipe, recipe_names
from nnunet_kd.planning.student import CHANGES, possible_changes
from nnunet_kd.utilities.schema import iterate_keys

CONFIGURATION = Path(__file__).parent / "reference" / "configuration.md"
NETWORKS = Path(__file__).parent / "reference" / "networks.md"
BEGIN = "<!-- families: made by `python docs/make_reference.py` from nnunet_kd/networks; do not edit by hand -->\n\n"
END = "\n<!-- end of families -->\n"
BASE = {"conv_op": "Conv2d", "kernel_sizes": [[3, 3]] * 6, "strides": [[1, 1]] + [[2, 2]] * 5}

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


def configuration_page() -> str:
    """The whole page of the configuration."""
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


def networks_page() -> str:
    """The page of the networks with the table of families between its two marks."""
    before, _, rest = NETWORKS.read_text(encoding="utf-8").partition(BEGIN)
    lines = [
        "| `--student` | class | what it is | stages | channels | smallest patch | changes | source |",
        "|---|---|---|---|---|---|---|---|",
        *(family_row(family) for family in families().values()),
    ]
    return before + BEGIN + "\n".join(lines) + "\n" + END + rest.partition(END)[2]


def family_row(family: Family) -> str:
    """A family as a row of the table."""
    stages = len(family.features)
    changes = possible_changes(
        family, family.architecture({"network_class_name": "", "arch_kwargs": BASE})["arch_kwargs"]
    )
    cells = [
        code(family.name),
        code(family.network.__name__),
        prose(" ".join(family.description.split()).replace("``", "`")),
        "one output" if not stages else f"{stages}" if family.fixed_stages else f"up to {stages}",
        ", ".join(map(str, family.features)) or "the library's",
        "the library's" if family.smallest_patch is None else f"{family.smallest_patch}",
        ", ".join(code(change) for change in CHANGES if change in changes) or "none",
        prose(family.source),
    ]
    return f"| {' | '.join(cells)} |"


def pages() -> dict[Path, str]:
    """What each page should hold."""
    return {CONFIGURATION: configuration_page(), NETWORKS: networks_page()}


def main() -> None:
    """Writes or checks the pages; exit code 1 when a check fails."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    check = parser.parse_args().check
    for file, page in pages().items():
        if not check:
            file.write_text(page, encoding="utf-8")
            print(f"Wrote {file}")
        elif not file.is_file() or file.read_text(encoding="utf-8") != page:
            sys.exit(f"{file}: is not what the code says; run python docs/make_reference.py.")


if __name__ == "__main__":
    main()
