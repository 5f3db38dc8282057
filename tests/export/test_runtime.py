"""Exported networks without torch: what is refused before they run, and where they run."""

from __future__ import annotations

import subprocess
import sys
import venv

import numpy as np
import onnx
import pytest

from i2p_zoo import CheckpointError, InvalidInputError, MissingExtraError, NotFoundError
from i2p_zoo.export.runtime import OnnxNetwork
from tests.export.conftest import compute, sphere


def test_clouds_of_any_real_type_give_the_networks_logits(network, path):
    exported = OnnxNetwork(path, threads=1)
    clouds = [sphere(300), sphere(200, seed=1).astype(np.float64), np.array([[0, 0, 0], [1, 0, 1]])]
    logits = exported(clouds)["logits"]
    np.testing.assert_allclose(logits, compute(network, [cloud.astype(np.float32) for cloud in clouds]), rtol=0, atol=1e-5)


BAD = {
    "none": ([], "no cloud"),
    "empty": ([np.zeros((0, 3))], "Cloud 0 is empty"),
    "flat": ([np.zeros((4, 2))], r"\(N, 3 \+ K\).*\(4, 2\)"),
    "words": ([np.array([["a", "b", "c"]])], "must be numbers"),
    "nan": ([sphere(3), np.array([[0, np.nan, 0], [1, 0, 0]])], "Cloud 1 has 1 NaN or infinite"),
    "infinite": ([np.array([[0, np.inf, 0]])], "NaN or infinite"),
    "beyond 2**30 voxels": ([np.array([[0, 0, 0], [2e8, 0, 0]])], r"\+-2\*\*30 voxels of 0.1"),
    "where float32 merges voxels": ([np.array([[0, 0, 0], [4e6, 0, 0]])], "merges points of different voxels"),
    "of a map": ([sphere(100) + np.array([5e5, 5e5, 0])], "are no features"),
    "a box beyond the keys": ([np.array([[-1, -1, -1], [1, 1, 1]]) * 5e5], "more than 2\\*\\*61"),
}


@pytest.mark.parametrize("name", BAD)
def test_clouds_that_cannot_be_run_are_refused_before_the_session(name, path):
    clouds, message = BAD[name]
    with pytest.raises(InvalidInputError, match=message):
        OnnxNetwork(path)(clouds)


def test_files_of_others_and_of_other_formats_are_refused(path, tmp_path, monkeypatch):
    with pytest.raises(NotFoundError, match="no such file"):
        OnnxNetwork(tmp_path / "none.onnx")
    cut = tmp_path / "cut.onnx"
    cut.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="no file that onnxruntime"):
        OnnxNetwork(cut)
    changed = tmp_path / "changed.onnx"
    model = onnx.load(path)
    for entry in model.metadata_props:
        if entry.key == "i2p_zoo.format_version":
            entry.value = "99"
    onnx.save(model, changed)
    with pytest.raises(CheckpointError, match=r"format 99.*reads format 1.*Export the network again"):
        OnnxNetwork(changed)
    del model.metadata_props[:]
    onnx.save(model, changed)
    with pytest.raises(CheckpointError, match="not written by `i2p-zoo export`"):
        OnnxNetwork(changed)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingExtraError, match=r"i2p-zoo\[onnx\]"):
        OnnxNetwork(path)


def test_no_torch_is_loaded_to_run_an_exported_network(path):
    code = (
        "import sys; import numpy as np; from i2p_zoo.export.runtime import OnnxNetwork\n"
        f"logits = OnnxNetwork({str(path)!r})([np.random.rand(99, 3)])['logits']\n"
        "assert logits.shape == (1, 5); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


@pytest.mark.long
def test_a_fresh_environment_of_numpy_and_onnxruntime_runs_the_file(path, network, tmp_path):
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", "numpy", "onnxruntime"], check=True, timeout=600)
    cloud = sphere(500)
    np.save(tmp_path / "cloud.npy", cloud)
    code = (
        "import numpy as np, onnxruntime\n"
        f"session = onnxruntime.InferenceSession({str(path)!r})\n"
        "np.save('logits.npy', session.run(None, {'points': np.load('cloud.npy')})[0])\n"
        "try: import torch\nexcept ImportError: print('no torch')"
    )
    done = subprocess.run([python, "-c", code], check=True, timeout=120, cwd=tmp_path, capture_output=True, text=True)
    assert "no torch" in done.stdout
    np.testing.assert_allclose(np.load(tmp_path / "logits.npy"), compute(network, [cloud]), rtol=0, atol=1e-5)
