"""docs/architectures.md: the ledger as a page."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import timm

PAGE = Path(__file__).parents[1] / "docs" / "architectures.md"

_INTRODUCTION = """
`python -m conversion certify --all` makes this page and `i2p_zoo/zoo/ledger.json`. A certificate lays an image on a plane of
voxels and compares the outputs of the center-inflated 3D network with those of the 2D network, both with seeded random
parameters: the largest difference, relative to the largest output, must be at most 1e-5 in float32 and 1e-9 in float64. The
response is how far another image moves the outputs, on the same scale, and the shift how far the same image does, rolled by
half its height and width. Convolutional networks are measured on images of at most 128 pixels, others at their own size. Where
the pair in float64 exceeds the memory budget, the same network is measured with two blocks a stage, as the last column says.

Normalisation keeps its 2D meaning: BatchNorm acts over all voxels of a batch, GroupNorm over the voxels of a sample, LayerNorm
over the channels of a voxel.

| architecture | class | parameters | inflated | copied | image | float32 | float64 | response | shift | seconds | |
|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|---|
"""


def write_table(ledger: dict[str, Any], path: Path = PAGE) -> None:
    """Writes the page of certified and refused architectures."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(format_table(ledger), encoding="utf-8")


def format_table(ledger: dict[str, Any]) -> str:
    """Returns the page's text: totals, a line for each certified architecture, and the refused ones by reason."""
    certified = {name: r for name, r in sorted(ledger["models"].items()) if r.get("passed")}
    refused = {name: r for name, r in sorted(ledger["models"].items()) if "refused" in r}
    failed = {name: r for name, r in sorted(ledger["models"].items()) if r.get("passed") is False}
    unmeasured = set(timm.list_models()) - ledger["models"].keys() if ledger["timm"] == timm.__version__ else ()
    lines = [
        "# Architectures",
        "",
        "<!-- Written by `python -m conversion certify`. -->",
        "",
        f"Of {len(ledger['models'])} architectures of timm {ledger['timm']}, **{len(certified)} are certified**, {len(failed)} "
        f"fail and {len(refused)} are refused; {sum(r['unmapped'] for r in certified.values())} tensors are unmapped."
        + (f" {len(unmeasured)} more are not measured yet." if unmeasured else ""),
        *_INTRODUCTION.rstrip().split("\n"),
    ]
    lines += [
        f"| {name} | {r['class']} | {r['parameters']:,d} | {r['inflated']} | {r['copied']} | {r['images'][-1]} | "
        f"{_figure(r['float32'])} | {_figure(r['float64'])} | {_figure(r['response'])} | {_figure(r.get('shift'))} | "
        f"{r['seconds']} | {'two blocks a stage' if r.get('cut') else ''} |"
        for name, r in certified.items()
    ]
    for title, rows in (("Failed", failed), ("Refused", refused)):
        if rows:
            lines += ["", f"## {title}", ""]
        for reason, count in Counter(_reason(r) for r in rows.values()).most_common():
            names = ", ".join(name for name, r in rows.items() if _reason(r) == reason)
            lines.append(f"- {reason} ({count}): {names}")
    return "\n".join(lines) + "\n"


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.1e}"


def _reason(record: dict[str, Any]) -> str:
    if "refused" in record:
        return str(record["refused"])
    if "error" in record:
        return f"{record['class']}: {record['error']}"
    return f"{record['class']}: relative error {_figure(record['float32'])} in float32, {_figure(record['float64'])} in float64"
