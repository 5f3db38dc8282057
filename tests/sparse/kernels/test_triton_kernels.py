"""Every Triton kernel of the package: its values in Triton's interpreter, and that it compiles for GPUs that are not here."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys

import pytest

from tests.sparse.kernels.triton_kernels import find_checks, find_kernels
from tests.triton_tools import compile_kernels, require_numpy_of_the_interpreter

pytest.importorskip("triton")

FLOATS = ("fp32", "bf16", "fp16", "fp64")
ROWS = {"ROWS": 32, "CHANNELS": 64}


def typed(names, types):
    """The names of arguments, separated by blanks, each of the type that stands at its place."""
    return dict(zip(names.split(), types, strict=True))


def wide(dtype):
    return "fp64" if dtype == "fp64" else "fp32"


# Of each kernel the types of its arguments and its constants, one entry a variant that is worth a compilation.
COMPILED = {
    "maps_triton._find_rows": [
        (
            typed("keys order box out table", ["*i64", "*i64", "*i64", "*i32", "*i32"])
            | typed("rows sites steps y_taps x_taps z_stride y_stride x_stride", ["i32"] * 8)
            | typed("z_before y_before x_before z_dilation y_dilation x_dilation", ["i32"] * 6),
            {"HAS_ORDER": has_order, "ROWS": 128},
        )
        for has_order in (False, True)
    ],
    "maps_triton._transpose": [(typed("table transposed inputs outputs", ["*i32", "*i32", "i32", "i32"]), {"ROWS": 128})],
    "pairs_triton._count_pairs": [(typed("table counts rows blocks", ["*i32", "*i32", "i32", "i32"]), {"ROWS": 512})],
    "pairs_triton._list_pairs": [
        (typed("table ends inputs outputs starts rows blocks", [*["*i32"] * 5, "i32", "i32"]), {"ROWS": 512})
    ],
    "maxima_triton._maximum": [
        (typed("features table out source_of rows channels taps", [f"*{d}", "*i32", f"*{d}", "*i32", *["i32"] * 3]), ROWS)
        for d in FLOATS
    ],
    "maxima_triton._pass_back": [
        (typed("gradient transposed source_of out rows channels taps", [f"*{d}", "*i32", "*i32", f"*{d}", *["i32"] * 3]), ROWS)
        for d in FLOATS
    ],
    "sample_sums_triton._sum_rows": [
        (
            typed("values order starts partial channels", [f"*{d}", "*i64", "*i64", f"*{wide(d)}", "i32"]),
            {"HAS_ORDER": True, "ROWS": 16, "CHANNELS": 64},
        )
        for d in FLOATS
    ],
    "depthwise_triton._forward": [
        (typed("features table weight out rows channels taps", [f"*{d}", "*i32", f"*{d}", f"*{d}", *["i32"] * 3]), ROWS)
        for d in FLOATS
    ],
    "depthwise_triton._correlate": [
        (
            typed(
                "features table gradient partial rows channels taps",
                [f"*{d}", "*i32", f"*{d}", f"*{wide(d)}", *["i32"] * 3],
            ),
            ROWS,
        )
        for d in FLOATS
    ],
}


@pytest.fixture(scope="module")
def interpreted():
    """What the checks in Triton's interpreter found, which is chosen before Triton is imported."""
    require_numpy_of_the_interpreter()
    command = [sys.executable, "-m", "tests.sparse.kernels.triton_kernels"]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", find_checks())
def test_kernel_is_right_in_the_interpreter(name, interpreted):
    assert name not in interpreted["failures"], interpreted["failures"][name]


@pytest.mark.parametrize(
    ("triton", "numpy", "skips"), [("3.6.1", "2.5.0", True), ("3.6.0", "2.3.9", False), ("3.7.0", "2.5.0", False)]
)
def test_an_interpreter_that_numpy_stops_is_named_and_its_checks_are_skipped(triton, numpy, skips, monkeypatch):
    monkeypatch.setattr("triton.__version__", triton)
    monkeypatch.setattr("numpy.__version__", numpy)
    if not skips:
        require_numpy_of_the_interpreter()
        return
    with pytest.raises(pytest.skip.Exception, match=f"Triton {triton}'s interpreter does not run under NumPy {numpy}"):
        require_numpy_of_the_interpreter()


def test_every_kernel_is_interpreted_and_compiled(interpreted):
    kernels = find_kernels()
    assert len(kernels) >= 5
    assert set(interpreted["kernels"]) == kernels
    assert set(COMPILED) == kernels


def test_kernels_compile_for_gpus():
    cases = [
        (f"i2p_zoo.sparse.kernels.{module}", function, types, constants, target)
        for (module, function), variants in ((name.split("."), variants) for name, variants in COMPILED.items())
        for (types, constants), target in itertools.product(variants, ("sm_80", "sm_90", "gfx942"))
    ]
    faults = compile_kernels(cases)
    faults = [
        None if fault and "ROCm linker" in fault else fault for fault in faults
    ]  # older Triton compiles, and needs ROCm's
    assert not {str(case): fault for case, fault in zip(cases, faults, strict=True) if fault}
