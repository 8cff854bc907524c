"""``nnUNetv2_kd``: dispatches to one module per subcommand, importing only the one that is used."""

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

from nnunet_kd import __version__
from nnunet_kd.utilities.errors import UserError, exit_on_user_error

COMMANDS = {
    "distill": "the whole way from trained teachers to a student, its comparison with them, and what to deploy",
    "plan": "write plans for a student or a teacher, compare the two, print the next commands",
    "preprocess-unlabeled": "preprocess images without labels, for students and cross-teaching",
    "softlabels": "export, import or verify the soft labels of an ensemble",
    "predict": "coarse-to-fine prediction: a coarse network finds the box that a fine one segments",
    "export": "turn a trained model into a bundle that predicts by itself, without PyTorch and nnU-Net",
    "evaluate": "compare predictions with references: overlap, volumes, surface distances",
    "benchmark": "measure models against each other: time, memory, processor, parameters, FLOPs",
    "report": "compare methods on the same cases: one page with tables, tests, figures and pictures",
    "convert": "turn the papers' data sets, or any folders of images and labels, into nnU-Net data sets",
    "demo": "the whole way on a small synthetic data set, in a few minutes",
    "env": "print the environment variable by which nnU-Net finds the trainers",
}

INTERRUPTED = 130  # what shells give for Ctrl+C


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point; exit code 2 and one sentence for a user's mistake, 130 and one sentence after Ctrl+C."""
    argv = list(sys.argv[1:] if argv is None else argv)
    with exit_on_user_error():
        _check_surroundings(argv)
        args = _parser(argv).parse_args(argv)
        try:
            args.run(args)
        except KeyboardInterrupt as stop:
            print(f"\nnnunet_kd: stopped. {stop}".rstrip(), file=sys.stderr)
            raise SystemExit(INTERRUPTED) from None


def _parser(argv: Sequence[str]) -> argparse.ArgumentParser:
    """Knows all commands by name, and the arguments of the one that ``argv`` begins with."""
    parser = argparse.ArgumentParser(prog="nnUNetv2_kd", description="Knowledge distillation for nnU-Net v2.")
    parser.add_argument("--version", action="version", version=f"nnunet-kd {__version__}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, text in COMMANDS.items():
        subparser = subparsers.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        if name in argv[:1]:
            module = importlib.import_module(f"nnunet_kd.commands.{name.replace('-', '_')}")
            with exit_on_user_error():  # help may name what users keep in files of their own
                module.add_arguments(subparser)
            subparser.set_defaults(run=module.run)
    return parser


def _check_surroundings(argv: Sequence[str]) -> None:
    """Refuses what libraries stumble over when they are imported or called, before any is."""
    for word in argv:
        if not word.isascii() and word != word.encode(errors="replace").decode():
            raise UserError(f"argument {word!a}: is not UTF-8, which image readers need; rename that file.")
    if not (processes := os.environ.get("nnUNet_def_n_proc", "1")).isdecimal() or int(processes[:9]) < 1:
        raise UserError(f"nnUNet_def_n_proc={processes[:20]}: expected a number of processes, 1 or more.")


if __name__ == "__main__":
    main()
