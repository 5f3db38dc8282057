"""torchvision's weights: a state dict of `torchvision.models.<name>`, renamed to timm's implementation of the same network."""

from __future__ import annotations

from typing import Any

import timm
import torchvision
from torch import Tensor, nn

from conversion.execution_order import rename
from i2p_zoo.errors import CheckpointError, NotFoundError
from i2p_zoo.networks.timm_models import example_images

SAME_NAME = (
    "resnet18 resnet34 resnet50 resnet101 resnet152 wide_resnet50_2 wide_resnet101_2 resnext50_32x4d resnext101_32x8d "
    "resnext101_64x4d vgg11 vgg13 vgg16 vgg19 vgg11_bn vgg13_bn vgg16_bn vgg19_bn densenet121 densenet161 densenet169 "
    "densenet201 inception_v3 convnext_tiny convnext_small convnext_base convnext_large "
    "efficientnet_b0 efficientnet_b1 efficientnet_b2 efficientnet_b3 efficientnet_b4 efficientnet_b5 efficientnet_b6 "
    "efficientnet_b7"
).split()
ARCHITECTURES = {name: name for name in SAME_NAME} | {
    "mobilenet_v2": "mobilenetv2_100",
    "mobilenet_v3_large": "mobilenetv3_large_100",
    "mobilenet_v3_small": "mobilenetv3_small_100",
    "mnasnet0_5": "mnasnet_050",
    "mnasnet0_75": "mnasnet_075",
    "mnasnet1_0": "mnasnet_100",
    "efficientnet_v2_s": "efficientnetv2_s",
    "efficientnet_v2_m": "efficientnetv2_m",
    "efficientnet_v2_l": "efficientnetv2_l",
    **{
        f"regnet_{family}_{size}": f"regnet{family}_{number}"
        for family in "xy"
        for size, number in zip(
            ("400mf", "800mf", "1_6gf", "3_2gf", "8gf", "16gf", "32gf"),
            ("004", "008", "016", "032", "080", "160", "320"),
            strict=True,
        )
    },
    "regnet_x_400mf": "regnetx_004_tv",
    "regnet_y_800mf": "regnety_008_tv",
    "regnet_y_8gf": "regnety_080_tv",
}
"""timm's architecture for each of torchvision's."""


def find_architecture(name: str) -> str:
    """Returns timm's architecture of torchvision's network; raises NotFoundError where it is not known."""
    if name not in ARCHITECTURES:
        raise NotFoundError(f"timm's counterpart of torchvision's {name!r} is not known. Known: {', '.join(ARCHITECTURES)}.")
    return ARCHITECTURES[name]


def convert_state(name: str, state: dict[str, Tensor]) -> tuple[nn.Module, str, dict[str, Any]]:
    """Builds timm's network with torchvision's weights.

    Args:
        name: torchvision's name of the network.
        state: its state dict.

    Returns:
        timm's network in eval mode, its architecture, and the arguments of `timm.create_model`, classes aside.

    Raises:
        NotFoundError: timm has no such network.
        CheckpointError: the weights do not fit, or the two networks compute different functions.
    """
    architecture = find_architecture(name)
    matrices = [tensor for tensor in state.values() if tensor.ndim == 2]
    if not matrices:
        raise CheckpointError(f"The state dict of {name} has no classifier.")
    classes = len(matrices[-1])
    options = {"init_weights": False} if name == "inception_v3" else {}
    source = torchvision.models.get_model(name, weights=None, num_classes=classes, **options)
    # The epsilon of BatchNorm is no weight: it is passed on where the two implementations differ in it.
    theirs, ours = (
        {m.eps for m in net.modules() if isinstance(m, nn.BatchNorm2d)} for net in (source, timm.create_model(architecture))
    )
    model_args = {"bn_eps": theirs.pop()} if theirs != ours and len(theirs) == 1 else {}
    target = timm.create_model(architecture, num_classes=classes, **model_args)
    rename(state, source, target, example_images(target))
    return target.eval(), architecture, model_args
