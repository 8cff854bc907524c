"""What nnU-Net finds in the folder named by nnUNet_extTrainer: the trainers of nnunet_kd.trainers, and the user's own.

nnU-Net 2.8 drops the modules of such a folder from ``sys.modules`` after the look-up, so nothing may be defined here.
"""

from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_kd.trainers import *  # noqa: F403
from nnunet_kd.utilities.errors import exit_on_user_error
from nnunet_kd.utilities.extensions import extension_modules

with exit_on_user_error():
    for _module in extension_modules("trainers"):
        for _name, _value in vars(_module).items():
            if isinstance(_value, type) and issubclass(_value, nnUNetTrainer) and _value.__module__ == _module.__name__:
                globals()[_name] = _value
