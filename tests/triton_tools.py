"""Triton without a GPU: its kernels in the interpreter, which tests/conftest.py asks for, and compiled for other machines."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest
import torch

_COMPILE = """
import importlib, json, sys
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

targets = {"sm_80": GPUTarget("cuda", 80, 32), "sm_90": GPUTarget("cuda", 90, 32), "gfx942": GPUTarget("hip", "gfx942", 64)}
results = []
for module, name, types, constants, target in json.load(sys.stdin):
    kernel = getattr(importlib.import_module(module), name)
    kernel = getattr(kernel, "fn", kernel) if hasattr(kernel, "configs") else kernel
    options = {key: constants.pop(key) for key in ("num_warps", "num_stages") if key in constants}
    signature = {argument: types.get(argument, "constexpr") for argument in kernel.arg_names}
    constexprs = {(kernel.arg_names.index(key),): value for key, value in constants.items()}
    try:
        compiled = triton.compile(ASTSource(kernel, signature, constexprs), target=targets[target], options=options)
        code = compiled.asm["amdgcn" if target == "gfx942" else "ptx"]
        results.append("" if target in code else f"compiled for another target than {target}")
    except Exception as error:
        results.append(f"{type(error).__name__}: {error}")
json.dump(results, sys.stdout)
"""


def require_interpreter() -> None:
    """Skips a test where Triton is not interpreted: on a machine with a GPU, or where its interpreter cannot count."""
    pytest.importorskip("triton")
    if os.environ.get("TRITON_INTERPRET") != "1":
        pytest.skip("Triton's kernels are compiled here.")
    require_numpy_of_the_interpreter()


def require_numpy_of_the_interpreter() -> None:
    """Skips a test where Triton's interpreter cannot count: up to 3.6 it turns arrays of one element into integers.

    NumPy refuses that since 2.4. Older ones have no `run`, by which tests know what runs.
    """
    triton = pytest.importorskip("triton")
    import numpy as np
    from triton.runtime.interpreter import InterpretedFunction

    versions = tuple(int(part) for module in (triton, np) for part in module.__version__.split(".")[:2])
    if versions[:2] <= (3, 6) and versions[2:] >= (2, 4):
        pytest.skip(f"Triton {triton.__version__}'s interpreter does not run under NumPy {np.__version__}.")
    if not hasattr(InterpretedFunction, "run"):
        pytest.skip(f"Triton {triton.__version__}'s interpreter has no `run`.")


def multiply_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has the interpreter multiply matrices of bfloat16 by their values: it keeps them as integers, and multiplies those."""
    import triton.language as tl
    from triton.runtime.interpreter import InterpreterBuilder

    multiply = InterpreterBuilder.create_dot

    def create_dot(self, a, b, *others):
        wide = [self.cast_impl(x, tl.float32) if x.dtype.scalar == tl.bfloat16 else x for x in (a, b)]
        return multiply(self, *wide, *others)

    monkeypatch.setattr(InterpreterBuilder, "create_dot", create_dot)


def interpret_spconv_triton(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Lets spconv-triton's operations, which it returns, run on CPU tensors: it refuses them, or asks a GPU about itself."""
    require_interpreter()
    gemm = pytest.importorskip("spconv_triton.pytorch._impl.gemm")
    multiply_bfloat16(monkeypatch)
    monkeypatch.setattr(torch.Tensor, "is_cuda", property(lambda tensor: True))
    monkeypatch.setattr(gemm, "_multiprocessor_count", lambda device: 132)
    return gemm


def compile_kernels(cases: list[tuple[str, str, dict[str, str], dict[str, Any], str]]) -> list[str]:
    """Compiles kernels for GPUs in another process; returns the error of each, or "".

    Args:
        cases: of each the module, the kernel's name, the types of its arguments as in "*fp32", the values of those that are
            constants, `num_warps` and `num_stages` among them where they are to be others than Triton's, and the GPU: "sm_80",
            "sm_90" or "gfx942".
    """
    environment = {**os.environ, "TRITON_INTERPRET": "0"}
    command = [sys.executable, "-c", _COMPILE]
    run = subprocess.run(command, env=environment, input=json.dumps(cases), capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)
