"""Tile shapes of spconv-triton's matrix products: one by the layer's shape, in place of a search through all of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

_ROWS = 64  # rows of like masks, whose absent taps are skipped together; more rows have fewer taps that all lack
_WIDTHS = {4: 64, 2: 128}  # channels at most, by bytes of an element: float32's products need more registers
_MEMORY = 2**16  # bytes of shared memory that every GPU has, so that none refuses a tile and large ones run several at once


def limit_tiles(kernel: Any, rows: str, columns: Sequence[str], shared: str) -> None:
    """Has an autotuned kernel take the tile shape that fits a layer, with no search.

    spconv-triton's kernels try 37 and 21 shapes for each layer shape, and compile each for 2 to 17 s. This holds for all that
    runs them in this process.

    Args:
        kernel: triton.autotune's; its `configs` are what can be chosen.
        rows: name of the axis of voxels, as in BLOCK_M.
        columns: names of the axes of channels, as in BLOCK_N, whose extent is N_dim.
        shared: which of these axes the product sums over, so that both of its operands have it.
    """

    def choose(configs: Sequence[Any], arguments: dict[str, Any], **options: Any) -> list[Any]:
        size = arguments["feats_ptr"].element_size()
        extents = {axis: min(max(arguments[f"{axis}_dim"], 16), _WIDTHS.get(size, 16)) for axis in columns}
        extents[rows] = _ROWS

        def misfit(config: Any) -> float:
            return sum(abs(math.log2(config.kwargs[f"BLOCK_{axis}"] / extent)) for axis, extent in extents.items())

        def memory(config: Any) -> int:
            first, *others = (config.kwargs[f"BLOCK_{axis}"] for axis in (shared, *extents.keys() - {shared}))
            return int(first * sum(others) * size * config.num_stages)

        return [min((config for config in configs if memory(config) <= _MEMORY), key=misfit, default=configs[0])]

    kernel.early_config_prune = choose
