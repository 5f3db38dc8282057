"""Image-pretrained timm CNNs as sparse 3D point-cloud networks (Image2Point, ECCV 2022)."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from i2p_zoo._version import __version__

# name: the module it lives in. torch is imported when the first of them is used (PEP 562).
_PUBLIC = {
    "SparseTensor": "sparse.tensor",
    "voxelize": "sparse.voxelization",
    "image_to_plane": "sparse.voxelization",
    "sparse_op": "sparse.dispatch",
    "replaces": "layers.registry",
    "keep": "layers.registry",
    "SparseConv3d": "layers.convolution",
    "inflate": "networks.point_cloud_model",
    "inflate_weight": "layers.kernel_inflation",
    "InflationReport": "inflation.report",
    "certify": "zoo.certificate",
    "Certificate": "zoo.certificate",
    "PointCloudModel": "networks.point_cloud_model",
    "create_model": "networks.models",
    "list_models": "zoo.ledger",
    "from_pretrained": "zoo.pretrained",
    "convert": "zoo.conversion",
    "save_pretrained": "checkpoints.saving",
    "save_adapter": "checkpoints.adapters",
    "push_folder": "checkpoints.publishing",
    "use_engine": "sparse.engines",
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
    from i2p_zoo.checkpoints.adapters import save_adapter as save_adapter
    from i2p_zoo.checkpoints.publishing import push_folder as push_folder
    from i2p_zoo.checkpoints.saving import save_pretrained as save_pretrained
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
    from i2p_zoo.inflation.report import InflationReport as InflationReport
    from i2p_zoo.layers.convolution import SparseConv3d as SparseConv3d
    from i2p_zoo.layers.kernel_inflation import inflate_weight as inflate_weight
    from i2p_zoo.layers.registry import keep as keep
    from i2p_zoo.layers.registry import replaces as replaces
    from i2p_zoo.networks.models import create_model as create_model
    from i2p_zoo.networks.point_cloud_model import PointCloudModel as PointCloudModel
    from i2p_zoo.networks.point_cloud_model import inflate as inflate
    from i2p_zoo.sparse.dispatch import sparse_op as sparse_op
    from i2p_zoo.sparse.engines import use_engine as use_engine
    from i2p_zoo.sparse.tensor import SparseTensor as SparseTensor
    from i2p_zoo.sparse.voxelization import image_to_plane as image_to_plane
    from i2p_zoo.sparse.voxelization import voxelize as voxelize
    from i2p_zoo.zoo.certificate import Certificate as Certificate
    from i2p_zoo.zoo.certificate import certify as certify
    from i2p_zoo.zoo.conversion import convert as convert
    from i2p_zoo.zoo.ledger import list_models as list_models
    from i2p_zoo.zoo.pretrained import from_pretrained as from_pretrained


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(f"i2p_zoo.{_PUBLIC[name]}"), name)
    if name in _MODULES:
        return importlib.import_module(f"i2p_zoo.{name}")
    raise AttributeError(f"module 'i2p_zoo' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
