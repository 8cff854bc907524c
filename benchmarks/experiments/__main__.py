"""Command line of the studies."""

import argparse
from pathlib import Path

from benchmarks.experiments import __doc__ as usage
from benchmarks.experiments.jobs import work
from benchmarks.experiments.largest import keep_largest
from benchmarks.experiments.studies import Experiments
from benchmarks.experiments.tables import table


def main() -> None:
    """Runs studies, or prints the table of some of their arms."""
    parser = argparse.ArgumentParser(description=usage, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="train, predict, evaluate; start it once for each core")
    run.add_argument("studies", nargs="+", metavar="STUDY", help=f"one of {', '.join(Experiments.names())}")
    run.add_argument("--data", type=Path, required=True, help="folder with hippocampus/ and sunnybrook/")
    show = commands.add_parser("table", help="compare arms on the test cases")
    show.add_argument("dataset", help="its number")
    other = "of another data set with the same test cases: DATASET/ARM"
    show.add_argument("arms", nargs="+", metavar="ARM", help=other)
    show.add_argument("--against", required=True, metavar="ARM", help="what the others are compared with")
    show.add_argument("--cases", default="", metavar="PREFIX", help="beginning of the names of the cases that count")
    largest = commands.add_parser("largest", help="keep the largest component of every prediction, and evaluate it")
    largest.add_argument("dataset", help="its number; the tables of NUMBER-largest are then those of what is kept")
    largest.add_argument("arms", nargs="*", metavar="ARM", help="all if none is named")
    for command in (run, show, largest):
        command.add_argument("-o", type=Path, required=True, help="folder of all studies")
    args = parser.parse_args()
    if args.command == "table":
        print(table(args.o / "predictions" / args.dataset, args.arms, args.against, args.cases))
        return
    if args.command == "largest":
        references = list((args.o / "raw").glob(f"Dataset{args.dataset:>03}_*/labelsTs"))
        if not references:
            parser.error(f"no data set {args.dataset} in {args.o / 'raw'}")
        keep_largest(args.o / "predictions" / args.dataset, references[0], args.arms)
        return
    if unknown := set(args.studies) - set(Experiments.names()):
        parser.error(f"no study {', '.join(sorted(unknown))}")
    experiments = Experiments(args.data.absolute(), args.o.absolute())
    jobs = [job for study in args.studies for job in getattr(experiments, study)()]
    jobs.sort(key=lambda job: job.name.endswith("-test"))  # nothing waits for the teachers' test cases
    work(jobs, args.o, experiments.environment)


if __name__ == "__main__":
    main()
