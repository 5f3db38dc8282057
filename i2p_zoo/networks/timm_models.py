"""timm's 2D networks: with random weights, such that a certificate can be measured on them, or as a structure alone."""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Iterator
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_module_registration_hook
from torch.overrides import TorchFunctionMode

from i2p_zoo.errors import InvalidInputError, NotFoundError
from i2p_zoo.modules import image_channels, image_size
from i2p_zoo.names import split_name
from i2p_zoo.wording import format_arguments, join_words

_MAX_MODULES = 3_000  # resnetrs420 makes 2,540, the most of any in timm


def create_timm_model(architecture: str, *, structure: bool = False, **kwargs: Any) -> nn.Module:
    """Creates timm's 2D network with random weights.

    Args:
        architecture: timm's name.
        structure: create no weights: parameters and buffers are on the meta device; and no more modules than any network has.
        **kwargs: passed to `timm.create_model`.

    Raises:
        InvalidInputError: timm does not take the arguments, or makes more modules of them.
    """
    loading = sorted({"pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir"} & kwargs.keys())
    if loading:
        raise InvalidInputError(
            f"{join_words(loading)}: networks are made with random weights; call `i2p_zoo.from_pretrained` for others."
        )
    try:
        with contextlib.ExitStack() as stack:
            if structure:
                stack.enter_context(_limit_modules())
                stack.enter_context(_NoRandomNumbers())
                stack.enter_context(torch.device("meta"))
            model: nn.Module = timm.create_model(architecture, **kwargs)
    except (TypeError, ValueError, AssertionError, RuntimeError, LookupError) as error:
        raise InvalidInputError(
            f"timm cannot create {architecture!r} with {format_arguments(kwargs) or 'its defaults'}: {error}"
        ) from error
    _correct_configuration_(model, architecture)
    _note_image_size_(model, kwargs.get("img_size"))
    return model


def _correct_configuration_(model: Any, name: str) -> None:
    """Puts a network's configuration in place of another network's, as timm gives vitamin_xlarge_336 that of the 256 pixels."""
    module = getattr(model, "model", model)
    architecture = (getattr(module, "pretrained_cfg", None) or {}).get("architecture")
    if architecture not in (None, name.partition(".")[0]):
        module.pretrained_cfg = module.default_cfg = timm.get_pretrained_cfg(name).to_dict()


def _note_image_size_(model: Any, size: Any) -> None:
    """Notes in timm's configuration the size that a network was made for, which timm keeps in few networks itself."""
    sides = (size, size) if isinstance(size, int) else size
    if sides is None or image_size(model) == tuple(sides):
        return
    module = getattr(model, "model", model)
    config = getattr(module, "pretrained_cfg", None) or {}
    module.pretrained_cfg = {**config, "input_size": (image_channels(module), *sides)}


def create_tagged_model(architecture: str, tag: str) -> nn.Module:
    """Creates the structure of timm's 2D network as weights of a tag have it: as many classes, the same image size.

    Raises:
        NotFoundError: the architecture has no such tag.
    """
    name = f"{architecture}.{tag}" if tag else architecture
    try:
        timm.get_pretrained_cfg(name)
    except RuntimeError as error:
        tags = [known.partition(".")[2] for known in timm.list_pretrained(f"{architecture}.*")]
        raise NotFoundError(
            f"timm {timm.__version__} has no weights {tag!r} of {architecture}; it has {join_words(tags) or 'none'}."
        ) from error
    return create_timm_model(name, structure=True)


