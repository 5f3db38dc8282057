"""Tile shapes of Triton's kernels: one by the layer's shape, or what `i2p_zoo.tune` found, in place of a search through all."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from torch import Tensor

from i2p_zoo.sparse.engines.tile_cache import Shape, load_shapes

BLOCKS = ((32, 64), (16, 64), (64, 32), (8, 128))  # rows and channels of a block of the depthwise kernels; the first by default
_ROWS = 64  # rows of like masks, whose absent taps are skipped together; more rows have fewer taps that all lack
_WIDTHS = {4: 64, 2: 128}  # channels at most, by bytes of an element: float32's products need more registers
_MEMORY = 2**16  # bytes of shared memory that every GPU has, so that none refuses a tile and large ones run several at once
_MOST_MEMORY = 2**17  # of a candidate in a trial, which passes over what the GPU refuses
_CANDIDATES = 6


class Trial(Protocol):
    """What chooses while shapes are tried."""

    def list_configs(self, layer: str, kernel: Any, candidates: list[Any]) -> list[Any]:
        """Returns those of an autotuned kernel's configurations that it is to time and choose from."""

    def choose_block(self, layer: str, launch: Callable[[tuple[int, int]], Any]) -> tuple[int, int]:
        """Returns the block of `BLOCKS` with which a depthwise kernel is to run."""


trial: Trial | None = None  # of all threads: torch runs a device's backward passes in threads of its own


def limit_tiles(kernel: Any, rows: str, columns: Sequence[str], shared: str, also_by: Sequence[str] = ()) -> None:
    """Has an autotuned kernel take the tile shape that fits a layer, with no search.

    spconv-triton's kernels try 37 and 21 shapes for each layer shape, and compile each for 2 to 17 s. This holds for all that
    runs them in this process.

    Args:
        kernel: triton.autotune's; its `configs` are what can be chosen.
        rows: name of the axis of voxels, as in BLOCK_M.
        columns: names of the axes of channels, as in BLOCK_N, whose extent is N_dim.
        shared: which of these axes the product sums over, so that both of its operands have it.
        also_by: names of arguments for whose values shapes are chosen apart, beside those that the kernel names.
    """
    kernel.keys = [*kernel.keys, *(name for name in also_by if name not in kernel.keys)]

    def choose(configs: Sequence[Any], arguments: dict[str, Any], **options: Any) -> list[Any]:
        features: Tensor = arguments["feats_ptr"]
        size = features.element_size()
        extents = {axis: min(max(arguments[f"{axis}_dim"], 16), _WIDTHS.get(size, 16)) for axis in columns}
        extents[rows] = _ROWS

        def misfit(config: Any) -> float:
            return sum(abs(math.log2(config.kwargs[f"BLOCK_{axis}"] / extent)) for axis, extent in extents.items())

        def memory(config: Any) -> int:
            first, *others = (config.kwargs[f"BLOCK_{axis}"] for axis in (shared, *extents.keys() - {shared}))
            return int(first * sum(others) * size * config.num_stages)

        def extent_of(config: Any) -> tuple[int, ...]:
            return tuple(config.kwargs[f"BLOCK_{axis}"] for axis in extents)

        ranked = sorted(configs, key=misfit)
        by_rule = next((config for config in ranked if memory(config) <= _MEMORY), configs[0])
        layer = _describe_layer(kernel, {**arguments, **options})
        if trial is not None:
            others: dict[tuple[int, ...], Any] = {extent_of(by_rule): by_rule}
            for config in ranked:
                if memory(config) <= _MOST_MEMORY:
                    others.setdefault(extent_of(config), config)
            return trial.list_configs(layer, kernel, list(others.values())[:_CANDIDATES])
        tuned = load_shapes(features.get_device()).get(layer)
        return [_pick(layer, {config: to_shape(config) for config in ranked}, tuned, by_rule)]

    kernel.early_config_prune = choose
    kernel.do_bench = _skip_timing


def choose_block(kernel: str, features: Tensor, taps: int, launch: Callable[[tuple[int, int]], Any]) -> tuple[int, int]:
    """Returns the block, rows and channels, with which a depthwise kernel is to run on (N, C) features.

    Args:
        kernel: its name.
        features: (N, C), of which the kernel reads.
        taps: of the map.
        launch: runs the kernel with a block.
    """
    shapes = load_shapes(features.get_device())
    if trial is None and not shapes:
        return BLOCKS[0]
    layer = f"{kernel} taps={taps} channels={features.shape[1]} {features.dtype}"
    if trial is not None:
        return trial.choose_block(layer, launch)
    block: tuple[int, int] = _pick(layer, {block: block_shape(block) for block in BLOCKS}, shapes.get(layer), BLOCKS[0])
    return block


def to_shape(config: Any) -> Shape:
    """Returns a configuration of triton.autotune's as JSON types."""
    return {**config.kwargs, "num_warps": config.num_warps, "num_stages": config.num_stages}


def block_shape(block: tuple[int, int]) -> Shape:
    """Returns a depthwise kernel's block likewise."""
    return {"ROWS": block[0], "CHANNELS": block[1]}


def _pick(layer: str, choices: dict[Any, Shape], tuned: Shape | None, by_rule: Any) -> Any:
    """The choice that was tuned, if there is one, or the rule's; what is none of the choices is passed over with a warning."""
    if tuned is None:
        return by_rule
    choice = next((choice for choice, shape in choices.items() if shape == tuned), None)
    if choice is None:
        warnings.warn(f"{tuned} is no tile shape for {layer!r}: it runs as if it had not been tuned.", stacklevel=1)
        return by_rule
    return choice


def _describe_layer(kernel: Any, arguments: dict[str, Any]) -> str:
    """A kernel's name and what triton.autotune tells its calls apart by."""
    values = [f"{name}={int(arguments[name])}" for name in kernel.keys if name in arguments]
    dtypes = [str(value.dtype) for name, value in arguments.items() if name in kernel.arg_names and hasattr(value, "dtype")]
    return " ".join([kernel.base_fn.__name__, *values, *dtypes])


def _skip_timing(call: Any, quantiles: Any) -> list[float]:
    """Stands for a timing where there is one configuration to choose from, which Triton up to 3.6 times all the same."""
    return [0.0, 0.0, 0.0]
