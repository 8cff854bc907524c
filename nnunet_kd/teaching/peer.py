"""Networks that are trained beside a student: their architecture, their optimizer, their model folders."""

from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch import nn

from nnunet_kd.utilities.errors import UserError
from nnunet_kd.utilities.files import write_json, write_whole
from nnunet_kd.utilities.nnunet_files import read_plans
from nnunet_kd.utilities.ranks import bare


@dataclass(frozen=True)
class Peer:
    """One network in training.

    Attributes:
        name: ``teacher1``, ``teacher2`` or ``student2``.
        plans: the student's plans with this network's architecture.
        network: as it is called, in the wrappers of torch.compile and DDP.
        optimizer: of its parameters.
        schedule: of its learning rate.
    """

    name: str
    plans: dict[str, Any]
    network: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: Any

    @property
    def bare_network(self) -> nn.Module:
        """The network without wrappers."""
        return bare(self.network)

    def state(self) -> dict[str, Any]:
        """For resuming."""
        return {"weights": self.bare_network.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """The inverse of :meth:`state`.

        Raises:
            UserError: when the checkpoint holds another network.
        """
        try:
            self.bare_network.load_state_dict(state["weights"])
            self.optimizer.load_state_dict(state["optimizer"])
        except (RuntimeError, ValueError, KeyError) as err:
            raise UserError(
                f"the checkpoint's {self.name} is another network than kd.cross_teaching.teachers names; continue with "
                "the plans that the training began with, or start anew without --c."
            ) from err


def peer_plans(
    student: PlansManager, configuration: str, teacher: str, name: str, preprocessed: Path
) -> dict[str, Any]:
    """The student's plans with another network, named ``<student's plans>_<name>``.

    Args:
        student: the student's plans.
        configuration: the one that is trained.
        teacher: plans whose architecture is taken, or ``same``.
        name: of the network.
        preprocessed: the data set's preprocessed folder, where plans are.

    Raises:
        UserError: when there are no such plans, or they have no such configuration or one of other dimension.
    """
    mine = student.get_configuration(configuration)
    plans = deepcopy(student.plans)
    plans["plans_name"] = f"{student.plans_name}_{name}"
    architecture = mine.configuration["architecture"]
    if teacher != "same":
        file = preprocessed / f"{teacher}.json"
        theirs = PlansManager(read_plans(file, configuration))
        other = theirs.get_configuration(configuration)
        if len(other.patch_size) != len(mine.patch_size):
            raise UserError(f"{file}: {configuration} is {len(other.patch_size)}D there, the student is not.")
        architecture = other.configuration["architecture"]
    plans["configurations"][configuration] = {**mine.configuration, "architecture": deepcopy(architecture)}
    plans["configurations"][configuration].pop("inherits_from", None)
    return plans


def freeze_side_outputs(network: nn.Module) -> None:
    """Excludes what makes lower-resolution outputs: without deep supervision it is not used, which DDP refuses."""
    layers = getattr(getattr(network, "decoder", None), "seg_layers", None)
    for layer in layers[:-1] if layers is not None else ():
        layer.requires_grad_(False)


def make_peer(
    name: str,
    plans: dict[str, Any],
    build: Callable[[dict[str, Any]], nn.Module],
    wrap: Callable[[nn.Module], nn.Module],
    make_optimizer: Callable[[Iterable[nn.Parameter]], tuple[torch.optim.Optimizer, Any]],
) -> Peer:
    """Builds a network and what trains it.

    Args:
        name: of the network.
        plans: from :func:`peer_plans`.
        build: plans -> network on its device.
        wrap: puts the network into the wrappers of torch.compile and DDP.
        make_optimizer: trainable parameters -> optimizer and schedule of the learning rate.
    """
    network = build(plans)
    optimizer, schedule = make_optimizer(p for p in network.parameters() if p.requires_grad)
    return Peer(name, plans, wrap(network), optimizer, schedule)


def model_folder(peer_plans_name: str, trainer: str, configuration: str, results: Path) -> Path:
    """``TRAINER__PLANS__CONFIGURATION`` of an exported network."""
    return results / f"{trainer}__{peer_plans_name}__{configuration}"


def export_peer(
    peer: Peer, folder: Path, fold: int | str, dataset_json: dict[str, Any], student_checkpoint: Mapping[str, Any]
) -> None:
    """Writes a network as a stock nnU-Net model folder of its own, which also continues a training.

    Args:
        peer: the network.
        folder: from :func:`model_folder`.
        fold: the student's.
        dataset_json: the data set's.
        student_checkpoint: the student's, whose record of the training and entries this one takes over.
    """
    target = folder / f"fold_{fold}" / "checkpoint_final.pth"
    target.parent.mkdir(parents=True, exist_ok=True)
    write_json(folder / "plans.json", peer.plans)
    write_json(folder / "dataset.json", dataset_json)
    state = peer.state()
    checkpoint = {
        **student_checkpoint,
        "network_weights": state["weights"],
        "optimizer_state": state["optimizer"],
        "init_args": {**student_checkpoint["init_args"], "plans": peer.plans},
    }
    write_whole(target, lambda file: torch.save(checkpoint, file))
