"""The network that plans describe, built with random weights or, for counting, without values."""

import contextlib
from dataclasses import dataclass
from typing import Any

import torch
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager

from nnunet_kd.teachers.loading import NetworkError, build_network
from nnunet_kd.teachers.model import TeacherModel
from nnunet_kd.utilities.errors import UserError

STOCK_TRAINER = "nnUNetTrainer"
MOST_PARAMETERS = 10**10


@dataclass(frozen=True)
class PlannedModel:
    """A configuration of plans as a model that is not trained, or as if it were not.

    Attributes:
        plans: describe the network.
        configuration: one of theirs.
        dataset_json: gives input channels and classes.
        trainer: whose ``build_network_architecture`` is used.
    """

    plans: PlansManager
    configuration: str
    dataset_json: dict[str, Any]
    trainer: str = STOCK_TRAINER

    @classmethod
    def of(cls, teacher: TeacherModel) -> "PlannedModel":
        """What a trained model was before its training."""
        return cls(teacher.plans_manager, teacher.configuration, teacher.dataset_json, teacher.trainer_name)

    @property
    def manager(self) -> ConfigurationManager:
        """nnU-Net's view of the configuration."""
        return self.plans.get_configuration(self.configuration)

    @property
    def patch(self) -> tuple[int, ...]:
        """Voxels (z, y, x) or (y, x)."""
        return tuple(self.manager.patch_size)

    @property
    def channels(self) -> int:
        """Channels of the input; the one-hot previous stage of a cascade counts."""
        return determine_num_input_channels(self.plans, self.manager, self.dataset_json)

    @property
    def classes(self) -> int:
        """Channels of the logits."""
        return self.plans.get_label_manager(self.dataset_json).num_segmentation_heads

    def build(self, device: str = "cpu") -> torch.nn.Module:
        """The network, without deep supervision; on the device ``meta`` it has no values.

        Raises:
            UserError: when it cannot be built, or has more parameters than anybody could train.
        """
        if device != "meta":  # values that no memory holds are not asked for
            with contextlib.suppress(NetworkError, NotImplementedError, RuntimeError):
                self.build("meta")
        with contextlib.redirect_stdout(None), torch.device(device):
            network = build_network(self.plans, self.configuration, self.dataset_json, self.trainer)
        if (parameters := count_parameters(network)) > MOST_PARAMETERS:
            raise UserError(
                f"{self.plans.plans_name}, {self.configuration}: the network would have {parameters:.3g} parameters, "
                f"more than {MOST_PARAMETERS:.0e}; make it narrower."
            )
        return network


def count_parameters(network: torch.nn.Module) -> int:
    """Parameters of a network."""
    return sum(p.numel() for p in network.parameters())
