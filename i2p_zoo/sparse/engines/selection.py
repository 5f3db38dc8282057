"""The engine of a convolution or a maximum, by device, dtype and groups: our own everywhere, or spconv's on CUDA."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor

from i2p_zoo._extras import require
from i2p_zoo.errors import InvalidInputError
from i2p_zoo.sparse.device_path import runs_triton
from i2p_zoo.sparse.engines import numba_engine, torch_engine
from i2p_zoo.sparse.engines.device_maximum import TorchMaximum, TritonMaximum
from i2p_zoo.sparse.engines.engine import DepthwiseEngine, Engine
from i2p_zoo.sparse.engines.spconv_engine import SpconvConvolution
from i2p_zoo.sparse.engines.triton_engine import TritonDepthwise
from i2p_zoo.sparse.kernel_maps import KernelMap

ENGINES = ("auto", "torch", "spconv_triton", "spconv")
_chosen: ContextVar[str] = ContextVar("engine", default="auto")


@contextmanager
def use_engine(name: str) -> Iterator[None]:
    """Chooses the engine of convolutions on CUDA within a `with` block.

    Args:
        name: "torch" gathers, multiplies and adds with torch alone; "spconv_triton" and "spconv" call those packages;
            "auto", the default outside any block, takes the first of the two that is installed, else "torch". On other
            devices our own kernels run in any case: spconv's CPU convolution has a data race.

    Raises:
        InvalidInputError: an unknown name.
        MissingExtraError: the package is not installed.
    """
    if name not in ENGINES:
        raise InvalidInputError(f"The engine must be one of {', '.join(ENGINES)}; got {name!r}.")
    if name not in ("auto", "torch"):
        require(f"{name}.pytorch.functional", extra="triton" if name == "spconv_triton" else "spconv")
    token = _chosen.set(name)
    try:
        yield
    finally:
        _chosen.reset(token)


def choose_convolution(features: Tensor, kmap: KernelMap, groups: int) -> Engine:
    """Returns the engine that convolves (N, C) features of dense or grouped channels."""
    package = find_package(features.device) if groups == 1 else None
    if package is not None:
        return SpconvConvolution(package, kmap)
    engine = numba_engine.NumbaConvolution if numba_engine.has_kernel(features) else torch_engine.TorchConvolution
    return engine(kmap, groups)


def choose_depthwise(features: Tensor, kmap: KernelMap) -> DepthwiseEngine:
    """Returns the engine that convolves (N, C) features with one filter a channel."""
    if numba_engine.has_kernel(features):
        return numba_engine.NumbaDepthwise(kmap)
    return TritonDepthwise(kmap) if runs_triton(features) else torch_engine.TorchDepthwise(kmap)


def choose_maximum(features: Tensor) -> type[numba_engine.NumbaMaximum | TritonMaximum | TorchMaximum]:
    """Returns the engine that takes maxima of (N, C) features."""
    if numba_engine.has_kernel(features):
        return numba_engine.NumbaMaximum
    return TritonMaximum if runs_triton(features) else TorchMaximum


def find_package(device: torch.device) -> Any:
    """Returns the package that convolves dense channels on a device, or None for our own kernels."""
    name = _chosen.get()
    if device.type != "cuda" or name == "torch":
        return None
    names = ENGINES[2:] if name == "auto" else (name,)
    return next((package for package in map(_load, names) if package is not None), None)


@functools.cache
def _load(name: str) -> Any:
    try:
        importlib.import_module(f"{name}.pytorch.functional")
        return importlib.import_module(name)
    except ImportError:
        return None
