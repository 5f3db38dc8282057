"""Adapters: the tensors in which a finetuned network differs from the one it was made on, and that one's name and hash."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from i2p_zoo.checkpoints.downloading import HubOptions
from i2p_zoo.checkpoints.loading import find_base_tensors
from i2p_zoo.checkpoints.saving import check_rebuilds, clean_state, describe_model, note_certified, write_folder
from i2p_zoo.checkpoints.weight_files import ADAPTER_WEIGHTS
from i2p_zoo.errors import InvalidInputError
from i2p_zoo.inflation.state import deflate_state
from i2p_zoo.layers.kernel_inflation import has_same_bits


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
    config = describe_model(model)
    provenance = model.provenance
    if provenance.base is None or provenance.load_base is None:
        raise InvalidInputError("The network was loaded from no checkpoint, so it has no base; use `save_pretrained`.")
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
