"""A user's own checkpoint of a timm network: with timm's names, those that timm's loaders rename, or torchvision's."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import timm
from torch import Tensor, nn

from i2p_zoo.checkpoints.weight_files import sha256_of
from i2p_zoo.errors import CheckpointError, InvalidInputError
from i2p_zoo.networks.timm_models import create_timm_model
from i2p_zoo.zoo.state_dicts import describe_misfit, describe_style, find_prefix, read_state
from i2p_zoo.zoo.torchvision_weights import convert_state, create_torchvision_model, find_names

_MOST_LOOK_ALIKES = 25  # networks of a family that a misfit is compared with; each takes some 40 ms


def load_file(architecture: str, path: str | os.PathLike[str]) -> tuple[nn.Module, dict[str, Any], dict[str, Any]]:
    """Loads a checkpoint of a timm network: a state dict, or a training checkpoint that holds one.

    Its names may be timm's, such as timm's loaders rename, or torchvision's, behind any prefix. The averaged weights are taken
    where there are some. The numbers of classes and of image channels are those of the checkpoint; without a classifier the
    network has none. Pickled code is never run.

    Args:
        architecture: timm's name.
        path: a .safetensors, .pth, .pt, .ckpt or .bin file.

    Returns:
        timm's network in eval mode; its origin: file, sha256 and, where they are not timm's own, `prefix` and `names` of the
        tensors, and `passed_over`, those outside the prefix; and timm's arguments, classes and channels aside.

    Raises:
        NotFoundError: no such file.
        CheckpointError: it is damaged, holds more than tensors or values that are not finite, or does not fit the network; the
            message says whose names they look like.
    """
    path = Path(path)
    state = read_state(path)
    origin: dict[str, Any] = {"file": path.name, "sha256": sha256_of(path), "license": "unknown"}
    structure = create_timm_model(architecture, structure=True)
    attempts: dict[str, tuple[set[str], Callable[[dict[str, Tensor]], tuple[nn.Module, dict[str, Any]]]]] = {
        "timm": (set(structure.state_dict()), lambda inner: (_load_as_timms(architecture, inner), {})),
    }
    for name in find_names(architecture):
        names = set(create_torchvision_model(name).state_dict())
        attempts[f"torchvision's {name}"] = names, lambda inner, name=name: convert_state(name, inner)[::2]  # type: ignore[misc]
    errors: dict[str, CheckpointError] = {}
    matches: dict[str, int] = {}
    for whose, (names, load) in attempts.items():
        try:
            prefix = find_prefix(state, names)
            inner = {key.removeprefix(prefix): tensor for key, tensor in state.items() if key.startswith(prefix)}
            matches[whose] = len(inner.keys() & names)
            model, model_args = load(inner)
        except CheckpointError as error:
            errors[whose] = error
            continue
        outside = [key for key in state if not key.startswith(prefix)]
        noted = {
            "prefix": prefix,
            "names": "" if whose == "timm" else whose,
            "passed_over": f"{len(outside)} outside {prefix!r}, the first {outside[0]}" if outside else "",
        }
        return model.eval(), {**origin, **{key: value for key, value in noted.items() if value}}, model_args
    renamed = _rename_by_timm(architecture, state)
    if renamed is not None:
        return renamed.eval(), {**origin, "names": "another's, renamed by timm"}, {}
    nearest = errors[max(errors, key=lambda whose: matches.get(whose, 0))]
    look = _find_look_alike(architecture, state)
    raise CheckpointError(f"{path}: does not fit timm's {architecture}:\n{nearest}{look}") from nearest


def _load_as_timms(architecture: str, state: dict[str, Tensor]) -> nn.Module:
    """Creates timm's network for tensors of timm's names, with their classes and channels."""
    model = create_timm_model(architecture, **_sizes_of(architecture, state))
    try:
        model.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise CheckpointError(f"{describe_misfit(model, state, error)}.") from error
    return model


def _sizes_of(architecture: str, state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The numbers of classes and image channels that tensors of timm's names are of."""
    config: Any = timm.get_pretrained_cfg(architecture)
    sizes: dict[str, Any] = {}
    for argument, attribute, dim in (("num_classes", "classifier", 0), ("in_chans", "first_conv", 1)):
        layer = getattr(config, attribute, None)
        weight = state.get(f"{layer}.weight") if isinstance(layer, str) else None
        if weight is not None and weight.ndim > dim:
            sizes[argument] = weight.shape[dim]
        elif argument == "num_classes" and isinstance(layer, str) and not any(key.startswith(f"{layer}.") for key in state):
            sizes[argument] = 0
    return sizes


def _rename_by_timm(architecture: str, state: dict[str, Tensor]) -> nn.Module | None:
    """Creates timm's network for tensors that timm's own loader of the family renames, or returns None."""
    rename = getattr(sys.modules[timm.model_entrypoint(architecture).__module__], "checkpoint_filter_fn", None)
    if rename is None:
        return None
    try:
        return _load_as_timms(architecture, rename(dict(state), create_timm_model(architecture)))
    except Exception:  # timm's code may raise anything for what it was not written for
        return None


def _find_look_alike(architecture: str, state: Mapping[str, Tensor]) -> str:
    """Says whose names the tensors look like, or ""."""
    if style := describe_style(state):
        return f"\n{style}."
    module = timm.model_entrypoint(architecture).__module__.rpartition(".")[2]
    shapes = {key: tuple(tensor.shape) for key, tensor in state.items() if tensor.ndim > 2}
    for other in sorted(timm.list_models(module=module), key=len)[:_MOST_LOOK_ALIKES]:
        try:
            names = create_timm_model(other, structure=True).state_dict()
            prefix = find_prefix(state, names)
        except (CheckpointError, InvalidInputError):
            continue
        expected = {f"{prefix}{key}": tuple(tensor.shape) for key, tensor in names.items() if tensor.ndim > 2}
        if shapes == expected and shapes:
            return f"\nIt looks like timm's {other}."
    return ""
