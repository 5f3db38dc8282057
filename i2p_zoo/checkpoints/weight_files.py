"""Safetensors files on disk: written in shards, read back only where size, header, hash and values are as they should be."""

from __future__ import annotations

import hashlib
import json
import os
import re
import struct
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from i2p_zoo.checkpoints.folder_files import sha256_of as sha256_of
from i2p_zoo.checkpoints.folder_files import sha256_of_content as _sha256
from i2p_zoo.errors import CheckpointError, InvalidInputError

WEIGHTS, ADAPTER_WEIGHTS = "model.safetensors", "adapter.safetensors"
_NAME = re.compile(r"(model|adapter)(-\d{5}-of-\d{5})?\.safetensors(\.index\.json)?")
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*[KMGT]B\s*", re.IGNORECASE)
_MAX_HEADER = 1_000_000  # bytes; resnetrs420, with 3,108 tensors the most of any in timm, has 0.4 million
_ADVICE = "Convert the checkpoint again, or fetch it with `force_download=True`."


def is_weights_name(name: str) -> bool:
    """Whether a file name is one that `write_weights` gives."""
    return _NAME.fullmatch(name) is not None


def check_shard_size(size: int | str) -> None:
    """Raises InvalidInputError unless a size is a positive number of bytes or such as "5GB"."""
    match = _SIZE.fullmatch(size) if isinstance(size, str) else None
    if not (float(match[1]) > 0 if match else type(size) is int and size > 0):
        raise InvalidInputError(f"`max_shard_size` is {size!r}; give a positive number of bytes, or such as '5GB'.")


def write_weights(state: Mapping[str, Tensor], folder: Path, name: str, max_shard_size: int | str) -> dict[str, str]:
    """Writes a state dict as one safetensors file, or as shards with an index as the Hub's other libraries read it.

    Args:
        state: contiguous tensors that share no memory.
        folder: where to write.
        name: of the one file; shards are named after it.
        max_shard_size: bytes, or such as "5GB".

    Returns:
        The sha256 of each weights file by its name.

    Raises:
        OSError: the files cannot be written.
    """
    pattern = name.replace(".safetensors", "{suffix}.safetensors")
    split = split_torch_state_dict_into_shards(dict(state), filename_pattern=pattern, max_shard_size=max_shard_size)
    hashes = {}
    for shard, keys in split.filename_to_tensors.items():
        try:
            save_file({key: state[key] for key in keys}, str(folder / shard), metadata={"format": "pt"})
        except SafetensorError as error:  # a full disk, for one
            raise OSError(f"{folder / shard}: {error}") from error
        hashes[shard] = sha256_of(folder / shard)
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        (folder / f"{name}.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8", newline="\n")
    return hashes


def read_weights(paths: Mapping[str, Path], hashes: Mapping[str, str]) -> dict[str, Tensor]:
    """Reads safetensors files into one state dict, each after its size, header and hash were checked.

    Args:
        paths: of the files, by their names.
        hashes: their sha256, by name.

    Raises:
        CheckpointError: a file is missing, damaged or not the one expected, or two hold a tensor of the same name.
    """
    state: dict[str, Tensor] = {}
    for name, path in paths.items():
        part = _read_file(path, hashes[name])
        if shared := sorted(state.keys() & part.keys()):
            raise CheckpointError(f"{path}: holds {shared[0]!r}, which another file of the checkpoint holds too.")
        state |= part
    return state


def _read_file(path: Path, sha256: str) -> dict[str, Tensor]:
    if not path.is_file():
        raise CheckpointError(f"{path}: not found. Only safetensors weights are read, never pickles.")
    state: dict[str, Tensor] = {}
    damage: Exception | None = None
    with path.open("rb") as file, ThreadPoolExecutor(1) as pool:
        _check_size(path, file)
        hashing = pool.submit(_sha256, file)
        try:
            # Copies: the file's own memory changes with the file, and is not aligned, by which sums round differently.
            state = {key: tensor.clone() for key, tensor in load_file(str(path)).items()}
        except Exception as error:  # a shape that is no number of torch is a TypeError, for one
            damage = error
        # The path is opened twice. While the file is open, no other one has its number.
        same = path.is_file() and os.path.samestat(os.fstat(file.fileno()), path.stat())
        actual = hashing.result()
    if not same:
        raise CheckpointError(f"{path}: was replaced while it was read. Load it again.")
    if actual != sha256:
        raise CheckpointError(f"{path}: sha256 expected {sha256!r}, found {actual!r}. {_ADVICE}")
    if damage is not None:
        raise CheckpointError(f"{path}: no readable safetensors file: {damage}") from damage
    return state


def _check_size(path: Path, file: BinaryIO) -> None:
    """Raises CheckpointError unless a file is as long as its header says, for which not all of a large one is read."""
    head = file.read(8)
    length = struct.unpack("<Q", head)[0] if len(head) == 8 else 0
    if not 0 < length <= _MAX_HEADER:
        raise CheckpointError(f"{path}: no safetensors file (header of {length} bytes, at most {_MAX_HEADER}).")
    try:
        header = json.loads(str(file.read(length), "utf-8"))
        ends = [entry["data_offsets"][1] for key, entry in header.items() if key != "__metadata__"]
        expected = 8 + length + max(ends, default=0)
    except (ValueError, TypeError, AttributeError, LookupError, RecursionError) as error:
        raise CheckpointError(f"{path}: no readable safetensors file: its header is damaged ({error}). {_ADVICE}") from error
    size = os.fstat(file.fileno()).st_size
    if size != expected:
        raise CheckpointError(f"{path}: no readable safetensors file: {expected} bytes expected, found {size}. {_ADVICE}")
    file.seek(0)


def check_state(path: Path, state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Raises CheckpointError unless keys, shapes and dtypes are those expected and all values are finite."""
    problems = [f"missing {key}" for key in sorted(expected.keys() - state.keys())]
    problems += [f"unexpected {key}" for key in sorted(state.keys() - expected.keys())]
    for key in sorted(expected.keys() & state.keys()):
        target, tensor = expected[key], state[key]
        if target.dtype != tensor.dtype:
            problems.append(f"{key}: dtype expected {target.dtype}, found {tensor.dtype}")
        elif target.shape != tensor.shape:
            problems.append(f"{key}: shape expected {tuple(target.shape)}, found {tuple(tensor.shape)}")
        elif not is_finite(tensor):
            problems.append(f"{key}: expected finite values, found NaN or infinity")
    if problems:
        shown = "; ".join(problems[:10]) + (f"; and {len(problems) - 10} more" if len(problems) > 10 else "")
        raise CheckpointError(f"{path}: {shown}.")


def is_finite(tensor: Tensor) -> bool:
    """Whether no value is NaN or infinite."""
    if not tensor.is_floating_point() or tensor.numel() == 0:
        return True
    low, high = torch.aminmax(tensor)  # NaN wins over both; unlike `isfinite`, nothing of the tensor's size is made
    return bool(torch.isfinite(low) & torch.isfinite(high))


def sha256_of_state(state: Mapping[str, Tensor]) -> str:
    """Returns the sha256 of tensors' names, dtypes, shapes and bits in hexadecimal, whatever files they are in."""
    digest = hashlib.sha256()
    for key, tensor in sorted(state.items()):
        digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
