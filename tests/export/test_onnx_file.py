"""Exported files in plain onnxruntime: points in, and out what the network gives in torch."""

from __future__ import annotations

import json
import sys

import numpy as np
import onnx
import pytest
import torch

import i2p_zoo
from i2p_zoo import InvalidInputError, MissingExtraError, UnsupportedError
from i2p_zoo.segmentation import create_unet
from tests.export.conftest import compute, hostile_clouds, live_norms_, open_session, sphere

NETWORKS = {
    "strided and maximum pools": ("test_resnet", {}),
    "depthwise, gates": ("test_efficientnet", {}),
    "all taps": ("test_efficientnet", {"inflation": "average", "skip_downsamples": 2, "stem": "point"}),
    "layer norm": ("test_convnext", {"stem": "patch"}),
    "group norm": ("resnet18", {"norm_layer": "groupnorm"}),
    "image2point": ("resnet18", {"preset": "image2point"}),
}


def export(network, folder):
    path = i2p_zoo.export_onnx(network, folder / "model.onnx")
    return open_session(str(path)), path


def relative(actual, expected):
    return np.abs(actual - expected).max() / max(np.abs(expected).max(), 1e-6)


@pytest.mark.parametrize("name", NETWORKS)
def test_logits_are_those_of_the_network_for_hostile_clouds_alone_and_together(name, tmp_path):
    torch.manual_seed(0)
    architecture, options = NETWORKS[name]
    network = live_norms_(i2p_zoo.create_model(architecture, num_classes=7, **options)).eval()
    session, path = export(network, tmp_path)
    clouds = hostile_clouds(network.settings.voxel_size)
    clouds = [cloud[:3000] for cloud in clouds]
    for number, cloud in enumerate(clouds):
        (logits,) = session.run(None, {"points": cloud})
        assert relative(logits, compute(network, [cloud])) < 1e-4, number
    batch = np.repeat(np.arange(len(clouds)), [len(cloud) for cloud in clouds])
    (together,) = session.run(None, {"points": np.concatenate(clouds), "batch": batch})
    for row, expected in zip(together, compute(network, clouds), strict=True):
        assert relative(row, expected) < 1e-4
    onnx.checker.check_model(str(path), full_check=True)


def test_standard_operators_alone_and_dynamic_sizes(tmp_path):
    network = i2p_zoo.create_model("test_efficientnet", num_classes=7).eval()
    _, path = export(network, tmp_path)
    model = onnx.load(path)
    assert {entry.domain for entry in model.opset_import} == {""}
    assert not model.functions
    assert all(not node.domain for node in model.graph.node)
    assert not model.graph.input[0].type.tensor_type.shape.dim[0].dim_value
    assert [value.name for value in (*model.graph.input, *model.graph.output)] == ["points", "batch", "logits"]


def test_taps_that_no_weight_uses_are_not_in_the_file(tmp_path):
    """A center-inflated network has zeros off its plane: the file is no larger than the 2D weights."""
    network = i2p_zoo.create_model("resnet10t", num_classes=7).eval()
    _, path = export(network, tmp_path)
    flat = sum(p[:, 1].numel() if p.ndim == 5 and p.shape[1] == 3 else p.numel() for p in network.parameters())
    assert path.stat().st_size < 1.1 * 4 * flat + 200_000


def test_a_network_of_colours_takes_them_as_fractions(tmp_path):
    network = i2p_zoo.create_model(
        "test_resnet", num_classes=4, features="rgb,ones,xyz", in_chans=7, stem="point", voxel_size=0.1
    ).eval()
    network.provenance = network.provenance.with_settings(rgb_mean=(0.4, 0.5, 0.6), rgb_std=(0.2, 0.3, 0.4))
    session, _ = export(network, tmp_path)
    points, colors = sphere(500), np.random.default_rng(0).random((500, 3)).astype(np.float32)
    (logits,) = session.run(None, {"points": points, "features": colors})
    with torch.no_grad():
        expected = network([{"points": points, "rgb": colors}]).numpy()
    assert relative(logits, expected) < 1e-4


