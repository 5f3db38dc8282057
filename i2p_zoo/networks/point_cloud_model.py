"""PointCloudModel: the methods that an inflated network has beyond its timm class, which keeps its own forward."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from torch import Tensor, nn

from i2p_zoo.errors import InvalidInputError
from i2p_zoo.inflation.report import InflationReport
from i2p_zoo.inflation.settings import Settings
from i2p_zoo.layers.normalization import NORMS
from i2p_zoo.sparse.kernel_maps import AXES
from i2p_zoo.sparse.tensor import SparseTensor
from i2p_zoo.sparse.voxelization import voxelize


class PointCloudModel:
    """Mixed into a network's own class by `i2p_zoo.inflate`; `isinstance(net, PointCloudModel)` tells such a network.

    Attributes:
        settings: the `Settings`.
        report: the `InflationReport`, or None for a network loaded from a checkpoint.
    """

    settings: Settings
    report: InflationReport | None
    architecture: str | None
    model_args: dict[str, Any]
    source: dict[str, Any]
    base: dict[str, Any] | None
    frozen_norms: bool = False

    def prepare(self, x: Any) -> SparseTensor:
        """Returns the network's input as a sparse tensor.

        Args:
            x: a SparseTensor, spconv's SparseConvTensor, or clouds as `voxelize` takes them.

        Raises:
            InvalidInputError: anything else, such as a batch of images.
        """
        if not isinstance(x, SparseTensor):
            if hasattr(x, "indices") and hasattr(x, "features") and hasattr(x, "batch_size"):
                x = SparseTensor.from_spconv(x)
            elif isinstance(x, Tensor | np.ndarray) and x.ndim == 4:
                raise InvalidInputError(
                    f"Got a (B, C, H, W) tensor of shape {tuple(x.shape)}: lay images on voxels with `i2p_zoo.image_to_plane`."
                )
            else:
                x = voxelize(x, self.settings.voxel_size, self.settings.features)
                parameter = next(self.parameters())  # type: ignore[attr-defined]
                x = x.to(device=parameter.device, dtype=parameter.dtype)
        axis, skip = AXES[self.settings.axis], self.settings.skip_downsamples
        if x.plan.level == 0 and (x.plan.axis, x.plan.skip_downsamples) != (axis, skip):
            x = x.with_plan(axis=axis, skip_downsamples=skip)
        result: SparseTensor = x
        return result

    def forward(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        """Runs the 2D network's own forward on voxels; `x` as in `prepare`."""
        return super().forward(self.prepare(x), *args, **kwargs)  # type: ignore[misc]

    def forward_features(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        """Runs timm's `forward_features` on voxels; `x` as in `prepare`."""
        return super().forward_features(self.prepare(x), *args, **kwargs)  # type: ignore[misc]

    def forward_intermediates(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        """Runs timm's `forward_intermediates` on voxels; `x` as in `prepare`."""
        return super().forward_intermediates(self.prepare(x), *args, **kwargs)  # type: ignore[misc]

    def predict(self, points: Any, **kwargs: Any) -> Any:
        """Runs in eval mode without gradients, in blocks where a scene is too large; see `i2p_zoo.networks.blocks.predict`."""
        from i2p_zoo.networks.blocks import predict

        return predict(self, points, **kwargs)

    def reset_classifier(self, num_classes: int, *args: Any, **kwargs: Any) -> None:
        """Gives the network a new classifier, as timm does; a 2D convolution that timm makes for it is inflated."""
        from i2p_zoo.inflation.structure import replace_leaves

        before = {name: tuple(t.shape) for name, t in self.state_dict().items()}  # type: ignore[attr-defined]
        kept = list(self.parameters())  # type: ignore[attr-defined]
        super().reset_classifier(num_classes, *args, **kwargs)  # type: ignore[misc]
        replace_leaves(self, self.settings)  # type: ignore[arg-type]
        materialize_(self)  # type: ignore[arg-type]
        if self.settings.preset:
            from i2p_zoo.networks.presets import normalize_classifier_

            normalize_classifier_(self)
        if self.report is not None:
            after = dict(self.state_dict(keep_vars=True))  # type: ignore[attr-defined]
            for name in sorted(before.keys() | after.keys()):
                if name not in after:
                    self.report = self.report.changed(name, "dropped", f"classifier of {num_classes} classes", {})
                elif isinstance(after[name], nn.Parameter) and not any(after[name] is parameter for parameter in kept):
                    shapes = {name: tuple(after[name].shape)}
                    self.report = self.report.changed(name, "replaced", f"classifier of {num_classes} classes", shapes)

    def train(self, mode: bool = True) -> Any:
        """Sets training mode; normalisation that `i2p_zoo.finetune.freeze` froze stays in eval mode."""
        super().train(mode)  # type: ignore[misc]
        if self.frozen_norms:
            classifier = self.get_classifier() if hasattr(self, "get_classifier") else None
            new = set(classifier.modules()) if isinstance(classifier, nn.Module) else set()  # has no image's statistics
            for module in self.modules():  # type: ignore[attr-defined]
                if isinstance(module, NORMS) and module not in new:
                    module.eval()
        return self

    def save_pretrained(self, folder: Any, **kwargs: Any) -> Any:
        """Saves config.json, model.safetensors and README.md; see `i2p_zoo.save_pretrained`."""
        from i2p_zoo.checkpoints.saving import save_pretrained

        return save_pretrained(self, folder, **kwargs)

    def push_to_hub(self, repo: str, **kwargs: Any) -> Any:
        """Puts the network, or with `adapter=True` what finetuning changed, on the Hub; see `publishing.push_model`."""
        from i2p_zoo.checkpoints.publishing import push_model

        return push_model(self, repo, **kwargs)

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Pickles by the 2D class, since the mixed class is made at run time."""
        return (_new_model, (type(self).__bases__[1],), self.__dict__)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)


def materialize_(model: nn.Module) -> None:
    """Gives sparse convolutions that are still on the meta device new initial weights where the rest of the model is."""
    from i2p_zoo.layers import SparseConv3d

    devices = {p.device for p in model.parameters() if p.device.type != "meta"}
    for module in model.modules():
        if isinstance(module, SparseConv3d) and module.weight.device.type == "meta" and devices:
            module.to_empty(device=next(iter(devices)))
            module.reset_parameters()


@functools.cache
def point_cloud_class(kind: Any) -> type[Any]:
    """Returns the class PointCloud<kind> that mixes `PointCloudModel` into a network's class `kind`."""
    return type(f"PointCloud{kind.__name__}", (PointCloudModel, kind), {"__module__": kind.__module__, "__doc__": kind.__doc__})


def _new_model(kind: Any) -> Any:
    mixed: Any = point_cloud_class(kind)
    return mixed.__new__(mixed)


def make_point_cloud_model(model: nn.Module, settings: Settings) -> Any:
    """Mixes `PointCloudModel` into a module, in place, and returns it."""
    result: Any = model
    if not isinstance(result, PointCloudModel):
        kind: Any = type(model)
        result.__class__ = point_cloud_class(kind)
    result.settings = settings
    result.report = None
    result.architecture = getattr(result, "architecture", None)
    result.model_args = {}
    result.source = {}
    result.base = None
    return result
