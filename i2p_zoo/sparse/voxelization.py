"""Point clouds and images to sparse tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, overload

import numpy as np
import torch
from torch import Tensor

from i2p_zoo.errors import InvalidInputError
from i2p_zoo.sparse.geometry import check_axis, insert_axis
from i2p_zoo.sparse.point_features import parse_features
from i2p_zoo.sparse.tensor import SparseTensor
from i2p_zoo.sparse.voxel_grid import average_voxels, find_voxels

_MOST_COLUMNS = 16  # of points, where these are no more and the columns beyond x, y, z not used: else it is an image


@overload
def voxelize(
    points: Any, voxel_size: float = ..., features: Any = ..., *, reduce: str = ..., return_index: Literal[False] = ...
) -> SparseTensor: ...
@overload
def voxelize(
    points: Any, voxel_size: float = ..., features: Any = ..., *, reduce: str = ..., return_index: Literal[True]
) -> tuple[SparseTensor, Tensor]: ...
def voxelize(
    points: Any,
    voxel_size: float = 0.05,
    features: Any = "xyz",
    *,
    reduce: str = "mean",
    return_index: bool = False,
) -> SparseTensor | tuple[SparseTensor, Tensor]:
    """Gathers points into voxels: a point at p lies in the voxel floor(p / voxel_size).

    Args:
        points: one cloud, a list of clouds, or a (B, N, 3 + K) array. A cloud is a numpy or torch array (N, 3 + K), columns
            x, y, z and K extra ones, in the units of `voxel_size`; or a mapping with `points` and, as (N, 3), `rgb` (uint8
            is divided by 255) and `normals`.
        voxel_size: edge of a voxel.
        features: what a point carries: names among "xyz", "rgb", "normals", "ones", "extra", as a list or joined by
            commas; or the values themselves, (N, C), for a list of clouds a list of them.
        reduce: "mean" of a voxel's points, or its "first" point.
        return_index: also return which voxel each point is in.

    Returns:
        A SparseTensor with float32 features (float64 for float64 points), voxels sorted by batch, z, y, x. With
        `return_index` also (total points,) int64, the row of each point's voxel, clouds one after the other.

    Raises:
        InvalidInputError: an empty cloud, NaN or infinite values, points too far out for the voxel size, a wrong number of
            columns, what looks like an image, unknown features, or arrays on several devices; the message says which cloud
            and what.

    Example:
        >>> import torch
        >>> cloud = torch.tensor([[0.01, 0.0, 0.0], [0.02, 0.0, 0.0], [0.2, 0.1, 0.0]])
        >>> x, index = voxelize(cloud, voxel_size=0.1, return_index=True)
        >>> x.coords.tolist(), index.tolist()
        ([[0, 0, 0, 0], [0, 0, 1, 2]], [0, 0, 1])
    """
    if not isinstance(voxel_size, int | float | np.number) or not 0 < voxel_size < float("inf"):
        raise InvalidInputError(f"`voxel_size` must be a positive number; got {voxel_size}.")
    if reduce not in ("mean", "first"):
        raise InvalidInputError(f"`reduce` must be 'mean' or 'first'; got {reduce!r}.")
    clouds = split_clouds(points)
    _check_devices([*(v for c in clouds for v in (c.values() if isinstance(c, Mapping) else (c,))), features])
    parts = [_read_cloud(cloud, number) for number, cloud in enumerate(clouds)]
    columns = [_point_features(part, features, number, len(parts)) for number, part in enumerate(parts)]
    if len({part.shape[1] for part in columns}) > 1:
        raise InvalidInputError(f"Features must be as many for every cloud; got {[part.shape[1] for part in columns]}.")
    values = columns[0] if len(columns) == 1 else torch.cat(columns)
    sites, index = find_voxels([part["positions"] for part in parts], voxel_size)
    if reduce == "mean":
        voxels = average_voxels(values, index, len(sites))
    else:
        first = torch.full((len(sites),), len(index), device=index.device, dtype=torch.int64)
        first = first.scatter_reduce(0, index.long(), torch.arange(len(index), device=index.device), "amin")
        voxels = values[first]
    x = SparseTensor(voxels, sites, batch_size=len(parts))
    return (x, index.long()) if return_index else x


def split_clouds(points: Any) -> list[Any]:
    """Returns the clouds that `voxelize` is given, one by one; raises InvalidInputError for anything else."""
    if isinstance(points, Mapping):
        return [points]
    if isinstance(points, np.ndarray | Tensor):
        if points.ndim == 2:
            return [points]
        if points.ndim == 3 and points.dtype in (np.uint8, torch.uint8):
            raise InvalidInputError(
                f"`points` are uint8 {tuple(points.shape)}, as images are. `image_to_plane` takes images; give coordinates as "
                "numbers of more bits."
            )
        if points.ndim == 3 and len(points):
            return list(points)
        raise InvalidInputError(f"`points` must be (N, 3 + K) or (B, N, 3 + K); got shape {tuple(points.shape)}.")
    if isinstance(points, Sequence) and not isinstance(points, str) and len(points):
        return list(points)
    raise InvalidInputError(f"`points` must be an array, a mapping or a non-empty list of them; got {type(points).__name__}.")


def _check_devices(arrays: list[Any]) -> None:
    flat = [a for value in arrays for a in (value if isinstance(value, list | tuple) else [value])]
    devices = {a.device for a in flat if isinstance(a, Tensor)}
    if any(isinstance(a, np.ndarray) for a in flat):
        devices.add(torch.device("cpu"))
    if len(devices) > 1:
        raise InvalidInputError(f"All clouds and features must be on one device; got {sorted(map(str, devices))}.")


def _read_cloud(cloud: Any, number: int) -> dict[str, Tensor]:
    fields = dict(cloud) if isinstance(cloud, Mapping) else {"points": cloud}
    unknown = sorted(set(fields) - {"points", "rgb", "normals"})
    if "points" not in fields or unknown:
        raise InvalidInputError(f"Cloud {number} must have `points` and may have `rgb` and `normals`; got {sorted(fields)}.")
    part = {name: _as_float(_as_tensor(value, name, number), name, number) for name, value in fields.items()}
    shape = tuple(part["points"].shape)
    if len(shape) != 2 or shape[1] < 3:
        raise InvalidInputError(f"Cloud {number} must be (N, 3 + K) with columns x, y, z; got shape {shape}.")
    if shape[0] == 0:
        raise InvalidInputError(f"Cloud {number} is empty: every cloud needs at least one point.")
    for name in set(part) - {"points"}:
        if tuple(part[name].shape) != (shape[0], 3):
            raise InvalidInputError(f"`{name}` of cloud {number} must be ({shape[0]}, 3); got {tuple(part[name].shape)}.")
    positions = _as_tensor(fields["points"], "points", number)[:, :3].detach()
    exact = positions if positions.dtype == torch.float32 else positions.double()  # large integers are no float32
    return {**part, "positions": exact}


def _as_tensor(value: Any, name: str, number: int) -> Tensor:
    try:
        return value if isinstance(value, Tensor) else torch.from_numpy(np.require(value, requirements=["C", "W"]))
    except (TypeError, ValueError) as error:
        raise InvalidInputError(f"`{name}` of cloud {number} is not a numeric array: {error}") from error


def _as_float(tensor: Tensor, name: str, number: int) -> Tensor:
    if tensor.is_complex() or tensor.dtype == torch.bool:
        raise InvalidInputError(f"`{name}` of cloud {number} must hold real numbers; got {tensor.dtype}.")
    scaled = name == "rgb" and tensor.dtype == torch.uint8
    tensor = tensor if tensor.dtype == torch.float64 else tensor.float()
    is_finite = bool(tensor.detach().sum().isfinite())  # one pass; a sum that overflows is looked into
    bad = tensor.new_empty(0) if is_finite else (~torch.isfinite(tensor)).nonzero()
    if len(bad):
        at = tuple(bad[0].tolist())
        raise InvalidInputError(
            f"`{name}` of cloud {number} has {len(bad)} values that are NaN or infinite, the first at {at}."
        )
    return tensor / 255 if scaled else tensor


def _point_features(part: dict[str, Tensor], features: Any, number: int, count: int) -> Tensor:
    points = part["points"]
    if isinstance(features, str) or (isinstance(features, list | tuple) and features and isinstance(features[0], str)):
        names = parse_features(features)
        wide = points.shape[1] > _MOST_COLUMNS and points.shape[1] >= points.shape[0]
        if wide and "extra" not in names:
            raise InvalidInputError(
                f"Cloud {number} is {tuple(points.shape)}, of more columns than points, and features {','.join(names)} use "
                "x, y, z alone. Transpose channels-first clouds to (N, 3); `image_to_plane` takes images."
            )
        named = [_named_feature(part, name, number) for name in names]
        return named[0] if len(named) == 1 else torch.cat(named, dim=1)
    several = isinstance(features, list | tuple) or getattr(features, "ndim", 0) == 3
    if several and len(features) != count:
        raise InvalidInputError(f"`features` must be a list of {count} arrays, one a cloud; got {len(features)}.")
    if not several and count > 1:
        raise InvalidInputError(f"`features` must be a list of {count} arrays, one a cloud; got one array.")
    array = features[number] if several else features
    values = _as_float(_as_tensor(array, "features", number), "features", number)
    if values.ndim != 2 or len(values) != len(points):
        raise InvalidInputError(f"`features` of cloud {number} must be ({len(points)}, C); got {tuple(values.shape)}.")
    return values


def _named_feature(part: dict[str, Tensor], name: str, number: int) -> Tensor:
    points = part["points"]
    if name == "xyz":
        return points[:, :3]
    if name == "ones":
        return torch.ones_like(points[:, :1])
    if name == "extra":
        if points.shape[1] == 3:
            raise InvalidInputError(f"Feature 'extra' of cloud {number}: its points have no column beyond x, y, z.")
        return points[:, 3:]
    if name not in part:
        raise InvalidInputError(f"Feature '{name}' of cloud {number}: give the cloud as a mapping with 'points' and '{name}'.")
    return part[name].to(points.dtype)


def image_to_plane(images: Tensor, axis: str = "z") -> SparseTensor:
    """Lays images on a plane of voxels, one voxel a pixel, at coordinate 0 of `axis`.

    Args:
        images: (B, C, H, W), any floating dtype.
        axis: the plane's normal. Height and width lie on the other two axes, in the order z, y, x.

    Returns:
        A SparseTensor of B * H * W voxels with the images' extent as `spatial_shape`.

    Raises:
        InvalidInputError: not a floating (B, C, H, W) tensor with pixels, or an unknown axis.

    Example:
        >>> import torch
        >>> image_to_plane(torch.zeros(2, 3, 4, 5)).spatial_shape
        (1, 4, 5)
    """
    if not isinstance(images, Tensor) or images.ndim != 4 or not images.is_floating_point() or images.numel() == 0:
        actual = f"{images.dtype} {tuple(images.shape)}" if isinstance(images, Tensor) else type(images).__name__
        raise InvalidInputError(f"`images` must be a non-empty floating point (B, C, H, W) tensor; got {actual}.")
    normal = check_axis(axis)
    batch, channels, height, width = images.shape
    ranges = [torch.arange(n, dtype=torch.int32, device=images.device) for n in (batch, height, width)]
    b, h, w = torch.meshgrid(*ranges, indexing="ij")
    columns = [h, w]
    columns.insert(normal, torch.zeros_like(h))
    coords = torch.stack([b, *columns], dim=-1).reshape(-1, 4)
    features = images.permute(0, 2, 3, 1).reshape(-1, channels)
    shape = insert_axis((height, width), 1, normal)
    x = SparseTensor(features, coords, batch_size=batch, spatial_shape=shape)
    return x.with_plan(axis=normal)
