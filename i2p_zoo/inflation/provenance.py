"""How a network was made and where its weights come from: all that a checkpoint says of it beside its tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

from i2p_zoo.inflation.report import InflationReport
from i2p_zoo.inflation.settings import Settings


@dataclass(frozen=True)
class Provenance:
    """How a network was made and where its weights come from. It is never changed, only replaced.

    Attributes:
        settings: of the inflation, and how the network reads clouds.
        architecture: timm's name; None for a network that is not of timm.
        model_args: `timm.create_model(architecture, **model_args)` makes the 2D network, classes and channels aside.
        in_chans: channels of a voxel.
        report: the origin of every tensor; None for a network loaded from a checkpoint.
        source: where the 2D weights come from (repo, package or file; commit or version; sha256; license), and the
            `certificate` measured with them.
        base: the checkpoint that the network was loaded from: its `name`, `commit` and the hashes of its `weights`.
        load_base: loads that checkpoint again, for an adapter: called with `base`, the inflation's name, and options of the
            Hub by keyword.
    """

    settings: Settings = field(default_factory=Settings)
    architecture: str | None = None
    model_args: dict[str, Any] = field(default_factory=dict)
    in_chans: int = 3
    report: InflationReport | None = None
    source: dict[str, Any] = field(default_factory=dict)
    base: dict[str, Any] | None = None
    load_base: Callable[..., Any] | None = None

    def changed(self, **changes: Any) -> Provenance:
        """Returns a copy with some fields changed."""
        return replace(self, **changes)

    def with_settings(self, **changes: Any) -> Provenance:
        """Returns a copy with some fields of the settings changed."""
        return replace(self, settings=self.settings.changed(**changes))

    def with_replaced(self, prefix: str, reason: str, tensors: nn.Module | Mapping[str, tuple[int, ...]]) -> Provenance:
        """Returns a copy whose report, where there is one, says that the tensors under a prefix are new.

        Args:
            prefix: a module's qualified name with the dot, or a tensor's full name.
            reason: why they are new.
            tensors: the module that stands there now, or the shapes by full name.
        """
        if self.report is None:
            return self
        if isinstance(tensors, nn.Module):
            tensors = {f"{prefix}{key}": tuple(tensor.shape) for key, tensor in tensors.state_dict().items()}
        return replace(self, report=self.report.changed(prefix, "replaced", reason, dict(tensors)))
