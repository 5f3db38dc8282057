"""Networks as programs of `torch.export`, for those who stay in torch: AOTInductor, C++."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from i2p_zoo.errors import UnsupportedError
from i2p_zoo.export.site_answers import answer_requests
from i2p_zoo.export.traced_network import check_exportable, record, trace
from i2p_zoo.networks.unet import UNet
from i2p_zoo.sparse.tensor import SparseTensor

ProgramInputs = tuple[Tensor, list[Tensor], list[Tensor], list[Tensor], list[Tensor]]


def export_program(network: Any) -> tuple[torch.export.ExportedProgram, Callable[[Any], ProgramInputs]]:
    """Exports a network's tensor part, whose kernel maps are inputs.

    Args:
        network: a classifier or an encoder of this package, on the CPU; it is left as it is.

    Returns:
        The program, and the function that makes its inputs from clouds (as `i2p_zoo.voxelize` takes them) or a SparseTensor:
        voxel features; a table of each kernel map, one more than the row that each tap reads, 0 for none; the sample of each
        site and the sites of each sample, where the network asks for them; and rows of coarser sites.

    Raises:
        InvalidInputError: no network of this package.
        UnsupportedError: the network cannot be exported; the message says why.

    Example:
        >>> import i2p_zoo, torch
        >>> network = i2p_zoo.create_model("resnet10t", num_classes=4).eval()
        >>> program, prepare = export_program(network)
        >>> logits = program.module()(*prepare(torch.rand(100, 3)))
        >>> tuple(logits.shape)
        (1, 4)
    """
    check_exportable(network)
    if isinstance(network, UNet):
        raise UnsupportedError(
            "Export a U-Net's encoder and decoder in one by `export_onnx`; as a program only encoders can be."
        )
    recording = record(network)

    def prepare(clouds: Any) -> ProgramInputs:
        x: SparseTensor = network.prepare(clouds)
        inputs = answer_requests(recording.requests, x)
        return x.features, list(inputs.tables), list(inputs.rows), list(inputs.counts), list(inputs.parents)

    return trace(network, recording, answer_requests(recording.requests, recording.x)), prepare
