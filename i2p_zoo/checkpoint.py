"""Checkpoints: a folder of config.json, model.safetensors and README.md that alone rebuilds a network bit for bit.

Reading refuses everything but what `save_pretrained` writes: no pickles, no unknown keys, no value that is not finite.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import shutil
import struct
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from i2p_zoo.card import is_edited, write_card
from i2p_zoo.errors import CheckpointError, InvalidInputError
from i2p_zoo.inflation import inflate_structure, inflate_structure_
from i2p_zoo.models import PREFIX, check_features, create_timm_model, describe_, split_name
from i2p_zoo.point_cloud_model import PointCloudModel, Settings, materialize_
from i2p_zoo.stems import find_stem, set_point_stem_
from i2p_zoo.weights import INFLATIONS

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
FORMAT_VERSION = 1
_MAX_HEADER = 25_000_000
_TOP_KEYS = {"architecture", "num_classes", "num_features", "global_pool", "model_args", "pretrained_cfg", "i2p"}
_I2P_KEYS = {"format_version", "package_version", "in_chans", "dtype", "settings", "source", "certificate", "weights_sha256"}
_PRETRAINED_KEYS = ("architecture", "tag", "input_size", "mean", "std", "interpolation", "crop_pct", "license", "hf_hub_id")


def save_pretrained(model: Any, folder: str | os.PathLike[str], certificate: Any = None) -> Path:
    """Saves a network so that `from_pretrained(folder)` rebuilds it bit for bit.

    Each file is written beside its place and renamed, the old ones stay until all new ones are whole. A README.md that
    somebody edited is kept.

    Args:
        model: a `PointCloudModel` made from a timm architecture.
        folder: created if missing.
        certificate: the `Certificate` measured for it; by default the one the model was loaded with.

    Returns:
        The folder.

    Raises:
        InvalidInputError: the model is not rebuilt by its timm architecture's name and arguments.
        CheckpointError: a weight is not finite.
        OSError: the folder cannot be written.
    """
    folder = Path(folder)
    config = describe_model(model, certificate)
    state = _clean_state(model)
    _check_rebuilds(model, config, state)
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        temporary = {name: stack.enter_context(_temporary_file(folder, name)) for name in (WEIGHTS, CONFIG, CARD)}
        try:
            save_file(state, str(temporary[WEIGHTS]), metadata={"format": "pt"})
        except SafetensorError as error:  # a full disk, for one
            raise OSError(f"{folder / WEIGHTS}: {error}") from error
        _follow_umask(temporary[WEIGHTS])  # safetensors puts a new file with mode 0600 there
        config["i2p"]["weights_sha256"] = sha256_of(temporary[WEIGHTS])
        temporary[CONFIG].write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        temporary[CARD].write_text(write_card(config, state), encoding="utf-8")
        card = folder / CARD
        if card.exists() and is_edited(card.read_text(encoding="utf-8", errors="replace")):
            del temporary[CARD]
        _replace_all(temporary, folder)
    return folder


def _replace_all(files: dict[str, Path], folder: Path) -> None:
    """Moves finished files into a folder; where one cannot be moved, the old ones are put back."""
    with contextlib.ExitStack() as stack:
        moved: list[tuple[Path, Path | None]] = []
        try:
            for name, path in files.items():
                place, backup = folder / name, None
                if place.exists():
                    backup = stack.enter_context(_temporary_file(folder, name))
                    shutil.copyfile(place, backup)
                os.replace(path, place)
                moved.append((place, backup))
        except BaseException:
            for place, backup in moved:
                if backup is None:
                    place.unlink(missing_ok=True)
                else:
                    os.replace(backup, place)
            raise


def _follow_umask(path: Path) -> None:
    umask = os.umask(0)
    os.umask(umask)
    path.chmod(0o666 & ~umask)


@contextlib.contextmanager
def _temporary_file(folder: Path, name: str) -> Iterator[Path]:
    handle, path = tempfile.mkstemp(prefix=f".{name}.", suffix=".tmp", dir=folder)
    os.close(handle)
    _follow_umask(Path(path))
    try:
        yield Path(path)
    finally:
        Path(path).unlink(missing_ok=True)


def describe_model(model: Any, certificate: Any = None) -> dict[str, Any]:
    """Returns the config of a network as JSON types, without the weights' hash."""
    from i2p_zoo import __version__

    if not isinstance(model, PointCloudModel):
        raise InvalidInputError(f"Only networks made by i2p_zoo can be saved; got {type(model).__qualname__}.")
    timm_cfg = dict(getattr(model, "pretrained_cfg", None) or {})
    architecture = model.architecture or timm_cfg.get("architecture")
    if not architecture:
        raise InvalidInputError(
            f"{type(model).__qualname__} comes from no timm architecture, so a folder cannot rebuild it. Save its "
            "`state_dict()` and build it again with `i2p_zoo.inflate`."
        )
    for key, value in model.model_args.items():
        try:
            json.dumps(value)
        except TypeError as error:
            raise InvalidInputError(f"The argument {key}={value!r} cannot be written to {CONFIG}; give timm a name.") from error
    measured = certificate.to_dict() if certificate is not None else model.source.get("certificate")
    return {
        "architecture": PREFIX + architecture,
        "num_classes": getattr(model, "num_classes", None),
        "num_features": getattr(model, "num_features", None),
        "global_pool": getattr(model, "global_pool", None) if isinstance(getattr(model, "global_pool", None), str) else None,
        "model_args": model.model_args,
        "pretrained_cfg": {key: timm_cfg[key] for key in _PRETRAINED_KEYS if timm_cfg.get(key) is not None},
        "i2p": {
            "format_version": FORMAT_VERSION,
            "package_version": __version__,
            "in_chans": _in_chans(model),
            "dtype": str(next(model.parameters()).dtype).removeprefix("torch."),  # type: ignore[attr-defined]
            "settings": model.settings.to_dict(),
            "source": {key: value for key, value in model.source.items() if key != "certificate"},
            "certificate": measured,
            "weights_sha256": "",
        },
    }


