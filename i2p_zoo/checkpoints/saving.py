"""Checkpoints: a folder of config.json, safetensors weights and README.md that alone rebuilds a network bit for bit.

Reading refuses everything but what `save_pretrained` and `save_adapter` write: no pickles, no unknown keys, no value that is
not finite. A layer that is still as it was inflated is stored as its 2D kernel, unless `compact` is off.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_module_registration_hook

from i2p_zoo.checkpoints.card import is_edited, write_card
from i2p_zoo.checkpoints.config import CONFIG, FORMAT_VERSION, read_config
from i2p_zoo.checkpoints.weight_files import (
    WEIGHTS,
    check_shard_size,
    check_state,
    is_finite,
    is_weights_name,
    read_weights,
    sha256_of_state,
    write_weights,
)
from i2p_zoo.errors import CheckpointError, InvalidInputError
from i2p_zoo.inflation.settings import Settings
from i2p_zoo.inflation.structure import inflate_structure, inflate_structure_
from i2p_zoo.names import PREFIX, split_name
from i2p_zoo.networks.models import describe_
from i2p_zoo.networks.point_cloud_model import PointCloudModel, materialize_
from i2p_zoo.networks.presets import set_preset_
from i2p_zoo.networks.stems import find_stem, set_point_stem_
from i2p_zoo.networks.timm_models import create_timm_model
from i2p_zoo.staging import locate, snapshot, staged_folder

CARD = "README.md"
_MAX_MODULES = 3_000  # resnetrs420 makes 2,540, the most of any in timm
_ATTEMPTS = 10
_PRETRAINED_KEYS = tuple("architecture tag input_size mean std interpolation crop_pct license hf_hub_id label_names".split())

T = TypeVar("T")
LoadBase = Callable[[Mapping[str, Any], str], Any]
"""Loads the network that an adapter was made on, from the config's `base` and the inflation's name."""


def save_pretrained(
    model: Any,
    folder: str | os.PathLike[str],
    certificate: Any = None,
    *,
    compact: bool = True,
    max_shard_size: int | str = "5GB",
) -> Path:
    """Saves a network so that `from_pretrained(folder)` rebuilds it bit for bit.

    The files change together: whenever the process is killed, the folder holds the old checkpoint or the new one. A
    README.md that somebody edited is kept.

    Args:
        model: a `PointCloudModel` made from a timm architecture.
        folder: created if missing.
        certificate: the `Certificate` measured for it; by default the one the model was loaded with.
        compact: store layers that are still pure inflations as their 2D kernels; False writes all in 3D, (C_out, kz, ky,
            kx, C_in / groups), as spconv's layers have them.
        max_shard_size: weights above this are split into several files; bytes, or such as "5GB".

    Returns:
        The folder.

    Raises:
        InvalidInputError: the model is not rebuilt by its timm architecture's name and arguments, or a wrong `max_shard_size`.
        CheckpointError: a weight is not finite.
        OSError: the folder cannot be written.
    """
    check_shard_size(max_shard_size)
    config = describe_model(model, certificate)
    config["i2p"]["compact"] = compact
    state = clean_state(model)
    check_rebuilds(model, config, state)
    flat = deflate(model, state)
    note_certified(model, config, flat, fresh=certificate is not None)
    return write_folder(Path(folder), model, config, flat if compact else state, WEIGHTS, max_shard_size)


def write_folder(
    folder: Path,
    model: nn.Module,
    config: dict[str, Any],
    state: dict[str, Tensor],
    name: str,
    max_shard_size: int | str = "5GB",
) -> Path:
    """Writes config, weights and card of a checkpoint together; the card only where there is none that was edited."""
    kept: set[str] = set()
    parameters = sum(parameter.numel() for parameter in model.parameters())
    with staged_folder(folder, lambda path: is_weights_name(path.name) and path.name not in kept, is_edited_card) as stage:
        config["i2p"]["weights"] = write_weights(state, stage, name, max_shard_size)
        (stage / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        (stage / CARD).write_text(write_card(config, parameters), encoding="utf-8")
        kept |= {path.name for path in stage.iterdir()}
    return folder


def is_edited_card(path: Path) -> bool:
    """Whether a file is a card that somebody edited, which is never overwritten."""
    return path.name == CARD and path.is_file() and is_edited(path.read_text(encoding="utf-8", errors="replace"))


def note_certified(model: Any, config: dict[str, Any], state: dict[str, Tensor], *, fresh: bool = False) -> None:
    """Notes in a config which tensors its certificate was measured with, and whether they are still those of the network.

    A network is converted, certified and saved in one go, so those are the tensors at the first time that it is saved.

    Args:
        model: gets the note too, for the next time.
        config: of the network, with a certificate or none.
        state: its tensors, as `deflate` returns them.
        fresh: the certificate was measured for the network as it is now.
    """
    certificate = config["i2p"]["certificate"]
    if not certificate:
        return
    tensors = sha256_of_state(state)
    first = model.base is None and "tensors" not in certificate
    certified = tensors if fresh or first else certificate.get("tensors")
    finetuned = certified != tensors or model.settings.skip_downsamples > 0
    config["i2p"]["certificate"] = {**certificate, "tensors": certified, "finetuned": finetuned}
    if first and not fresh:
        model.source = {**model.source, "certificate": config["i2p"]["certificate"]}


def sha256_of_tensors(model: Any) -> str:
    """Returns what `note_certified` notes of a network's tensors."""
    return sha256_of_state(deflate(model, clean_state(model)))


