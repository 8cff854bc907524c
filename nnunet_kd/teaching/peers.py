"""Teaching from networks that are trained beside the student."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch import Tensor, nn

from nnunet_kd.config import KDConfig
from nnunet_kd.data.dataset import UnlabeledDataset
from nnunet_kd.data.mixed_batches import without_last
from nnunet_kd.losses.peers import CrossTeachingLoss
from nnunet_kd.networks.readme import write_readme
from nnunet_kd.teachers.model import load_checkpoint_file
from nnunet_kd.teaching.peer import Peer, export_peer, freeze_side_outputs, make_peer, model_folder, peer_plans
from nnunet_kd.teaching.reference import Reference
from nnunet_kd.teaching.source import Teaching, TeachingSource, Training, in_float32
from nnunet_kd.utilities.errors import UserError

STATE = "kd_cross_teaching"


class Peers(TeachingSource):
    """Two teachers that teach each other on unlabeled cases, and a student that learns from both, at the same time.

    The other networks exist only while training. A step takes one batch of labeled and one of unlabeled cases, and
    every network takes one optimizer step on the sum of all losses:

    * hard-label loss of every network, on the labeled cases;
    * divergence between the student and the teachers' mean, on all cases;
    * on the unlabeled cases, each teacher against the other's pseudo-labels, and the student against the mean's.

    The network that teaches is detached, so that none receives a gradient from a term in which it teaches.

    Source: Choi 2022, Section 2.2, 3.2 and Table 3.
    """

    has_teachers = False  # they are trained beside the student
    gives_soft_labels = False
    peers: tuple[Peer, ...] = ()

    def __init__(self, training: Training):
        """Serves a training."""
        super().__init__(training)
        self.config = training.kd.cross_teaching
        self.loss = CrossTeachingLoss(self.config, training.sigmoid)

    @classmethod
    def wants_unlabeled(cls, kd: KDConfig) -> bool:
        """Whether anything is learned from unlabeled cases."""
        return kd.cross_teaching.unlabeled.weight > 0

    def check(self) -> None:
        """Refuses a student that nothing teaches, and unlabeled cases from which nothing would be learned."""
        super().check()
        if self.training.kd.hard_loss.weight == 0:
            raise UserError(
                "kd.hard_loss.weight: is 0, but networks that only teach each other learn nothing; set it to 1."
            )
        if self.config.unlabeled.weight > 0 and not self.config.active():
            raise UserError(
                "kd.cross_teaching.unlabeled.weight: nothing is learned from unlabeled cases with these networks and "
                "weights; set it to 0, or name networks in cross_teaching.teachers."
            )

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the networks beside the student."""
        if self.config.between == "students":
            return ("student2",)
        return tuple(f"teacher{i + 1}" for i in range(len(self.config.teachers)))

    def curves(self) -> list[str]:
        """The others' hard-label losses, and what the networks teach each other."""
        return [*(f"hard_{n}" for n in self.names), *self.loss.curves()]

    def prepare(self, training: Any, validation: Any, batch_size: int) -> Any:
        """Finds the unlabeled cases; as many of them as labeled ones are in a batch."""
        data = self.training.data
        self.labeled_per_batch = batch_size
        if not self.wants_unlabeled(self.training.kd):
            return training
        if not data.unlabeled_cases:
            raise UserError(
                f"{data.unlabeled_folder}: holds no case; make them with nnUNetv2_kd preprocess-unlabeled, or "
                "train on labeled cases only with cross_teaching.unlabeled.weight=0."
            )
        self.unlabeled, self.unlabeled_per_batch = UnlabeledDataset(data), batch_size
        self.training.log(
            f"A step takes {batch_size} labeled and {batch_size} unlabeled cases, drawn from "
            f"{len(training.identifiers)} and {len(data.unlabeled_cases)}"
        )
        return training

    def start(self, student: nn.Module, resumed: Mapping[str, Any] | None, epoch: int) -> None:
        """Builds the other networks, or goes on with them.

        Raises:
            UserError: for plans that there are not, or a checkpoint of other networks.
        """
        t = self.training
        self.peers = tuple(
            make_peer(
                name,
                peer_plans(t.data.plans_manager, t.data.configuration, teacher, name, t.data.preprocessed),
                self._build_network,
                self._wrap,
                t.make_optimizer,
            )
            for name, teacher in zip(self.names, self.config.teachers, strict=True)
        )
        for peer, teacher in zip(self.peers, self.config.teachers, strict=True):
            number = sum(p.numel() for p in peer.bare_network.parameters())
            t.log(f"{peer.name}: network of {teacher}, {number:,} parameters")
        if resumed is not None:
            for peer, state in zip(self.peers, self._states_to_continue(resumed, epoch), strict=True):
                peer.load_state(state)

    def _build_network(self, plans: dict[str, Any]) -> nn.Module:
        t, manager = self.training, PlansManager(plans)
        configuration = manager.get_configuration(t.data.configuration)
        network = nnUNetTrainer.build_network_architecture(
            manager,
            configuration,
            determine_num_input_channels(manager, configuration, t.data.dataset_json),
            t.data.label_manager.num_segmentation_heads,
            t.deep_supervision,
        ).to(t.device)
        if not t.deep_supervision:
            freeze_side_outputs(network)
        return network

    def _wrap(self, network: Any) -> Any:
        """What nnU-Net does with the student."""
        if self.training.compiled:
            network = torch.compile(network)
        if self.training.distributed:
            network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
            network = nn.parallel.DistributedDataParallel(network)
        return network

    def teach(self, data: Tensor, images: Tensor, reference: Reference) -> Teaching:
        """All networks see the same patches."""
        return Teaching(outputs=tuple(p.network(images) for p in self.peers))

    def further_terms(
        self, output: Any, teaching: Teaching, target: Any, reference: Reference, progress: float
    ) -> dict[str, Tensor]:
        """Hard-label loss of the other networks, and what all teach each other (Choi 2022, Section 2.2)."""
        t, outputs = self.training, [in_float32(o) for o in teaching.outputs]
        labeled = without_last(self.unlabeled_per_batch, target)
        terms = {
            f"hard_{name}": t.kd.hard_loss.weight
            * t.hard_label_loss(without_last(self.unlabeled_per_batch, theirs), labeled)
            for name, theirs in zip(self.names, outputs, strict=True)
        }
        student, *others = (o[0] if isinstance(o, list | tuple) else o for o in (output, *outputs))
        return terms | self.loss(student, others, len(student) - self.unlabeled_per_batch, progress)

    def optimizers(self) -> list[torch.optim.Optimizer]:
        """One for each network."""
        return [p.optimizer for p in self.peers]

    def start_epoch(self, epoch: int) -> None:
        """Also prepares the other networks."""
        for peer in self.peers:
            peer.network.train()
            peer.schedule.step(epoch)

    def state(self) -> dict[str, Any]:
        """The other networks with their optimizers."""
        return {STATE: {"peers": [p.state() for p in self.peers]}}

    def _folder(self, name: str) -> Path:
        t = self.training
        return model_folder(f"{t.data.plans_manager.plans_name}_{name}", t.trainer, t.data.configuration, t.results)

    def _states_to_continue(self, resumed: Mapping[str, Any], epoch: int) -> list[dict[str, Any]]:
        """States of the other networks, from the student's checkpoint or from their exported folders."""
        if STATE in resumed:
            return resumed[STATE]["peers"]
        states = []
        for name in self.names:
            file = self._folder(name) / f"fold_{self.training.fold}" / "checkpoint_final.pth"
            checkpoint = load_checkpoint_file(file)
            if checkpoint["current_epoch"] != epoch:
                raise UserError(
                    f"{file}: is of epoch {checkpoint['current_epoch']}, the student is of epoch {epoch}; they cannot "
                    "be trained on together."
                )
            states.append({"weights": checkpoint["network_weights"], "optimizer": checkpoint["optimizer_state"]})
        return states

    def export(self, student_checkpoint: Path, mirror_axes: Any) -> None:
        """Writes the other networks as model folders of their own.

        Args:
            student_checkpoint: the student's last one.
            mirror_axes: axes along which they may be mirrored at prediction.
        """
        checkpoint = load_checkpoint_file(student_checkpoint)
        checkpoint["inference_allowed_mirroring_axes"] = mirror_axes
        for peer in self.peers:
            folder = self._folder(peer.name)
            export_peer(peer, folder, self.training.fold, self.training.data.dataset_json, checkpoint)
            network = PlansManager(peer.plans).get_configuration(self.training.data.configuration)
            write_readme(folder, network.network_arch_class_name, network.network_arch_init_kwargs)
            self.training.log(f"{peer.name} is in {folder}")

    def stop(self) -> None:
        """Lets go of the other networks."""
        self.peers = ()
