"""torchvision's weights: a state dict of `torchvision.models.<name>`, renamed to timm's implementation of the same network."""

from __future__ import annotations

from typing import Any

import timm
import torchvision
from torch import Tensor, nn

from i2p_zoo.errors import NotFoundError
from i2p_zoo.networks.timm_models import example_images
from i2p_zoo.zoo.execution_order import rename

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


def find_names(architecture: str) -> list[str]:
    """Returns torchvision's names of timm's architecture."""
    return [name for name, ours in ARCHITECTURES.items() if ours == architecture]


def create_torchvision_model(name: str, num_classes: int = 1000, in_chans: int = 3, auxiliary: bool = True) -> nn.Module:
    """Creates torchvision's network with random weights.

    Args:
        name: torchvision's.
        num_classes: of the classifier.
        in_chans: channels of the image; torchvision's own have three.
        auxiliary: whether it has the classifiers that run in training alone, where torchvision's has any.
    """
    options = {"init_weights": False, "aux_logits": auxiliary} if name == "inception_v3" else {}
    model: nn.Module = torchvision.models.get_model(name, weights=None, num_classes=num_classes, **options)
    place, first = next((place, module) for place, module in model.named_modules() if isinstance(module, nn.Conv2d))
    if in_chans != first.in_channels:
        arguments = {key: getattr(first, key) for key in ("stride", "padding", "dilation", "groups", "padding_mode")}
        bias = first.bias is not None
        model.set_submodule(place, nn.Conv2d(in_chans, first.out_channels, first.kernel_size, bias=bias, **arguments))  # type: ignore[arg-type]
    return model


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
        timm's network in eval mode, its architecture, and the arguments of `timm.create_model`, classes and channels aside.
        Without a classifier in the state dict the network has none.

    Raises:
        NotFoundError: timm has no such network.
        CheckpointError: the weights do not fit, or the two networks compute different functions.
    """
    architecture = find_architecture(name)
    whole = create_torchvision_model(name)
    head = [key for key, tensor in whole.state_dict().items() if tensor.ndim == 2][-1].removesuffix("weight")
    kernels = [key for key, tensor in whole.state_dict().items() if tensor.ndim == 4]
    first, last = state.get(kernels[0]), state.get(f"{head}weight")
    in_chans = 3 if first is None or first.ndim != 4 else first.shape[1]
    is_whole = first is None or any(key.startswith(head) for key in state)
    classes = 2 if last is None else len(last)
    auxiliary = any(key.startswith("AuxLogits.") for key in state)
    source = create_torchvision_model(name, classes, in_chans, auxiliary)
    if not is_whole:  # a random one stands in, so that the outputs can be compared
        state = {**state, **{key: tensor for key, tensor in source.state_dict().items() if key.startswith(head)}}
    # The epsilon of BatchNorm is no weight: it is passed on where the two implementations differ in it.
    theirs, ours = (
        {m.eps for m in net.modules() if isinstance(m, nn.BatchNorm2d)} for net in (source, timm.create_model(architecture))
    )
    model_args = {"bn_eps": theirs.pop()} if theirs != ours and len(theirs) == 1 else {}
    target: Any = timm.create_model(architecture, num_classes=classes, in_chans=in_chans, **model_args)
    rename(state, source, target, example_images(target))
    if not is_whole:
        target.reset_classifier(0)
    return target.eval(), architecture, model_args
