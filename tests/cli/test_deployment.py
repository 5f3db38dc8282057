from __future__ import annotations

import json

import numpy as np

import i2p_zoo
from tests.cli.conftest import fail, succeed


def test_an_exported_file_predicts_what_its_checkpoint_does(tmp_path):
    network = i2p_zoo.create_model("test_resnet", num_classes=3, features="xyz,rgb", in_chans=6, stem="point")
    network.save_pretrained("folder")
    assert succeed("export", "folder", "--out", "model.onnx").stdout.startswith("model.onnx: ")
    random = np.random.default_rng(0)
    rows = np.concatenate([random.standard_normal((200, 3)) + 4, random.integers(0, 256, (200, 3))], axis=1)
    np.savetxt("cloud.xyzrgb", rows, fmt="%.5f")
    by_folder = json.loads(succeed("predict", "folder", "cloud.xyzrgb", "--json").stdout)
    by_file = json.loads(succeed("predict", "model.onnx", "cloud.xyzrgb", "--json").stdout)
    assert list(by_folder["cloud.xyzrgb"]) == list(by_file["cloud.xyzrgb"])
    np.testing.assert_allclose(
        list(by_file["cloud.xyzrgb"].values()), list(by_folder["cloud.xyzrgb"].values()), rtol=0, atol=1e-5
    )


def test_errors_are_one_line_that_says_what_to_do(network, tmp_path):
    np.savetxt("cloud.xyz", np.ones((9, 3)))
    assert "no such file" in fail("predict", "none.onnx", "cloud.xyz")
    assert "is no folder" in fail("export", network, "--out", "none/model.onnx")
    (tmp_path / "foreign.onnx").write_bytes(b"text")
    assert "no file that onnxruntime" in fail("predict", "foreign.onnx", "cloud.xyz")
    assert "no such folder" in fail("export", "./none", "--out", "model.onnx")
