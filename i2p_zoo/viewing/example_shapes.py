"""Meshes to try the app on where nobody gives any."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_CORNERS = np.array([(x, y, z) for z in (0, 1) for y in (0, 1) for x in (0, 1)], np.float64)
_SIDES = np.array([(0, 2, 3, 1), (4, 5, 7, 6), (0, 1, 5, 4), (2, 6, 7, 3), (0, 4, 6, 2), (1, 3, 7, 5)])
_LEGS = [((x, y, 0.0), (0.1, 0.1, 0.7)) for x in (0.0, 0.9) for y in (0.0, 0.9)]
_SHAPES = {
    "table.off": [*_LEGS, ((0.0, 0.0, 0.7), (1.0, 1.0, 0.1))],
    "chair.off": [*_LEGS, ((0.0, 0.0, 0.7), (1.0, 1.0, 0.1)), ((0.0, 0.9, 0.8), (1.0, 0.1, 0.9))],
    "stairs.off": [((0.25 * step, 0.0, 0.0), (0.25, 1.0, 0.25 * (step + 1))) for step in range(4)],
}


def write_shapes(folder: Path) -> list[Path]:
    """Writes a table, a chair and stairs, each of boxes, as OFF files; returns their paths."""
    for name, boxes in _SHAPES.items():
        corners = np.concatenate([_CORNERS * size + np.array(low) for low, size in boxes])
        sides = np.concatenate([_SIDES + 8 * number for number in range(len(boxes))])
        _write_off(folder / name, corners, sides)
    return [folder / name for name in _SHAPES]


def _write_off(path: Path, corners: NDArray[np.float64], sides: NDArray[np.int64]) -> None:
    lines = ["OFF", f"{len(corners)} {len(sides)} 0"]
    lines += [" ".join(map(str, corner)) for corner in corners.tolist()]
    lines += [" ".join(map(str, [len(side), *side])) for side in sides.tolist()]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")
