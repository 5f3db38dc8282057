"""i2p_zoo/zoo/facts.json: what `i2p-zoo info` says of certified networks by name, for which nothing needs to be built."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import timm
from tqdm import tqdm

import i2p_zoo
from i2p_zoo.staging import replacing
from i2p_zoo.zoo.pretrained import describe

FACTS = Path(i2p_zoo.__file__).parent / "zoo" / "facts.json"


def write_facts(architectures: Iterable[str], path: Path = FACTS) -> None:
    """Writes the facts of certified architectures into the file, a line each; those of another timm go.

    Args:
        architectures: timm's names, of which those are described that the file lacks.
        path: of the file.
    """
    old = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    known = old["models"] if old.get("timm") == timm.__version__ else {}
    facts = {
        name: known.get(name) or describe_tags(name) for name in tqdm(sorted(architectures), desc="describing", unit="model")
    }
    lines = [f"{json.dumps(name)}: {json.dumps(each)}" for name, each in facts.items()]
    with replacing(path) as temporary:
        text = f'{{"timm": {json.dumps(timm.__version__)}, "models": {{\n' + ",\n".join(lines) + "\n}}\n"
        temporary.write_text(text, encoding="utf-8", newline="\n")


def describe_tags(architecture: str) -> dict[str, Any]:
    """Returns what describes an architecture, by timm's default tag, and for each of its tags, that one first, what differs.

    The certificate is left out, which the ledger has.
    """
    default: Any = timm.get_pretrained_cfg(architecture)
    first = default.tag or ""
    others = {name.partition(".")[2] for name in timm.list_pretrained(f"{architecture}.*")} - {first}
    facts = {tag: describe(f"{architecture}.{tag}" if tag else architecture) for tag in (first, *sorted(others))}
    common = {key: value for key, value in facts[first].items() if key != "certificate"}
    return {
        **common,
        "tags": {tag: {key: each[key] for key in common if each[key] != common[key]} for tag, each in facts.items()},
    }
