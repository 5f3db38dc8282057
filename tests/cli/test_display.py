from __future__ import annotations

import numpy as np
import pytest

import i2p_zoo
from i2p_zoo.segmentation import create_unet
from tests.cli.conftest import fail, succeed

pytest.importorskip("plotly")


@pytest.fixture
def cloud(tmp_path):
    np.savetxt(tmp_path / "my cloud.xyz", np.random.default_rng(0).random((90, 3)))
    return "my cloud.xyz"


def test_a_file_becomes_a_page_beside_which_nothing_is_left(cloud, network, tmp_path):
    output = succeed("view", cloud).stdout
    assert output.startswith("my cloud.xyz: 90 points, ")
    assert output.endswith("drawn in my cloud.html\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["my cloud.html", "my cloud.xyz"]
    output = succeed("view", cloud, "--model", network, "--out", "page.html", "--top", 2).stdout
    assert output.count(" %") == 2
    assert "my cloud.xyz" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_a_scene_is_viewed_in_blocks(cloud):
    create_unet("test_resnet", 2, pretrained=False, stem="point", voxel_size=0.1).save_pretrained("unet")
    assert " %" in succeed("view", cloud, "--model", "unet", "--block", "0.6").stdout


def test_errors_are_one_line_before_anything_is_written(cloud, network, tmp_path):
    assert "no such file" in fail("view", "none.ply")
    assert "such folder" in fail("view", cloud, "--model", "./none")
    assert "give the checkpoint's folder" in fail("view", cloud, "--model", "model.onnx")
    assert "is no folder" in fail("view", cloud, "--out", "none/page.html")
    assert "its own voxel size" in fail("view", cloud, "--model", network, "--voxel-size", "0.1")
    i2p_zoo.create_model("test_resnet", num_classes=0).save_pretrained("headless")
    assert "no classifier" in fail("view", cloud, "--model", "headless")
    assert not list(tmp_path.glob("*.html"))
    pytest.importorskip("gradio")
    assert "such folder" in fail("app", "./none")
    assert "no architecture" in fail("app", "--image-network", "i2p-resnte18")
    assert "not empty" in fail("app", "--space", tmp_path)


def test_a_space_is_written(network, tmp_path):
    pytest.importorskip("gradio")
    assert "a Space in space" in succeed("app", network, "--space", "space").stdout
    assert (tmp_path / "space" / "app.py").is_file()
