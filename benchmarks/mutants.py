"""Mistakes that a training survives silently, made one at a time: does the test that should notice them fail?

Usage, from the repository's root, in an environment with the package's "test" extra::

    python benchmarks/mutants.py             # all of benchmarks/mutants.yaml, about ten seconds each
    python benchmarks/mutants.py ramps       # those with this word in their name

Each mutant is one textual edit in a temporary copy of the working tree. The tests must pass there before it. Exit code
1 when a mutant survives, 2 when an edit's text is not in its file exactly once, or a test fails without any mutant.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
MUTANTS = Path(__file__).with_suffix(".yaml")
COPIED = ("nnunet_kd", "trainers", "plans", "tests", "pyproject.toml")
VARIABLES = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results", "NNUNET_KD_EXTENSIONS")


@dataclass(frozen=True)
class Mutant:
    """One mistake.

    Attributes:
        name: what is wrong with the code then.
        file: where, below the root.
        old: text of the file, once in it.
        new: what takes its place.
        tests: of pytest, separated by spaces; one of them must fail.
    """

    name: str
    file: str
    old: str
    new: str
    tests: str

    def apply(self, root: Path) -> str:
        """Edits the file below ``root`` and returns its content before; ValueError when the text is not there once."""
        content = (root / self.file).read_text()
        if (count := content.count(self.old)) != 1:
            raise ValueError(f"{self.name}: its text is {count} times in {self.file}, expected once")
        (root / self.file).write_text(content.replace(self.old, self.new))
        return content


def copy_tree(target: Path) -> None:
    """What the tests need; ``trainers`` and ``plans`` are where an installation would put them."""
    for name in COPIED:
        source = ROOT / name
        copy = shutil.copytree if source.is_dir() else shutil.copy
        copy(source, target / name)
    for name in ("trainers", "plans"):
        (target / "nnunet_kd" / name).symlink_to(target / name)


def run_tests(root: Path, tests: list[str]) -> subprocess.CompletedProcess:
    """pytest in the copy, until the first failure."""
    environment = {k: v for k, v in os.environ.items() if k not in VARIABLES}
    environment |= {"PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-W", "ignore", "--tb=line", "-p", "no:cacheprovider"]
    return subprocess.run([*command, *tests], cwd=root, env=environment, capture_output=True, text=True, check=False)


def main() -> int:
    """Prints a line for each mutant."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", help="only mutants with one of these words in their name")
    words = parser.parse_args().words
    mutants = [Mutant(**m) for m in yaml.safe_load(MUTANTS.read_text())]
    mutants = [m for m in mutants if not words or any(w in m.name for w in words)]
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        copy_tree(root)
        for mutant in mutants:  # before anything is run: are all edits up to date?
            try:
                (root / mutant.file).write_text(mutant.apply(root))
            except ValueError as error:
                print(error, file=sys.stderr)
                return 2
        unchanged = run_tests(root, sorted({t for m in mutants for t in m.tests.split()}))
        if unchanged.returncode != 0:
            print(unchanged.stdout, unchanged.stderr, file=sys.stderr)
            return 2
        survivors = 0
        for mutant in mutants:
            before = mutant.apply(root)
            code = run_tests(root, mutant.tests.split()).returncode
            (root / mutant.file).write_text(before)
            survivors += code != 1  # of pytest: 1 is a failed test, everything else is not a verdict
            print(f"{'killed' if code == 1 else f'SURVIVED ({code})':14} {mutant.name}", flush=True)
    print(f"{len(mutants) - survivors} of {len(mutants)} killed")
    return int(survivors > 0)


if __name__ == "__main__":
    sys.exit(main())
