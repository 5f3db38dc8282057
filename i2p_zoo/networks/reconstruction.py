"""The structure that a checkpoint's config describes, as a plain module whose weights are on the meta device."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Iterator
from typing import Any

from torch.nn.modules.module import register_module_module_registration_hook

from i2p_zoo.errors import InvalidInputError
from i2p_zoo.inflation.settings import Settings
from i2p_zoo.inflation.structure import inflate_structure, inflate_structure_
from i2p_zoo.names import split_name
from i2p_zoo.networks.presets import set_preset_
from i2p_zoo.networks.stems import find_stem, set_point_stem_
from i2p_zoo.networks.timm_models import create_timm_model

_MAX_MODULES = 3_000  # resnetrs420 makes 2,540, the most of any in timm


def build_structure(config: dict[str, Any]) -> Any:
    """Builds the encoder or classifier that a config describes.

    Args:
        config: as `i2p_zoo.checkpoints.config.read_config` returns it.

    Returns:
        A module of timm's class with its `provenance`; its weights are on the meta device, but a point stem's are new.

    Raises:
        NotFoundError: timm has no such architecture.
        InvalidInputError: timm does not take the arguments, or makes more modules of them than any network has.
    """
    settings = Settings(**config["i2p"]["settings"])
    architecture, _ = split_name(config["architecture"])
    arguments = dict(config["model_args"])
    if config["num_classes"] is not None and not arguments.get("features_only"):
        arguments["num_classes"] = config["num_classes"]
    in_chans = config["i2p"]["in_chans"]
    image_chans = in_chans if settings.stem == "image" else 3
    create = functools.partial(create_timm_model, architecture, in_chans=image_chans, **arguments)
    with _limit_modules():
        source = create(structure=True)
    stem = find_stem(source) if settings.stem == "point" else None
    image_settings = settings.changed(stem="image", preset="")
    model = inflate_structure_(source, image_settings)
    saved = model.state_dict()
    if any(buffer.is_meta and name not in saved for name, buffer in model.named_buffers()):  # its values are in no file
        model = inflate_structure(create(), image_settings)
    model.provenance = model.provenance.changed(
        architecture=architecture, model_args=dict(config["model_args"]), in_chans=in_chans
    )
    if stem is not None:
        set_point_stem_(model, stem, in_chans)
    if settings.preset:
        set_preset_(model, settings.preset)
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
