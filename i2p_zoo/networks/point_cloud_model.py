"""PointCloudModel: the methods that an inflated network has beyond its timm class, which keeps its own forward."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import torch.fx
from torch import Tensor, nn

from i2p_zoo.checkpoints.config import make_config
from i2p_zoo.errors import InvalidInputError, UnsupportedError
from i2p_zoo.inflation.settings import Settings
from i2p_zoo.inflation.state import inflate_state, tie_parameters_
from i2p_zoo.inflation.structure import inflate_structure, inflate_structure_, materialize_, replace_leaves
from i2p_zoo.layers.position_parameters import EXTRA_TOKEN, POSITION_TABLE, find_position_parameters
from i2p_zoo.modules import head_name, set_class_names_
from i2p_zoo.names import split_name
from i2p_zoo.networks.blocks import predict
from i2p_zoo.networks.canvas import find_canvas, pixels_of_a_voxel, put_on_canvas
from i2p_zoo.networks.changes import apply_changes_, note_changes
from i2p_zoo.networks.feature_strides import true_feature_info
from i2p_zoo.networks.network import Network
from i2p_zoo.networks.presets import normalize_classifier_, set_preset_
from i2p_zoo.networks.stems import check_num_classes, find_stem, image_colors, set_point_stem_
from i2p_zoo.networks.timm_models import create_timm_model
from i2p_zoo.sparse.autograd_limits import check_transforms, refuse_graphs, run_uncompiled
from i2p_zoo.sparse.geometry import AXES, Pair
from i2p_zoo.sparse.tensor import SparseTensor
from i2p_zoo.wording import count_of


def inflate(
    model: nn.Module, inflation: str = "center", axis: str = "z", depth: int | None = None, canvas: Pair | None = None
) -> nn.Module:
    """Turns a 2D network into a sparse 3D one with the same parameter names and the same forward code.

    Args:
        model: any module of convolutions, normalisation, pooling and attention; left untouched.
        inflation: "center" puts a 2D kernel into the plane through the output site, zeros elsewhere; "average" repeats it
            along the new axis divided by the length (I3D, Carreira and Zisserman 2017); "triangle" divides it among the planes
            too, by shares that fall from the middle one (1/4, 1/2, 1/4); "copy" repeats it undivided (Image2Point,
            Xu et al. 2022).
        axis: the new axis, "z", "y" or "x".
        depth: the longest kernel along it; by default a kernel is as long there as its larger side.
        canvas: (height, width) in pixels of the image that a cloud passes for, in a network that looks at places (a
            transformer). By default what timm notes of the network, and none where its forward takes no voxels for tokens.

    Returns:
        A new module of a subclass of the model's own class; it takes a SparseTensor or point clouds. Its `report`
        attribute is the `InflationReport`.

    Raises:
        UnsupportedError: the model owns parameters in modules that have no sparse counterpart; all are named.
        InvalidInputError: unknown inflation or axis, a depth below 1, or a canvas that is no pair of positive integers.

    Example:
        >>> from torch import nn
        >>> net = inflate(nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()))
        >>> tuple(net[0].weight.shape)
        (8, 3, 3, 3, 3)
    """
    structure = inflate_structure(model, Settings(inflation, axis, depth, canvas=canvas, **image_colors(model)))
    state, report = inflate_state(model.state_dict(), structure)
    structure.load_state_dict(state, strict=True, assign=True)
    tie_parameters_(structure, model)
    structure.provenance = structure.provenance.changed(report=report)
    result: Any = mix_in_(structure)
    if canvas is None:
        result.provenance = result.provenance.with_settings(canvas=find_canvas(result))
    if result.provenance.settings.canvas is not None:
        positions = {
            key: sort if sort == EXTRA_TOKEN else f"{sort}, {_third_axis(sort, axis)}"
            for key, sort in find_position_parameters(result).items()
        }
        result.provenance = result.provenance.changed(report=report.with_reasons(positions))
    return result  # type: ignore[no-any-return]


def _third_axis(sort: str, axis: str) -> str:
    """What rule positions follow along the new axis."""
    if sort == POSITION_TABLE:
        return f"read along {axis} as along the height where it is added, else the same all along {axis}"
    return f"the same all along {axis}"


class PointCloudModel(Network):
    """Mixed into a network's own class by `i2p_zoo.inflate`; `isinstance(net, PointCloudModel)` tells such a network."""

    def prepare(self, x: Any) -> SparseTensor:
        """Returns the network's input as a sparse tensor, of the dtype and on the device of its first parameter.

        Args:
            x: a SparseTensor, spconv's SparseConvTensor, or clouds, which `settings.voxelize` takes.

        Raises:
            InvalidInputError: anything else, such as a batch of images; another number of channels than the network reads; or
                features beyond the range of its dtype.
            UnsupportedError: torch records a graph, or this runs inside a transform of `torch.func`.
        """
        check_transforms()
        if isinstance(x, Tensor | np.ndarray) and x.ndim == 4:
            raise InvalidInputError(
                f"Got a (B, C, H, W) tensor of shape {tuple(x.shape)}: lay images on voxels with `i2p_zoo.image_to_plane`."
            )
        if not isinstance(x, SparseTensor):
            is_spconv = hasattr(x, "indices") and hasattr(x, "features") and hasattr(x, "batch_size")
            x = SparseTensor.from_spconv(x) if is_spconv else self.settings.voxelize(x)[0]
        self._check_channels(x)
        x = _place_like(x, next(self.parameters(), None))  # type: ignore[attr-defined]
        axis, skip = AXES[self.settings.axis], self.settings.skip_downsamples
        if x.plan.level == 0 and (x.plan.axis, x.plan.skip_downsamples) != (axis, skip):
            x = x.with_plan(axis=axis, skip_downsamples=skip)
        canvas = self.settings.canvas
        if canvas is not None and x.plan.level == 0 and not x.has_extent:
            x = put_on_canvas(x, canvas, pixels_of_a_voxel(self, skip))  # type: ignore[arg-type]
        result: SparseTensor = x
        return result

    def _check_channels(self, x: SparseTensor) -> None:
        """Raises InvalidInputError for other channels than timm's network reads; of any other module they are not known."""
        channels = tuple(x.features.shape[1:])
        if self.architecture is not None and channels != (self.in_chans,):
            raise InvalidInputError(
                f"The network reads {count_of(self.in_chans, 'channel')} a voxel, and the input has "
                f"{', '.join(map(str, channels))}. Its settings name the features {self.settings.features!r}; give others as "
                "`features=` together with `in_chans=`."
            )

    @property
    def feature_info(self) -> Any:
        """What timm says of the feature maps, with the strides that they have here: see `true_feature_info`."""
        if "feature_info" not in self.__dict__:
            raise AttributeError(f"'{type(self).__name__}' object has no attribute 'feature_info'")
        return true_feature_info(self, self.__dict__["feature_info"])

    @feature_info.setter
    def feature_info(self, value: Any) -> None:
        self.__dict__["feature_info"] = value

    def forward(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        """Runs the 2D network's own forward on voxels; `x` as in `prepare`.

        Raises:
            UnsupportedError: a layer that gives voxels has a backward hook, which torch would never call; or torch.fx traces.
        """
        if isinstance(x, torch.fx.Proxy):
            raise UnsupportedError(
                "torch.fx cannot trace a network whose sites depend on the clouds: take layers' outputs by forward hooks or "
                "`forward_intermediates`."
            )
        return self._forward(x, *args, **kwargs)

    @run_uncompiled  # no decorator of `forward`, whose arguments torch.fx reads
    def _forward(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        with refuse_backward_hooks(self):  # type: ignore[arg-type]
            return super().forward(self.prepare(x), *args, **kwargs)  # type: ignore[misc]

    @run_uncompiled
    def forward_features(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        """Runs timm's `forward_features` on voxels; `x` as in `prepare`."""
        return super().forward_features(self.prepare(x), *args, **kwargs)  # type: ignore[misc]

    @run_uncompiled
    def forward_intermediates(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        """Runs timm's `forward_intermediates` on voxels; `x` as in `prepare`."""
        return super().forward_intermediates(self.prepare(x), *args, **kwargs)  # type: ignore[misc]

    def predict(self, points: Any, **kwargs: Any) -> Any:
        """Runs in eval mode without gradients, in blocks where a scene is too large; see `i2p_zoo.networks.blocks.predict`."""
        return predict(self, points, **kwargs)

    def reset_classifier(self, num_classes: int, *args: Any, **kwargs: Any) -> None:
        """Gives the network a new classifier, as timm does; a 2D convolution that timm makes for it is inflated.

        The names of the classes go with the old one; `i2p_zoo.finetune.train` notes those of the clouds.

        Raises:
            InvalidInputError: `num_classes` is no whole number of 0, for no classifier, or more.
        """
        check_num_classes(num_classes)
        model: Any = self
        before, kept = set(model.state_dict()), list(model.parameters())
        super().reset_classifier(num_classes, *args, **kwargs)  # type: ignore[misc]
        set_class_names_(model, ())  # which were the old one's
        replace_leaves(model, self.settings)
        materialize_(model)
        if self.settings.preset:
            normalize_classifier_(model)
        after = model.state_dict(keep_vars=True)
        new = {name: t for name, t in after.items() if isinstance(t, nn.Parameter) and not any(t is old for old in kept)}
        for name in sorted(new.keys() | (before - after.keys())):
            shapes = {name: tuple(new[name].shape)} if name in new else {}
            self.provenance = self.provenance.with_replaced(name, f"classifier of {count_of(num_classes, 'class')}", shapes)

    def to_config(self) -> dict[str, Any]:
        """Returns the network's config, as JSON types, without what is known of a checkpoint's files.

        Raises:
            InvalidInputError: the network was not made from a timm architecture, or has an argument that JSON cannot hold.
        """
        return note_changes(self, make_config(self), head_name(self))

    @staticmethod
    def from_config(config: dict[str, Any]) -> Any:
        """Undoes `to_config`, without weights: they are on the meta device; raises as `build_structure`."""
        return apply_changes_(mix_in_(build_structure(config)), config["i2p"].get("changes", {}))

    def __prepare_scriptable__(self) -> Any:
        """Refuses `torch.jit.script`, which asks each module for what it compiles."""
        refuse_graphs(is_recorded=True)

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Pickles by the 2D class, since the mixed class is made at run time."""
        return (_new_model, (type(self).__bases__[1],), self.__dict__)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)


def _place_like(x: SparseTensor, parameter: Tensor | None) -> SparseTensor:
    """Casts and moves a network's input to where a parameter is."""
    if parameter is None or (x.dtype == parameter.dtype and x.device == parameter.device):
        return x
    if parameter.is_meta:
        raise InvalidInputError("The network is on the meta device, which holds no weights: use `to_empty` and load them.")
    placed = x.to(device=parameter.device, dtype=parameter.dtype)
    limit = torch.finfo(parameter.dtype).max
    if limit < torch.finfo(x.dtype).max and float(x.features.abs().max()) > limit:
        raise InvalidInputError(
            f"The features reach {float(x.features.abs().max()):.3g}, beyond the {limit:.3g} that the network's "
            f"{str(parameter.dtype).removeprefix('torch.')} holds. Centre and scale the clouds, or use another dtype."
        )
    return placed


@contextlib.contextmanager
def refuse_backward_hooks(model: nn.Module) -> Iterator[None]:
    """Raises UnsupportedError, inside the block, where a module with a full backward hook gives voxels."""

    def check(_: nn.Module, inputs: Any, output: Any) -> None:
        if any(isinstance(x, SparseTensor) for x in (*inputs, output)):
            raise UnsupportedError(
                "`register_full_backward_hook` calls nothing for voxels, which are no torch.Tensor: use "
                "`register_forward_hook` and, on the output that it gets, `register_hook`."
            )

    hooked = [
        module for module in model.modules() if module is not model and (module._backward_hooks or module._backward_pre_hooks)
    ]
    handles = [module.register_forward_hook(check) for module in hooked]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@functools.cache
def point_cloud_class(source: Any) -> type[Any]:
    """Returns the class PointCloud<source> that mixes `PointCloudModel` into a network's class."""
    attributes = {"__module__": source.__module__, "__doc__": source.__doc__}
    return type(f"PointCloud{source.__name__}", (PointCloudModel, source), attributes)


def _new_model(source: Any) -> Any:
    mixed: Any = point_cloud_class(source)
    return mixed.__new__(mixed)


def mix_in_(structure: Any) -> Any:
    """Gives an inflated network the methods of `PointCloudModel`, by its class, in place; returns it."""
    structure.__class__ = point_cloud_class(structure.__class__)
    return structure


def build_structure(config: dict[str, Any]) -> Any:
    """Builds the encoder or classifier that a config describes, as a plain module.

    Args:
        config: as `i2p_zoo.checkpoints.config.read_config` returns it.

    Returns:
        A module of timm's class with its `provenance`; its weights are on the meta device, but a new stem's are there.

    Raises:
        NotFoundError: timm has no such architecture.
        InvalidInputError: timm does not take the arguments, or makes more modules of them than any network has.
    """
    settings = Settings(**config["i2p"]["settings"])
    architecture, _ = split_name(config["architecture"])
    arguments = dict(config["model_args"])
    if config["num_classes"] is not None and not arguments.get("features_only"):
        arguments["num_classes"] = config["num_classes"]
    in_chans = config["i2p"]["in_chans"]
    image_chans = in_chans if settings.stem == "image" else 3
    create = functools.partial(create_timm_model, architecture, in_chans=image_chans, **arguments)
    source = create(structure=True)
    stem = None if settings.stem == "image" else find_stem(source)
    image_settings = settings.changed(stem="image", preset="")
    model = inflate_structure_(source, image_settings)
    saved = model.state_dict()
    if any(buffer.is_meta and name not in saved for name, buffer in model.named_buffers()):  # its values are in no file
        model = inflate_structure(create(), image_settings)
    model.provenance = model.provenance.changed(
        architecture=architecture, model_args=dict(config["model_args"]), in_chans=in_chans
    )
    if stem is not None:
        set_point_stem_(model, stem, in_chans, settings.stem)
    if settings.preset:
        set_preset_(model, settings.preset)
    return model
