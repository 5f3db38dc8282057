"""The files of a checkpoint's folder, and what they tell before a network is built: nothing of torch is loaded here."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any, BinaryIO

from i2p_zoo.staging import locate

CONFIG, CARD = "config.json", "README.md"
_PARAMETERS = re.compile(r"^\| parameters \| ([\d,]+) \|$", re.MULTILINE)  # as card.md has it
_SIGNATURE = "<!-- Written by i2p-zoo"


def read_files(folder: Path) -> tuple[dict[str, Any], int] | None:
    """Returns the config of a checkpoint's folder and how many parameters its card says, where the weights are whole.

    None where anything is missing, damaged, foreign or edited: `i2p_zoo.from_pretrained` then loads it or says why not.
    """
    try:
        config: dict[str, Any] = json.loads(locate(folder, CONFIG).read_text(encoding="utf-8"))
        card = locate(folder, CARD).read_text(encoding="utf-8")
        weights = config["i2p"]["weights"]
        is_whole = all(sha256_of(locate(folder, Path(name).name)) == sha256 for name, sha256 in weights.items())
        parameters = _PARAMETERS.search(card)
        if not weights or not is_whole or parameters is None or is_edited(card):
            return None
        return config, int(parameters[1].replace(",", ""))
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None


def sign(body: str) -> str:
    """Returns the text of a card with a last line by which it is known again."""
    digest = hashlib.sha256(body.encode()).hexdigest()[:16]
    return f"{body}{_SIGNATURE}, text {digest}. An edited card is never overwritten. -->\n"


def is_edited(text: str) -> bool:
    """Whether a card is not, to the letter, one that this package wrote."""
    return text != sign(text.rpartition(_SIGNATURE)[0])


def sha256_of(path: Path) -> str:
    """Returns a file's sha256 in hexadecimal."""
    with path.open("rb") as file:
        return sha256_of_content(file)


def sha256_of_content(file: BinaryIO) -> str:
    """Returns the sha256 of what is left of an open file, in hexadecimal."""
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()
