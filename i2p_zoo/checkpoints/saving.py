"""Saving a network as a folder of config.json, safetensors weights and README.md that alone rebuilds it bit for bit.

A layer that is still as it was inflated is stored as its 2D kernel, unless `compact` is off. An adapter has only the tensors in
which a finetuned network differs from the one it was made on, and that one's name and hash.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from i2p_zoo.checkpoints.card import is_edited, write_card
from i2p_zoo.checkpoints.config import CONFIG, read_config
from i2p_zoo.checkpoints.folder_files import CARD as CARD
from i2p_zoo.checkpoints.loading import find_base_tensors
from i2p_zoo.checkpoints.rebuilding import check_rebuilds
from i2p_zoo.checkpoints.weight_files import (
    ADAPTER_WEIGHTS,
    WEIGHTS,
    check_shard_size,
    is_finite,
    is_weights_name,
    sha256_of_state,
    write_weights,
)
from i2p_zoo.downloading import HubOptions
from i2p_zoo.errors import CheckpointError, InvalidInputError
from i2p_zoo.inflation.state import deflate_state
from i2p_zoo.layers.kernel_inflation import has_same_bits
from i2p_zoo.modules import unwrap
from i2p_zoo.staging import staged_folder


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

    What was changed of the network since is saved where a folder can tell it: a classifier of torch's layers, batch
    normalisation that timm froze, rates of dropout and other numbers of modules. Synchronised batch normalisation comes back as
    the ordinary one, which computes the same.

    Args:
        model: a `PointCloudModel` made from a timm architecture, or a `UNet` on one; also inside the wrappers of
            `DataParallel`, `torch.compile`, `torch.optim.swa_utils.AveragedModel` or `timm.utils.ModelEmaV3`.
        folder: created if missing.
        certificate: the `Certificate` measured for it; by default the one the model was loaded with.
        compact: store layers that are still pure inflations as their 2D kernels; False writes all in 3D, (C_out, kz, ky,
            kx, C_in / groups), as spconv's layers have them.
        max_shard_size: weights above this are split into several files; bytes, or such as "5GB".

    Returns:
        The folder.

    Raises:
        InvalidInputError: the model is not rebuilt by its timm architecture's name and arguments, and how to save it then, or
            a wrong `max_shard_size`.
        CheckpointError: a weight is not finite.
        OSError: the folder cannot be written.
    """
    check_shard_size(max_shard_size)
    model = unwrap(model)
    config = describe_model(model)
    if certificate is not None:
        config["i2p"]["certificate"] = certificate.to_dict()
    config["i2p"]["compact"] = compact
    state = clean_state(model)
    check_rebuilds(model, config, state)
    kernels = deflate_state(model, state)
    note_certified(config, kernels, is_new=certificate is not None or model.provenance.base is None)
    return write_folder(Path(folder), model, config, kernels if compact else state, WEIGHTS, max_shard_size)


def save_adapter(
    model: Any,
    folder: str | os.PathLike[str],
    base: str | os.PathLike[str] | None = None,
    *,
    token: str | bool | None = None,
    cache_dir: str | None = None,
    local_files_only: bool = False,
) -> Path:
    """Saves only what finetuning changed, bit by bit compared with the network's base, which is loaded again for it.

    After a finetune of input, output and normalisation layers this is a hundredth of the network. `from_pretrained(folder)`
    fetches the base, checks its hash and puts the rest on it.

    Args:
        model: a network from `from_pretrained`, trained since.
        folder: created if missing.
        base: where the base is now, a folder or a name; by default where the model was loaded from.
        token, cache_dir, local_files_only: for the base, as `i2p_zoo.from_pretrained`.

    Returns:
        The folder.

    Raises:
        InvalidInputError: the network has no base, does not differ from it, or is not rebuilt by its timm name, or the folder
            is the base's.
        CheckpointError: the base is no longer the one that was loaded, or a weight is not finite.
        NotFoundError, HubError: the base cannot be loaded.
        OSError: the folder cannot be written.

    Example:
        >>> import i2p_zoo, tempfile, torch
        >>> folder = tempfile.mkdtemp()
        >>> _ = i2p_zoo.create_model("test_resnet").save_pretrained(folder + "/base")
        >>> model = i2p_zoo.from_pretrained(folder + "/base", num_classes=4)
        >>> adapter = save_adapter(model, folder + "/adapter")
        >>> again = i2p_zoo.from_pretrained(adapter)
        >>> torch.equal(again.fc.weight, model.fc.weight)
        True
    """
    model = unwrap(model)
    config = describe_model(model)
    provenance = model.provenance
    if provenance.base is None or provenance.load_base is None:
        raise InvalidInputError("The network was not loaded by `from_pretrained`, so it has no base; use `save_pretrained`.")
    for place in (provenance.base["name"], base):  # a folder of a name's words is looked into before the Hub is asked
        if place is not None and Path(folder).resolve() == Path(place).resolve():
            raise InvalidInputError(f"The adapter's base is in {os.fspath(folder)!r} itself; give the adapter another folder.")
    config["i2p"]["base"] = dict(provenance.base)
    state = clean_state(model)
    check_rebuilds(model, config, state)
    note_certified(config, deflate_state(model, state))
    options = HubOptions(cache_dir=cache_dir, token=token, local_files_only=local_files_only)
    source = provenance.load_base(provenance.base, provenance.settings.inflation, options, base)
    kept = find_base_tensors(source, state)
    changed = {key: tensor for key, tensor in state.items() if key not in kept or not has_same_bits(tensor, kept[key])}
    if not changed:
        raise InvalidInputError(
            f"The network does not differ from its base {provenance.base['name']!r}: there is nothing to save."
        )
    return write_folder(Path(folder), model, config, changed, ADAPTER_WEIGHTS)


