"""A command of nnU-Net's or this package's, and the files that show how far it is."""

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Step:
    """A command of nnU-Net's or this package's.

    Attributes:
        title: what it is for; before a colon its name.
        command: name and arguments.
        log: name of its log, unique.
        is_finished: looks at the files whether it has been run to its end.
        follows: its files count only if this very command has made them after all steps before it.
        epochs: of a training, for its progress; 0: no training.
        is_resumed: a training of which epochs are over already.
        validates: a training that predicts its validation cases after its last epoch.
        bar: name of the tqdm bar in its log that counts all its cases.
        files: what it makes, one file for each case.
        variables: set for this command alone.
    """

    title: str
    command: Sequence[str]
    log: str
    is_finished: Callable[[], bool] = lambda: False
    follows: bool = False
    epochs: int = 0
    is_resumed: bool = False
    validates: bool = False
    bar: str = ""
    files: tuple[Path, ...] = ()
    variables: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The title without its explanation."""
        return self.title.partition(":")[0]

    def __str__(self) -> str:
        return " ".join([*(f"{k}={v}" for k, v in self.variables.items()), shlex.join(self.command)])