@pytest.mark.parametrize("devoxelization", ["trilinear", "nearest"])
def test_a_unet_gives_each_point_its_logits(devoxelization, tmp_path):
    torch.manual_seed(0)
    network = live_norms_(
        create_unet("test_efficientnet", num_classes=5, pretrained=False, devoxelization=devoxelization)
    ).eval()
    session, _ = export(network, tmp_path)
    clouds = [cloud[:2000] for cloud in hostile_clouds(network.settings.voxel_size)]
    for number, cloud in enumerate(clouds):
        (logits,) = session.run(None, {"points": cloud})
        assert relative(logits, compute(network, [cloud])) < 1e-4, number
    batch = np.repeat(np.arange(len(clouds)), [len(cloud) for cloud in clouds])
    (together,) = session.run(None, {"points": np.concatenate(clouds), "batch": batch})
    assert relative(together, compute(network, clouds)) < 1e-4


def test_an_encoder_gives_voxels_their_features_and_places(tmp_path):
    network = live_norms_(i2p_zoo.create_model("test_resnet", features_only=True)).eval()
    session, path = export(network, tmp_path)
    cloud = sphere(800)
    outputs = dict(zip([output.name for output in session.get_outputs()], session.run(None, {"points": cloud}), strict=True))
    with torch.no_grad():
        maps = network([torch.from_numpy(cloud)])
    for number, features in enumerate(maps):
        np.testing.assert_array_equal(outputs[f"sites_{number}"], features.coords.numpy())
        assert relative(outputs[f"features_{number}"], features.features.numpy()) < 1e-4
    entries = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    assert json.loads(entries["i2p_zoo.strides"]) == [features.stride for features in maps]


def test_the_file_says_what_it_is(tmp_path):
    network = i2p_zoo.create_model("test_resnet", num_classes=2, voxel_size=0.07).eval()
    network.pretrained_cfg["label_names"] = ("chair", "table")
    session, _ = export(network, tmp_path)
    entries = session.get_modelmeta().custom_metadata_map
    values = {key.removeprefix("i2p_zoo."): json.loads(value) for key, value in entries.items()}
    assert values["labels"] == ["chair", "table"]
    assert (values["voxel_size"], values["features"], values["task"]) == (0.07, "xyz", "classification")
    assert values["architecture"] == "test_resnet"
    assert values["config"]["i2p"]["settings"]["voxel_size"] == 0.07
    assert len(values["sha256"]) == 64
    assert values["package_version"] == i2p_zoo.__version__


def test_exporting_leaves_the_network_as_it_is(tmp_path):
    network = i2p_zoo.create_model("test_resnet", num_classes=2).train()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    export(network, tmp_path)
    assert network.training
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_what_cannot_be_exported_says_why(tmp_path, monkeypatch):
    path = tmp_path / "model.onnx"
    with pytest.raises(UnsupportedError, match="tokens of an image"):
        i2p_zoo.export_onnx(i2p_zoo.create_model("test_vit", num_classes=2), path)
    network = i2p_zoo.create_model("test_resnet", num_classes=2)
    with pytest.raises(UnsupportedError, match=r"float64.*\.float\(\)"):
        i2p_zoo.export_onnx(network.double(), path)
    with pytest.raises(InvalidInputError, match="is no folder"):
        i2p_zoo.export_onnx(network.float(), tmp_path / "none" / "model.onnx")
    with pytest.raises(InvalidInputError, match="Only networks made by i2p_zoo"):
        i2p_zoo.export_onnx(torch.nn.Linear(2, 2), path)
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(MissingExtraError, match=r"i2p-zoo\[onnx\]"):
        i2p_zoo.export_onnx(network, path)
    assert not list(tmp_path.iterdir())


def test_what_adds_by_index_is_what_onnxruntime_adds_right(tmp_path):
    """Its `ScatterND` adds from several threads at once and loses some; `ScatterElements` does not."""
    _, path = export(i2p_zoo.create_model("test_efficientnet", num_classes=2).eval(), tmp_path)
    nodes = onnx.load(path).graph.node
    adding = {node.op_type for node in nodes if any(a.name == "reduction" and a.s == b"add" for a in node.attribute)}
    assert adding == {"ScatterElements"}
