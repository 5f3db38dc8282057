"""Image-pretrained timm CNNs as sparse 3D point-cloud networks (Image2Point, ECCV 2022)."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# name: the module it lives in. torch is imported when the first of them is used (PEP 562).
_PUBLIC = {
    "SparseTensor": "sparse_tensor",
    "voxelize": "voxelization",
    "image_to_plane": "voxelization",
    "sparse_op": "torch_functions.registry",
    "replaces": "layers.registry",
    "keep": "layers.registry",
    "SparseConv3d": "layers.convolution",
    "inflate": "inflation",
    "inflate_weight": "weights",
    "InflationReport": "report",
    "certify": "certificate",
    "Certificate": "certificate",
    "PointCloudModel": "point_cloud_model",
    "create_model": "models",
    "list_models": "models",
    "from_pretrained": "hub",
    "convert": "hub",
    "save_pretrained": "checkpoint",
    "save_adapter": "adapter",
    "push_folder": "publishing",
    "use_engine": "engines",
    "I2PError": "errors",
    "InvalidInputError": "errors",
    "CoordinateMismatchError": "errors",
    "UnsupportedError": "errors",
    "MissingMethodError": "errors",
    "NotFoundError": "errors",
    "CacheError": "errors",
    "HubError": "errors",
    "CheckpointError": "errors",
    "CertificateError": "errors",
    "DivergedError": "errors",
    "MissingExtraError": "errors",
}
_MODULES = ("analysis", "data", "finetune", "segmentation")

__all__ = ["__version__", *_PUBLIC, *_MODULES]

if TYPE_CHECKING:
    from i2p_zoo import analysis as analysis
    from i2p_zoo import data as data
    from i2p_zoo import finetune as finetune
    from i2p_zoo import segmentation as segmentation
    from i2p_zoo.adapter import save_adapter as save_adapter
    from i2p_zoo.certificate import Certificate as Certificate
    from i2p_zoo.certificate import certify as certify
    from i2p_zoo.checkpoint import save_pretrained as save_pretrained
    from i2p_zoo.engines import use_engine as use_engine
    from i2p_zoo.errors import CacheError as CacheError
    from i2p_zoo.errors import CertificateError as CertificateError
    from i2p_zoo.errors import CheckpointError as CheckpointError
    from i2p_zoo.errors import CoordinateMismatchError as CoordinateMismatchError
    from i2p_zoo.errors import DivergedError as DivergedError
    from i2p_zoo.errors import HubError as HubError
    from i2p_zoo.errors import I2PError as I2PError
    from i2p_zoo.errors import InvalidInputError as InvalidInputError
    from i2p_zoo.errors import MissingExtraError as MissingExtraError
    from i2p_zoo.errors import MissingMethodError as MissingMethodError
    from i2p_zoo.errors import NotFoundError as NotFoundError
    from i2p_zoo.errors import UnsupportedError as UnsupportedError
    from i2p_zoo.hub import convert as convert
    from i2p_zoo.hub import from_pretrained as from_pretrained
    from i2p_zoo.inflation import inflate as inflate
    from i2p_zoo.layers.convolution import SparseConv3d as SparseConv3d
    from i2p_zoo.layers.registry import keep as keep
    from i2p_zoo.layers.registry import replaces as replaces
    from i2p_zoo.models import create_model as create_model
    from i2p_zoo.models import list_models as list_models
    from i2p_zoo.point_cloud_model import PointCloudModel as PointCloudModel
    from i2p_zoo.publishing import push_folder as push_folder
    from i2p_zoo.report import InflationReport as InflationReport
    from i2p_zoo.sparse_tensor import SparseTensor as SparseTensor
    from i2p_zoo.torch_functions.registry import sparse_op as sparse_op
    from i2p_zoo.voxelization import image_to_plane as image_to_plane
    from i2p_zoo.voxelization import voxelize as voxelize
    from i2p_zoo.weights import inflate_weight as inflate_weight


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(f"i2p_zoo.{_PUBLIC[name]}"), name)
    if name in _MODULES:
        return importlib.import_module(f"i2p_zoo.{name}")
    raise AttributeError(f"module 'i2p_zoo' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
