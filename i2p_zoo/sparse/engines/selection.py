"""The engine of a convolution or a maximum, by device, dtype and groups: our own everywhere, or spconv's on CUDA."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

from i2p_zoo._extras import require
from i2p_zoo.errors import InvalidInputError, UnsupportedError
from i2p_zoo.sparse.device_path import runs_triton, takes_device_path
from i2p_zoo.sparse.engines import numba_engine, torch_engine
from i2p_zoo.sparse.engines.device_maximum import TorchMaximum, TritonMaximum
from i2p_zoo.sparse.engines.engine import DepthwiseEngine, Engine
from i2p_zoo.sparse.engines.packages import EXTRAS, find_package, pass_over, require_package
from i2p_zoo.sparse.engines.spconv_engine import SpconvConvolution
from i2p_zoo.sparse.engines.spconv_triton_engine import SpconvTritonConvolution
from i2p_zoo.sparse.engines.triton_engine import TritonDepthwise
from i2p_zoo.sparse.kernel_maps import KernelMap

ENGINES = ("auto", "torch", "spconv_triton", "spconv")
_PACKAGED: dict[str, type[SpconvTritonConvolution | SpconvConvolution]] = {
    "spconv_triton": SpconvTritonConvolution,
    "spconv": SpconvConvolution,
}
_LARGEST_TABLE = 2**31 - 1  # elements of a kernel map's table; the packages' offsets in it are 32 bits long
_chosen: ContextVar[str] = ContextVar("engine", default="auto")
_proven: set[str] = set()  # packages that have convolved in this process


@contextmanager
def use_engine(name: str) -> Iterator[None]:
    """Chooses the engine of convolutions on CUDA within a `with` block.

    Args:
        name: "torch" gathers, multiplies and adds with torch alone; "spconv_triton" and "spconv" call those packages;
            "auto", the default outside any block, takes the first of the two that is installed and works on CUDA, else
            "torch". What a package cannot do (groups, other dtypes than float32, float16 and, but for spconv, bfloat16) our
            own kernels do, and everything on other devices: spconv's CPU convolution has a data race. Where a package is
            named that is installed and does not work on CUDA, convolutions there raise an UnsupportedError that says why.

    Raises:
        InvalidInputError: an unknown name.
        MissingExtraError: the package is not installed.
    """
    if name not in ENGINES:
        raise InvalidInputError(f"The engine must be one of {', '.join(ENGINES)}; got {name!r}.")
    if name in EXTRAS and importlib.util.find_spec(name) is None:
        require(name, EXTRAS[name])
    token = _chosen.set(name)
    try:
        yield
    finally:
        _chosen.reset(token)


def choose_convolution(features: Tensor, kmap: KernelMap, groups: int) -> Engine:
    """Returns the engine that convolves (N, C) features of dense or grouped channels."""
    packaged = find_packaged(features, kmap) if groups == 1 else None
    if packaged is not None:
        return packaged(kmap)
    engine = numba_engine.NumbaConvolution if numba_engine.has_kernel(features) else torch_engine.TorchConvolution
    return engine(kmap, groups)


def run_first(engine: Engine, features: Tensor, weight: Tensor) -> tuple[Tensor, Engine]:
    """Returns an engine's (N_out, C_out) output and the engine for its gradients: our own where a package's fails at first use.

    A package may be imported and yet lack kernels for this GPU, or its compiler; "auto" then passes it over with one warning.

    Args:
        engine: of a convolution of dense or grouped channels, or of one filter a channel.
        features, weight: as its `forward` takes them.

    Raises:
        UnsupportedError: the package was asked for by name.
        torch.OutOfMemoryError: memory does not suffice, which is no fault of the package.
    """
    name = engine.package_name
    if name is None or name in _proven:
        return engine.forward(features, weight), engine
    try:
        out = engine.forward(features, weight)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        fault = UnsupportedError(f"{name} is installed and cannot be used: {type(error).__name__}: {error}")
        if _chosen.get() == name:
            raise fault from error
        pass_over(name, fault)
        return run_first(choose_convolution(features, engine.kmap, 1), features, weight)
    _proven.add(name)
    return out, engine


def choose_depthwise(features: Tensor, kmap: KernelMap) -> DepthwiseEngine:
    """Returns the engine that convolves (N, C) features with one filter a channel."""
    if numba_engine.has_kernel(features):
        return numba_engine.NumbaDepthwise(kmap)
    by_triton = runs_triton(features) and _chosen.get() != "torch"
    return TritonDepthwise(kmap) if by_triton else torch_engine.TorchDepthwise(kmap)


def choose_maximum(features: Tensor) -> type[numba_engine.NumbaMaximum | TritonMaximum | TorchMaximum]:
    """Returns the engine that takes maxima of (N, C) features."""
    if numba_engine.has_kernel(features):
        return numba_engine.NumbaMaximum
    return TritonMaximum if runs_triton(features) else TorchMaximum


def find_packaged(features: Tensor, kmap: KernelMap) -> Callable[[KernelMap], Engine] | None:
    """Returns the engine of a package that convolves such features of dense channels, or None for our own kernels."""
    if not takes_device_path(features):
        return None
    name = _chosen.get()
    for candidate, engine in _PACKAGED.items():
        runs = runs_triton(features) if candidate == "spconv_triton" else features.is_cuda
        can = features.dtype in engine.dtypes and kmap.table.numel() <= _LARGEST_TABLE
        if runs and can and name in ("auto", candidate):
            package = find_package(candidate) if name == "auto" else require_package(candidate)
            if package is not None:
                return functools.partial(engine, package)
    return None
