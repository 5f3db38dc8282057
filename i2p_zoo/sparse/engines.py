"""The engine of dense-channel convolutions: our own everywhere, spconv-triton or spconv on CUDA, on our kernel maps."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor

from i2p_zoo._extras import require
from i2p_zoo.errors import InvalidInputError
from i2p_zoo.sparse.kernel_maps import KernelMap

ENGINES = ("auto", "torch", "spconv_triton", "spconv")
_chosen: ContextVar[str] = ContextVar("engine", default="auto")
_installed: dict[str, Any] = {}


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


def find_engine(device: torch.device) -> Any:
    """Returns the package of the engine that runs on a device, or None for our own."""
    name = _chosen.get()
    if device.type != "cuda" or name == "torch":
        return None
    names = ENGINES[2:] if name == "auto" else (name,)
    return next((package for package in map(_load, names) if package is not None), None)


def _load(name: str) -> Any:
    if name not in _installed:
        try:
            importlib.import_module(f"{name}.pytorch.functional")
            _installed[name] = importlib.import_module(name)
        except ImportError:
            _installed[name] = None
    return _installed[name]


def convolve_by_engine(package: Any, features: Tensor, weight: Tensor, kmap: KernelMap) -> Tensor:
    """Convolves with the package's autograd function: (N_in, C_in) by (C_out, kz, ky, kx, C_in) -> (N_out, C_out).

    TF32 follows `torch.backends.cuda.matmul.allow_tf32`.
    """
    package.constants.SPCONV_ALLOW_TF32 = torch.backends.cuda.matmul.allow_tf32
    pairs, counts = kmap.pair_table
    function = package.pytorch.functional.SparseConvFunction
    native = package.core.ConvAlgo.Native
    out: Tensor = function.apply(features.contiguous(), weight, pairs, counts, kmap.num_outputs, native)
    return out