def describe_model(model: Any, certificate: Any = None) -> dict[str, Any]:
    """Returns the config of a network as JSON types, without what is known of the files."""
    from i2p_zoo import __version__
    from i2p_zoo.networks.unet import UNet

    if isinstance(model, UNet):
        config = describe_model(model.encoder, certificate)
        config["num_classes"], config["i2p"]["unet"] = model.num_classes, model.to_config()
        config["pretrained_cfg"].pop("label_names", None)  # of the encoder's classes
        if model.pretrained_cfg.get("label_names"):
            config["pretrained_cfg"]["label_names"] = model.pretrained_cfg["label_names"]
        return config
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
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError) as error:
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
            "compact": False,
            "unet": None,
            "base": None,
            "weights": {},
        },
    }


def _in_chans(model: Any) -> int:
    from i2p_zoo.layers import SparseConv3d

    found = getattr(model, "in_chans", None)
    if isinstance(found, int):
        return found
    return next((m.in_channels for m in model.modules() if isinstance(m, SparseConv3d)), 3)


def clean_state(model: nn.Module) -> dict[str, Tensor]:
    """The state dict with contiguous tensors of their own; raises CheckpointError where a value is not finite."""
    state: dict[str, Tensor] = {}
    seen: set[int] = set()
    for key, tensor in model.state_dict().items():
        if not is_finite(tensor):
            raise CheckpointError(f"{key} holds values that are NaN or infinite; such a network cannot be saved.")
        own = tensor.detach().cpu().contiguous()
        state[key] = own.clone() if own.data_ptr() in seen else own
        seen.add(own.data_ptr())
    return state


