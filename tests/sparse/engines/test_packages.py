"""Packages that are installed and cannot be used: passed over with one warning, or an error where they were asked for."""

from __future__ import annotations

import sys

import pytest
import torch

from i2p_zoo import MissingExtraError, UnsupportedError
from i2p_zoo.sparse.device_path import force_device_path
from i2p_zoo.sparse.engines import packages, selection, spconv_triton_engine
from i2p_zoo.sparse.engines.packages import find_package, require_package
from i2p_zoo.sparse.engines.selection import choose_convolution, use_engine
from i2p_zoo.sparse.engines.torch_engine import TorchConvolution
from i2p_zoo.sparse.kernel_maps import window_sites
from i2p_zoo.sparse.sparse_convolution import sparse_convolution
from tests.helpers import make_window, random_cloud
from tests.triton_tools import interpret_spconv_triton

WRONG_CUDA = "raise OSError('libcudart.so.11.0: cannot open shared object file')"
CPU_ONLY = "CPU_ONLY_BUILD = True"


def forget_packages(monkeypatch):
    """Begins as a process does, which has looked for none."""
    monkeypatch.setattr(packages, "_passed_over", set())
    packages._load_package.cache_clear()


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Puts a package in the place of an installed one: its files by their paths."""
    forget_packages(monkeypatch)

    def write(name, **files):
        for module in [module for module in sys.modules if module.split(".")[0] == name]:
            monkeypatch.delitem(sys.modules, module)
        for path in ("__init__", "pytorch/__init__", "pytorch/functional", *files):
            file = tmp_path / name / f"{path}.py"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(files.get(path, ""))
        monkeypatch.syspath_prepend(tmp_path)

    yield write
    packages._load_package.cache_clear()
    for module in [module for module in sys.modules if module.split(".")[0] in packages.EXTRAS]:
        if str(tmp_path) in str(getattr(sys.modules[module], "__file__", "")):
            del sys.modules[module]


FAULTS = {
    "wrong CUDA": ("spconv_triton", {"__init__": WRONG_CUDA}, "OSError: libcudart.so.11.0"),
    "CPU-only": ("spconv", {"cppconstants": CPU_ONLY}, "build for CPUs only. Install spconv-cu12x"),
    "lacks a package": ("spconv", {"__init__": "import cumm_of_nobody"}, "No module named 'cumm_of_nobody'"),
    "torch too old": ("spconv_triton", {"__init__": "import torch; torch.no_such_function"}, "AttributeError: module 'torch'"),
    "fails when imported": (
        "spconv_triton",
        {"__init__": "raise RuntimeError('no CUDA driver')"},
        "RuntimeError: no CUDA driver",
    ),
    "other version": (
        "spconv_triton",
        {"pytorch/_impl/__init__": "", "pytorch/_impl/gemm": "conv_forward = conv_backward_input = 1"},
        "it has no conv_backward_weight; version 1.0 has.",
    ),
}


@pytest.mark.parametrize(("name", "files", "reason"), FAULTS.values(), ids=FAULTS)
def test_a_package_that_cannot_be_used_is_passed_over_with_one_warning_that_says_why(install, name, files, reason):
    install(name, **files)
    with pytest.warns(UserWarning, match="Convolutions on CUDA run without it") as caught:
        assert find_package(name) is None
    (warning,) = caught
    assert str(warning.message).startswith(f"{name} is installed and cannot be ")
    assert reason in str(warning.message)
    assert find_package(name) is None  # without another


@pytest.mark.parametrize(("name", "files", "reason"), FAULTS.values(), ids=FAULTS)
def test_a_package_that_was_asked_for_and_cannot_be_used_is_an_error(install, monkeypatch, name, files, reason):
    install(name, **files)
    monkeypatch.setattr(torch.Tensor, "is_cuda", True)
    x = random_cloud(4, dtype=torch.float32)
    _, _, kmap = window_sites(x.cache, x.coords, None, make_window((3, 3, 3)))
    with use_engine(name), force_device_path(), pytest.raises(UnsupportedError) as caught:
        choose_convolution(x.features, kmap, 1)
    assert reason in str(caught.value)


def test_the_next_engine_runs_where_one_is_passed_over(install, monkeypatch):
    for name in packages.EXTRAS:
        install(name, __init__=WRONG_CUDA)
    monkeypatch.setattr(torch.Tensor, "is_cuda", True)
    x = random_cloud(4, dtype=torch.float32)
    _, _, kmap = window_sites(x.cache, x.coords, None, make_window((3, 3, 3)))
    with force_device_path(), pytest.warns(UserWarning, match="spconv_triton is .* libcudart|spconv is .* libcudart") as caught:
        engines = [choose_convolution(x.features, kmap, 1) for _ in range(2)]
    assert [type(engine) for engine in engines] == [TorchConvolution] * 2
    assert len(caught) == 2


@pytest.fixture
def broken_at_first(monkeypatch):
    """Lets spconv-triton be imported, and fail when it is to convolve."""
    interpret_spconv_triton(monkeypatch)
    monkeypatch.setattr(selection, "_proven", set())
    forget_packages(monkeypatch)

    def fail(*_, **__):
        raise RuntimeError("CUDA error: no kernel image is available for execution on the device")

    monkeypatch.setattr(spconv_triton_engine.SpconvTritonConvolution, "forward", fail)
    monkeypatch.setitem(selection._PACKAGED, "spconv_triton", spconv_triton_engine.SpconvTritonConvolution)
    monkeypatch.delitem(selection._PACKAGED, "spconv")
    x = random_cloud(4, dtype=torch.float32)
    weight = torch.randn(5, 3, 3, 3, 4)
    return lambda: sparse_convolution(x.derive(x.features.requires_grad_()), weight, None, make_window((3, 3, 3)))


def test_a_package_that_fails_at_its_first_use_is_passed_over_with_one_warning_that_says_why(broken_at_first):
    expected = broken_at_first().features
    with (
        force_device_path(),
        pytest.warns(UserWarning, match="spconv_triton is installed and cannot be used") as caught,
    ):
        found = [broken_at_first().features for _ in range(2)]
    found[0].sum().backward()
    (warning,) = caught
    assert "RuntimeError: CUDA error: no kernel image" in str(warning.message)
    assert all(torch.allclose(each, expected, rtol=1e-4, atol=1e-5) for each in found)


def test_a_package_that_was_asked_for_and_fails_at_its_first_use_is_an_error(broken_at_first):
    with use_engine("spconv_triton"), force_device_path(), pytest.raises(UnsupportedError, match="no kernel image"):
        broken_at_first()


def test_running_out_of_memory_is_no_fault_of_a_package(broken_at_first, monkeypatch):
    def exhaust(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(spconv_triton_engine.SpconvTritonConvolution, "forward", exhaust)
    with force_device_path(), pytest.raises(torch.OutOfMemoryError):
        broken_at_first()


def test_a_package_that_is_not_installed_is_no_fault(monkeypatch):
    monkeypatch.setitem(sys.modules, "spconv_triton", None)
    forget_packages(monkeypatch)
    assert find_package("spconv_triton") is None
    with pytest.raises(MissingExtraError, match=r"i2p-zoo\[triton\]"):
        require_package("spconv_triton")
    packages._load_package.cache_clear()


def test_spconv_s_wheel_for_cpus_is_not_taken_for_a_gpu_s():
    pytest.importorskip("spconv.cppconstants")
    if not sys.modules["spconv.cppconstants"].CPU_ONLY_BUILD:
        pytest.skip("spconv is installed with CUDA")
    with pytest.raises(UnsupportedError, match="CPUs only"):
        require_package("spconv")
    assert selection.find_package is find_package
