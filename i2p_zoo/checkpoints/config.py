"""config.json of a checkpoint: what a folder says of its network. Whatever is unknown or missing is refused."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from types import NoneType
from typing import Any

from i2p_zoo._version import __version__
from i2p_zoo.checkpoints.folder_files import CONFIG as CONFIG
from i2p_zoo.checkpoints.weight_files import is_weights_name
from i2p_zoo.errors import CheckpointError, InvalidInputError
from i2p_zoo.inflation.settings import Settings
from i2p_zoo.names import PREFIX
from i2p_zoo.wording import join_words

FORMAT_VERSION = 2
"""The newest format. Networks that 0.1 can build are written as format 1, which it reads."""
_SHA256 = re.compile("[0-9a-f]{64}")
_MAX_BYTES, _MAX_NUMBER, _MAX_PIXELS = 1_000_000, 100_000, 2048
_PRETRAINED_KEYS = (
    *"architecture tag input_size mean std interpolation crop_pct license hf_hub_id".split(),
    *("label_names", "label_codes"),
)

_ADDED_SETTINGS = {"rgb_mean": None, "rgb_std": None, "normalization": "", "canvas": None}
"""What earlier checkpoints, and those of convolutional networks, do not have, and mean by its absence."""

_Condition = tuple[Callable[[Any], bool], str]
"""What a value must be, as a function and in words."""


def make_config(model: Any) -> dict[str, Any]:
    """Describes a network as JSON types, without what is known of a checkpoint's files.

    Args:
        model: a module with a `Provenance`.

    Raises:
        InvalidInputError: it was not made from a timm architecture, or has an argument that JSON cannot hold.
    """
    provenance, timm_cfg = model.provenance, dict(getattr(model, "pretrained_cfg", None) or {})
    if not provenance.architecture:
        raise InvalidInputError(
            f"{type(model).__qualname__} was not made from a timm architecture, so a folder cannot rebuild it. Save its "
            "`state_dict()` and build it again with `i2p_zoo.inflate`."
        )
    for key, value in provenance.model_args.items():
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise InvalidInputError(
                f"The argument {key}={value!r} cannot be written to {CONFIG}; give it as a string that timm knows."
            ) from error
    pool = getattr(model, "global_pool", None)
    settings = provenance.settings.to_dict()
    is_new = settings["canvas"] is not None or settings["stem"] == "patch"
    if settings["canvas"] is None:
        del settings["canvas"]
    return {
        "architecture": PREFIX + provenance.architecture,
        "num_classes": getattr(model, "num_classes", None),
        "num_features": getattr(model, "num_features", None),
        "global_pool": pool if isinstance(pool, str) else None,
        "model_args": provenance.model_args,
        "pretrained_cfg": {key: timm_cfg[key] for key in _PRETRAINED_KEYS if timm_cfg.get(key) is not None},
        "i2p": {
            "format_version": FORMAT_VERSION if is_new else 1,
            "package_version": __version__,
            "in_chans": provenance.in_chans,
            "dtype": str(next(model.parameters()).dtype).removeprefix("torch."),
            "settings": settings,
            "source": {key: value for key, value in provenance.source.items() if key != "certificate"},
            "certificate": provenance.source.get("certificate"),
            "compact": False,
            "unet": None,
            "base": None,
            "weights": {},
        },
    }


def complete_settings_(config: dict[str, Any]) -> dict[str, Any]:
    """Adds to a config, in place, what a file leaves out of its settings, with what that means; returns it."""
    config["i2p"]["settings"] = {**_ADDED_SETTINGS, **config["i2p"]["settings"]}
    return config


def read_config(path: Path) -> dict[str, Any]:
    """Reads and checks a config.json; raises CheckpointError naming the file and key."""
    if not path.is_file():
        raise CheckpointError(f"{path}: not found. An i2p-zoo checkpoint is a folder with {CONFIG} and safetensors weights.")
    if path.stat().st_size > _MAX_BYTES:
        raise CheckpointError(f"{path}: has {path.stat().st_size} bytes; a config has at most {_MAX_BYTES}.")
    try:
        config = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not JSON ({error}).") from error
    if not isinstance(config, dict) or not isinstance(config.get("i2p"), dict):
        raise CheckpointError(f"{path}: has no block `i2p`, so it is no i2p-zoo checkpoint.")
    version = config["i2p"].get("format_version")
    if type(version) is not int or not 1 <= version <= FORMAT_VERSION:
        raise CheckpointError(
            f"{path}: format_version is {version!r}; this package reads 1 to {FORMAT_VERSION}. Upgrade i2p-zoo for a newer one."
        )
    _check(path, config, _CONFIG, "")
    i2p = config["i2p"]
    _check(path, {"changes": {}, "pyramid": None, **i2p}, _I2P, "i2p.")
    complete_settings_(config)
    _check(path, i2p["settings"], {field.name: _ANYTHING for field in fields(Settings)}, "i2p.settings.")
    try:
        Settings(**i2p["settings"])
    except InvalidInputError as error:
        raise CheckpointError(f"{path}: {str(error).replace('`', '`i2p.settings.', 1)}") from error
    _check_args(path, config["model_args"], "model_args")
    _check_args(path, i2p.get("changes", {}), "i2p.changes")
    _check_weights(path, i2p["weights"], "i2p.weights")
    if i2p["unet"] is not None:
        _check(path, i2p["unet"], _UNET, "i2p.unet.")
    if i2p.get("pyramid") is not None:
        _check(path, {"views": None, **i2p["pyramid"]}, _PYRAMID, "i2p.pyramid.")
    if i2p["base"] is not None:
        _check(path, i2p["base"], _BASE, "i2p.base.")
        _check_weights(path, i2p["base"]["weights"], "i2p.base.weights")
    return config


def _refuse_constant(name: str) -> None:
    raise InvalidInputError(f"{name} is no number of JSON")


def _check_args(path: Path, value: Any, key: str) -> None:
    """Refuses numbers by which timm would first make a list of that length, of the rates of drop path for one."""
    parts = [value]
    while parts:  # no recursion: newer Pythons read JSON deeper than they call functions
        part = parts.pop()
        parts += part.values() if isinstance(part, dict) else part if isinstance(part, list) else ()
        if isinstance(part, int) and abs(part) > _MAX_NUMBER:
            raise CheckpointError(f"{path}: `{key}` has {part!r}; no network needs numbers above {_MAX_NUMBER}.")


def _check_weights(path: Path, weights: dict[str, Any], key: str) -> None:
    """Names are checked as well as hashes: a file is read by the name that stands here."""
    for name, sha256 in weights.items():
        if not is_weights_name(name) or not name.endswith(".safetensors"):
            raise CheckpointError(f"{path}: `{key}` names {name!r}, which is no weights file of this package.")
        if not isinstance(sha256, str) or not _SHA256.fullmatch(sha256):
            raise CheckpointError(f"{path}: `{key}` has no sha256 for {name!r}; found {sha256!r}.")


def _check(path: Path, block: dict[str, Any], expected: Mapping[str, _Condition], prefix: str) -> None:
    """Raises CheckpointError unless a block has exactly the expected keys and each value meets its condition."""
    for word, keys in (("unknown", block.keys() - expected.keys()), ("missing", expected.keys() - block.keys())):
        if keys:
            raise CheckpointError(f"{path}: {word} keys: {join_words(sorted(repr(prefix + key) for key in keys))}.")
    for key, (is_met, words) in expected.items():
        if not is_met(block[key]):
            raise CheckpointError(f"{path}: `{prefix}{key}` must {words}; found {block[key]!r}.")


def _type(*types: type) -> _Condition:
    """That a value, as JSON gives it, has one of these types."""
    return (lambda value: type(value) in types), f"be {types[0].__name__}"


def _are_numbers(values: Any) -> bool:
    return type(values) is list and all(type(number) is int and 0 <= number <= _MAX_NUMBER for number in values)


def _are_levels(levels: Any) -> bool:
    if type(levels) is not list or not 0 < len(levels) < 100:
        return False
    return all(type(level) is list and len(level) == 3 and all(map(_are_numbers, [level[:1], *level[1:]])) for level in levels)


def _is_certificate(value: Any) -> bool:
    return value is None or (type(value) is dict and type(value.get("errors")) is dict)


_ANYTHING: _Condition = (lambda value: True, "")
_WEIGHTS: _Condition = (lambda value: type(value) is dict and len(value) > 0, "map weights files to their sha256")
_CONFIG: dict[str, _Condition] = {
    "architecture": (lambda value: type(value) is str and value.startswith(PREFIX), f"start with {PREFIX!r}"),
    "global_pool": _type(str, NoneType),
    **dict.fromkeys(("num_classes", "num_features"), _type(int, NoneType)),
    **dict.fromkeys(("model_args", "pretrained_cfg", "i2p"), _type(dict)),
}
_I2P: dict[str, _Condition] = {
    "format_version": _type(int),
    "package_version": _type(str),
    "in_chans": (lambda value: type(value) is int and value >= 1, "be int and at least 1"),
    "dtype": (lambda value: value in ("float32", "float64", "float16", "bfloat16"), "be a floating dtype of torch"),
    "certificate": (_is_certificate, "have `errors`"),
    "compact": _type(bool),
    "weights": _WEIGHTS,
    **dict.fromkeys(("settings", "source", "changes"), _type(dict)),
    **dict.fromkeys(("unet", "pyramid", "base"), _type(dict, NoneType)),
}
_UNET: dict[str, _Condition] = {
    "levels": (_are_levels, "be lists of whole numbers"),
    "decoder_channels": (lambda value: _are_numbers(value) and len(value) < 100, "be a list of whole numbers"),
    **dict.fromkeys(("dropout", "devoxelization"), _ANYTHING),
}
_PYRAMID: dict[str, _Condition] = {
    "channels": (lambda value: type(value) is int and 0 < value <= _MAX_NUMBER, "be a positive whole number"),
    "views": (
        lambda value: value is None or (type(value) is int and 0 < value <= _MAX_PIXELS),
        f"be null or a number of pixels, at most {_MAX_PIXELS}",
    ),
}
_BASE: dict[str, _Condition] = {
    "name": (lambda value: type(value) is str and value != "", "be a name or a folder"),
    "commit": (_type(str, NoneType)[0], "be a commit or null"),
    "weights": _WEIGHTS,
}
