"""The map of parameters: where each tensor of a 3D network comes from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from math import prod
from typing import Any

from i2p_zoo.wording import count_of

RULES = ("copied", "inflated", "replaced", "dropped")


@dataclass(frozen=True)
class ParameterRecord:
    """One tensor's origin.

    Attributes:
        key: its name in the state dict, the same in 2D and 3D.
        shape_2d: shape in the 2D network, None where that has no such tensor.
        shape_3d: shape in the 3D network, None where it was dropped.
        rule: "copied" (bit for bit), "inflated", "replaced" (new values) or "dropped".
        reason: the inflation mode, what a copied tensor says of positions, or why it was replaced or dropped.
    """

    key: str
    shape_2d: tuple[int, ...] | None
    shape_3d: tuple[int, ...] | None
    rule: str
    reason: str = ""


@dataclass(frozen=True)
class InflationReport:
    """The origin of every tensor of a network, in the order of its state dict."""

    records: list[ParameterRecord]

    def __repr__(self) -> str:
        """One line: how many tensors by rule."""
        counts = ", ".join(f"{count} {rule}" for rule, count in self.counts().items() if count)
        return f"InflationReport({count_of(len(self.records), 'tensor')}{counts and f': {counts}'})"

    def counts(self) -> dict[str, int]:
        """Returns the number of tensors by rule."""
        counts = Counter(record.rule for record in self.records)
        return {rule: counts[rule] for rule in RULES}

    def sizes(self) -> dict[str, int]:
        """Returns the number of values of the 3D network by rule (of the 2D one for dropped tensors)."""
        totals = dict.fromkeys(RULES, 0)
        for record in self.records:
            totals[record.rule] += prod(record.shape_3d if record.shape_3d is not None else record.shape_2d or (0,))
        return totals

    def changed(self, prefix: str, rule: str, reason: str, shapes: dict[str, tuple[int, ...]]) -> InflationReport:
        """Returns a report in which the tensors under `prefix` are those of `shapes`, by another rule.

        Args:
            prefix: qualified name of a module, with the dot, or a tensor's full name.
            rule: "replaced" or "dropped"; tensors that are no longer in `shapes` are dropped.
            reason: why.
            shapes: the 3D shapes of the tensors there now, by full name.
        """
        records, left = [], dict(shapes)
        for record in self.records:
            if record.key != prefix and not (prefix.endswith(".") and record.key.startswith(prefix)):
                records.append(record)
            elif record.key in left:
                records.append(ParameterRecord(record.key, record.shape_2d, left.pop(record.key), rule, reason))
            else:
                records.append(ParameterRecord(record.key, record.shape_2d, None, "dropped", reason))
        records += [ParameterRecord(key, None, shape, rule, reason) for key, shape in left.items()]
        return InflationReport(records)

    def with_reasons(self, reasons: Mapping[str, str]) -> InflationReport:
        """Returns a report in which the tensors named here have these reasons for their rule."""
        return InflationReport([replace(record, reason=reasons.get(record.key, record.reason)) for record in self.records])

    def totals(self) -> dict[str, int]:
        """Returns the numbers of tensors and of values in 2D and in 3D."""
        flat = [prod(r.shape_2d) for r in self.records if r.shape_2d is not None]
        deep = [prod(r.shape_3d) for r in self.records if r.shape_3d is not None]
        return {"tensors_2d": len(flat), "values_2d": sum(flat), "tensors_3d": len(deep), "values_3d": sum(deep)}

    def to_dict(self) -> dict[str, Any]:
        """Returns the report as JSON types: counts, sizes, totals and records."""
        records = [asdict(r) for r in self.records]
        return {"counts": self.counts(), "sizes": self.sizes(), "totals": self.totals(), "parameters": records}

    def summary(self) -> str:
        """Returns a line for each rule in use, tensors and values, and one for the network."""
        if not self.records:
            return ""
        sizes, totals = self.sizes(), self.totals()
        lines = [f"{rule:>9}: {count:4d} tensors, {sizes[rule]:>13,d} values" for rule, count in self.counts().items() if count]
        lines.append(f"{'total':>9}: {totals['tensors_3d']:4d} tensors, {totals['values_3d']:>13,d} values, ")
        return "\n".join(lines) + f"from {totals['tensors_2d']} with {totals['values_2d']:,d} in 2D"

    def table(self) -> str:
        """Returns a line for each tensor: key, 2D shape, 3D shape, rule, reason."""
        width = max((len(record.key) for record in self.records), default=0)
        return "\n".join(
            f"{r.key:<{width}}  {_shape(r.shape_2d):>20} -> {_shape(r.shape_3d):<24} {r.rule} {r.reason}".rstrip()
            for r in self.records
        )


def _shape(shape: tuple[int, ...] | None) -> str:
    return "-" if shape is None else "x".join(map(str, shape)) or "scalar"
