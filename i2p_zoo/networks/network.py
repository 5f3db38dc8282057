"""What every network of this package has beside its own class: its provenance, frozen norms, saving and publishing."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Generic, TypeVar, overload

from torch import nn

from i2p_zoo.checkpoints.publishing import PushPlan, push_model
from i2p_zoo.checkpoints.saving import save_pretrained
from i2p_zoo.errors import InvalidInputError
from i2p_zoo.inflation.provenance import Provenance
from i2p_zoo.inflation.report import InflationReport
from i2p_zoo.inflation.settings import Settings
from i2p_zoo.layers.normalization import keep_norms_in_eval_

T = TypeVar("T")


class ProvenanceField(Generic[T]):
    """A field of a network's provenance as an attribute of the network; setting it replaces the provenance."""

    def __set_name__(self, owner: type[Any], name: str) -> None:
        self.name = name

    @overload
    def __get__(self, network: None, owner: type[Any]) -> ProvenanceField[T]: ...
    @overload
    def __get__(self, network: Network, owner: type[Any]) -> T: ...
    def __get__(self, network: Network | None, owner: type[Any]) -> Any:
        return self if network is None else getattr(network.provenance, self.name)

    def __set__(self, network: Network, value: T) -> None:
        network.provenance = network.provenance.changed(**{self.name: value})


class Network:
    """Mixed into the classes of networks that are saved, loaded and finetuned.

    Attributes:
        provenance: how the network was made and where its weights come from, a `Provenance`; its fields are attributes of
            the network too.
        frozen_norms: whether normalisation outside the classifier stays in eval mode, as `i2p_zoo.finetune.freeze` sets it,
            until its parameters require gradients again.
    """

    provenance: Provenance
    frozen_norms: bool = False

    settings = ProvenanceField[Settings]()
    architecture = ProvenanceField[str | None]()
    model_args = ProvenanceField[dict[str, Any]]()
    in_chans = ProvenanceField[int]()
    report = ProvenanceField[InflationReport | None]()
    source = ProvenanceField[dict[str, Any]]()
    base = ProvenanceField[dict[str, Any] | None]()

    def train(self, mode: bool = True) -> Any:
        """Sets training mode; normalisation that `i2p_zoo.finetune.freeze` froze, and that is frozen still, stays in eval."""
        super().train(mode)  # type: ignore[misc]
        if self.frozen_norms:
            keep_norms_in_eval_(self)
        return self

    def save_pretrained(self, folder: str | os.PathLike[str], **kwargs: Any) -> Path:
        """Saves config.json, model.safetensors and README.md; see `i2p_zoo.save_pretrained`."""
        return save_pretrained(self, folder, **kwargs)

    def push_to_hub(self, repo: str, **kwargs: Any) -> PushPlan:
        """Puts the network, or with `adapter=True` what finetuning changed, on the Hub; see `publishing.push_model`."""
        return push_model(self, repo, **kwargs)


class EncoderNetwork(Network, nn.Module):
    """An encoder of the zoo with new layers behind it, which has the encoder's provenance.

    Args:
        encoder: a `PointCloudModel` created with `features_only=True`.

    Raises:
        InvalidInputError: another encoder.
    """

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        if not getattr(encoder, "model_args", {}).get("features_only"):
            raise InvalidInputError(f"The encoder must be created with features_only=True; got {type(encoder).__qualname__}.")
        self.encoder = encoder
        noted = encoder.pretrained_cfg or {}
        self.pretrained_cfg = {key: value for key, value in noted.items() if key not in ("label_names", "label_codes")}

    @property
    def provenance(self) -> Provenance:
        """The encoder's, since the layers behind it are always new: what is changed at the encoder is this network's too."""
        provenance: Provenance = self.encoder.provenance
        return provenance

    @provenance.setter
    def provenance(self, value: Provenance) -> None:
        self.encoder.provenance = value
