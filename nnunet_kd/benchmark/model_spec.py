"""A model as a user names it on the command line: ``NAME=FOLDER[:FOLDS]``."""

import re
from dataclasses import dataclass
from pathlib import Path

from nnunet_kd.teachers.model import TeacherModel, find_model, split_folds
from nnunet_kd.utilities.errors import UserError

CHECKPOINT = "checkpoint_final.pth"


@dataclass(frozen=True)
class ModelSpec:
    """A model as a user names it: one or more model folders, each with folds (None: every finished one)."""

    name: str
    folders: tuple[tuple[Path, tuple[int | str, ...] | None], ...]

    def find(self, checkpoint: str = CHECKPOINT) -> tuple[TeacherModel, ...]:
        """The finished model folders.

        Raises:
            UserError: when a folder, fold or checkpoint is missing.
        """
        return tuple(find_model(folder, folds, checkpoint, f"--model {self.name}:") for folder, folds in self.folders)


def parse_model(text: str) -> ModelSpec:
    """Reads ``NAME=FOLDER[:FOLDS][,FOLDER[:FOLDS] ...]``; FOLDS is ``0,1,2`` or ``all``.

    What follows a comma is a fold when it is a number or ``all`` and folds came before it, and else a folder.

    Raises:
        UserError: when the name or a folder is missing, or for folds that are none.
    """
    name, equals, value = text.partition("=")
    parts: list[str] = []
    for piece in value.split(","):
        if parts and re.fullmatch(r"all|\d+", piece) and re.search(r":(all|\d+)(,\d+)*$", parts[-1]):
            parts[-1] += f",{piece}"
        else:
            parts.append(piece)
    if not equals or not re.fullmatch(r"[^/\\|\x00-\x1f]{1,60}", name) or not all(parts):
        raise UserError(
            f"--model {text}: expected NAME=FOLDER, with folds NAME=FOLDER:0,1, several as NAME=FOLDER:0,FOLDER2:0; "
            "a name has at most 60 characters, no slash and no bar."
        )
    pairs = (split_folds(part, "--model") for part in parts)
    return ModelSpec(name, tuple((Path(folder).expanduser(), folds) for folder, folds in pairs))
