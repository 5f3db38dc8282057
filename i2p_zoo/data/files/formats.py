"""The formats of files of clouds and meshes, each read from an open file as its library gives it."""

from __future__ import annotations

from collections.abc import Callable
from typing import IO

from i2p_zoo.data.files.arrays import Arrays
from i2p_zoo.data.files.e57 import read_e57
from i2p_zoo.data.files.gltf import read_gltf
from i2p_zoo.data.files.las import read_las, read_laz
from i2p_zoo.data.files.named_columns import Columns
from i2p_zoo.data.files.numpy_files import read_npy, read_npz
from i2p_zoo.data.files.obj import read_obj
from i2p_zoo.data.files.off import read_off
from i2p_zoo.data.files.pcd import read_pcd
from i2p_zoo.data.files.ply_clouds import read_ply_cloud
from i2p_zoo.data.files.raw_floats import read_bin
from i2p_zoo.data.files.stl import read_stl
from i2p_zoo.data.files.text_clouds import TEXT_SUFFIXES, read_text

# By ending. Each gives `points`; where the file has them `normals`, `colors` of any type, and (N,) of other columns,
# `intensity` or `field:NAME`; of a mesh the vertices that its polygons name one after the other, `corners`, how many each has,
# `sizes`, and colours of the polygons, `face_colors`; `unread`, in words, what else the file has; and where it is known
# `bound`, which no number of `points` and `normals` exceeds in size.
READERS: dict[str, Callable[[IO[bytes]], Arrays]] = {
    ".ply": read_ply_cloud,
    ".off": read_off,
    ".stl": read_stl,
    ".glb": read_gltf,
    ".gltf": read_gltf,
    ".pcd": read_pcd,
    ".e57": read_e57,
}
# Of these some columns take time to unpack, so that they are read for scenes only.
SCENE_READERS: dict[str, Callable[[IO[bytes], bool], Arrays]] = {".obj": read_obj, ".las": read_las, ".laz": read_laz}
# Of these the columns can be said.
COLUMN_READERS: dict[str, Callable[[IO[bytes], Columns | None], Arrays]] = {
    ".bin": read_bin,
    ".npy": read_npy,
    ".npz": read_npz,
    **dict.fromkeys(TEXT_SUFFIXES, read_text),
}
