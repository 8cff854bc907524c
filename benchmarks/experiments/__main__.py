"""Command line of the studies."""

import argparse
import shlex
from pathlib import Path

from benchmarks.experiments import __doc__ as usage
from benchmarks.experiments.jobs import select, work
from benchmarks.experiments.largest import keep_largest
from benchmarks.experiments.studies import Studies, environment, study_names
from benchmarks.experiments.tables import table


def main() -> None:
    """Runs studies, lists what they run, or prints the table of some of their arms."""
    parser = argparse.ArgumentParser(description=usage, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="train, predict, evaluate; what is done already is left as it is")
    run.add_argument("studies", nargs="+", metavar="STUDY", help=f"one of {', '.join(study_names())}")
    run.add_argument("--data", type=Path, required=True, help="folder with hippocampus/, sunnybrook/ and acdc/")
    run.add_argument("-n", type=int, default=1, metavar="JOBS", help="how many jobs run at a time; one core each")
    run.add_argument("--dry-run", action="store_true", help="print the commands instead")
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
    if unknown := set(args.studies) - set(study_names()):
        parser.error(f"no study {', '.join(sorted(unknown))}")
    studies = Studies(args.data.absolute(), args.o.absolute())
    jobs = select(studies.jobs(), [job.name for study in args.studies for job in studies.study(study)])
    jobs.sort(key=lambda job: job.name.endswith("-test"))  # nothing waits for the teachers' test cases
    if args.dry_run:
        for job in jobs:
            print(f"# {job.name}", *map(shlex.join, job.commands), sep="\n")
    elif not work(jobs, args.o.absolute(), environment(args.o.absolute()), args.n):
        parser.exit(1)


if __name__ == "__main__":
    main()
