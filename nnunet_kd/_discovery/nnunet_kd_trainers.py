"""What nnU-Net finds in the folder named by nnUNet_extTrainer; the classes live in nnunet_kd.trainers.

nnU-Net 2.8 drops the modules of such a folder from ``sys.modules`` after the look-up, so nothing may be defined here.
"""

from nnunet_kd.trainers import *  # noqa: F403
