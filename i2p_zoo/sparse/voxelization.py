"""Point clouds and images to sparse tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, overload

import numpy as np
import torch
from torch import Tensor

from i2p_zoo.errors import InvalidInputError
from i2p_zoo.sparse.coordinates import SiteCache
from i2p_zoo.sparse.geometry import Level, Plan, check_axis, check_voxel_size, insert_axis
from i2p_zoo.sparse.point_features import FIELD, is_field, parse_features
from i2p_zoo.sparse.point_values import as_float, as_tensor, check_finite, to_fractions, to_unit_normals
from i2p_zoo.sparse.tensor import SparseTensor
from i2p_zoo.sparse.voxel_grid import Positions, average_voxels, find_voxels, read_positions

_MOST_COLUMNS = 16  # of points, where these are no more and the columns beyond x, y, z not used: else it is an image
_FAR = 2**16  # voxels from the origin, from where on coordinates are no features: float32 has 64 steps a voxel there

Color = tuple[float, float, float]


@overload
def voxelize(
    points: Any,
    voxel_size: float = ...,
    features: Any = ...,
    *,
    rgb_mean: Color | None = ...,
    rgb_std: Color | None = ...,
    reduce: str = ...,
    return_index: Literal[False] = ...,
) -> SparseTensor: ...
@overload
def voxelize(
    points: Any,
    voxel_size: float = ...,
    features: Any = ...,
    *,
    rgb_mean: Color | None = ...,
    rgb_std: Color | None = ...,
    reduce: str = ...,
    return_index: Literal[True],
) -> tuple[SparseTensor, Tensor]: ...
def voxelize(
    points: Any,
    voxel_size: float = 0.05,
    features: Any = "xyz",
    *,
    rgb_mean: Color | None = None,
    rgb_std: Color | None = None,
    reduce: str = "mean",
    return_index: bool = False,
) -> SparseTensor | tuple[SparseTensor, Tensor]:
    """Gathers points into voxels: a point at p lies in the voxel floor(p / voxel_size).

    Voxels count from the origin, and so does the feature "xyz": coordinates as they are given. A coordinate that is a voxel's
    border but for its type's rounding, as 0.15 of voxels of 0.05, lies on the border.

    Args:
        points: one cloud, a list of clouds, or a (B, N, 3 + K) array. A cloud is a numpy or torch array (N, 3 + K), columns
            x, y, z and K extra ones, in the units of `voxel_size`; or a mapping with `points` and any of `rgb` (N, 3),
            `normals` (N, 3), `intensity` (N, 1) and `field:NAME` (N, 1). Colours are uint8, fractions of 0 to 1, or any other
            type whose range leaves no doubt; normals any signed type and length.
        voxel_size: edge of a voxel.
        features: what a point carries: names among "xyz", "rgb" (fractions of 0 to 1), "normals" (unit vectors), "ones",
            "extra", "intensity" and "field:NAME" (as they are), as a list or joined by commas; or the values themselves,
            (N, C), for a list of clouds a list of them.
        rgb_mean, rgb_std: of red, green and blue as fractions, by which "rgb" is standardised; None leaves it. A network's
            stand in its `settings`, and `settings.voxelize` gives all that it reads clouds by.
        reduce: "mean" of a voxel's points, or its "first" point.
        return_index: also return which voxel each point is in.

    Returns:
        A SparseTensor with float32 features (float64 for float64 points), voxels sorted by batch, z, y, x. With
        `return_index` also (total points,) int64, the row of each point's voxel, clouds one after the other.

    Raises:
        InvalidInputError: an empty cloud, NaN, infinite or masked values, points too far out for the voxel size or their type,
            coordinates too far out for features, a wrong number of columns, what looks like an image, colours of a range in
            doubt, unknown features, or arrays on several devices; the message says which cloud and what.

    Example:
        >>> import torch
        >>> cloud = torch.tensor([[0.01, 0.0, 0.0], [0.02, 0.0, 0.0], [0.2, 0.1, 0.0]])
        >>> x, index = voxelize(cloud, voxel_size=0.1, return_index=True)
        >>> x.coords.tolist(), index.tolist()
        ([[0, 0, 0, 0], [0, 0, 1, 2]], [0, 0, 1])
    """
    size = check_voxel_size(voxel_size)
    if reduce not in ("mean", "first"):
        raise InvalidInputError(f"`reduce` must be 'mean' or 'first'; got {reduce!r}.")
    clouds = split_clouds(points)
    _check_devices([*(v for c in clouds for v in (c.values() if isinstance(c, Mapping) else (c,))), features])
    parts = [_read_cloud(cloud, number) for number, cloud in enumerate(clouds)]
    is_named = isinstance(features, str) or (isinstance(features, list | tuple) and features and isinstance(features[0], str))
    names = parse_features(features) if is_named else ()
    fields = enumerate(parts)
    check_finite([(values, f"`{name}` of cloud {number}") for number, part in fields for name, values in part.items()])
    positions = read_positions([part["points"] for part in parts], size)
    if "xyz" in names:
        for number, cloud in enumerate(positions):
            _check_place(cloud, size, number)
    sites, index = find_voxels(positions, size)
    if "rgb" in names:
        _read_colors_(parts, rgb_mean, rgb_std)
    columns = _named_features(parts, names) if names else _given_features(parts, features)
    if len({part.shape[1] for part in columns}) > 1:
        raise InvalidInputError(f"Features must be as many for every cloud; got {[part.shape[1] for part in columns]}.")
    values = columns[0] if len(columns) == 1 else torch.cat(columns)
    if reduce == "mean":
        voxels = average_voxels(values, index, len(sites))
    else:
        first = torch.full((len(sites),), len(index), device=index.device, dtype=torch.int64)
        first = first.scatter_reduce(0, index.long(), torch.arange(len(index), device=index.device), "amin")
        voxels = values[first]
    x = make_voxels(sites, voxels, len(parts))
    return (x, index.long()) if return_index else x


def make_voxels(coords: Tensor, features: Tensor, batch_size: int) -> SparseTensor:
    """Returns a sparse tensor of what `voxelize` made in another process, or on another device; it trusts its arguments.

    Args:
        coords: (N, 4) int32, sorted by batch, z, y, x, no row twice.
        features: (N, C).
        batch_size: number of clouds.
    """
    cache = SiteCache()
    cache.orders[cache.key(coords)] = None
    return SparseTensor.on_level(Level(1, None, Plan(), None), features, coords, cache, batch_size)


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
        dense = {4: "`image_to_plane` takes (B, C, H, W) images", 5: "`SparseTensor.from_dense` takes (B, C, D, H, W) volumes"}
        hint = f": {dense[points.ndim]}" if points.ndim in dense else ""
        raise InvalidInputError(f"`points` must be (N, 3 + K) or (B, N, 3 + K); got shape {tuple(points.shape)}{hint}.")
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
    """Returns a cloud's arrays as tensors of their own types."""
    fields = dict(cloud) if isinstance(cloud, Mapping) else {"points": cloud}
    widths = {"rgb": 3, "normals": 3, "intensity": 1}
    unknown = [name for name in fields if name != "points" and name not in widths and not is_field(str(name))]
    if "points" not in fields or unknown:
        raise InvalidInputError(
            f"Cloud {number} must have `points` and may have `rgb`, `normals`, `intensity` and `{FIELD}NAME`; "
            f"got {sorted(map(str, fields))}."
        )
    part = {name: as_tensor(value, f"`{name}` of cloud {number}") for name, value in fields.items()}
    shape = tuple(part["points"].shape)
    if len(shape) != 2 or shape[1] < 3:
        raise InvalidInputError(f"Cloud {number} must be (N, 3 + K) with columns x, y, z; got shape {shape}.")
    if shape[0] == 0:
        raise InvalidInputError(f"Cloud {number} is empty: every cloud needs at least one point.")
    for name in part.keys() - {"points"}:
        width = widths.get(name, 1)
        if width == 1 and part[name].ndim == 1:
            part[name] = part[name][:, None]
        if tuple(part[name].shape) != (shape[0], width):
            raise InvalidInputError(f"`{name}` of cloud {number} must be ({shape[0]}, {width}); got {tuple(part[name].shape)}.")
    return part


