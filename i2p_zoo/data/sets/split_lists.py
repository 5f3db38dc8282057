"""Lists of the files of each split, as data sets have them beside their class folders."""

from __future__ import annotations

import json
import re
from pathlib import Path, PurePosixPath

from i2p_zoo.data.files.paths import faults_named, sort_paths
from i2p_zoo.errors import InvalidInputError

LIST_FOLDER = "train_test_split"  # of ShapeNetPart, with lists such as shuffled_train_file_list.json
_NAMES = re.compile(r"(?:.*[_-])?(train|test|val)(?:[_-].*)?")


def read_split_lists(folder: Path) -> dict[str, str]:
    """Returns the split of each file that a list names, by the name without its ending.

    A list is a text such as `modelnet40_train.txt` in the folder, a name a line, or JSON in `train_test_split`.

    Raises:
        InvalidInputError: a list that cannot be read, or a name in lists of two splits.
    """
    splits: dict[str, str] = {}
    for path in sort_paths([*folder.glob("[!.]*.txt"), *(folder / LIST_FOLDER).glob("[!.]*.json")]):
        match = _NAMES.fullmatch(path.stem.lower())
        if not match:
            continue
        for name in _read_list(path):
            if splits.setdefault(name, match[1]) != match[1]:
                raise InvalidInputError(
                    f"{path}: {name!r} is of the {match[1]} split here and of {splits[name]} in another list."
                )
    return splits


def _read_list(path: Path) -> list[str]:
    with faults_named(path):
        text = path.read_text(encoding="utf-8")
        lines = json.loads(text) if path.suffix.lower() == ".json" else text.splitlines()
        # an id of ShapeNet may have no ending, a name of a file has
        names = [PurePosixPath(str(line).strip().replace("\\", "/")).name for line in lines]
    return [re.sub(r"\.[A-Za-z]\w*$", "", name) for name in names if name]
