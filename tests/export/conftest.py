"""Graphs of a test's own, run by onnxruntime, and clouds that deployed networks meet."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch

import i2p_zoo
from i2p_zoo.export.graph_builder import GraphBuilder


@pytest.fixture(scope="session")
def network():
    """A classifier whose labels and normalisation are noted."""
    network = i2p_zoo.create_model("test_resnet", num_classes=5, stem="point", voxel_size=0.1).eval()
    network.provenance = network.provenance.with_settings(normalization="unit_sphere")
    network.pretrained_cfg["label_names"] = ("bed", "chair", "desk", "lamp", "sofa")
    return network


@pytest.fixture(scope="session")
def path(network, tmp_path_factory):
    """Of its file."""
    return i2p_zoo.export_onnx(network, tmp_path_factory.mktemp("exported") / "model.onnx")


def run_graph(build, **arrays):
    """Runs what `build(op, **values)` returns, one value or several, on arrays."""
    op = GraphBuilder()
    inputs = {
        name: ir.Value(name=name, type=ir.TensorType(ir.DataType.from_numpy(array.dtype)), shape=ir.Shape([None] * array.ndim))
        for name, array in arrays.items()
    }
    outputs = build(op, **inputs)
    outputs = list(outputs) if isinstance(outputs, list | tuple) else [outputs]
    graph = ir.Graph(list(inputs.values()), outputs, nodes=op.nodes, initializers=op.initializers, opset_imports={"": 20})
    session = open_session(ir.to_proto(ir.Model(graph, ir_version=10)).SerializeToString())
    results = session.run(None, arrays)
    return results[0] if len(results) == 1 else results


def open_session(model):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def sphere(points, seed=0):
    cloud = np.random.default_rng(seed).standard_normal((points, 3))
    return (cloud / np.linalg.norm(cloud, axis=1, keepdims=True)).astype(np.float32)


def hostile_clouds(voxel_size):
    """Ten clouds of other sizes than any example: on a surface, in a volume, far off, on voxels' borders, of one voxel."""
    random = np.random.default_rng(1)
    clouds = [
        sphere(100),
        sphere(1024),
        random.uniform(-1, 1, (2048, 3)),
        sphere(5000) * [1, 0.3, 0.2] - 3,
        random.uniform(-0.5, 0.5, (20000, 3)),
        np.concatenate([sphere(500), [[4e3, -2e3, 1e3]]]),
        np.full((7, 3), 0.013),
        sphere(333) * 0.3 + [2, -3, 1],
        np.round(sphere(3000) / voxel_size) * voxel_size,
        [[-0.01, 0.02, 0.3]],
    ]
    return [np.asarray(cloud, np.float32) for cloud in clouds]


def compute(network, clouds):
    with torch.no_grad():
        return network([torch.from_numpy(cloud) for cloud in clouds]).numpy()


def live_norms_(network):
    """Gives BatchNorm statistics as a trained network has them: with fresh ones, a fault in them would not show."""
    generator = torch.Generator().manual_seed(3)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.copy_(0.1 * torch.randn(module.running_mean.shape, generator=generator))
            module.running_var.copy_(0.5 + torch.rand(module.running_var.shape, generator=generator))
    return network