def _in_chans(model: Any) -> int:
    from i2p_zoo.layers import SparseConv3d

    found = getattr(model, "in_chans", None)
    if isinstance(found, int):
        return found
    return next((m.in_channels for m in model.modules() if isinstance(m, SparseConv3d)), 3)


def _clean_state(model: nn.Module) -> dict[str, Tensor]:
    """The state dict with contiguous tensors of their own; raises CheckpointError where a value is not finite."""
    state: dict[str, Tensor] = {}
    seen: set[int] = set()
    for key, tensor in model.state_dict().items():
        if not _is_finite(tensor):
            raise CheckpointError(f"{key} holds values that are NaN or infinite; such a network cannot be saved.")
        own = tensor.detach().cpu().contiguous()
        state[key] = own.clone() if own.data_ptr() in seen else own
        seen.add(own.data_ptr())
    return state


def _check_rebuilds(model: Any, config: dict[str, Any], state: dict[str, Tensor]) -> None:
    structure = build_structure(config)
    dtype = getattr(torch, config["i2p"]["dtype"])
    mixed = [key for key, t in state.items() if t.is_floating_point() and t.dtype != dtype]
    if mixed:
        raise InvalidInputError(f"All tensors must have one dtype; the first parameter has {dtype}, {mixed[0]} another.")
    expected = {key: tuple(t.shape) for key, t in structure.state_dict().items()}
    found = {key: tuple(t.shape) for key, t in state.items()}
    wrong = sorted(key for key in expected.keys() | found.keys() if expected.get(key) != found.get(key))
    if not wrong and repr(structure) != repr(model):
        lines = zip(repr(model).split("\n"), repr(structure).split("\n"), strict=False)
        wrong = [next(f"{a.strip()} for {b.strip()}" for a, b in lines if a != b)]
    if wrong:
        raise InvalidInputError(
            f"`timm.create_model({model.architecture!r}, **{model.model_args})` does not rebuild this network; {len(wrong)} "
            f"parts differ, the first {wrong[0]}. Create it with `i2p_zoo.create_model`, which notes its arguments."
        )


def build_structure(config: dict[str, Any]) -> Any:
    """Builds the network that a config describes, its weights on the meta device (a point stem's are new)."""
    settings = Settings(**config["i2p"]["settings"])
    architecture, _ = split_name(config["architecture"])
    args = dict(config["model_args"])
    if config["num_classes"] is not None and not args.get("features_only"):
        args["num_classes"] = config["num_classes"]
    in_chans = config["i2p"]["in_chans"]
    create = functools.partial(create_timm_model, architecture, in_chans=in_chans if settings.stem == "image" else 3, **args)
    source = create(structure=True)
    stem = find_stem(source) if settings.stem == "point" else None
    model = inflate_structure_(source, settings.inflation, settings.axis, settings.depth)
    saved = model.state_dict()
    if any(buffer.is_meta and name not in saved for name, buffer in model.named_buffers()):  # its values are in no file
        model = inflate_structure(create(), settings.inflation, settings.axis, settings.depth)
    describe_(model, architecture, config["model_args"], in_chans)
    if stem is not None:
        set_point_stem_(model, stem, in_chans)
    model.settings = settings
    return model


