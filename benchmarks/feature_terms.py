"""What feature terms do to a student: the pull of each term in training, and which classes its features tell apart.

python -m benchmarks.feature_terms DATASET CONFIGURATION FOLD gradients PLANS --steps 60 --every 20
python -m benchmarks.feature_terms DATASET CONFIGURATION FOLD contrast TRAINER__PLANS [TRAINER__PLANS ...]

``gradients`` trains the student of PLANS anew and writes nothing. ``contrast`` compares trained networks on the same
batches; 0 is background. One thread, no worker processes (``nnUNet_n_proc_DA=0``): a second run prints the same.
"""

import argparse
from itertools import combinations
from typing import Any

import torch
from batchgenerators.utilities.file_and_folder_operations import load_json

from benchmarks.training_step import start
from nnunet_kd.losses.affinity import region_contrast
from nnunet_kd.teachers.feature_taps import FeatureTaps, feature_names
from nnunet_kd.teachers.model import load_checkpoint_file
from nnunet_kd.utilities.environment import dataset_paths


def gradients(args: argparse.Namespace, plans: dict[str, Any]) -> None:
    """Prints the norm of each weighted term's gradient with respect to the student's parameters."""
    trainer = start(args, plans, "nnUNetTrainerKDFeature", {})
    parameters = [p for p in trainer.network.parameters() if p.requires_grad]
    for step in range(args.steps + 1):
        batch = next(trainer.dataloader_train)
        if step % args.every == 0:
            _, terms = trainer.training_losses(batch["data"], batch["target"])
            terms = {name: term for name, term in terms.items() if term.requires_grad}
            if step == 0:
                print("| step |", " | ".join(terms), "|")
                print("|---" * (len(terms) + 1) + "|")
            print(f"| {step} |", " | ".join(f"{_norm(t, parameters):.2f}" for t in terms.values()), "|", flush=True)
        trainer.train_step(batch)


def _norm(term: torch.Tensor, parameters: list[torch.Tensor]) -> float:
    found = torch.autograd.grad(term, parameters, retain_graph=True, allow_unused=True)
    return float(torch.stack([(g**2).sum() for g in found if g is not None]).sum().sqrt())


def contrast(args: argparse.Namespace) -> None:
    """Prints the cosine between the mean features of every two classes, first encoder and last decoder stage."""
    paths = dataset_paths(args.dataset)
    batches: list[dict] = []
    for name in args.models:
        plans_name = name.split("__")[1]
        plans = load_json(str(paths.preprocessed / f"{plans_name}.json"))
        trainer = start(args, plans, "nnUNetTrainerKDTeacher", {})
        folder = paths.results / f"{name}__{args.configuration}" / f"fold_{args.fold}"
        trainer.network.load_state_dict(load_checkpoint_file(folder / "checkpoint_final.pth")["network_weights"])
        trainer.network.eval()
        if not batches:
            batches = [next(trainer.dataloader_train) for _ in range(args.batches)]
            classes = trainer.label_manager.num_segmentation_heads
            pairs = " ".join(f"{i}-{j}" for i, j in combinations(range(classes), 2))
            print(f"| network | first encoder stage: {pairs} | last decoder stage: {pairs} |")
            print("|---|---|---|")
        taps = FeatureTaps(trainer.network, ["encoder.0", list(feature_names(trainer.network))[-1]])
        found: list[list[torch.Tensor]] = [[], []]
        for batch in batches:
            target = batch["target"][0] if isinstance(batch["target"], list) else batch["target"]
            regions = torch.cat([target == k for k in range(classes)], 1)
            with torch.no_grad(), taps.recording():
                trainer.network(batch["data"])
            for cosines, features in zip(found, taps.pop(), strict=True):
                values, present = region_contrast(features.float(), regions)
                cosines.append(torch.where(present, values, torch.nan))
        means = [torch.nanmean(torch.cat(c), 0).tolist() for c in found]
        print(f"| {name} |", " | ".join(" ".join(f"{x:.2f}" for x in m) for m in means), "|", flush=True)


def main() -> None:
    """Prints one Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("dataset", "configuration", "fold"):
        parser.add_argument(name)
    parser.add_argument("-device", default="cpu")
    tables = parser.add_subparsers(dest="table", required=True)
    pull = tables.add_parser("gradients")
    pull.add_argument("plans")
    pull.add_argument("--steps", type=int, default=60)
    pull.add_argument("--every", type=int, default=20)
    cosine = tables.add_parser("contrast")
    cosine.add_argument("models", nargs="+", metavar="TRAINER__PLANS")
    cosine.add_argument("--batches", type=int, default=6)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.table == "gradients":
        gradients(args, load_json(str(dataset_paths(args.dataset).preprocessed / f"{args.plans}.json")))
    else:
        contrast(args)


if __name__ == "__main__":
    main()
