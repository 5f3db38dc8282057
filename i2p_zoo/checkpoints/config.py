"""config.json of a checkpoint: what a folder says of its network. Whatever is unknown or missing is refused."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

from i2p_zoo._version import __version__
from i2p_zoo.checkpoints.weight_files import is_weights_name
from i2p_zoo.errors import CheckpointError, InvalidInputError
from i2p_zoo.inflation.settings import Settings
from i2p_zoo.names import PREFIX

CONFIG = "config.json"
FORMAT_VERSION = 1
_TOP_KEYS = {"architecture", "num_classes", "num_features", "global_pool", "model_args", "pretrained_cfg", "i2p"}
_I2P_KEYS = {
    "format_version",
    "package_version",
    "in_chans",
    "dtype",
    "settings",
    "source",
    "certificate",
    "compact",
    "unet",
    "base",
    "weights",
}
_SHA256 = re.compile("[0-9a-f]{64}")
_MAX_BYTES, _MAX_NUMBER = 1_000_000, 100_000
_PRETRAINED_KEYS = tuple("architecture tag input_size mean std interpolation crop_pct license hf_hub_id label_names".split())


def make_config(model: Any) -> dict[str, Any]:
    """Describes a network as JSON types, without what is known of a checkpoint's files.

    Args:
        model: a module with a `Provenance`.

    Raises:
        InvalidInputError: it comes from no timm architecture, or has an argument that JSON cannot hold.
    """
    provenance, timm_cfg = model.provenance, dict(getattr(model, "pretrained_cfg", None) or {})
    if not provenance.architecture:
        raise InvalidInputError(
            f"{type(model).__qualname__} comes from no timm architecture, so a folder cannot rebuild it. Save its "
            "`state_dict()` and build it again with `i2p_zoo.inflate`."
        )
    for key, value in provenance.model_args.items():
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise InvalidInputError(f"The argument {key}={value!r} cannot be written to {CONFIG}; give timm a name.") from error
    pool = getattr(model, "global_pool", None)
    return {
        "architecture": PREFIX + provenance.architecture,
        "num_classes": getattr(model, "num_classes", None),
        "num_features": getattr(model, "num_features", None),
        "global_pool": pool if isinstance(pool, str) else None,
        "model_args": provenance.model_args,
        "pretrained_cfg": {key: timm_cfg[key] for key in _PRETRAINED_KEYS if timm_cfg.get(key) is not None},
        "i2p": {
            "format_version": FORMAT_VERSION,
            "package_version": __version__,
            "in_chans": provenance.in_chans,
            "dtype": str(next(model.parameters()).dtype).removeprefix("torch."),
            "settings": provenance.settings.to_dict(),
            "source": {key: value for key, value in provenance.source.items() if key != "certificate"},
            "certificate": provenance.source.get("certificate"),
            "compact": False,
            "unet": None,
            "base": None,
            "weights": {},
        },
    }


def read_config(path: Path) -> dict[str, Any]:
    """Reads and checks a config.json; raises CheckpointError naming the file and key."""
    if not path.is_file():
        raise CheckpointError(f"{path}: not there. An i2p-zoo checkpoint is a folder with {CONFIG} and safetensors weights.")
    if path.stat().st_size > _MAX_BYTES:
        raise CheckpointError(f"{path}: has {path.stat().st_size} bytes; a config has at most {_MAX_BYTES}.")
    try:
        config = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not JSON ({error}).") from error
    if not isinstance(config, dict) or not isinstance(config.get("i2p"), dict):
        raise CheckpointError(f"{path}: has no block `i2p`, so it is no i2p-zoo checkpoint.")
    version = config["i2p"].get("format_version")
    if type(version) is not int or version != FORMAT_VERSION:
        raise CheckpointError(
            f"{path}: format_version is {version!r}; this package reads {FORMAT_VERSION}. Upgrade i2p-zoo for a newer one."
        )
    _check_keys(path, config, _TOP_KEYS, "")
    _check_keys(path, config["i2p"], _I2P_KEYS, "i2p.")
    _check_settings(path, config["i2p"]["settings"])
    architecture = config["architecture"]
    if not isinstance(architecture, str) or not architecture.startswith(PREFIX):
        raise CheckpointError(f"{path}: `architecture` must start with {PREFIX!r}; found {architecture!r}.")
    for key, value, types in (
        ("num_classes", config["num_classes"], (int, type(None))),
        ("num_features", config["num_features"], (int, type(None))),
        ("global_pool", config["global_pool"], (str, type(None))),
        ("model_args", config["model_args"], (dict,)),
        ("pretrained_cfg", config["pretrained_cfg"], (dict,)),
        ("i2p.in_chans", config["i2p"]["in_chans"], (int,)),
        ("i2p.source", config["i2p"]["source"], (dict,)),
        ("i2p.package_version", config["i2p"]["package_version"], (str,)),
        ("i2p.certificate", config["i2p"]["certificate"], (dict, type(None))),
        ("i2p.compact", config["i2p"]["compact"], (bool,)),
        ("i2p.unet", config["i2p"]["unet"], (dict, type(None))),
        ("i2p.base", config["i2p"]["base"], (dict, type(None))),
    ):
        if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
            raise CheckpointError(f"{path}: `{key}` must be {types[0].__name__}; found {value!r}.")
    _check_args(path, config["model_args"])
    if config["i2p"]["in_chans"] < 1:
        raise CheckpointError(f"{path}: `i2p.in_chans` must be at least 1; found {config['i2p']['in_chans']!r}.")
    certificate = config["i2p"]["certificate"]
    if certificate is not None and not isinstance(certificate.get("errors"), dict):
        raise CheckpointError(f"{path}: `i2p.certificate` must have `errors`; found {certificate!r}.")
    if config["i2p"]["dtype"] not in ("float32", "float64", "float16", "bfloat16"):
        raise CheckpointError(f"{path}: `i2p.dtype` is {config['i2p']['dtype']!r}, no floating dtype of torch.")
    _check_weights(path, config["i2p"]["weights"], "i2p.weights")
    if config["i2p"]["unet"] is not None:
        _check_unet(path, config["i2p"]["unet"])
    if config["i2p"]["base"] is not None:
        _check_base(path, config["i2p"]["base"])
    return config


def _refuse_constant(name: str) -> None:
    raise InvalidInputError(f"{name} is no number of JSON")


def _check_args(path: Path, value: Any) -> None:
    """Refuses numbers by which timm would first make a list of that length, of the rates of drop path for one."""
    parts = [value]
    while parts:  # no recursion: newer Pythons read JSON deeper than they call functions
        part = parts.pop()
        parts += part.values() if isinstance(part, dict) else part if isinstance(part, list) else ()
        if isinstance(part, int) and abs(part) > _MAX_NUMBER:
            raise CheckpointError(f"{path}: `model_args` has {part!r}; no network needs numbers above {_MAX_NUMBER}.")


def _check_weights(path: Path, weights: Any, key: str) -> None:
    """Names are checked as well as hashes: a file is read by the name that stands here."""
    if not isinstance(weights, dict) or not weights:
        raise CheckpointError(f"{path}: `{key}` must map weights files to their sha256; found {weights!r}.")
    for name, sha256 in weights.items():
        if not is_weights_name(name) or not name.endswith(".safetensors"):
            raise CheckpointError(f"{path}: `{key}` names {name!r}, which is no weights file of this package.")
        if not isinstance(sha256, str) or not _SHA256.fullmatch(sha256):
            raise CheckpointError(f"{path}: `{key}` has no sha256 for {name!r}; found {sha256!r}.")


def _check_unet(path: Path, unet: dict[str, Any]) -> None:
    _check_keys(path, unet, {"levels", "decoder_channels", "dropout", "devoxelization"}, "i2p.unet.")
    levels, channels = unet["levels"], unet["decoder_channels"]
    fits = isinstance(levels, list) and 0 < len(levels) < 100 and isinstance(channels, list) and len(channels) < 100
    numbers = list(channels) if fits else []
    for level in levels if fits else ():
        fits = fits and isinstance(level, list) and len(level) == 3 and all(isinstance(part, list) for part in level[1:])
        numbers += [level[0], *level[1], *level[2]] if fits else []
    if not fits or any(type(number) is not int or not 0 <= number <= _MAX_NUMBER for number in numbers):
        raise CheckpointError(f"{path}: `i2p.unet` must have lists of levels and channels of whole numbers; found {unet!r}.")


def _check_base(path: Path, base: dict[str, Any]) -> None:
    _check_keys(path, base, {"name", "commit", "weights"}, "i2p.base.")
    if not isinstance(base["name"], str) or not base["name"]:
        raise CheckpointError(f"{path}: `i2p.base.name` must be a name or a folder; found {base['name']!r}.")
    if base["commit"] is not None and not isinstance(base["commit"], str):
        raise CheckpointError(f"{path}: `i2p.base.commit` must be a commit or null; found {base['commit']!r}.")
    _check_weights(path, base["weights"], "i2p.base.weights")


def _check_keys(path: Path, config: dict[str, Any], expected: set[str], prefix: str) -> None:
    for word, keys in (("unknown", config.keys() - expected), ("missing", expected - config.keys())):
        if keys:
            raise CheckpointError(f"{path}: {word} keys {sorted(prefix + key for key in keys)}.")


def _check_settings(path: Path, settings: Any) -> None:
    if not isinstance(settings, dict):
        raise CheckpointError(f"{path}: `i2p.settings` must be a mapping; got {settings!r}.")
    _check_keys(path, settings, {field.name for field in fields(Settings)}, "i2p.settings.")
    try:
        Settings(**settings)
    except InvalidInputError as error:
        raise CheckpointError(f"{path}: {str(error).replace('`', '`i2p.settings.', 1)}") from error