def load_folder(folder: str | os.PathLike[str]) -> Any:
    """Loads the network that `save_pretrained` wrote into a folder, in eval mode as timm's loaders do not leave it.

    Raises:
        CheckpointError: a file is missing, damaged, altered or foreign; the message names file, key, expected and found.
    """
    folder = Path(folder)
    config = read_config(folder / CONFIG)
    return load_weights(config, folder / WEIGHTS)


def read_config(path: Path) -> dict[str, Any]:
    """Reads and checks a config.json; raises CheckpointError naming the file and key."""
    if not path.is_file():
        raise CheckpointError(f"{path}: not there. An i2p-zoo checkpoint is a folder with {CONFIG} and {WEIGHTS}.")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
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
    for key, value, kinds in (
        ("num_classes", config["num_classes"], (int, type(None))),
        ("num_features", config["num_features"], (int, type(None))),
        ("global_pool", config["global_pool"], (str, type(None))),
        ("model_args", config["model_args"], (dict,)),
        ("pretrained_cfg", config["pretrained_cfg"], (dict,)),
        ("i2p.in_chans", config["i2p"]["in_chans"], (int,)),
        ("i2p.source", config["i2p"]["source"], (dict,)),
        ("i2p.package_version", config["i2p"]["package_version"], (str,)),
        ("i2p.certificate", config["i2p"]["certificate"], (dict, type(None))),
        ("i2p.weights_sha256", config["i2p"]["weights_sha256"], (str,)),
    ):
        if not isinstance(value, kinds) or isinstance(value, bool):
            raise CheckpointError(f"{path}: `{key}` must be {kinds[0].__name__}; found {value!r}.")
    if config["i2p"]["in_chans"] < 1:
        raise CheckpointError(f"{path}: `i2p.in_chans` must be at least 1; found {config['i2p']['in_chans']!r}.")
    certificate = config["i2p"]["certificate"]
    if certificate is not None and not isinstance(certificate.get("errors"), dict):
        raise CheckpointError(f"{path}: `i2p.certificate` must have `errors`; found {certificate!r}.")
    if config["i2p"]["dtype"] not in ("float32", "float64", "float16", "bfloat16"):
        raise CheckpointError(f"{path}: `i2p.dtype` is {config['i2p']['dtype']!r}, no floating dtype of torch.")
    return config


def _check_keys(path: Path, found: dict[str, Any], expected: set[str], prefix: str) -> None:
    for word, keys in (("unknown", found.keys() - expected), ("missing", expected - found.keys())):
        if keys:
            raise CheckpointError(f"{path}: {word} keys {sorted(prefix + key for key in keys)}.")


def _check_settings(path: Path, settings: Any) -> None:
    example = Settings(inflation="center", depth=1).to_dict()
    if not isinstance(settings, dict):
        raise CheckpointError(f"{path}: `i2p.settings` must be a mapping; found {settings!r}.")
    _check_keys(path, settings, set(example), "i2p.settings.")
    for key, value in settings.items():
        kinds: tuple[type, ...] = (type(example[key]), type(None)) if key == "depth" else (type(example[key]),)
        kinds = (*kinds, int) if kinds == (float,) else kinds
        if not isinstance(value, kinds) or isinstance(value, bool):
            raise CheckpointError(f"{path}: `i2p.settings.{key}` must be {kinds[0].__name__}; found {value!r}.")
    allowed = {"inflation": INFLATIONS, "axis": ("z", "y", "x"), "stem": ("image", "point")}
    for key, values in allowed.items():
        if settings[key] not in values:
            raise CheckpointError(f"{path}: `i2p.settings.{key}` must be one of {values}; found {settings[key]!r}.")
    if settings["skip_downsamples"] < 0:
        raise CheckpointError(f"{path}: `i2p.settings.skip_downsamples` is negative: {settings['skip_downsamples']!r}.")
    if not 0 < settings["voxel_size"] < float("inf"):
        raise CheckpointError(f"{path}: `i2p.settings.voxel_size` must be positive; found {settings['voxel_size']!r}.")
    try:
        check_features(settings["features"])
    except InvalidInputError as error:
        raise CheckpointError(f"{path}: `i2p.settings.features`: {error}") from error