def create_random_model(name: str) -> nn.Module:
    """Creates timm's 2D network in eval mode, with seeded random parameters and BatchNorm statistics.

    A certificate can be measured on it: every branch is alive, and rounding is not amplified.

    Raises:
        NotFoundError: no such architecture.
    """
    architecture, _ = split_name(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = create_timm_model(architecture).eval()
        randomize_constants_(model)
        randomize_statistics_(model, example_images(model))
    return model


def randomize_parameters_(model: nn.Module, images: Tensor) -> None:
    """Draws every parameter and BatchNorm's statistics anew, whatever they are, from torch's global generator.

    Kernels and matrices are drawn so that activations keep their scale (He et al. 2015, "Delving deep into rectifiers"),
    vectors of weights about 1 and of biases about 0, any other vector about its mean; tables as `randomize_constants_` does.

    Args:
        model: in eval mode; changed in place.
        images: (B, C, H, W) that the statistics are drawn for.
    """
    levels = {"weight": 1.0, "bias": 0.0}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 and parameter.numel():
                bound = math.sqrt(6 * len(parameter) / parameter.numel())
                parameter.uniform_(-bound, bound)
            else:
                parameter.fill_(levels.get(name.rpartition(".")[2], parameter.mean()))
    randomize_constants_(model)
    randomize_statistics_(model, images)


def randomize_constants_(model: nn.Module) -> None:
    """Draws every parameter that timm initialises to a constant, and every table, from torch's global generator.

    A scale or gate that starts at 0 (or LayerScale's 1e-6) would hide the branch behind it from a certificate, and a table of
    positions or tokens whose rows hardly differ, a wrong row. GroupNorm gets larger biases, since it divides by its own input's
    deviation and so amplifies rounding.
    """
    with torch.no_grad():
        for module in model.modules():
            deviation = 0.5 if isinstance(module, nn.GroupNorm) else 0.3
            for name, parameter in module.named_parameters(recurse=False):
                if _is_table(module, name, parameter):
                    parameter.normal_(0.0, deviation)
                    continue
                constant = float(parameter.flatten()[0]) if parameter.numel() else 0.0
                if not bool((parameter == constant).all()):
                    continue
                if abs(constant) > 0.1:
                    parameter.uniform_(0.5, 1.5).mul_(constant)
                else:
                    parameter.normal_(0.0, deviation)


@torch.no_grad()
def widen_weights_(model: nn.Module, images: Tensor) -> None:
    """Scales kernels and matrices that timm draws narrow up to where activations keep their scale, with statistics to match.

    Products of such narrow matrices as timm's transformers begin with hardly tell one token from another: attention is nearly
    uniform, and the outputs forget the image and where what stands in it.

    Args:
        model: in eval mode; changed in place.
        images: (B, C, H, W) that BatchNorm's statistics are drawn for, the same each time.
    """
    for name, parameter in model.named_parameters():
        if name.rpartition(".")[2] == "weight" and parameter.ndim > 1:
            deviation = math.sqrt(len(parameter) / parameter.numel())
            parameter.mul_(max(1.0, deviation / float(parameter.square().mean().sqrt())))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        randomize_statistics_(model, images)


def _is_table(module: nn.Module, name: str, parameter: Tensor) -> bool:
    """Whether a parameter is of several rows that are read or added as they are: no layer's weight, and no scale a channel."""
    is_layer = type(module).__module__.partition(".")[0] == "torch"
    return not is_layer and name != "weight" and parameter.ndim > 1 and parameter.numel() > len(parameter)


@torch.no_grad()
def randomize_statistics_(model: nn.Module, images: Tensor, *, centred: bool = False) -> None:
    """Draws BatchNorm statistics about the scale of the activations that images cause, from torch's global generator.

    All channels of a layer share one scale: dividing each by its own raises the weak ones, and a deep network of such layers
    amplifies rounding without bound (Yang et al. 2019, "A mean field theory of batch normalization"). Without any scale
    activations grow until gates saturate.

    Args:
        model: in eval mode; changed in place.
        images: (B, C, H, W).
        centred: draw means about each channel's own, as training does, in place of 0: what all images have in common, which
            in a deep plain network grows until the outputs hardly tell two images apart, is then left out.
    """

    def draw(norm: Any, inputs: tuple[Tensor]) -> None:
        power = inputs[0].square().mean() + norm.eps
        norm.running_var.uniform_(0.5, 1.5).mul_(power)
        norm.running_mean.normal_(0.0, 0.1).mul_(power.sqrt())
        if centred:
            norm.running_mean.add_(inputs[0].mean((0, 2, 3)))

    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d) and m.track_running_stats]
    if not norms:
        return
    hooks = [norm.register_forward_pre_hook(draw) for norm in norms]
    try:
        model(images)
    finally:
        for hook in hooks:
            hook.remove()


def example_images(model: nn.Module) -> Tensor:
    """Returns (1, C, H, W) seeded noise of the input size that timm states for a model (3 x 64 x 64 for any other)."""
    size = image_size(model) or (64, 64)
    return torch.randn(1, image_channels(model), *size, generator=torch.Generator().manual_seed(0))


class _NoRandomNumbers(TorchFunctionMode):
    """Passes over the drawing of weights, which takes longer on the meta device than all the rest and leaves no trace there."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (Tensor.normal_, Tensor.uniform_) and args[0].is_meta:
            return args[0]
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def _limit_modules() -> Iterator[None]:
    """Raises InvalidInputError where this thread makes more modules than any network of timm has, before it takes long."""
    thread, count = threading.get_ident(), 0

    def hook(*_: Any) -> None:
        nonlocal count
        count += threading.get_ident() == thread
        if count > _MAX_MODULES and threading.get_ident() == thread:
            raise InvalidInputError(f"it has more than {_MAX_MODULES} modules")

    handle = register_module_module_registration_hook(hook)
    try:
        yield
    finally:
        handle.remove()
