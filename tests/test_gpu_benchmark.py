"""The benchmark of GPUs: that all of it runs on a CPU, what its peers are, and how it judges goals."""

from __future__ import annotations

import importlib
import itertools
import subprocess
import sys

import pytest
import torch
from click.testing import CliRunner

from benchmarks.gpu import __main__ as command
from benchmarks.gpu import cases, clock, first_batch, goals, parity, peers
from i2p_zoo import SparseConv3d
from i2p_zoo.sparse.device_path import force_device_path
from i2p_zoo.sparse.engines.spconv_triton_engine import load_operations
from tests.triton_tools import interpret_spconv_triton

CPU = torch.device("cpu")


@pytest.fixture
def _without_processes(monkeypatch):
    monkeypatch.setattr(command, "run_parity_tests", lambda timeout, only: "3 passed, 0 failed, 1 skipped")
    monkeypatch.setattr(command, "run_first_batch", lambda *_: 2.5)


def run(*arguments):
    arguments = ["--device", "cpu", "--quick", "--clouds", "2", *arguments]
    result = CliRunner().invoke(command.main, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.usefixtures("_without_processes")
def test_command_runs_on_a_cpu_and_writes_what_it_prints(tmp_path):
    path = tmp_path / "new" / "gpu.md"
    output = run("resnet18", "--precision", "fp32", "--out", str(path))
    assert path.read_text() == output
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in output.splitlines() if line.startswith("|")]
    table = {(row[0], row[1]): row for row in rows}
    ours = table["resnet18", "fp32"]
    assert [cell.split()[-1] for cell in ours[2:4]] == ["ms", "ms"]
    assert table["spconv-triton, its own maps, resnet18", "fp32"][2] == "needs a GPU"
    assert {row[0].split(",")[0] for row in rows} >= {"parity tests", "copy", "product", "launch", "dense conv3d", "timm"}
    assert [row[-1] for row in rows[-4:]] == ["not measured"] * 4, "a CPU's figures mean nothing"


@pytest.mark.long
def test_command_runs_whole_on_a_cpu():
    output = run("--precision", "bf16", "--precision", "fp32")
    assert "Error" not in output
    assert "0 failed" in output
    for name in cases.NETWORKS:
        assert f"| {name} | bf16 |" in output


@pytest.mark.usefixtures("_without_processes")
def test_what_there_was_no_time_for_says_so():
    output = run("--precision", "fp32", "--seconds", "0")
    for part in ("parity tests", "peaks", "first batch", "convnext_tiny | fp32", "a peer of resnet18 | fp32"):
        assert f"| {part} | not begun: 0 s are over |" in output


@pytest.mark.usefixtures("_without_processes")
def test_one_part_s_fault_costs_no_other(monkeypatch):
    monkeypatch.setattr(command, "measure_peaks", lambda *_: 1 / 0)
    output = run("resnet18", "--precision", "fp32")
    assert "| peaks | ZeroDivisionError: division by zero |" in output
    assert "| resnet18 | fp32 |" in output


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_machine_without_a_gpu_is_told_how_to_try():
    result = CliRunner().invoke(command.main, [])
    assert result.exit_code == 1
    assert "torch finds no GPU; `--device cpu --quick --clouds 2`" in result.output


@pytest.mark.parametrize(
    ("forward", "peer", "step", "first", "expected"),
    [
        (3.9, 5.0, 14.0, 59.0, ["held"] * 4),
        (4.0, 4.0, 15.0, 60.0, ["held"] * 4),
        (4.1, 4.0, 15.1, 60.1, ["**missed**"] * 4),
        (3.0, None, None, None, ["held", *["not measured"] * 3]),
        (None, 2.0, None, 3.0, [*["not measured"] * 3, "held"]),
    ],
)
def test_goals_are_held_missed_or_not_measured(forward, peer, step, first, expected):
    times = {"resnet18": {"forward": forward}, "spconv-triton": {"forward": peer}, "tf_efficientnet_lite0": {"step": step}}
    figures = goals.Figures({(name, "bf16"): values for name, values in times.items()}, first)
    table = goals.judge_goals(figures, on_gpu=True, clouds=32)
    assert [line.split("|")[-2].strip() for line in table[2:]] == expected
    for options in ({"on_gpu": False, "clouds": 32}, {"on_gpu": True, "clouds": 8}):
        assert [line.split("|")[-2].strip() for line in goals.judge_goals(figures, **options)[2:]] == ["not measured"] * 4


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("..s\n2 passed, 1 skipped in 3.1s\n", "2 passed, 0 failed, 1 skipped"),
        (
            "F.\nFAILED tests/a.py::test_b[c] - x\n1 failed, 1 passed in 1s\n",
            "1 passed, 1 failed, 0 skipped: tests/a.py::test_b[c]",
        ),
        ("", "did not run: ['no module']"),
    ],
)
def test_parity_tests_are_counted_and_failures_named(monkeypatch, output, expected):
    done = subprocess.CompletedProcess([], 0, stdout=output, stderr="no module\n")
    monkeypatch.setattr(parity.subprocess, "run", lambda *args, **options: done)
    assert parity.run_parity_tests(1) == expected