def load_weights(config: dict[str, Any], path: Path) -> Any:
    """Builds the network of a checked config and gives it a safetensors file's weights; raises CheckpointError."""
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(read_weights, path, config["i2p"]["weights_sha256"])
        try:
            model, error = build_structure(config), None
        except (InvalidInputError, LookupError, TypeError) as caught:
            model, error = None, caught
    state = reading.result()  # a damaged file is the first thing to say
    if error is not None:
        raise CheckpointError(f"{path.with_name(CONFIG)}: describes a network that cannot be built: {error}") from error
    dtype = getattr(torch, config["i2p"]["dtype"])
    expected = {key: t.to(dtype) if t.is_floating_point() else t for key, t in model.state_dict().items()}
    check_state(path, state, expected)
    model.load_state_dict(state, strict=True, assign=True)
    materialize_(model)
    model.to(dtype)
    preprocessing = {key: tuple(v) if isinstance(v, list) else v for key, v in config["pretrained_cfg"].items()}
    model.pretrained_cfg = {**(model.pretrained_cfg or {}), **preprocessing}
    model.source = {**config["i2p"]["source"], "certificate": config["i2p"]["certificate"]}
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    return model.eval()


def read_weights(path: Path, sha256: str) -> dict[str, Tensor]:
    """Reads a safetensors file after its size, header and hash were checked; raises CheckpointError naming the file."""
    if not path.is_file():
        raise CheckpointError(f"{path}: not there. Only safetensors weights are read, never pickles.")
    with path.open("rb") as file:
        head = file.read(8)
    length = struct.unpack("<Q", head)[0] if len(head) == 8 else 0
    if not 0 < length <= _MAX_HEADER:
        raise CheckpointError(f"{path}: no safetensors file (header of {length} bytes, at most {_MAX_HEADER}).")
    state: dict[str, Tensor] = {}
    error: Exception | None = None
    with ThreadPoolExecutor(1) as pool:
        hashing = pool.submit(sha256_of, path)
        try:
            # Copies: the file's own memory changes with the file, and is not aligned, by which sums round differently.
            state = {key: tensor.clone() for key, tensor in load_file(str(path)).items()}
        except (SafetensorError, OSError, ValueError) as caught:
            error = caught
    found = hashing.result()
    if found != sha256:
        raise CheckpointError(f"{path}: sha256 expected {sha256!r}, found {found!r}. Fetch or convert the checkpoint again.")
    if error is not None:
        raise CheckpointError(f"{path}: no readable safetensors file: {error}") from error
    return state


def _is_finite(tensor: Tensor) -> bool:
    if not tensor.is_floating_point() or tensor.numel() == 0:
        return True
    low, high = torch.aminmax(tensor)  # NaN wins over both; unlike `isfinite`, nothing of the tensor's size is made
    return bool(torch.isfinite(low) & torch.isfinite(high))


def check_state(path: Path, state: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Raises CheckpointError unless keys, shapes and dtypes are those expected and all values are finite."""
    problems = [f"missing {key}" for key in sorted(expected.keys() - state.keys())]
    problems += [f"unexpected {key}" for key in sorted(state.keys() - expected.keys())]
    for key in sorted(expected.keys() & state.keys()):
        want, have = expected[key], state[key]
        if want.shape != have.shape:
            problems.append(f"{key}: shape expected {tuple(want.shape)}, found {tuple(have.shape)}")
        elif want.dtype != have.dtype:
            problems.append(f"{key}: dtype expected {want.dtype}, found {have.dtype}")
        elif not _is_finite(have):
            problems.append(f"{key}: expected finite values, found NaN or infinity")
    if problems:
        shown = "; ".join(problems[:10]) + (f"; and {len(problems) - 10} more" if len(problems) > 10 else "")
        raise CheckpointError(f"{path}: {shown}.")


def describe_weights(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Returns the name, the size in bytes and the sha256 of a checkpoint folder's weights, as its config states them."""
    path = Path(folder) / WEIGHTS
    sha256 = read_config(Path(folder) / CONFIG)["i2p"]["weights_sha256"]
    return {"file": path.name, "bytes": path.stat().st_size, "sha256": sha256}


def sha256_of(path: Path) -> str:
    """Returns a file's sha256 in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
