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
from i2p_zoo.export.runtime import OnnxNetwork
from i2p_zoo.segmentation import create_unet
from tests.export.conftest import compute, hostile_clouds, live_norms_, open_session, sphere

LONG = pytest.mark.long
NETWORKS = [
    pytest.param("test_resnet", {}, id="strided and maximum pools"),
    pytest.param(
        "test_efficientnet", {"inflation": "average", "skip_downsamples": 2, "stem": "point"}, id="depthwise, all taps"
    ),
    pytest.param("test_convnext", {"stem": "patch"}, id="layer norm", marks=LONG),
    pytest.param("resnet18", {"norm_layer": "groupnorm"}, id="group norm", marks=LONG),
    pytest.param("resnet18", {"preset": "image2point"}, id="image2point", marks=LONG),
    pytest.param("resnet18", {}, id="resnet18", marks=LONG),
    pytest.param("tf_efficientnet_lite0", {"inflation": "average"}, id="lite0", marks=LONG),
    pytest.param("mobilenetv3_small_100", {}, id="gates", marks=LONG),
    pytest.param("convnext_atto", {}, id="convnext", marks=LONG),
    pytest.param("densenet121", {}, id="joins", marks=LONG),
    pytest.param("regnety_002", {}, id="groups", marks=LONG),
]


def export(network, folder):
    path = i2p_zoo.export_onnx(network, folder / "model.onnx")
    return open_session(str(path)), path


def relative(actual, expected):
    return np.abs(actual - expected).max() / max(np.abs(expected).max(), 1e-6)


@pytest.mark.parametrize(("architecture", "options"), NETWORKS)
def test_logits_are_those_of_the_network_for_hostile_clouds_alone_and_together(architecture, options, tmp_path):
    torch.manual_seed(0)
    network = live_norms_(i2p_zoo.create_model(architecture, num_classes=7, **options)).eval()
    session, path = export(network, tmp_path)
    clouds = hostile_clouds(network.settings.voxel_size)
    most = 3_000 if options.get("preset") else 20_000  # points: its levels are not strided, and gather gigabytes
    for number, cloud in enumerate(clouds):
        (logits,) = session.run(None, {"points": cloud[:most]})
        assert relative(logits, compute(network, [cloud[:most]])) < 1e-4, number
    clouds = [cloud[:3000] for cloud in clouds]
    batch = np.repeat(np.arange(len(clouds)), [len(cloud) for cloud in clouds])
    (together,) = session.run(None, {"points": np.concatenate(clouds), "batch": batch})
    for row, expected in zip(together, compute(network, clouds), strict=True):
        assert relative(row, expected) < 1e-4
    check_standard(path)


def check_standard(path):
    """The operators are ONNX's alone, sizes are dynamic, and what adds by index does so in `ScatterElements`.

    Onnxruntime's `ScatterND` adds from several threads at once and loses some.
    """
    onnx.checker.check_model(str(path), full_check=True)
    model = onnx.load(path)
    assert {entry.domain for entry in model.opset_import} == {""}
    assert not model.functions
    assert all(not node.domain for node in model.graph.node)
    assert not model.graph.input[0].type.tensor_type.shape.dim[0].dim_value
    assert [value.name for value in (*model.graph.input, *model.graph.output)] == ["points", "batch", "logits"]
    adding = {n.op_type for n in model.graph.node if any(a.name == "reduction" and a.s == b"add" for a in n.attribute)}
    assert adding == {"ScatterElements"}


def test_taps_that_no_weight_uses_are_not_in_the_file(network, path):
    """A center-inflated network has zeros off its plane: the file is no larger than the 2D weights."""
    flat = sum(p[:, 1].numel() if p.ndim == 5 and p.shape[1] == 3 else p.numel() for p in network.parameters())
    assert path.stat().st_size < 1.1 * 4 * flat + 400_000  # of the graph


def test_a_network_of_colours_takes_them_as_fractions_and_is_left_as_it_is(tmp_path):
    network = i2p_zoo.create_model(
        "test_resnet", num_classes=4, features="rgb,ones,xyz", in_chans=7, stem="point", voxel_size=0.1
    )
    network.provenance = network.provenance.with_settings(rgb_mean=(0.4, 0.5, 0.6), rgb_std=(0.2, 0.3, 0.4))
    network.train()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    session, path = export(network, tmp_path)
    assert network.training
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    points, colors = sphere(500), np.random.default_rng(0).random((500, 3)).astype(np.float32)
    (logits,) = session.run(None, {"points": points, "features": colors})
    with torch.no_grad():
        expected = network.eval()([{"points": points, "rgb": colors}]).numpy()
    assert relative(logits, expected) < 1e-4
    exported = OnnxNetwork(path)
    np.testing.assert_array_equal(exported([points], [colors])["logits"], logits)
    for features, message in (
        (None, "rgb.*none"),
        ([colors[:4]], r"\(500, 3\).*\(4, 3\)"),
        ([colors * np.nan], "NaN"),
        ([colors * 255], "from .* to 25.*0 to 1.*255"),
    ):
        with pytest.raises(InvalidInputError, match=message):
            exported([points], features)


