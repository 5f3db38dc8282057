"""docs/architectures.md: the ledger as a page."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[1] / "docs" / "architectures.md"

_ON_FAILURES = [
    "An error that shrinks by many orders from float32 to float64 is rounding, which random weights make a deep network "
    "amplify. Whether these hold with trained weights is not measured.",
    "",
]


def write_table(ledger: dict[str, Any], path: Path = PAGE) -> None:
    """Writes the page of certified and refused architectures."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(format_table(ledger), encoding="utf-8")


def format_table(ledger: dict[str, Any]) -> str:
    """Returns the page's text: totals, a line for each certified architecture, and the refused ones by reason."""
    certified = {name: r for name, r in sorted(ledger["models"].items()) if r.get("passed")}
    refused = {name: r for name, r in sorted(ledger["models"].items()) if "refused" in r}
    failed = {name: r for name, r in sorted(ledger["models"].items()) if r.get("passed") is False}
    lines = [
        "# Architectures",
        "",
        "<!-- Written by `python -m conversion certify`. -->",
        "",
        f"Of {len(ledger['models'])} architectures of timm {ledger['timm']}, **{len(certified)} are certified**: with random "
        "weights and BatchNorm statistics, their center-inflated 3D network computes the 2D one's logits on an image laid on a "
        f"plane of voxels. {len(failed)} fail, {len(refused)} are refused. "
        f"{sum(r['unmapped'] for r in certified.values())} tensors are unmapped.",
        "",
        "`python -m conversion certify --all` makes this page and `i2p_zoo/zoo.json`; a relative error is the largest "
        "difference of an image's logits over the largest logit.",
        "",
        "| architecture | class | parameters | inflated | copied | image | float32 | float64 | seconds |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    lines += [
        f"| {name} | {r['class']} | {r['parameters']:,d} | {r['inflated']} | {r['copied']} | {r['images'][-1]} "
        f"| {r['float32']:.1e} | {r['float64']:.1e} | {r['seconds']} |"
        for name, r in certified.items()
    ]
    for title, rows, notes in (("Failed", failed, _ON_FAILURES), ("Refused", refused, [])):
        if not rows:
            continue
        lines += ["", f"## {title}", "", *notes]
        for reason, count in Counter(_reason(r) for r in rows.values()).most_common():
            names = ", ".join(name for name, r in rows.items() if _reason(r) == reason)
            lines.append(f"- {reason} ({count}): {names}")
    return "\n".join(lines) + "\n"


def _reason(record: dict[str, Any]) -> str:
    if "refused" in record:
        return str(record["refused"])
    if "error" in record:
        return f"{record['class']}: {record['error']}"
    return f"{record['class']}: relative error {record['float32']:.1e} in float32, {record['float64']:.1e} in float64"
