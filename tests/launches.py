"""Counts what a GPU would be asked: launches of kernels, and how often the host waits for one, with tensors of the CPU."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from i2p_zoo.sparse import flops, kernel_maps
from i2p_zoo.sparse.device_path import force_device_path
from i2p_zoo.sparse.network_tensor import NetworkTensor
from tests.triton_tools import require_numpy_of_the_interpreter

# What only makes a view of memory or reserves it.
_FREE = {
    "_reshape_alias", "_unsafe_view", "alias", "as_strided", "chunk", "detach", "diagonal", "empty", "empty_like",
    "empty_strided", "expand", "lift_fresh", "new_empty", "new_empty_strided", "permute", "resize_", "select", "set_",
    "slice", "split", "split_with_sizes", "squeeze", "t", "transpose", "unbind", "unfold", "unsafe_split", "unsqueeze", "view",
}  # fmt: skip
# Their results' shapes, or their own checks, depend on values.
_WAITS = {
    "_local_scalar_dense", "nonzero", "masked_select", "unique_dim", "unique_consecutive", "_unique", "_unique2", "bincount",
    "equal", "is_nonzero", "histc", "nonzero_numpy", "allclose",
}  # fmt: skip
_TWICE = {"bincount"}  # which reads the least value and the largest
_READS = {"tolist", "numpy", "cpu", "cuda", "__array__"}
_MAKERS = {"tensor", "as_tensor", "from_numpy", "asarray", "new_tensor", "scalar_tensor", "frombuffer"}


class Counts:
    """What was counted, by name.

    Attributes:
        waits: reads of values and copies of pageable memory, for each of which the host waits.
        launches: operations that run a kernel, and kernels of Triton.
    """

    def __init__(self) -> None:
        self.waits: Counter[str] = Counter()
        self.launches: Counter[str] = Counter()

    @property
    def totals(self) -> tuple[int, int]:
        """The numbers of waits and of launches."""
        return self.waits.total(), self.launches.total()


class _Operations(TorchDispatchMode):
    def __init__(self, counts: Counts) -> None:
        super().__init__()
        self.counts = counts

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function.overloadpacket.__name__
        if name in _WAITS:
            self.counts.waits[name] += 1 + (name in _TWICE)
        by_mask = name in ("index", "index_put", "index_put_", "_index_put_impl_") and any(
            index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]
        )
        if by_mask or (name == "repeat_interleave" and (kwargs or {}).get("output_size") is None):
            self.counts.waits[f"{name} by mask" if by_mask else name] += 1
        if name not in _FREE:
            self.counts.launches[name] += 1
        return function(*args, **(kwargs or {}))


class _Calls(TorchFunctionMode):
    """Sees what ends before torch's dispatcher where a tensor is on the CPU already."""

    def __init__(self, counts: Counts) -> None:
        super().__init__()
        self.counts = counts

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        sparse = next((kind for kind in types if issubclass(kind, NetworkTensor)), None)
        if sparse is not None:  # its handlers call torch functions, to be seen too
            with self:
                return sparse.__torch_function__(function, types, args, kwargs)
        name = getattr(function, "__name__", "")
        if name in _READS or (name in _MAKERS and not (name == "as_tensor" and isinstance(args[0], Tensor))):
            self.counts.waits[name] += 1
        elif name in ("__getitem__", "__setitem__") and _has_list(args[1]):
            self.counts.waits["index by a list"] += 1
        return function(*args, **kwargs)


def _has_list(index: Any) -> bool:
    return isinstance(index, list) or (isinstance(index, tuple) and any(isinstance(part, list) for part in index))


@contextlib.contextmanager
def count_launches(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counts]:
    """Sends CPU tensors the device's way within a block and counts what they would cost there; their values mean nothing.

    A kernel of Triton is one launch and is not run. An operation of torch's is one. Convolutions of dense channels are those of
    spconv-triton, whose weight gradients are taken to be in parts that are added up, as on many voxels.
    """
    require_numpy_of_the_interpreter()
    jit = pytest.importorskip("triton.runtime.jit")
    interpreter = pytest.importorskip("triton.runtime.interpreter")
    gemm = pytest.importorskip("spconv_triton.pytorch._impl.gemm")
    counts = Counts()
    kernel_maps._powers_of_two.cache_clear()  # so that no run counts less than the first

    def count_kernel(kernel: Any, *args: Any, **kwargs: Any) -> None:
        counts.launches[f"kernel {kernel.fn.__name__}"] += 1

    with monkeypatch.context() as patch:
        patch.setattr(flops, "is_in_torch_dispatch_mode", lambda: False)  # engines run as without a counter
        patch.setattr(jit.JITFunction, "run", count_kernel)
        patch.setattr(interpreter.InterpretedFunction, "run", count_kernel)
        patch.setattr(Tensor, "is_cuda", property(lambda tensor: True))  # which the package asks for
        patch.setattr(gemm, "_dweight_splits", lambda *_: 2)
        with force_device_path(), _Operations(counts), _Calls(counts):
            yield counts
