"""Keys: the numbers of voxels in a box around them, which sort as their coordinates do, and sorting them in linear time."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from i2p_zoo.errors import InvalidInputError
from i2p_zoo.sparse.device_path import takes_device_path
from i2p_zoo.sparse.kernels import keys as key_kernels
from i2p_zoo.sparse.kernels import ranking
from i2p_zoo.sparse.threads import chunk_bounds, run_chunks

_KEY_LIMIT = 2**62
_WORD = 64  # keys
_WORDS_A_KEY, _FEW_WORDS = 2, 2**14  # of a table that costs less than another step of sorting


class Box(NamedTuple):
    """A box of voxels, which numbers those in it, x fastest: their keys, in the order of their rows.

    Attributes:
        low: its least batch, z, y, x.
        extents: how many batches, and voxels along z, y, x, it holds.
    """

    low: list[int]
    extents: list[int]

    @classmethod
    def around(cls, low: list[int], high: list[int]) -> Box:
        """Returns the box from the least to the largest batch, z, y, x.

        Raises:
            InvalidInputError: it has more than 2**62 voxels.
        """
        box = cls(low, [most - least + 1 for least, most in zip(low, high, strict=True)])
        if box.volume > _KEY_LIMIT:
            raise InvalidInputError(
                f"The box around the coordinates, {box.extents} (batch, z, y, x) voxels, has more than 2**62 voxels. "
                "Use a larger voxel size or remove outlying points."
            )
        return box

    @property
    def volume(self) -> int:
        """The number of its voxels."""
        return math.prod(self.extents)

    @property
    def key_type(self) -> type[np.int32 | np.int64]:
        """The smallest type of the keys."""
        return np.int32 if self.volume < 2**31 else np.int64

    def pack(self, coords: Tensor, dtype: type[np.int32 | np.int64] = np.int64) -> NDArray[Any]:
        """Returns the (N,) keys of (N, 4) int32 coordinates on the CPU."""
        keys = np.empty(len(coords), dtype)
        box = (np.array(self.low), np.array(self.extents))
        run_chunks(key_kernels.pack_rows, chunk_bounds(len(keys)), coords.contiguous(), *box, keys)
        return keys

    def unpack(self, keys: NDArray[Any]) -> Tensor:
        """Returns the (N, 4) int32 coordinates of keys."""
        coords = torch.empty((len(keys), 4), dtype=torch.int32)
        box = (np.array(self.low), np.array(self.extents))
        run_chunks(key_kernels.unpack_keys, chunk_bounds(len(keys)), keys, *box, coords)
        return coords


def column_bounds(rows: Tensor) -> tuple[list[Any], list[Any]]:
    """Returns the least and the largest value of each column of (N, C) rows; NaN where a value is not finite."""
    if takes_device_path(rows) or rows.dtype not in (torch.int32, torch.float32, torch.float64):
        low, high = torch.stack(torch.aminmax(rows, dim=0)).tolist()
        return low, high
    bounds = chunk_bounds(len(rows))
    least, most = (rows.new_empty((len(bounds), rows.shape[1])) for _ in range(2))
    run_chunks(key_kernels.bound_columns, bounds, rows.contiguous(), least, most)
    return least.amin(0).tolist(), most.amax(0).tolist()


def pack_on_device(coords: Tensor) -> tuple[Tensor, Tensor]:
    """Packs each row of (N, 4) coordinates into one int64 whose order is the rows' lexicographic order, without a wait.

    Keys of a box of more than 2**62 voxels wrap around: whoever has not checked the coordinates looks at the box.

    Returns:
        The (N,) keys; and the box, (3, 4) int64 by batch, z, y, x: the least and the largest coordinate, and the weight of
        each in a key.
    """
    bounds = torch.stack(torch.aminmax(coords, dim=0)).long()
    extents = bounds[1] - bounds[0] + 1
    weights = torch.cat([extents[1:].flip(0).cumprod(0).flip(0), torch.ones_like(extents[:1])])
    return ((coords - bounds[0]) * weights).sum(1), torch.cat([bounds, weights[None]])


def rank_keys(keys: NDArray[Any], limit: int) -> NDArray[Any]:
    """Sorts distinct keys, in linear time: each is a mark, one bit of a table that has a word for 64 keys.

    A table that would be large for so few keys has only the words with a mark, which are sorted likewise.

    Args:
        keys: (N,) int32 or int64 from 0 on; each is replaced by its rank.
        limit: greater than all of them.

    Returns:
        (M,) the distinct keys in order.
    """
    words, numbers, places = -(-limit // _WORD), keys[:0], keys[:0]
    if words > max(_WORDS_A_KEY * len(keys), _FEW_WORDS):
        places = keys // _WORD
        numbers = rank_keys(places, words)
        words = len(numbers)
    table, ranks = np.zeros(words, np.uint64), np.empty(words, keys.dtype)
    parts = chunk_bounds(words, minimum=_FEW_WORDS // 16)
    counts = np.empty(len(parts), np.int64)
    run_chunks(ranking.mark_keys, parts, keys, places, table, counts)
    ends = counts.cumsum()
    distinct = np.empty(int(ends[-1]), keys.dtype)
    run_chunks(ranking.list_marks, parts, table, numbers, ends - counts, ranks, distinct)
    run_chunks(ranking.find_ranks, chunk_bounds(len(keys)), keys, places, table, ranks)
    return distinct
