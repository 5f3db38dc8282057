"""Exported networks in onnxruntime; without torch."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from i2p_zoo._extras import require
from i2p_zoo.errors import CheckpointError, InvalidInputError, NotFoundError
from i2p_zoo.export.metadata import Metadata
from i2p_zoo.export.point_checks import check_clouds, check_features


class OnnxNetwork:
    """A network that `export_onnx` wrote, on the CPU.

    Args:
        path: of the file.
        threads: of onnxruntime; None for its own choice.

    Attributes:
        metadata: what the file says of itself.
        session: onnxruntime's `InferenceSession`.

    Raises:
        MissingExtraError: onnxruntime is not installed.
        NotFoundError: there is no such file.
        CheckpointError: the file is no ONNX file of this package and format.
    """

    def __init__(self, path: str | os.PathLike[str], threads: int | None = None) -> None:
        runtime: Any = require("onnxruntime", extra="onnx")
        if not Path(path).is_file():
            raise NotFoundError(f"{path}: no such file.")
        options = runtime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = threads or 0, 3  # no word of what `batch` defaults to
        try:
            self.session: Any = runtime.InferenceSession(os.fspath(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime has one class an error code, none of them public
            reason = str(error).splitlines()[0]
            raise CheckpointError(f"{path} is no file that onnxruntime {runtime.__version__} can run: {reason}") from error
        self.metadata = Metadata.from_entries(self.session.get_modelmeta().custom_metadata_map, os.fspath(path))

    def __call__(self, clouds: Sequence[Any], features: Sequence[Any] | None = None) -> dict[str, NDArray[Any]]:
        """Runs the network on clouds at once.

        Args:
            clouds: arrays (N, 3), x, y, z in the network's units.
            features: of each cloud (N, C), where `metadata.columns` names any: those columns in that order, colours as
                fractions of 0 to 1, normals as unit vectors.

        Returns:
            The outputs by name, as `export_onnx` has them.

        Raises:
            InvalidInputError: as `check_clouds` and `check_features`; or features that are missing.
        """
        points = check_clouds(clouds, self.metadata.voxel_size, reads_xyz="xyz" in self.metadata.features)
        numbers = np.repeat(np.arange(len(points)), [len(cloud) for cloud in points])
        feed = {"points": np.concatenate(points), "batch": numbers}
        if self.metadata.columns:
            feed["features"] = self._check_features(features, points)
        names = [output.name for output in self.session.get_outputs()]
        return dict(zip(names, self.session.run(names, feed), strict=True))

    def _check_features(self, features: Sequence[Any] | None, points: list[NDArray[np.float32]]) -> NDArray[np.float32]:
        columns = self.metadata.columns
        width = next(value.shape[1] for value in self.session.get_inputs() if value.name == "features")
        if features is None or len(features) != len(points):
            count = "none" if features is None else len(features)
            raise InvalidInputError(f"The network reads {columns} of each point: expected {len(points)} arrays; got {count}.")
        pairs = enumerate(zip(features, points, strict=True))
        return np.concatenate(
            [check_features(values, (len(cloud), width), columns, number) for number, (values, cloud) in pairs]
        )