def _check_place(cloud: Positions, voxel_size: float, number: int) -> None:
    """Raises InvalidInputError where coordinates are no features: far from the origin, by more than the cloud's own extent."""
    low, high = cloud.low, cloud.high
    reach, extent = float(np.maximum(-low, high).max()), float((high - low).max())
    if reach > _FAR * voxel_size and float(np.abs(low + high).max()) / 2 > extent:
        raise InvalidInputError(
            f"Cloud {number} lies {reach:.7g} from the origin, which is voxel {reach / voxel_size:.3g}, and is {extent:.3g} "
            "across: such coordinates, as of a map, are no features. Subtract the mean of each cloud, as float64: "
            "`points - points.mean(0)`."
        )


def _read_colors_(parts: list[dict[str, Tensor]], mean: Color | None, std: Color | None) -> None:
    """Turns the colours of all clouds into what they are as features, in place."""
    colored = [(number, part["rgb"]) for number, part in enumerate(parts) if "rgb" in part]
    for (number, _), values in zip(colored, to_fractions(colored), strict=True):
        if mean is not None:
            values = values - values.new_tensor(mean)
        parts[number]["rgb"] = values if std is None else values / values.new_tensor(std)


def _named_features(parts: list[dict[str, Tensor]], names: tuple[str, ...]) -> list[Tensor]:
    columns = []
    for number, part in enumerate(parts):
        shape = tuple(part["points"].shape)
        if shape[1] > _MOST_COLUMNS and shape[1] >= shape[0] and "extra" not in names:
            raise InvalidInputError(
                f"Cloud {number} is {shape}, of more columns than points, and features {','.join(names)} use x, y, z alone. "
                "Transpose channels-first clouds to (N, 3); `image_to_plane` takes images."
            )
        named = [_named_feature(part, name, number) for name in names]
        columns.append(named[0] if len(named) == 1 else torch.cat(named, dim=1))
    return columns


def _given_features(parts: list[dict[str, Tensor]], features: Any) -> list[Tensor]:
    several = isinstance(features, list | tuple) or getattr(features, "ndim", 0) == 3
    if several and len(features) != len(parts):
        raise InvalidInputError(f"`features` must be a list of {len(parts)} arrays, one a cloud; got {len(features)}.")
    if not several and len(parts) > 1:
        raise InvalidInputError(f"`features` must be a list of {len(parts)} arrays, one a cloud; got one array.")
    columns = []
    for number, (part, array) in enumerate(zip(parts, features if several else [features], strict=True)):
        place, count = f"`features` of cloud {number}", len(part["points"])
        values = as_tensor(array, place)
        if values.ndim != 2 or len(values) != count:
            raise InvalidInputError(f"{place} must be ({count}, C); got {tuple(values.shape)}.")
        columns.append(values)
    check_finite([(values, f"`features` of cloud {number}") for number, values in enumerate(columns)])
    return [as_float(values) for values in columns]


def _named_feature(part: dict[str, Tensor], name: str, number: int) -> Tensor:
    points = part["points"] if part["points"].dtype == torch.float64 else part["points"].float()
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
    values = to_unit_normals(part[name], number) if name == "normals" else part[name]
    return values.to(points.dtype)


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
