"""Weights of a local file as what ``nnUNetv2_train -pretrained_weights`` reads."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from nnunet_kd.networks.external import load_weights
from nnunet_kd.planning.network import PlannedModel
from nnunet_kd.utilities.errors import UserError
from nnunet_kd.utilities.files import write_whole


@dataclass(frozen=True)
class InitialWeights:
    """Weights of a whole network, of which ``loaded`` out of ``total`` tensors come from a file."""

    configuration: str
    state: dict[str, torch.Tensor]
    loaded: int
    total: int

    def write(self, folder: Path, plans_name: str) -> Path:
        """Writes ``PLANS_CONFIGURATION_initial.pth`` and returns its path."""
        file = folder / f"{plans_name}_{self.configuration}_initial.pth"
        write_whole(file, lambda temporary: torch.save({"network_weights": self.state}, temporary))
        return file


def initial_weights(file: Path, models: Sequence[PlannedModel]) -> dict[str, InitialWeights]:
    """Networks of configurations with the weights of a file, wherever name and shape fit; the rest is random.

    Raises:
        UserError: when the file is unreadable, or nothing in it fits.
    """
    result = {}
    for model in models:
        network = model.build()
        try:
            loaded, total = load_weights(network, file)
        except ValueError as err:
            raise UserError(f"--weights {err}.") from err
        result[model.configuration] = InitialWeights(model.configuration, network.state_dict(), loaded, total)
    return result