def describe_model(model: Any) -> dict[str, Any]:
    """Returns a network's config; raises InvalidInputError as its `to_config`, and for any other object."""
    if not hasattr(model, "provenance") or not hasattr(model, "to_config"):
        children = model.named_children() if isinstance(model, nn.Module) else ()
        inner = [name for name, part in children if hasattr(part, "to_config")]
        hint = f" Save what it holds: `model.{inner[0]}.save_pretrained(folder)`." if inner else ""
        raise InvalidInputError(f"Only networks made by i2p_zoo can be saved; got {type(model).__qualname__}.{hint}")
    config: dict[str, Any] = model.to_config()
    return config


def clean_state(model: nn.Module) -> dict[str, Tensor]:
    """Returns the state dict with contiguous tensors of their own.

    Raises:
        CheckpointError: a value is not finite.
        InvalidInputError: something in it is no tensor.
    """
    state: dict[str, Tensor] = {}
    seen: set[int] = set()
    for key, tensor in model.state_dict().items():
        if not isinstance(tensor, Tensor):
            raise InvalidInputError(f"{key} is no tensor but {type(tensor).__name__}: save the network before it is quantised.")
        if not is_finite(tensor):
            raise CheckpointError(f"{key} holds values that are NaN or infinite; such a network cannot be saved.")
        value = tensor.detach().cpu().contiguous()
        state[key] = value.clone() if value.data_ptr() in seen else value
        seen.add(value.data_ptr())
    return state


def note_certified(config: dict[str, Any], state: dict[str, Tensor], *, is_new: bool = False) -> None:
    """Notes in a config which tensors its certificate was measured with, and whether they are still those of the network.

    Args:
        config: of the network, with a certificate or none; in place.
        state: the network's tensors, as `deflate_state` returns them.
        is_new: the certificate was measured for the network as it is now, unless it notes tensors itself.
    """
    certificate = config["i2p"]["certificate"]
    if certificate:
        tensors = sha256_of_state(state)
        certified = certificate.get("tensors", tensors if is_new else None)
        is_finetuned = certified != tensors or config["i2p"]["settings"]["skip_downsamples"] > 0
        config["i2p"]["certificate"] = {**certificate, "tensors": certified, "finetuned": is_finetuned}


def sha256_of_tensors(model: Any) -> str:
    """Returns what `note_certified` notes of a network's tensors."""
    return sha256_of_state(deflate_state(model, clean_state(model)))


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
        (stage / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8", newline="\n")
        (stage / CARD).write_text(write_card(config, parameters), encoding="utf-8", newline="\n")
        kept |= {path.name for path in stage.iterdir()}
    return folder


def note_run(folder: Path, metrics: Mapping[str, Any], name: str | None = None) -> None:
    """Writes the card of a saved network anew, with the run that trained it; one that was edited is kept.

    Args:
        folder: of the checkpoint or adapter.
        metrics: what the run's metrics.json holds.
        name: as `write_card`.

    Raises:
        CheckpointError: the folder's config.json is missing or damaged.
        OSError: the folder cannot be written.
    """
    with staged_folder(folder, lambda path: False, is_edited_card) as stage:
        text = write_card(read_config(folder / CONFIG), metrics["total"], run=metrics, name=name)
        (stage / CARD).write_text(text, encoding="utf-8", newline="\n")


def is_edited_card(path: Path) -> bool:
    """Whether a file is a card that somebody edited, which is never overwritten."""
    return path.name == CARD and path.is_file() and is_edited(path.read_text(encoding="utf-8", errors="replace"))