def deflate(model: Any, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Puts 2D kernels in place of those weights that they inflate to, bit for bit."""
    result = {}
    for key, tensor in state.items():
        owner, _, name = key.rpartition(".")
        layer: Any = model.get_submodule(owner)
        flat = layer.deflate_tensor(name, tensor, model.settings.inflation) if hasattr(layer, "deflate_tensor") else None
        result[key] = tensor if flat is None else flat.contiguous()
    return result


def _inflate(model: Any, state: dict[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Undoes `deflate`, in place; what fits nothing is left to `check_state`."""
    for key, want in expected.items():
        if key in state and state[key].shape != want.shape and state[key].dtype == want.dtype:
            owner, _, name = key.rpartition(".")
            layer: Any = model.get_submodule(owner)
            if hasattr(layer, "deflate_tensor"):
                inflated = layer.inflate_tensor(name, state[key], model.settings.inflation)
                state[key] = state[key] if inflated is None else inflated


def check_rebuilds(model: Any, config: dict[str, Any], state: dict[str, Tensor]) -> None:
    """Raises InvalidInputError unless the config alone rebuilds the network's structure."""
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
    with _limit_modules():
        source = create(structure=True)
    stem = find_stem(source) if settings.stem == "point" else None
    model = inflate_structure_(source, settings.inflation, settings.axis, settings.depth)
    saved = model.state_dict()
    if any(buffer.is_meta and name not in saved for name, buffer in model.named_buffers()):  # its values are in no file
        model = inflate_structure(create(), settings.inflation, settings.axis, settings.depth)
    describe_(model, architecture, config["model_args"], in_chans)
    if stem is not None:
        set_point_stem_(model, stem, in_chans)
    if settings.preset:
        set_preset_(model, settings.preset)
    model.settings = settings
    if config["i2p"]["unet"] is not None:
        from i2p_zoo.networks.unet import UNet

        with torch.device("meta"):
            return UNet.from_config(model, config["num_classes"], config["i2p"]["unet"])
    return model


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


def load_folder(folder: str | os.PathLike[str], load_base: LoadBase | None = None, name: str | None = None) -> Any:
    """Loads the network that was saved in a folder, in eval mode as timm's loaders do not leave it.

    Args:
        folder: of a checkpoint or an adapter.
        load_base: called for an adapter.
        name: by which `from_pretrained` finds this checkpoint again; by default the folder.

    Raises:
        CheckpointError: a file is missing, damaged, altered or foreign; the message names file, key, expected and found.
    """
    folder = Path(folder)

    def load() -> Any:
        config = read_config(locate(folder, CONFIG))
        paths = {file: locate(folder, file) for file in config["i2p"]["weights"]}
        return load_weights(config, paths, load_base, name or str(folder.resolve()))

    return read_steadily(folder, load)


def read_steadily(folder: Path, read: Callable[[], T]) -> T:
    """Returns what a function reads from a folder; where it fails while another process saves there, it is called again."""
    for _ in range(_ATTEMPTS):
        before = snapshot(folder)
        try:
            return read()
        except (CheckpointError, FileNotFoundError) as caught:
            error = caught
            if snapshot(folder) == before:
                raise
    raise CheckpointError(f"{folder}: was changed while it was read, {_ATTEMPTS} times in a row. Load it again.") from error


def load_weights(
    config: dict[str, Any], paths: Mapping[str, Path], load_base: LoadBase | None, name: str, commit: str | None = None
) -> Any:
    """Builds the network of a checked config and gives it its files' weights; raises CheckpointError."""
    first, base = next(iter(paths.values())), config["i2p"]["base"]
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(read_weights, paths, config["i2p"]["weights"])
        try:
            model, error = build_structure(config), None
        except Exception as caught:  # whatever timm's code raises for arguments that nobody but a stranger gives
            model, error = None, caught
    state = reading.result()  # a damaged file is the first thing to say
    if error is not None:
        raise CheckpointError(f"{first.with_name(CONFIG)}: describes a network that cannot be built: {error}") from error
    dtype = getattr(torch, config["i2p"]["dtype"])
    expected = {key: t.to(dtype) if t.is_floating_point() else t for key, t in model.state_dict().items()}
    if base is not None:
        if load_base is None:
            raise CheckpointError(f"{first}: an adapter, where a whole checkpoint is needed.")
        state = _add_base(state, load_base(base, model.settings.inflation), expected)
    elif config["i2p"]["compact"]:
        _inflate(model, state, expected)
    check_state(first, state, expected)
    model.load_state_dict(state, strict=True, assign=True)
    materialize_(model)
    model.to(dtype)
    preprocessing = {key: tuple(v) if isinstance(v, list) else v for key, v in config["pretrained_cfg"].items()}
    model.pretrained_cfg = {**(model.pretrained_cfg or {}), **preprocessing}
    model.source = {**config["i2p"]["source"], "certificate": config["i2p"]["certificate"]}
    model.base = base or {"name": name, "commit": commit, "weights": config["i2p"]["weights"]}
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    return model.eval()


def _add_base(state: dict[str, Tensor], base: Any, expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Fills what an adapter does not hold with its base's tensors."""
    return {**find_base_tensors(base, expected), **state}


def find_base_tensors(base: Any, keys: Iterable[str]) -> dict[str, Tensor]:
    """Returns a base's tensors by the names that they have in a network made on it.

    Args:
        base: a network.
        keys: of the other's tensors: the same network's, or those of a feature extractor, whose names timm may join by "_",
            or of a U-Net, whose encoder is one.
    """
    state: dict[str, Tensor] = base.state_dict()
    joined = {key.replace(".", "_"): tensor for key, tensor in state.items()}
    found = {key: state.get(key, joined.get(key.removeprefix("encoder.").replace(".", "_"))) for key in keys}
    return {key: tensor for key, tensor in found.items() if tensor is not None}


def describe_weights(folder: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Returns the name, the size in bytes and the sha256 of each of a checkpoint folder's weights files."""
    folder = Path(folder)

    def describe() -> list[dict[str, Any]]:
        weights = read_config(locate(folder, CONFIG))["i2p"]["weights"]
        return [{"file": file, "bytes": locate(folder, file).stat().st_size, "sha256": weights[file]} for file in weights]

    return read_steadily(folder, describe)
