"""docs/architectures.md: the ledger as a page."""

from __future__ import annotations

import fnmatch
import textwrap
from collections import Counter
from pathlib import Path
from typing import Any

import timm

from conversion.ledger import LARGEST_IMAGE

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


_EXPORT = """
## Export

`i2p-zoo export` ([deployment](deployment.md)) takes the convolutional networks, {exported} of these {all}; `pytest -m long
tests/export/test_architectures.py` exports the smallest of each class and compares (up to 30 million parameters; 20 minutes on
one core). A network that cannot be exported says so in one line before anything is written. Those are:

- Networks that take voxels for tokens, {tokens}: their windows and tables follow from each cloud's box, which a graph of fixed
  operations does not know. All of the classes
{classes}.
  And of other classes
{others}.
"""
NOT_EXPORTED = {
    "bat_resnext26ts": "Bilinear attention joins blocks of each cloud's bounding box",
    "tresnet_*": "Its first layer moves voxels to channels by lists of pairs, whose number follows from the cloud",
}
"""Convolutional networks that cannot be exported: a pattern of their names and the reason."""
_OF_ONE_SIZE = ("bat_resnext26ts", "vgg*")


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
    lines += _list_exports(certified)
    for title, rows in (("Failed", failed), ("Refused", refused)):
        if rows:
            lines += ["", f"## {title}", ""]
        for reason, count in Counter(_reason(r) for r in rows.values()).most_common():
            names = ", ".join(name for name, r in rows.items() if _reason(r) == reason)
            lines.append(f"- {reason} ({count}): {names}")
    return "\n".join(lines) + "\n"


def _list_exports(certified: dict[str, Any]) -> list[str]:
    """What can be exported: networks of tokens are those measured at their own size, but for a few that must be."""
    fixed = {name for pattern in _OF_ONE_SIZE for name in fnmatch.filter(certified, pattern)}
    tokens = {name for name, record in certified.items() if record["images"][-1] > LARGEST_IMAGE} - fixed
    refused = {name for pattern in NOT_EXPORTED for name in fnmatch.filter(certified, pattern)}
    convolutional = {certified[name]["class"] for name in certified.keys() - tokens}
    of_tokens = {certified[name]["class"] for name in tokens} - convolutional
    text = _EXPORT.format(
        exported=len(certified.keys() - tokens - refused),
        all=len(certified),
        tokens=len(tokens),
        classes=_wrap(of_tokens),
        others=_wrap({name for name in tokens if certified[name]["class"] in convolutional}),
    )
    reasons = [(f"- {reason}: ", sorted(fnmatch.filter(certified, pattern))) for pattern, reason in NOT_EXPORTED.items()]
    return [*text.rstrip().split("\n"), *(reason + ", ".join(names) + "." for reason, names in reasons if names)]


def _wrap(names: set[str]) -> str:
    return textwrap.fill(", ".join(sorted(names)) or "none", 126, initial_indent="  ", subsequent_indent="  ")


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.1e}"


def _reason(record: dict[str, Any]) -> str:
    if "refused" in record:
        return str(record["refused"])
    if "error" in record:
        return f"{record['class']}: {record['error']}"
    return f"{record['class']}: relative error {_figure(record['float32'])} in float32, {_figure(record['float64'])} in float64"