@pytest.mark.parametrize(
    ("architecture", "devoxelization"),
    [
        ("test_efficientnet", "trilinear"),
        pytest.param("test_efficientnet", "nearest", marks=LONG),
        pytest.param("tf_efficientnet_lite0", "trilinear", marks=LONG),
    ],
)
def test_a_unet_gives_each_point_its_logits(architecture, devoxelization, tmp_path):
    torch.manual_seed(0)
    network = live_norms_(create_unet(architecture, num_classes=5, pretrained=False, devoxelization=devoxelization)).eval()
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


def test_clouds_are_told_apart_by_any_numbers_in_any_order(network, path):
    """Numbers that no point has are clouds without voxels; points of several clouds may stand among each other."""
    session, clouds = open_session(str(path)), [sphere(300, seed) for seed in range(3)]
    points, batch = np.concatenate(clouds), np.repeat([0, 2, 5], 300)
    (logits,) = session.run(None, {"points": points, "batch": batch})
    x = network.prepare([torch.from_numpy(cloud) for cloud in clouds])
    coords = x.coords.clone()
    coords[:, 0] = torch.tensor([0, 2, 5])[coords[:, 0].long()]
    with torch.no_grad():
        expected = network(i2p_zoo.SparseTensor(x.features, coords, batch_size=6)).numpy()
    assert relative(logits, expected) < 1e-5
    order = np.random.default_rng(0).permutation(len(points))
    (shuffled,) = session.run(None, {"points": points[order], "batch": batch[order]})
    assert relative(shuffled, logits) < 1e-5


def test_points_that_the_graph_cannot_refuse_do_no_harm(network, path):
    """NaN, or too far out: logits without meaning, of the right shape."""
    session = open_session(str(path))
    for points in (sphere(100) * np.float32(1e30), sphere(100) * np.float32(np.nan), sphere(100) * np.float32(1e11)):
        assert session.run(None, {"points": points})[0].shape == (1, 5)


def test_a_process_that_is_stopped_while_writing_leaves_the_old_file(network, path, monkeypatch):
    before = path.read_bytes()

    def stop(model, file):
        file.write_bytes(b"half of it")
        raise KeyboardInterrupt

    monkeypatch.setattr("onnx_ir.save", stop)
    with pytest.raises(KeyboardInterrupt):
        i2p_zoo.export_onnx(network, path)
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.glob("*onnx*")] == ["model.onnx"]


@LONG
def test_a_network_without_classes_gives_embeddings(tmp_path):
    network = i2p_zoo.create_model("test_resnet", num_classes=0).eval()
    session, _ = export(network, tmp_path)
    (embeddings,) = session.run(["embeddings"], {"points": sphere(200)})
    assert relative(embeddings, compute(network, [sphere(200)])) < 1e-4


def test_the_file_says_what_it_is(path):
    entries = open_session(str(path)).get_modelmeta().custom_metadata_map
    values = {key.removeprefix("i2p_zoo."): json.loads(value) for key, value in entries.items()}
    assert values["labels"] == ["bed", "chair", "desk", "lamp", "sofa"]
    assert (values["voxel_size"], values["features"], values["task"]) == (0.1, "xyz", "classification")
    assert (values["architecture"], values["normalization"]) == ("test_resnet", "unit_sphere")
    assert values["config"]["i2p"]["settings"]["voxel_size"] == 0.1
    assert len(values["sha256"]) == 64
    assert values["package_version"] == i2p_zoo.__version__


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
    with pytest.raises(UnsupportedError, match=r"on meta.*`\.cpu\(\)`"):
        i2p_zoo.export_onnx(i2p_zoo.create_model("test_resnet", num_classes=2).to("meta"), path)
    for name in (tmp_path, tmp_path / "model", ""):
        with pytest.raises(InvalidInputError, match=r"such as model\.onnx; got"):
            i2p_zoo.export_onnx(network, name)
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(MissingExtraError, match=r"i2p-zoo\[onnx\]"):
        i2p_zoo.export_onnx(network, path)
    assert not list(tmp_path.iterdir())
