"""Values of points as users give them, made tensors: what they may hold, and what colours and normals of any type mean."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from i2p_zoo.errors import InvalidInputError
from i2p_zoo.sparse.colors import full_brightness
from i2p_zoo.sparse.device_path import takes_device_path
from i2p_zoo.wording import count_of

_UNSIGNED = (torch.uint8, torch.uint16, torch.uint32, torch.uint64)


def as_tensor(value: Any, place: str) -> Tensor:
    """Returns an array or a tensor as a tensor, sharing memory where it can.

    Args:
        value: numbers of any real type.
        place: what they are, as an error begins with it, such as "`points` of cloud 0".

    Raises:
        InvalidInputError: not numeric, masked values among them, or on the meta device.
    """
    refuse_masked(value, place)
    try:
        tensor = value if isinstance(value, Tensor) else torch.from_numpy(_native_array(value))
    except (TypeError, ValueError) as error:
        raise InvalidInputError(f"{place} is not a numeric array: {error}") from error
    if tensor.is_meta:
        raise InvalidInputError(f"{place} is on the meta device, which holds no numbers.")
    if tensor.is_complex() or tensor.dtype == torch.bool:
        raise InvalidInputError(f"{place} must hold real numbers; got {tensor.dtype}.")
    return tensor


def _native_array(value: Any) -> NDArray[Any]:
    array = np.asarray(value)
    return np.require(array, array.dtype.newbyteorder("="), ["C", "W"])  # plyfile gives a file's own byte order


def refuse_masked(value: Any, place: str) -> None:
    """Raises InvalidInputError, which begins with the place, for a numpy array with masked values, which torch would unmask."""
    parts = value if isinstance(value, list | tuple) else [value]
    count = sum(int(np.ma.getmaskarray(part).sum()) for part in parts if isinstance(part, np.ma.MaskedArray))
    if count:
        raise InvalidInputError(
            f"{place} has {count} masked values. Leave those points out of every array, for instance `points[~mask.any(1)]` "
            "with `mask = np.ma.getmaskarray(points)`."
        )


def as_float(tensor: Tensor) -> Tensor:
    """Returns float64 as it is and any other type as float32."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def check_finite(arrays: Sequence[tuple[Tensor, str]]) -> None:
    """Raises InvalidInputError for NaN and infinite values in any of several tensors, each with what it is.

    On a device it waits once, and looks for the place only where there is such a value.
    """
    if arrays and takes_device_path(arrays[0][0]):
        by_type: dict[torch.dtype, list[Tensor]] = {}
        for tensor, _ in arrays:
            by_type.setdefault(tensor.dtype, []).append(tensor.detach().flatten())
        sums = [as_float(torch.cat(parts)).isfinite().all() for dtype, parts in by_type.items() if dtype.is_floating_point]
        if not sums or bool(torch.stack(sums).all()):
            return
    for tensor, place in arrays:
        as_finite(tensor, place)


def as_finite(tensor: Tensor, place: str) -> Tensor:
    """Returns float64 as it is and any other type as float32; raises InvalidInputError for NaN and infinite values."""
    values = as_float(tensor)
    if bool(values.detach().sum().isfinite()):  # one pass; a sum that overflows is looked into
        return values
    bad = (~torch.isfinite(values)).nonzero()
    if len(bad):
        first = tuple(bad[0].tolist())
        raise InvalidInputError(f"{place} has {count_of(len(bad), 'NaN or infinite value')}, the first at {first}.")
    return values


def to_fractions(colors: Sequence[tuple[int, Tensor]]) -> list[Tensor]:
    """Returns colours of any type as fractions of full brightness, 0 to 1, each array by its own range.

    Args:
        colors: the number of a cloud and its (N, 3) colours, for each cloud of a batch.

    Raises:
        InvalidInputError: NaN or infinite values, colours whose range is in doubt, or floats of different ranges in one batch:
            dark ones of 0 to 255 cannot be told from fractions.
    """
    surveys = _survey(colors)
    scales = {number: _read_brightness(values, surveys[number], number) for number, values in colors}
    floats = {number: scales[number] for number, values in colors if values.is_floating_point() and any(surveys[number][:2])}
    if len(set(floats.values())) > 1:
        fractions, bytes_ = ([number for number, scale in floats.items() if (scale == 1) == is_one] for is_one in (True, False))
        raise InvalidInputError(
            f"`rgb` of cloud {bytes_[0]} reaches 255 and that of cloud {fractions[0]} does not exceed 1. The latter may be "
            "fractions of 0 to 1, or dark colours of 0 to 255. Give uint8, or fractions for all clouds."
        )
    shares = []
    for number, values in colors:
        share: Tensor = as_float(values) / scales[number]
        is_over = surveys[number][1] > scales[number]  # clamped only then, so that gradients reach full brightness too
        shares.append(share.clamp(max=1) if is_over else share)
    return shares


def fix_range(colors: Sequence[Any] | NDArray[Any]) -> list[NDArray[np.float32]]:
    """Returns numpy's colours of several clouds as fractions, by the range of all: a part of them may not show it.

    Raises:
        InvalidInputError: as `as_tensor` and `to_fractions`.
    """
    tensors = [(number, as_tensor(values, f"`rgb` of cloud {number}")) for number, values in enumerate(colors)]
    return [share.float().numpy() for share in to_fractions(tensors)]


def _survey(colors: Sequence[tuple[int, Tensor]]) -> dict[int, list[float]]:
    """The least and the largest value of each array and whether all are whole, for one wait of a device; bytes need no look."""
    surveys = {number: [0.0, 255.0, 1.0] for number, _ in colors}
    numbers, parts = [], []
    for number, values in colors:
        if values.dtype != torch.uint8:
            exact = values.detach().double()
            numbers.append(number)
            parts.append(torch.stack([*torch.aminmax(exact), (exact == exact.round()).all()]))
    if parts:
        surveys.update(zip(numbers, torch.stack(parts).tolist(), strict=True))
    return surveys


def _read_brightness(values: Tensor, survey: list[float], number: int) -> float:
    if values.dtype == torch.uint8:
        return 255.0
    low, high, is_whole = survey
    if not (math.isfinite(low) and math.isfinite(high)):
        as_finite(values, f"`rgb` of cloud {number}")
    if not values.is_floating_point():
        low, high = int(low), int(high)
    try:
        return full_brightness(str(values.dtype).removeprefix("torch."), low, high, bool(is_whole))
    except InvalidInputError as error:
        raise InvalidInputError(f"`rgb` of cloud {number}: {error}") from error


def to_unit_normals(normals: Tensor, number: int) -> Tensor:
    """Returns finite directions of any length or signed type as unit vectors; zeros stay zeros.

    Raises:
        InvalidInputError: an unsigned type, which holds no direction below 0.
    """
    if normals.dtype in _UNSIGNED:
        raise InvalidInputError(
            f"`normals` of cloud {number} are {normals.dtype}, which holds no direction below 0. Give floats, or int8 of 127 "
            "times a unit vector."
        )
    values = as_float(normals)
    unit: Tensor = torch.nn.functional.normalize(values, dim=1, eps=torch.finfo(values.dtype).tiny)
    return unit
