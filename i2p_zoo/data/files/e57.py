"""E57 files of laser scanners: every scan, in the file's common coordinates."""

from __future__ import annotations

import os
from typing import IO

import numpy as np

from i2p_zoo._extras import require
from i2p_zoo.data.files.arrays import Arrays
from i2p_zoo.errors import InvalidInputError

_NAMES = {
    "points": ("cartesianX", "cartesianY", "cartesianZ"),
    "normals": ("nor:normalX", "nor:normalY", "nor:normalZ"),
    "colors": ("colorRed", "colorGreen", "colorBlue"),
}


def read_e57(file: IO[bytes]) -> Arrays:
    """Reads the valid points of all scans, one after the other, each moved by its own pose; what all of them have is kept.

    Raises:
        InvalidInputError: no scan.
        MissingExtraError: pye57 is not installed.
    """
    e57 = require("pye57", "e57").E57(os.fsdecode(file.name))
    try:
        scans = [
            e57.read_scan(number, intensity=True, colors=True, row_column=False, transform=True, ignore_missing_fields=True)
            for number in range(e57.scan_count)
        ]
    finally:
        e57.close()
    if not scans:
        raise InvalidInputError("it has no scan.")
    cloud: Arrays = {}
    for key, names in _NAMES.items():
        if all(set(names) <= scan.keys() for scan in scans):
            cloud[key] = np.concatenate([np.stack([scan[name] for name in names], 1) for scan in scans])
    if all("intensity" in scan for scan in scans):
        cloud["intensity"] = np.concatenate([scan["intensity"] for scan in scans])
    return cloud