def test_processes_that_take_too_long_are_ended(monkeypatch):
    def run_out(command, timeout, **options):
        raise subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr(subprocess, "run", run_out)
    assert parity.run_parity_tests(7) == "not finished within 7 s"
    assert first_batch.run_first_batch("resnet18", 1, "cpu", "bf16", 7) is None


def test_the_first_batch_finds_no_compiled_kernel(monkeypatch):
    def look(command, env, **options):
        assert command[0] == sys.executable
        folders = [env[name] for name in ("TRITON_CACHE_DIR", "NUMBA_CACHE_DIR", "I2P_ZOO_CACHE")]
        assert len(set(folders)) == 3
        return subprocess.CompletedProcess(command, 0, stdout="warned\n12.5\n", stderr="")

    monkeypatch.setattr(first_batch.subprocess, "run", look)
    assert first_batch.run_first_batch("resnet18", 1, "cuda", "bf16", 7) == 12.5


def test_precisions_set_torch_s_switches_and_leave_them_off():
    matmul = torch.backends.cuda.matmul
    for name, (tf32, dtype) in clock.PRECISIONS.items():
        with clock.set_precision(name, CPU):
            assert matmul.allow_tf32 is tf32
            assert torch.is_autocast_enabled("cpu") is (dtype is not None)
        assert not matmul.allow_tf32


def batch_of(voxels):
    """A batch of two clouds of a few voxels."""
    batch = cases.Batch(2, CPU)
    keep = torch.cat([(batch.coords[:, 0] == sample).nonzero()[:voxels, 0] for sample in range(2)])
    batch.features, batch.coords = batch.features[keep], batch.coords[keep]
    return batch


def test_spconv_triton_s_network_has_resnet18_s_shape_and_runs_on_its_own_maps(monkeypatch):
    interpret_spconv_triton(monkeypatch)
    ours = cases.Case("resnet18", cases.Batch(1, CPU)).model
    network = peers.make_spconv_network(10)
    taken = [tuple(m.convolution.weight.shape[::4]) for m in network.modules() if isinstance(m, peers._SparseUnit)]
    expected = [tuple(m.weight.shape[::4]) for m in ours.modules() if isinstance(m, SparseConv3d)]
    assert sorted(taken) == sorted(expected)
    pairs = importlib.import_module("spconv_triton.pytorch._impl.pair_kernels")
    for kernel in (value for value in vars(pairs).values() if hasattr(value, "configs")):
        monkeypatch.setattr(kernel, "configs", kernel.configs[:1])  # it would time them on a GPU
    load_operations()
    monkeypatch.setattr(peers, "_CHANNELS", (64, 80))
    batch, network = batch_of(6), peers.make_spconv_network(10).eval()
    x = peers.make_spconv_input(batch, torch.float32)
    halved = {tuple(site) for site in torch.cat([x.indices[:, :1], x.indices[:, 1:] // 2], 1).tolist()}
    with force_device_path(), torch.no_grad():
        logits = network(x)
        assert {tuple(site) for site in network.layers(x).indices.tolist()} == halved
    assert logits.shape == (2, 10)
    assert logits.isfinite().all()


@pytest.mark.parametrize("name", ["resnet18", "tf_efficientnet_lite0"])
def test_image_peer_shrinks_a_quarter_as_often_as_timm_s(name):
    import timm

    images = torch.randn(1, 3, 64, 64)
    sides = [
        network.forward_features(images).shape[-1] for network in (timm.create_model(name), peers.make_image_network(name))
    ]
    assert sides == [2, 8]


def test_dense_peer_has_resnet18_s_weights(monkeypatch):
    ours = cases.Case("resnet18", cases.Batch(1, CPU)).model
    counts = [sum(weight.numel() for weight in model.parameters()) for model in (ours, peers.make_dense_network(10))]
    assert counts[0] == counts[1]
    assert peers.make_dense_network(10)(torch.randn(2, 3, 8, 8, 8)).shape == (2, 10)
    assert [len(peers.list_peers(name)) for name in itertools.islice(cases.NETWORKS, 2)] == [3, 1]
