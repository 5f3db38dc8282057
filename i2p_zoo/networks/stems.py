"""Stems for points: the image stem's convolutions replaced by new ones at stride 1 or 2, its pooling dropped."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any

import torch
from timm.layers.blur_pool import BlurPool2d
from timm.layers.pool2d_same import AvgPool2dSame, MaxPool2dSame
from timm.layers.space_to_depth import SpaceToDepth
from torch import nn
from torch.overrides import TorchFunctionMode

from i2p_zoo.errors import InvalidInputError, UnsupportedError
from i2p_zoo.layers.point_stem import DroppedPool, PointStemConv3d
from i2p_zoo.modules import image_channels, image_size, probe_mode
from i2p_zoo.sparse.geometry import Pair, unfold_stride
from i2p_zoo.sparse.tensor import SparseTensor
from i2p_zoo.wording import count_of

_POOLS = (nn.MaxPool2d, nn.AvgPool2d, MaxPool2dSame, AvgPool2dSame, BlurPool2d)


@dataclass(frozen=True)
class Stem:
    """The layers of a 2D network that read the image or pool right behind them.

    Attributes:
        convolutions: qualified names of those that read the image, at its own size or resized, with the halvings each does.
        pools: likewise the pooling layers that follow before the second halving is over, and a space-to-depth before.
    """

    convolutions: dict[str, int]
    pools: dict[str, int]


def find_stem(model: nn.Module) -> Stem:
    """Finds the stem of a 2D network by one forward pass on the meta device, which computes shapes only.

    Args:
        model: the 2D network; untouched.

    Raises:
        UnsupportedError: no convolution reads the image itself.
    """
    memo: dict[int, Any] = {id(p): nn.Parameter(torch.empty_like(p, device="meta")) for p in model.parameters()}
    twin: nn.Module = copy.deepcopy(model, memo).to("meta").eval()
    channels = image_channels(model)
    height, size = image_size(model) or (224, 224)
    image = torch.empty(1, channels, height, size, device="meta", dtype=next(twin.parameters()).dtype)
    convolutions: dict[str, int] = {}
    pools: dict[str, int] = {}
    rearranged: dict[str, int] = {}
    images = [image]  # itself, and as rearranged by space-to-depth or resized
    rivals: list[str] = []  # convolutions that do the second halving, beside which a pool is a branch and no stem

    def watch(name: str, module: nn.Module) -> None:
        def hook(_: nn.Module, inputs: Any, output: Any) -> None:
            (x, *_rest) = inputs
            halvings = round(x.shape[-1] / output.shape[-1]).bit_length() - 1  # as `plan_window` counts those of a stride
            is_halved_once = round(math.log2(size / x.shape[-1])) == 1
            if isinstance(module, SpaceToDepth):
                if x is image:
                    rearranged[name] = halvings
                    images.append(output)
            elif isinstance(module, nn.Conv2d):
                if any(x is one for one in images):
                    convolutions[name] = halvings
                elif halvings and is_halved_once:
                    rivals.append(name)
            elif any(convolutions.values()) and is_halved_once:
                pools[name] = halvings

        module.register_forward_hook(hook)

    with probe_mode(twin), torch.no_grad(), _Resizing(images):
        for name, module in twin.named_modules():
            if isinstance(module, (nn.Conv2d, SpaceToDepth, *_POOLS)):
                watch(name, module)
        twin(image)
    if not convolutions:
        raise UnsupportedError(f"a stem for points: no convolution of {type(model).__qualname__} reads the image itself.")
    if rivals or not any(pools.values()):
        pools = {}
    return Stem(convolutions, {**rearranged, **pools})


class _Resizing(TorchFunctionMode):
    """Adds to some images what they are resized to, which branches of other resolutions read, or padded to by no pixel."""

    def __init__(self, images: list[Any]) -> None:
        super().__init__()
        self.images = images

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        is_padded = func is nn.functional.pad and out.shape == args[0].shape
        if (func is nn.functional.interpolate or is_padded) and any(args[0] is image for image in self.images):
            self.images.append(out)
        return out


def check_skip(model: Any, skip_downsamples: int) -> None:
    """Raises InvalidInputError unless an inflated network's first halvings can run at stride 1, by running it on one voxel.

    Args:
        model: with its settings; left as it is.
        skip_downsamples: how many of them, among these the ones that a stem for points has dropped.
    """
    name = type(model).__qualname__
    halvings = max(level for level, _ in _trace_levels(model))
    if skip_downsamples > halvings:
        raise InvalidInputError(f"`skip_downsamples` is {skip_downsamples}, and {name} halves {halvings} times.")
    provenance = model.provenance
    try:
        model.provenance = provenance.with_settings(skip_downsamples=skip_downsamples)
        levels = _trace_levels(model)
    except UnsupportedError as error:
        raise InvalidInputError(f"`skip_downsamples` is {skip_downsamples}: {error}") from error
    finally:
        model.provenance = provenance
    done = [level for level, stride in levels if stride != 1 and level <= skip_downsamples]
    if done:
        raise InvalidInputError(
            f"`skip_downsamples` is {skip_downsamples}, and {name} can skip {min(done) - 1}: its next halving joins neighbours "
            "in one token's channels, which leaves nothing to skip."
        )


def count_halvings(model: Any) -> int:
    """Returns how many halvings an inflated network does, skipped ones included, found by running it on one voxel."""
    return max(level for level, _ in _trace_levels(model))


def _trace_levels(model: Any) -> list[tuple[int, int]]:
    """The halvings behind each sparse tensor of a network, and its largest stride."""
    levels = [(0, 1)]

    def hook(_: nn.Module, inputs: Any, output: Any) -> None:
        tensors = [x for x in (*inputs, output) if isinstance(x, SparseTensor)]
        levels.extend((x.plan.level, max(unfold_stride(x.stride))) for x in tensors)

    weight = next(model.parameters())
    voxel = SparseTensor(weight.new_zeros(1, model.in_chans), torch.zeros(1, 4, dtype=torch.int32, device=weight.device))
    with probe_mode(model), torch.no_grad():
        for module in model.modules():
            module.register_forward_hook(hook)
        model(voxel)
    return levels


def set_point_stem_(model: Any, stem: Stem, in_chans: int, setting: str = "point") -> dict[str, nn.Module]:
    """Gives an inflated network a new stem for points, in place, and returns the layers that were there, by name.

    Args:
        model: an inflated network with its image stem.
        stem: of its 2D source.
        in_chans: channels of the voxels.
        setting: "point" for 3x3x3 convolutions at stride 1, "patch" for 2x2x2 ones at stride 2.

    Raises:
        InvalidInputError: a patch in place of a convolution of odd stride; the network is as it was.
    """
    step = 2 if setting == "patch" else 1
    before = {name: model.get_submodule(name) for name in (*stem.convolutions, *stem.pools)}
    for name in stem.convolutions:
        stride = max(model.get_submodule(name).stride)
        if stride % step:
            raise InvalidInputError(f"stem={setting!r} has a stride of 2, and {name} one of {stride}: use stem='point'.")
    for name, halvings in stem.convolutions.items():
        old = model.get_submodule(name)
        layer = PointStemConv3d(
            halvings=halvings - (step - 1),
            stride_2d=max(old.stride) // step,
            margin_2d=_margin(old),
            in_channels=in_chans,
            out_channels=old.out_channels,
            kernel_size=step if step > 1 else 3 if max(old.kernel_size) > 1 else 1,
            stride=step,
            padding=((0, 0), (0, 0)) if step > 1 else "centred",
            bias=old.bias is not None,
            axis=old.axis,
            device=old.weight.device,
            dtype=old.weight.dtype,
        )
        model.set_submodule(name, layer)
        model.provenance = model.provenance.with_replaced(f"{name}.", f"{setting} stem", layer)
    for name, halvings in stem.pools.items():
        model.set_submodule(name, DroppedPool(halvings))
    # new weights have no colours that they were trained with
    model.provenance = model.provenance.with_settings(stem=setting, rgb_mean=None, rgb_std=None).changed(in_chans=in_chans)
    return before


def _margin(layer: Any) -> Pair:
    """The pixels of (height, width) that a convolution's output is shorter by than its image, before its stride.

    torch rounds (image + padding - span - 1) / stride down and adds one, which is (image + padding - span) / stride rounded up.
    """
    if layer.padding is None:  # as much as the stride needs
        return (0, 0)
    height, width = (
        (kernel - 1) * step - sum(pads)
        for kernel, step, pads in zip(layer.kernel_size, layer.dilation, layer.padding, strict=True)
    )
    return (height, width)


def adapt_in_chans_(model: Any, stem: Stem, in_chans: int) -> None:
    """Adapts the image stem's weights to another number of channels as timm does: summed for one, repeated for more.

    Args:
        model: an inflated network with its image stem, in place.
        stem: of its 2D source.
        in_chans: channels of the voxels.

    Raises:
        InvalidInputError: the stem does not read three channels, red, green and blue.
    """
    layers = {name: model.get_submodule(name) for name in stem.convolutions}
    for layer in layers.values():
        if layer.in_channels != 3:
            raise InvalidInputError(
                f"An image stem of {count_of(layer.in_channels, 'channel')} cannot be changed to in_chans={in_chans}; "
                "use stem='point'."
            )
    for name, layer in layers.items():
        weight = layer.weight.detach()  # (C_out, kz, ky, kx, 3)
        if in_chans == 1:
            adapted = weight.sum(4, keepdim=True)
        else:
            adapted = weight.repeat(1, 1, 1, 1, -(-in_chans // 3))[..., :in_chans] * (3 / in_chans)
        layer.weight = nn.Parameter(adapted.contiguous(), layer.weight.requires_grad)
        layer.in_channels = in_chans
        shapes = {f"{name}.weight": tuple(layer.weight.shape)}
        model.provenance = model.provenance.with_replaced(f"{name}.weight", f"stem of {count_of(in_chans, 'channel')}", shapes)
    model.provenance = model.provenance.changed(in_chans=in_chans)


def image_colors(model: nn.Module) -> dict[str, Any]:
    """Returns by which mean and deviation the colours were standardised that an image network was trained on.

    Args:
        model: of timm, whose `pretrained_cfg` says so.

    Returns:
        The fields `rgb_mean` and `rgb_std` of `Settings`; None for a network that does not say.
    """
    config = getattr(model, "pretrained_cfg", None) or {}
    colors = {f"rgb_{name}": config.get(name) for name in ("mean", "std")}
    is_known = all(isinstance(values, list | tuple) and len(values) == 3 for values in colors.values())
    return colors if is_known else dict.fromkeys(colors)


def check_in_chans(in_chans: int) -> None:
    """Raises InvalidInputError unless `in_chans` is a positive integer."""
    if not isinstance(in_chans, int) or isinstance(in_chans, bool) or in_chans < 1:
        raise InvalidInputError(f"`in_chans` must be a positive integer; got {in_chans!r}.")


def check_num_classes(num_classes: int) -> None:
    """Raises InvalidInputError unless `num_classes` is an integer of 0, for no classifier, or more."""
    if not isinstance(num_classes, int) or isinstance(num_classes, bool) or num_classes < 0:
        raise InvalidInputError(f"`num_classes` must be a whole number, 0 for no classifier; got {num_classes!r}.")
