"""A cloud or mesh from a PLY file: its vertices, and its faces or strips of triangles."""

from __future__ import annotations

from typing import IO

import numpy as np

from i2p_zoo.data.files.arrays import Arrays
from i2p_zoo.data.files.named_columns import gather_columns
from i2p_zoo.data.files.ply import Lists, Properties, read_ply, scalar_columns
from i2p_zoo.data.files.polygons import divide_strips
from i2p_zoo.errors import InvalidInputError

_POLYGONS = ("vertex_indices", "vertex_index")
_NOTHING = Lists(np.zeros(0, np.int64), np.zeros(0, np.int64))


def read_ply_cloud(file: IO[bytes]) -> Arrays:
    """Reads an open file; raises InvalidInputError as `read_ply` does, and for one without vertices."""
    elements, comments = read_ply(file)
    cloud = gather_columns(scalar_columns(elements.get("vertex", {})))
    if not len(cloud["points"]):
        raise InvalidInputError("it has no vertices.")
    faces, strips = elements.get("face", {}), elements.get("tristrips", {})
    polygons, triangles = _polygons(faces), _triangles(_polygons(strips))
    if len(polygons.sizes) and len(triangles.sizes):
        raise InvalidInputError("it has faces and strips of triangles; expected one of them.")
    if len(polygons.sizes):
        positions = dict.fromkeys("xyz", polygons.sizes)  # in place of those that a face has not
        of_faces = gather_columns({**scalar_columns(faces), **positions})
        cloud |= {"face_colors": of_faces["colors"]} if "colors" in of_faces else {}
    polygons = polygons if len(polygons.sizes) else triangles
    if len(polygons.sizes):
        cloud |= {"corners": polygons.values, "sizes": polygons.sizes}
    if any("texturefile" in comment.lower() for comment in comments):
        cloud["unread"] = np.array(["its texture"])
    return cloud


def _polygons(properties: Properties) -> Lists:
    lists = {name.lower(): each for name, each in properties.items() if isinstance(each, Lists)}
    integers = [name for name, each in lists.items() if each.values.dtype.kind in "iu"]
    return next((lists[name] for name in (*_POLYGONS, *integers) if name in lists), _NOTHING)


def _triangles(strips: Lists) -> Lists:
    """Returns the triangles of strips, in which -1 begins another one."""
    is_corner = strips.values != -1
    strip = np.repeat(np.arange(len(strips.sizes)), strips.sizes) + np.cumsum(~is_corner)
    corners = divide_strips(strips.values[is_corner].astype(np.int64), strip[is_corner])
    return Lists(corners, np.broadcast_to(np.int64(3), len(corners) // 3))
