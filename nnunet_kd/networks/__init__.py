"""Student and teacher networks that plans can name; each runs in 2D and 3D and returns logits."""

from nnunet_kd.networks.dilated import DilatedNet
from nnunet_kd.networks.enet import ENet
from nnunet_kd.networks.espnet import ESPNet
from nnunet_kd.networks.external import ExternalNetwork
from nnunet_kd.networks.mobilenetv2 import MobileNetV2Seg
from nnunet_kd.networks.noothout import NoothoutResNet, NoothoutUNet
from nnunet_kd.networks.raunet import RAUNet
from nnunet_kd.networks.resnet import ResNet18Seg
from nnunet_kd.networks.use_net import MobileResidualUSENet, ResidualUSENet

__all__ = [
    "DilatedNet",
    "ENet",
    "ESPNet",
    "ExternalNetwork",
    "MobileNetV2Seg",
    "MobileResidualUSENet",
    "NoothoutResNet",
    "NoothoutUNet",
    "RAUNet",
    "ResNet18Seg",
    "ResidualUSENet",
]
