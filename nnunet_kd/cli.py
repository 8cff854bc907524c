"""``nnUNetv2_kd``: dispatches to one module per subcommand, importing only the one that is used."""

import argparse
import importlib
import sys
from collections.abc import Sequence

from nnunet_kd import __version__
from nnunet_kd.errors import exit_on_user_error

COMMANDS = {
    "plan": "write plans for a student or a teacher, compare the two, print the next commands",
    "preprocess-unlabeled": "preprocess images without labels, for students and cross-teaching",
    "softlabels": "export, import or verify the soft labels of an ensemble",
    "predict": "coarse-to-fine prediction: a coarse network finds the box that a fine one segments",
    "evaluate": "compare predictions with references: overlap, volumes, surface distances",
    "benchmark": "measure models against each other: time, memory, processor, parameters, FLOPs",
    "report": "compare methods on the same cases: one page with tables, tests, figures and pictures",
    "convert": "turn the papers' data sets, or any folders of images and labels, into nnU-Net data sets",
    "demo": "the whole way on a small synthetic data set, in about five minutes",
    "env": "print the environment variable by which nnU-Net finds the trainers",
}


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point; exit code 2 and one sentence for a user's mistake."""
    argv = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(prog="nnUNetv2_kd", description="Knowledge distillation for nnU-Net v2.")
    parser.add_argument("--version", action="version", version=f"nnunet-kd {__version__}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, text in COMMANDS.items():
        subparser = subparsers.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        if name in argv[:1]:
            module = importlib.import_module(f"nnunet_kd.commands.{name.replace('-', '_')}")
            module.add_arguments(subparser)
            subparser.set_defaults(run=module.run)
    args = parser.parse_args(argv)
    with exit_on_user_error():
        args.run(args)


if __name__ == "__main__":
    main()
