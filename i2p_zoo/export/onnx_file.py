"""A network as an ONNX file: points in, logits out, in standard operators alone."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

from i2p_zoo._extras import require
from i2p_zoo._version import __version__
from i2p_zoo.checkpoints.saving import clean_state, describe_model, note_certified
from i2p_zoo.checkpoints.weight_files import sha256_of_state
from i2p_zoo.errors import InvalidInputError, UnsupportedError
from i2p_zoo.export.depthwise_graph import expand_depthwise, keep_operations
from i2p_zoo.export.graph_builder import GraphBuilder
from i2p_zoo.export.map_graph import MapOutputs, PointInputs, build_maps
from i2p_zoo.export.metadata import Metadata
from i2p_zoo.export.site_answers import answer_requests
from i2p_zoo.export.traced_network import Recording, check_exportable, record, trace
from i2p_zoo.inflation.settings import Settings
from i2p_zoo.inflation.state import deflate_state
from i2p_zoo.modules import class_names, count_classes
from i2p_zoo.networks.unet import UNet
from i2p_zoo.sparse.point_features import CHANNELS, parse_features
from i2p_zoo.staging import replacing

_OPSET = 20
_UNLIMITED = 2**40  # bytes of constants that are computed when exporting


def export_onnx(network: Any, path: str | os.PathLike[str]) -> Path:
    """Writes a network as an ONNX file that runs in any onnxruntime, without torch and without this package.

    Its inputs are `points` (N, 3) float32, x, y, z in the network's units; `features` (N, C) float32, where the network reads
    more than coordinates (`columns` of its metadata, colours as fractions of 0 to 1); and `batch` (N,) int64, the number of
    each point's cloud, which may be left out for a single one. A classifier gives `logits` (clouds, classes), a U-Net `logits`
    (N, classes), an encoder `features_0`, ... (voxels, channels) and `sites_0`, ... (voxels, 4), columns batch, z, y, x, and
    a network without classes `embeddings` (clouds, channels).

    Args:
        network: a classifier, a U-Net or an encoder of this package; it is left as it is.
        path: of the file to write.

    Returns:
        The path.

    Raises:
        MissingExtraError: the extra `onnx` is not installed.
        UnsupportedError: the network cannot be exported; the message says why.
        InvalidInputError: no network of this package, or a path that does not end in .onnx or whose folder does not exist.
    """
    require("onnxscript", extra="onnx")
    path = Path(path)
    if path.suffix.lower() != ".onnx" or path.is_dir():
        raise InvalidInputError(f"The path must be that of a file such as model.onnx; got {os.fspath(path)!r}.")
    if not path.parent.is_dir():
        raise InvalidInputError(f"{path}: {path.parent} is no folder.")
    check_exportable(network)
    metadata = _describe(network)
    recording = record(network)
    metadata.strides = [stride for _, stride in recording.maps] if metadata.task == "features" else []
    model = build_model(network, recording, metadata)
    model.metadata_props.update(metadata.to_entries())
    with replacing(path) as temporary:
        model_ir = require("onnx_ir", extra="onnx")
        model_ir.save(model, temporary)
    return path


def _describe(network: Any) -> Metadata:
    config = describe_model(network)
    dtype = next(network.parameters()).dtype
    if dtype != torch.float32:
        raise UnsupportedError(f"Only networks in float32 can be exported; this one is {dtype}. Call `.float()` on it.")
    state = deflate_state(network, clean_state(network))
    note_certified(config, state)
    settings: Settings = network.settings
    names = parse_features(settings.features)
    task = "segmentation" if isinstance(network, UNet) else "classification" if count_classes(network) else "features"
    return Metadata(
        task=task,
        architecture=network.architecture,
        labels=list(map(str, class_names(network) or ())),
        voxel_size=settings.voxel_size,
        features=settings.features,
        columns=",".join(name for name in names if name not in ("xyz", "ones")),
        normalization=settings.normalization,
        strides=[],
        config=config,
        sha256=sha256_of_state(state),
        package_version=__version__,
    )


def build_model(network: Any, recording: Recording, metadata: Metadata) -> Any:
    """Returns an `onnx_ir.Model` of a network, from points to outputs."""
    ir = require("onnx_ir", extra="onnx")
    model = _convert(network, recording)
    graph, op = model.graph, GraphBuilder()
    points = _input(ir, "points", "FLOAT", ["points", 3])
    batch = _input(ir, "batch", "INT64", ["batch_entries"])
    batch.const_value = ir.tensor(np.zeros(1, np.int64), name="batch")
    inputs = [points]
    if metadata.columns:
        width = network.in_chans - sum(CHANNELS[name] for name in parse_features(metadata.features) if name in ("xyz", "ones"))
        inputs.append(_input(ir, "features", "FLOAT", ["points", width]))
    batch_of_points = op.Expand(batch, op.length(points))
    values = _read_values(op, network.settings, network.in_chans, *inputs)
    cloud = PointInputs(points, batch_of_points, values, metadata.voxel_size)
    maps = build_maps(op, recording.requests, cloud, with_corners=isinstance(network, UNet))
    for old, new in zip(list(graph.inputs), _flatten(maps), strict=True):
        ir.convenience.replace_all_uses_with(old, new)
    graph.inputs.clear()
    graph.inputs.extend([*inputs, batch])
    graph.insert_before(graph[0], op.nodes)
    op.nodes = []
    expand_depthwise(op, graph)
    for constant in [*op.initializers, batch]:
        graph.initializers[constant.name] = constant
    _name_outputs(ir, op, graph, recording, maps, metadata)
    require("onnx_ir.passes.common", extra="onnx").RemoveUnusedNodesPass()(model)
    return model


def _convert(network: Any, recording: Recording) -> Any:
    """Returns the tensor part as an `onnx_ir.Model` whose constants are computed."""
    x = recording.x
    inputs = answer_requests(recording.requests, x)
    of_points: tuple[torch.Tensor, ...] = ()
    if isinstance(network, UNet):
        count = 2 * len(x.coords) + 1
        index = torch.arange(count) % len(x.coords)
        corners = torch.randint(0, len(x.coords) + 1, (count, 8), dtype=torch.int32, generator=torch.Generator().manual_seed(0))
        of_points = (index, corners, torch.ones(count, 8))
    program = trace(network, recording, inputs, *of_points, depthwise=torch.ops.i2p_zoo.depthwise)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the converter's own making
        converted: Any = torch.onnx.export(
            program,
            dynamo=True,
            optimize=False,
            verbose=False,
            opset_version=_OPSET,
            custom_translation_table=keep_operations(),
        )
    optimizer = require("onnxscript.optimizer", extra="onnx")
    optimizer.optimize_ir(converted.model, input_size_limit=_UNLIMITED, output_size_limit=_UNLIMITED)
    return converted.model


def _input(ir: Any, name: str, dtype: str, shape: list[Any]) -> Any:
    return ir.Value(name=name, type=ir.TensorType(ir.DataType[dtype]), shape=ir.Shape(shape))


def _read_values(op: GraphBuilder, settings: Settings, channels: int, points: Any, features: Any = None) -> Any:
    """(N, C) float32, what a network reads of each point."""
    names = parse_features(settings.features)
    extra = channels - sum(CHANNELS.get(name, 1) for name in names if name != "extra")
    parts, first = [], 0
    for name in names:
        if name == "xyz":
            parts.append(points)
        elif name == "ones":
            parts.append(op.Expand(np.ones((1, 1), np.float32), op.Concat(op.length(points), np.array([1]), axis=0)))
        else:
            width = extra if name == "extra" else CHANNELS.get(name, 1)
            part = op.Slice(features, np.array([first]), np.array([first + width]), np.array([1]))
            first += width
            if name == "rgb" and settings.rgb_mean is not None:
                part = op.Sub(part, np.array(settings.rgb_mean, np.float32))
            if name == "rgb" and settings.rgb_std is not None:
                part = op.Div(part, np.array(settings.rgb_std, np.float32))
            parts.append(part)
    return parts[0] if len(parts) == 1 else op.Concat(*parts, axis=1)


def _flatten(maps: MapOutputs) -> list[Any]:
    """What a traced network takes, in its order."""
    of_points = [] if maps.corners is None else [maps.index, maps.corners, maps.weights]
    return [maps.features, *maps.tables, *maps.rows, *maps.counts, *maps.parents, *of_points]


def _name_outputs(ir: Any, op: GraphBuilder, graph: Any, recording: Recording, maps: MapOutputs, metadata: Metadata) -> None:
    if not recording.maps or metadata.task != "features":
        graph.outputs[0].name = "embeddings" if metadata.task == "features" else "logits"
        return
    for number, (sites, _) in enumerate(recording.maps):
        graph.outputs[number].name = f"features_{number}"
        coords = op.Identity(maps.coords[sites])
        coords.name, coords.type, coords.shape = f"sites_{number}", ir.TensorType(ir.DataType.INT64), ir.Shape([None, 4])
        graph.append(coords.producer())
        graph.outputs.append(coords)
