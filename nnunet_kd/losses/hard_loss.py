"""Settings of the loss against the reference segmentation."""

from dataclasses import dataclass
from typing import Literal

from nnunet_kd.utilities.schema import number, value


@dataclass(frozen=True)
class HardLoss:
    """Loss against the reference segmentation."""

    name: Literal["dice_ce", "dice", "ce", "dice_lovasz", "dice_focal"] = value(
        "dice_ce", "nnU-Net's Dice + cross-entropy, or one of the two; nnU-Net's Dice + Lovasz or focal loss"
    )
    weight: float = number(1.0, "weight in the training loss of a student", minimum=0)
    dice_weight: float = number(1.0, "weight of the Dice part within the loss", minimum=0)
    other_weight: float = number(1.0, "weight of the part beside Dice within the loss", minimum=0)
    focal_gamma: float = number(2.0, "focusing parameter of the focal loss", minimum=0)
    focal_alpha: float = number(
        0.5, "weight of foreground in the focal loss; background has the rest", minimum=0, maximum=1
    )

    @property
    def parts(self) -> float:
        """Sum of the weights of its two parts."""
        return self.dice_weight * (self.name != "ce") + self.other_weight * (self.name != "dice")
