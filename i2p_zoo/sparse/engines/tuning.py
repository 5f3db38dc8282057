"""Tries tile shapes of Triton's kernels on the layers that a network runs, and keeps the fastest."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from i2p_zoo._extras import require
from i2p_zoo.errors import InvalidInputError, UnsupportedError
from i2p_zoo.sparse.engines import tiles
from i2p_zoo.sparse.engines.packages import require_package
from i2p_zoo.sparse.engines.spconv_triton_engine import load_operations
from i2p_zoo.sparse.engines.tile_cache import Shapes, keep_shapes

_alone = threading.Lock()


def tune(model: nn.Module, clouds: Any, *, progress: bool = True) -> Shapes:
    """Times a few tile shapes for each layer shape that a network runs on given clouds, and keeps the fastest.

    A forward and a backward pass meet the layers' forwards, input gradients and weight gradients in the precision at hand: call
    it inside `torch.autocast` where the network trains so. Each layer shape takes up to six shapes of spconv-triton, 2 to 17 s
    each to compile, or four of the depthwise kernels. The shapes are kept in `tiles.json` in I2P_ZOO_CACHE, by default
    `i2p-zoo` beside the Hub's cache, for this GPU and these versions of torch, Triton and spconv-triton, and are taken from
    there by every later process. The network stays as it is, its gradients and running statistics too.

    Args:
        model: a network on a GPU.
        clouds: what it takes, such as a list of (N, 3) arrays, as many and as large as in a batch of training.
        progress: whether a bar shows how far it is.

    Returns:
        The tile shape of each layer shape, as the file has them.

    Raises:
        UnsupportedError: there is no GPU, or no layer has a tile shape to choose.
        InvalidInputError: the network is not on a GPU.
        MissingExtraError: spconv-triton is not installed.

    Example:
        >>> import i2p_zoo, torch
        >>> model, clouds = i2p_zoo.create_model("resnet18", stem="point"), [torch.rand(1000, 3)]
        >>> if torch.cuda.is_available():
        ...     with torch.autocast("cuda", torch.bfloat16):
        ...         shapes = i2p_zoo.tune(model.cuda(), clouds)
    """
    device = _find_device(model)
    require_package("spconv_triton")
    operations = load_operations()
    kernels = [operations._gather_gemm_kernel, operations._dweight_masked_kernel]
    with _alone:
        first = _Trial(None)
        with _trying(first, kernels):
            _run(model, clouds)
        if not first.total:
            raise UnsupportedError("No layer of the network ran on spconv-triton or on our depthwise kernels: nothing to tune.")
        with tqdm(total=first.total, desc="tuning", unit="shape", disable=not progress) as bar:
            second = _Trial(bar)
            with _trying(second, kernels):
                _run(model, clouds)
                shapes = second.collect(kernels)
        keep_shapes(device, shapes)
    return shapes


def measure(call: Callable[[], Any]) -> float:
    """Returns the median of a call's milliseconds on the GPU."""
    testing: Any = require("triton.testing", extra="triton")
    return float(testing.do_bench(call, warmup=10, rep=40, return_mode="median"))


class _Trial:
    """Has each layer shape run with all candidates, timed, or, without a bar, with the first alone and counted."""

    def __init__(self, bar: Any) -> None:
        self.bar, self.total = bar, 0
        self.layers: dict[Any, list[str]] = {}
        self.blocks: dict[str, tuple[int, int]] = {}

    def list_configs(self, layer: str, kernel: Any, candidates: list[Any]) -> list[Any]:
        """Returns the candidates, or the first."""
        self.layers.setdefault(kernel, []).append(layer)
        self.total += len(candidates)
        return candidates if self.bar is not None else candidates[:1]

    def choose_block(self, layer: str, launch: Callable[[tuple[int, int]], Any]) -> tuple[int, int]:
        """Returns the fastest block, or the first."""
        if layer not in self.blocks:
            self.total += len(tiles.BLOCKS)
            self.blocks[layer] = tiles.BLOCKS[0]
            if self.bar is not None:
                times = {block: self.time(functools.partial(launch, block))[0] for block in tiles.BLOCKS}
                self.blocks[layer] = min(times, key=times.__getitem__)
        return self.blocks[layer]

    def time(self, call: Callable[[], Any], quantiles: Any = None) -> list[float]:
        """Times a call as triton.autotune asks for it: the median and two quantiles."""
        if self.bar is None:
            return [0.0] * 3
        try:
            return [measure(call)] * 3
        finally:
            self.bar.update()

    def collect(self, kernels: list[Any]) -> Shapes:
        """Returns what was chosen: triton.autotune keeps it in the order in which it asked."""
        shapes = {layer: tiles.block_shape(block) for layer, block in self.blocks.items()}
        for kernel in kernels:
            layers = self.layers.get(kernel, [])
            shapes |= {layer: tiles.to_shape(config) for layer, config in zip(layers, kernel.cache.values(), strict=True)}
        return shapes


@contextlib.contextmanager
def _trying(trial: _Trial, kernels: list[Any]) -> Iterator[None]:
    """Lets a trial choose; nothing that was chosen before counts within, nor what the trial chose behind it."""
    before = [(kernel, kernel.do_bench, getattr(kernel, "cache_results", False)) for kernel in kernels]
    for kernel in kernels:
        kernel.cache.clear()
        kernel.do_bench, kernel.cache_results = trial.time, False  # Triton's own cache knows nothing of other clouds
    tiles.trial = trial
    try:
        yield
    finally:
        tiles.trial = None
        for kernel, do_bench, cache_results in before:
            kernel.do_bench, kernel.cache_results = do_bench, cache_results
            kernel.cache.clear()


def _run(model: nn.Module, clouds: Any) -> None:
    """Runs a forward and a backward pass that leave no trace in the network."""
    modes = [(module, module.training) for module in model.modules()]
    for module, _ in modes:
        module.training = False  # else BatchNorm would note the clouds' statistics
    try:
        with torch.enable_grad():
            out: Any = model(clouds)
            outputs: list[Any] = [getattr(part, "features", part) for part in (out if isinstance(out, list | tuple) else [out])]
            total = torch.stack([part.float().sum() for part in outputs]).sum()
            weights = [weight for weight in model.parameters() if weight.requires_grad]
            if weights:
                torch.autograd.grad(total, weights, allow_unused=True)
    finally:
        for module, training in modes:
            module.training = training


def _find_device(model: nn.Module) -> int:
    parameter: Tensor | None = next(model.parameters(), None)
    if parameter is not None and parameter.is_cuda:
        return parameter.get_device()
    if not torch.cuda.is_available():
        raise UnsupportedError("i2p_zoo.tune times kernels on a GPU, and torch finds none here: a CPU has nothing to tune.")
    place = "has no parameters" if parameter is None else f"is on {str(parameter.device)!r}"
    raise InvalidInputError(f"i2p_zoo.tune times kernels on a GPU; the network {place}: move it there, `model.cuda()`.")
