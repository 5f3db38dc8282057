"""SparseTensor: features on integer voxels, seen by a 2D network as a (batch, channels, height, width) tensor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from i2p_zoo._extras import require
from i2p_zoo.errors import InvalidInputError, UnsupportedError
from i2p_zoo.sparse.coordinates import SiteCache, batch_index, check_coords, derive_sites, inside
from i2p_zoo.sparse.dispatch import call_on_sites, find_handler, find_token_handler, name_of
from i2p_zoo.sparse.geometry import Level, Padding, Pair, Plan, Triple, check_shape, insert_axis, simplify_stride
from i2p_zoo.sparse.network_tensor import NetworkTensor
from i2p_zoo.sparse.row_index import RowIndex
from i2p_zoo.wording import count_of

UNBOUNDED = 2**30
"""The height and width that a 2D network sees where a sparse tensor has no border, before its first halving."""
_UNPADDED = Padding()


class SparseTensor(NetworkTensor):
    """Features on the active voxels of a batch of point clouds.

    Args:
        features: (N, C) floating point, one row a voxel. Inside a network also (N, C1, C2, ...).
        coords: (N, 4) integers, columns batch, z, y, x, in voxels at this stride; any row order, no voxel twice.
        stride: input voxels a voxel of this tensor, one number or (z, y, x).
        batch_size: number of samples; by default the largest batch id plus one.
        spatial_shape: extent (z, y, x) in voxels of this stride. With it, borders act as they do in 2D: 'valid' layers
            crop and averages count padding. A point cloud has no border and leaves it out.

    Raises:
        InvalidInputError: shapes, dtypes, devices or values that do not fit; the message quotes them.

    Example:
        >>> import torch
        >>> x = SparseTensor(torch.ones(2, 3), torch.tensor([[0, 0, 0, 0], [0, 0, 0, 1]]))
        >>> x.features.shape, x.batch_size
        (torch.Size([2, 3]), 1)
    """

    features: Tensor
    coords: Tensor
    stride: int | Triple
    batch_size: int
    spatial_shape: Triple | None
    plan: Plan
    cache: SiteCache
    channels_last: bool
    padding: Padding
    canvas: Pair | None

    def __init__(
        self,
        features: Tensor,
        coords: Tensor,
        stride: int | Triple = 1,
        batch_size: int | None = None,
        spatial_shape: Triple | None = None,
    ) -> None:
        if not isinstance(features, Tensor) or features.ndim < 2:
            shape = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
            raise InvalidInputError(f"`features` must be a (N, C) tensor; got {shape}.")
        if not features.is_floating_point():
            raise InvalidInputError(f"`features` must be floating point; got {features.dtype}. Call `.float()` on it.")
        if spatial_shape is not None:
            spatial_shape = check_shape(spatial_shape, "spatial_shape")
        if isinstance(coords, Tensor) and features.device != coords.device:
            raise InvalidInputError(
                f"`features` is on {features.device} and `coords` on {coords.device}: move both to one device."
            )
        coords, size, order = check_coords(coords, batch_size, spatial_shape)
        if len(features) != len(coords):
            raise InvalidInputError(
                f"`features` has {count_of(len(features), 'row')} and `coords` {len(coords)}: each voxel needs one row of each."
            )
        self.features = features
        self.coords = coords
        self.stride = simplify_stride(check_shape(stride, "stride"))
        self.batch_size = size
        self.spatial_shape = spatial_shape
        self.plan = Plan()
        self.channels_last = False
        self.padding = _UNPADDED
        self.canvas = None
        self.cache = SiteCache()
        self.cache.orders[self.cache.key(coords)] = order

    def derive(self, features: Tensor, **changes: Any) -> SparseTensor:
        """Returns a tensor of new (N, ...) features on the same sites, or with other attributes given by name.

        It trusts its arguments: coordinates given here come from `i2p_zoo.sparse.coordinates` and are not checked again.
        """
        result = object.__new__(SparseTensor)
        result.__dict__.update(self.__dict__)
        result.features = features
        result.__dict__.update(changes)
        return result

    @classmethod
    def on_level(cls, level: Level, features: Tensor, coords: Tensor, cache: SiteCache, batch_size: int) -> SparseTensor:
        """Returns a tensor of (N, ...) features on sites of a level; it trusts its arguments, as `derive` does."""
        result = object.__new__(cls)
        result.features, result.coords, result.cache, result.batch_size = features, coords, cache, batch_size
        result.stride, result.spatial_shape, result.plan = level.stride, level.spatial_shape, level.plan
        result.canvas, result.channels_last, result.padding = level.canvas, False, _UNPADDED
        return result

    @property
    def level(self) -> Level:
        """What its sites are, apart from where they stand."""
        return Level(self.stride, self.spatial_shape, self.plan, self.canvas)

    def with_plan(self, **changes: Any) -> SparseTensor:
        """Returns the same tensor with some fields of its `Plan` changed."""
        return self.derive(self.features, plan=replace(self.plan, **changes))

    def apply_padding(self) -> SparseTensor:
        """Returns the tensor with its sites moved to where a padded image has them, and its extent grown."""
        if self.padding == Padding():
            return self
        return self.derive(self.features, padding=Padding()).pad_sites(self.padding.rows, self.padding.columns)

    def pad_sites(self, rows: Pair, columns: Pair) -> SparseTensor:
        """Shifts sites by the padding before them and grows (or, negative, crops) the extent.

        Args:
            rows: at the top and the bottom.
            columns: at the left and the right.

        Raises:
            InvalidInputError: nothing is left of the extent.
        """
        axis = self.plan.axis
        shift = insert_axis((-rows[0], -columns[0]), 0, axis)
        if self.spatial_shape is None:
            coords = derive_sites(self.cache, self.coords, None, (1, 1, 1), shift, None)
            canvas = self.canvas and (self.canvas[0] + sum(rows), self.canvas[1] + sum(columns))
            return self.derive(self.features, coords=coords, canvas=canvas)
        old = self.spatial_shape
        grown = insert_axis((sum(rows), sum(columns)), 0, axis)
        shape = (old[0] + grown[0], old[1] + grown[1], old[2] + grown[2])
        if min(shape) < 1:
            raise InvalidInputError(f"Padding {self!r} by {rows} and {columns} (height, width) leaves the extent {shape}.")
        coords = derive_sites(self.cache, self.coords, old, (1, 1, 1), shift, shape)
        features = self.features
        if len(coords) != len(self.coords):
            features = features[inside(self.coords - self.coords.new_tensor((0, *shift)), shape)]
        return self.derive(features, coords=coords, spatial_shape=shape)

    @property
    def batch_index(self) -> RowIndex:
        """The sample each voxel belongs to, to take a value of each sample or to add up over them."""
        return batch_index(self.cache, self.coords, self.batch_size)

    @property
    def batch_rows(self) -> Tensor:
        """(N,) int64, the sample each voxel belongs to."""
        return self.batch_index.rows

    @property
    def sample_counts(self) -> Tensor:
        """(batch_size,) int64, the number of voxels of each sample."""
        return self.batch_index.counts

    def dense(self) -> Tensor:
        """Returns a (B, C, Z, Y, X) tensor with zeros where no voxel is, differentiable in the features.

        Its origin is the voxel (0, 0, 0) where a `spatial_shape` is given, else the least coordinate of each axis.
        """
        if self.padding != Padding():
            return self.apply_padding().dense()
        coords = self.coords.long()
        if self.spatial_shape is None:
            low, high = torch.aminmax(coords[:, 1:], dim=0)
            extent = (high - low + 1).tolist()
        else:
            low, extent = torch.zeros_like(coords[0, 1:]), list(self.spatial_shape)
        z, y, x = (coords[:, 1:] - low).unbind(1)
        out = self.features.new_zeros((self.batch_size, *extent, *self.features.shape[1:]))
        out = out.index_put((coords[:, 0], z, y, x), self.features)
        return out.permute(0, *range(4, out.ndim), 1, 2, 3)

    @classmethod
    def from_dense(cls, dense: Tensor, *, keep_zeros: bool = False) -> SparseTensor:
        """Turns a (B, C, Z, Y, X) volume into a sparse tensor with that `spatial_shape`.

        Args:
            dense: the volume, floating point.
            keep_zeros: keep voxels whose features are all zero.

        Raises:
            InvalidInputError: not five dimensions, or no voxel left.
        """
        if dense.ndim != 5:
            raise InvalidInputError(f"`dense` must be (B, C, Z, Y, X); got shape {tuple(dense.shape)}.")
        last = dense.permute(0, 2, 3, 4, 1)
        active = torch.ones_like(last[..., 0], dtype=torch.bool) if keep_zeros else (last != 0).any(-1)
        coords = active.nonzero().int().contiguous()
        shape = (int(dense.shape[2]), int(dense.shape[3]), int(dense.shape[4]))
        return cls(last[active], coords, batch_size=int(dense.shape[0]), spatial_shape=shape)

    @classmethod
    def from_spconv(cls, tensor: Any, stride: int | Triple = 1) -> SparseTensor:
        """Takes the features and indices of a `spconv.pytorch.SparseConvTensor`; its extent, a bound, is not a border."""
        return cls(tensor.features, tensor.indices, stride=stride, batch_size=int(tensor.batch_size))

    def to_spconv(self) -> Any:
        """Returns a `spconv.pytorch.SparseConvTensor` with the same features and indices.

        Raises:
            MissingExtraError: spconv is not installed.
            InvalidInputError: a coordinate is negative, which spconv cannot hold.
        """
        require_unpadded(self, "to_spconv")
        spconv = require("spconv.pytorch", extra="spconv")
        low, high = torch.aminmax(self.coords[:, 1:].long(), dim=0)
        if int(low.min()) < 0:
            raise InvalidInputError(f"spconv takes no negative coordinates; the least (z, y, x) is {low.tolist()}.")
        shape = self.spatial_shape or tuple((high + 1).tolist())
        return spconv.SparseConvTensor(self.features, self.coords, list(shape), self.batch_size)

    @property
    def shape(self) -> tuple[int, ...]:
        """(batch, channels, height, width) as the 2D network sees it; from `UNBOUNDED`, halved, where there is no border.

        After a permutation (`channels_last`) it is (batch, height, width, channels).
        """
        if not self.has_extent:
            height = width = UNBOUNDED >> self.plan.level
        else:
            height, width = self.canvas or (0, 0)
            if self.spatial_shape is not None:
                height, width = (self.spatial_shape[axis] for axis in self.plan.plane)
            height, width = height + sum(self.padding.rows), width + sum(self.padding.columns)
        batch, channels = self.batch_size, self.features.shape[1:]
        return (batch, height, width, *channels) if self.channels_last else (batch, *channels, height, width)

    @property
    def has_extent(self) -> bool:
        """Whether `shape` has a height and a width of its own: of a border or, of a cloud, of the canvas it stands on."""
        return self.spatial_shape is not None or self.canvas is not None

    @property
    def site_dims(self) -> tuple[int, int]:
        """The dimensions of `shape` that are height and width."""
        return (1, 2) if self.channels_last else (self.ndim - 2, self.ndim - 1)

    def dim(self) -> int:
        """Returns the number of dimensions of `shape`."""
        return self.features.ndim + 2

    def __len__(self) -> int:
        return self.batch_size

    @property
    def requires_grad(self) -> bool:
        """Whether gradients flow to the features."""
        return self.features.requires_grad

    def requires_grad_(self, requires_grad: bool = True) -> SparseTensor:
        """Sets, in place, whether gradients flow to the features."""
        self.features.requires_grad_(requires_grad)
        return self

    def register_hook(self, hook: Callable[[Tensor], Tensor | None]) -> Any:
        """Has a hook called with the (N, ...) gradient of the features, as `torch.Tensor.register_hook` does."""
        return self.features.register_hook(hook)

    def retain_grad(self) -> None:
        """Keeps the gradient of the features in `grad` though they are no leaf, as `torch.Tensor.retain_grad` does."""
        self.features.retain_grad()

    grad = property(lambda self: self.features.grad, doc="(N, ...) gradient of the features, or None.")
    grad_fn = property(lambda self: self.features.grad_fn, doc="What computed the features, or None.")
    is_leaf = property(lambda self: self.features.is_leaf, doc="Whether autograd saw nothing compute the features.")

    def to(self, *args: Any, **kwargs: Any) -> SparseTensor:
        """Moves or casts as `torch.Tensor.to` does; coordinates stay int32 and follow the device."""
        features = self.features.to(*args, **kwargs)
        if features.device == self.coords.device:
            return self if features is self.features else self.derive(features)
        coords = self.coords.to(features.device)
        return self.derive(features, coords=coords, cache=self.cache.start_anew(self.coords, coords))

    def cpu(self) -> SparseTensor:
        """Moves to the CPU."""
        return self.to("cpu")

    def cuda(self) -> SparseTensor:
        """Moves to the current CUDA device."""
        return self.to("cuda")

    def detach(self) -> SparseTensor:
        """Returns the same tensor cut from the autograd graph."""
        return self.derive(self.features.detach())

    def __repr__(self) -> str:
        return (
            f"SparseTensor(voxels={len(self.coords)}, features={tuple(self.features.shape[1:])}, "
            f"batch_size={self.batch_size}, stride={self.stride}, spatial_shape={self.spatial_shape}, "
            f"dtype={self.dtype}, device={self.device})"
        )

    # A 2D network's own code calls torch functions and tensor methods on what it thinks is a tensor; both go to one table.

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return call_on_sites(func, args, kwargs or {}, _check_paddings)

    @property
    def _stored(self) -> Tensor:
        return self.features

    @staticmethod
    def _find_hint(function: Any) -> str | None:
        if find_handler(function) or find_token_handler(function):
            return None
        name = function.__name__
        return f"has no sparse handler. Register a handler with `@i2p_zoo.sparse_op(torch.Tensor.{name})`."


def require_channels_first(x: SparseTensor, name: str) -> None:
    """Raises UnsupportedError where a 2D network permuted the channels to the end before a function that wants them first."""
    if x.channels_last:
        raise UnsupportedError(f"`{name}` of {x!r}, which is seen as {x.shape}: it needs channels before height and width.")


def require_unpadded(x: SparseTensor, name: str) -> None:
    """Raises UnsupportedError where padding was put around the image and no convolution or pool has taken it up."""
    if x.padding is not _UNPADDED and x.padding != _UNPADDED:
        raise UnsupportedError(f"`{name}` of {x!r} behind {x.padding}: only convolutions and pools can follow a padding.")


def _check_paddings(function: Any, values: Any) -> None:
    for value in values:
        if isinstance(value, SparseTensor) and value.padding is not _UNPADDED:
            require_unpadded(value, name_of(function))
