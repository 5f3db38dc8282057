"""The zoo as a table: rows of the ledger and of the facts, as HTML for the site's page and as CSV; and what can be exported."""

from __future__ import annotations

import csv
import fnmatch
import html
import io
from collections import Counter
from typing import Any

from conversion.ledger import LARGEST_IMAGE
from i2p_zoo.names import PREFIX

_CUT = "two blocks a stage"
_COLUMNS = {
    "network": "Network",
    "class": "timm's class",
    "parameters": "Parameters in 3D",
    "classes": "Classes",
    "input_size": "Image",
    "float32": "Error, float32",
    "float64": "Error, float64",
    "licence": "Licence",
    "measured": "Measured",
}
_MORE = ("parameters_2d", "inflated", "copied", "response", "shift")  # of the CSV alone
NOT_EXPORTED = {
    "bat_resnext26ts": "Bilinear attention joins blocks of each cloud's bounding box",
    "tresnet_*": "Its first layer moves voxels to channels by lists of pairs, whose number follows from the cloud",
}
"""Convolutional networks that cannot be exported: a pattern of their names and the reason."""
_OF_ONE_SIZE = ("bat_resnext26ts", "vgg*")  # convolutional networks that take no other size than their own
_NUMBERS = ("parameters", "classes", "input_size", "float32", "float64")


def make_rows(ledger: dict[str, Any], facts: dict[str, Any]) -> list[dict[str, Any]]:
    """Returns a row for each certified architecture, by the columns of the CSV; what is not known is None.

    Args:
        ledger: as `i2p_zoo.zoo.ledger.load_ledger` returns it.
        facts: the records of `i2p_zoo/zoo/facts.json` by architecture.
    """
    rows = []
    for name, record in sorted(ledger["models"].items()):
        if not record.get("passed"):
            continue
        known = facts.get(name, {})
        rows.append(
            {
                "network": PREFIX + name,
                "class": record["class"],
                "parameters": known.get("parameters"),
                "classes": known.get("num_classes"),
                "input_size": known.get("input_size", record["images"][-3:])[-1],
                "float32": record["float32"],
                "float64": record["float64"],
                "licence": known.get("license"),
                "measured": _CUT if record.get("cut") else "whole",
                "parameters_2d": record["parameters"],
                **{key: record.get(key) for key in _MORE[1:]},
            }
        )
    return rows


def format_csv(rows: list[dict[str, Any]]) -> str:
    """Returns the rows as CSV with a line of names."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [*_COLUMNS, *_MORE], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def format_html(rows: list[dict[str, Any]]) -> str:
    """Returns the rows as an HTML table, numbers with their value for sorting; docs/zoo.js filters and sorts it."""
    header = "".join(f"<th>{title}</th>" for title in _COLUMNS.values())
    lines = ["<tr>" + "".join(_format_cell(key, row[key]) for key in _COLUMNS) + "</tr>" for row in rows]
    return f'<table id="zoo-table"><thead><tr>{header}</tr></thead><tbody>\n' + "\n".join(lines) + "\n</tbody></table>"


def _format_cell(key: str, value: Any) -> str:
    if key not in _NUMBERS or value is None:
        return f"<td>{html.escape(str(value or ''))}</td>"
    shown = f"{value:.1e}" if key.startswith("float") else f"{value:,d}"
    return f'<td class="number" data-value="{value}">{shown}</td>'


def summarize(ledger: dict[str, Any]) -> str:
    """Returns the totals in a sentence, and a list of what failed or was refused, by reason, where there is any."""
    records = ledger["models"]
    certified = [record for record in records.values() if record.get("passed")]
    failed = {name: record for name, record in sorted(records.items()) if record.get("passed") is False}
    refused = {name: record for name, record in sorted(records.items()) if "refused" in record}
    lines = [
        f"Of {len(records):,} architectures of timm {ledger['timm']} that were measured, **{len(certified):,} are certified**, "
        f"{len(failed)} fail and {len(refused)} are refused; {sum(record['unmapped'] for record in certified)} tensors are "
        "unmapped."
    ]
    for title, group in (("Failed", failed), ("Refused", refused)):
        if group:
            lines += ["", f"## {title}", ""]
        for reason, count in Counter(map(_reason, group.values())).most_common():
            lines.append(
                f"- {reason} ({count}): {', '.join(name for name, record in group.items() if _reason(record) == reason)}"
            )
    return "\n".join(lines)


def list_exports(ledger: dict[str, Any]) -> str:
    """Returns which certified networks `i2p-zoo export` takes and which it refuses, as Markdown.

    Networks of tokens are those that were measured at their own size, but for a few convolutional ones that must be.
    """
    certified = {name: record for name, record in sorted(ledger["models"].items()) if record.get("passed")}
    fixed = {name for pattern in _OF_ONE_SIZE for name in fnmatch.filter(certified, pattern)}
    tokens = {name for name, record in certified.items() if record["images"][-1] > LARGEST_IMAGE} - fixed
    refused = {pattern: sorted(fnmatch.filter(certified, pattern)) for pattern in NOT_EXPORTED}
    convolutional = {certified[name]["class"] for name in certified.keys() - tokens}
    exported = len(certified) - len(tokens) - sum(map(len, refused.values()))
    classes = sorted({certified[name]["class"] for name in tokens} - convolutional)
    others = sorted(name for name in tokens if certified[name]["class"] in convolutional)
    lines = [
        f"`i2p-zoo export` takes the convolutional networks, {exported:,} of the {len(certified):,} that are certified. "
        "It refuses",
        "",
        f"- networks that take voxels for tokens, {len(tokens)}: all of the classes {', '.join(classes) or 'none'}; and of "
        f"other classes {', '.join(others) or 'none'};",
    ]
    lines += [f"- {', '.join(names)}: {NOT_EXPORTED[pattern]};" for pattern, names in refused.items() if names]
    return "\n".join(lines).removesuffix(";") + "."


def _reason(record: dict[str, Any]) -> str:
    if "refused" in record:
        return str(record["refused"])
    if "error" in record:
        return f"{record['class']}: {record['error']}"
    return f"{record['class']}: relative error {record['float32']:.1e} in float32, {record['float64']:.1e} in float64"
