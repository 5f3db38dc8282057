from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import i2p_zoo
from i2p_zoo.data import load_data
from i2p_zoo.export.runtime import OnnxNetwork
from tests.cli.conftest import fail, succeed


def test_an_exported_file_predicts_what_its_checkpoint_does(tmp_path):
    network = i2p_zoo.create_model("test_resnet", num_classes=3, features="xyz,rgb", in_chans=6, stem="point")
    network.save_pretrained("folder")
    assert succeed("export", "folder", "--out", "model.onnx").stdout.startswith("model.onnx: ")
    random = np.random.default_rng(0)
    rows = np.concatenate([random.standard_normal((200, 3)) + 4, random.integers(0, 256, (200, 3))], axis=1)
    np.savetxt("cloud.xyzrgb", rows, fmt="%.5f")
    answers = set()
    for votes in ([], ["--votes", 3]):
        by_folder, by_file = (
            json.loads(succeed("predict", place, "cloud.xyzrgb", "--json", *votes).stdout)["cloud.xyzrgb"]
            for place in ("folder", "model.onnx")
        )
        assert list(by_folder) == list(by_file)
        np.testing.assert_allclose(list(by_file.values()), list(by_folder.values()), rtol=0, atol=1e-5)
        answers.add(tuple(by_folder.values()))
    assert len(answers) == 2, "of votes the mean"


def test_errors_are_one_line_that_says_what_to_do(network, tmp_path):
    np.savetxt("cloud.xyz", np.ones((9, 3)))
    assert "no such file" in fail("predict", "none.onnx", "cloud.xyz")
    assert "is no folder" in fail("export", network, "--out", "none/model.onnx")
    (tmp_path / "foreign.onnx").write_bytes(b"text")
    assert "no file that onnxruntime" in fail("predict", "foreign.onnx", "cloud.xyz")
    assert "no such folder" in fail("export", "./none", "--out", "model.onnx")


@pytest.mark.long
def test_a_finetuned_network_gives_every_test_cloud_its_class():
    """EfficientNet-Lite0 with real weights, finetuned on kicad-mini for a few steps, on all 199 test clouds."""
    succeed("finetune", "--model", "tf_efficientnet_lite0", "--data", "kicad-mini", "--steps", "20", "--out", "run")
    succeed("export", "run/model", "--out", "model.onnx")
    network, exported = i2p_zoo.from_pretrained("run/model").eval(), OnnxNetwork("model.onnx")
    points = load_data("kicad-mini")[1].points
    assert len(points) == 199
    for cloud in points:
        with torch.no_grad():
            expected = network([cloud]).numpy()
        logits = exported([cloud])["logits"]
        assert logits.argmax() == expected.argmax()
        np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4 * np.abs(expected).max())
