"""What every network of this package has beside its own class: its provenance, frozen norms, saving and publishing."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from i2p_zoo.checkpoints.publishing import PushPlan, push_model
from i2p_zoo.checkpoints.saving import save_pretrained
from i2p_zoo.inflation.provenance import Provenance
from i2p_zoo.layers.normalization import keep_norms_in_eval_


def _of_provenance(name: str) -> Any:
    def read(self: Network) -> Any:
        return getattr(self.provenance, name)

    def write(self: Network, value: Any) -> None:
        self.provenance = self.provenance.changed(**{name: value})

    return property(read, write, doc=f"`Provenance.{name}`.")


class Network:
    """Mixed into the classes of networks that are saved, loaded and finetuned.

    Attributes:
        provenance: how the network was made and where its weights come from, a `Provenance`; its fields are attributes of
            the network too.
        frozen_norms: whether normalisation outside the classifier stays in eval mode, as `i2p_zoo.finetune.freeze` sets it.
    """

    provenance: Provenance
    frozen_norms: bool = False

    settings = _of_provenance("settings")
    architecture = _of_provenance("architecture")
    model_args = _of_provenance("model_args")
    in_chans = _of_provenance("in_chans")
    report = _of_provenance("report")
    source = _of_provenance("source")
    base = _of_provenance("base")

    def train(self, mode: bool = True) -> Any:
        """Sets training mode; normalisation that `i2p_zoo.finetune.freeze` froze stays in eval mode."""
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
