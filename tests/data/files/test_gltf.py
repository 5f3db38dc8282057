"""glTF files as trimesh writes them and by hand: where nodes place meshes, colours, and what is refused."""

from __future__ import annotations

import base64
import json
import struct

import numpy as np
import pytest
import trimesh

from i2p_zoo import InvalidInputError
from i2p_zoo.data.files.cloud_files import read_cloud

POINTS = np.array([(0, 0, 0), (1, 0, 0), (0, 1, 0), (1, 1, 0)], np.float32)
RGB = np.array([(255, 0, 0), (0, 255, 0), (0, 0, 255), (9, 99, 199)])
TRIANGLES = [(0, 1, 2), (2, 1, 3)]
CODES = {"i1": 5120, "u1": 5121, "i2": 5122, "u2": 5123, "u4": 5125, "f4": 5126}
KINDS = {1: "SCALAR", 3: "VEC3", 4: "VEC4"}


def tree(arrays, primitive=None, **more):
    """A glTF tree of one mesh, whose arrays are each an accessor with its own buffer in base64."""
    names = list(arrays)
    result = {"asset": {"version": "2.0"}, "scenes": [{"nodes": [0]}], "nodes": [{"mesh": 0}], "accessors": []}
    result |= {"bufferViews": [], "buffers": []}
    for number, array in enumerate(arrays.values()):
        content = np.ascontiguousarray(array).tobytes()
        uri = "data:application/octet-stream;base64," + base64.b64encode(content).decode()
        result["buffers"].append({"byteLength": len(content), "uri": uri})
        result["bufferViews"].append({"buffer": number, "byteLength": len(content)})
        accessor = {"bufferView": number, "componentType": CODES[array.dtype.str[1:]], "count": len(array)}
        accessor["type"] = KINDS[array.shape[1] if array.ndim > 1 else 1]
        result["accessors"].append(
            accessor | ({"normalized": True} if names[number] == "COLOR_0" and array.dtype.kind == "u" else {})
        )
    attributes = {name: number for number, name in enumerate(names) if name != "indices"}
    indices = {"indices": names.index("indices")} if "indices" in names else {}
    result["meshes"] = [{"primitives": [{"attributes": attributes, **indices, **(primitive or {})}]}]
    return result | more


def read(folder, content, **options):
    (folder / "a.gltf").write_text(json.dumps(content))
    return read_cloud(folder / "a.gltf", **options)


def glb(content, binary=b""):
    text = json.dumps(content).encode()
    chunks = struct.pack("<I4s", len(text), b"JSON") + text + struct.pack("<I4s", len(binary), b"BIN\0") + binary
    return struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks


INDICES = np.array(TRIANGLES).reshape(-1)


@pytest.mark.parametrize("code", ["u1", "u2", "u4"])
def test_vertices_are_in_the_files_order_with_indices_of_any_type(tmp_path, code):
    content = tree({"POSITION": POINTS, "indices": INDICES.astype(code)})
    assert np.array_equal(read(tmp_path, content, scene=True)["points"], POINTS)
    assert set(map(tuple, np.abs(read(tmp_path, content)["normals"]).tolist())) == {(0, 0, 1)}


COLORS = {
    "floats": (RGB / 255).astype("f4"),
    "floats with alpha": np.column_stack([RGB / 255, np.ones(4)]).astype("f4"),
    "bytes": RGB.astype("u1"),
    "16 bits": (RGB * 257).astype("u2"),
}


@pytest.mark.parametrize("colors", COLORS.values(), ids=COLORS)
def test_colours_of_vertices_by_their_type(tmp_path, colors):
    content = tree({"POSITION": POINTS, "COLOR_0": colors, "indices": INDICES.astype("u1")})
    assert np.array_equal(read(tmp_path, content, scene=True)["rgb"], RGB)


def test_a_materials_base_colour_is_that_of_its_triangles_and_multiplies_theirs(tmp_path):
    arrays = {"POSITION": POINTS, "indices": INDICES.astype("u1")}
    materials = [{"pbrMetallicRoughness": {"baseColorFactor": [1, 0.5, 0.2, 1]}}]
    content = tree(arrays, {"material": 0}, materials=materials)
    assert np.array_equal(read(tmp_path, content, points=9)["rgb"], np.tile((255, 128, 51), (9, 1)))
    content = tree({**arrays, "COLOR_0": COLORS["floats"]}, {"material": 0}, materials=materials)
    assert np.abs(read(tmp_path, content, scene=True)["rgb"] - RGB * (1, 0.5, 0.2)).max() <= 0.501


def test_a_texture_is_told_and_no_colour_is_made_up(tmp_path):
    materials = [{"pbrMetallicRoughness": {"baseColorFactor": [1, 0, 0, 1], "baseColorTexture": {"index": 0}}}]
    content = tree({"POSITION": POINTS, "indices": INDICES.astype("u1")}, {"material": 0}, materials=materials)
    with pytest.warns(UserWarning, match="its textures"):
        assert "rgb" not in read(tmp_path, content)


@pytest.mark.parametrize("kind", ["glb", "gltf"])
def test_a_scene_of_trimesh_is_where_its_nodes_place_it(tmp_path, kind):
    turn = trimesh.transformations.rotation_matrix(0.7, (1, 2, 3), (4, 5, 6))
    mirror = np.diag([-1.0, 2, 3, 1])
    scene = trimesh.Scene()
    scene.add_geometry(trimesh.creation.box((1, 2, 3)), node_name="turned", transform=turn)
    scene.add_geometry(trimesh.creation.icosphere(2, 0.5), node_name="inner", parent_node_name="turned", transform=mirror)
    if kind == "glb":
        scene.export(tmp_path / "a.glb")
    else:
        for name, content in scene.export(file_type="gltf").items():
            (tmp_path / name.replace("model", "a")).write_bytes(content)
    mine, other = read_cloud(tmp_path / f"a.{kind}", scene=True)["points"], scene.to_mesh()
    assert np.allclose(np.sort(mine, 0), np.sort(other.vertices, 0), atol=1e-5)
    drawn = read_cloud(tmp_path / f"a.{kind}", points=500)
    centre = trimesh.transform_points([(0, 0, 0)], turn)[0]
    assert ((drawn["points"] - centre) * drawn["normals"]).sum(1).min() > 0, "normals look out of mirrored meshes too"


@pytest.mark.parametrize(
    ("mode", "corners", "triangles"),
    [
        (4, [0, 1, 2, 2, 1, 3], TRIANGLES),
        (5, [0, 1, 2, 3], TRIANGLES),
        (6, [0, 1, 3, 2], [(0, 1, 3), (0, 3, 2)]),
    ],
    ids=["triangles", "strip", "fan"],
)
def test_triangles_strips_and_fans(tmp_path, mode, corners, triangles):
    trimesh.Trimesh(POINTS, triangles, process=False).export(tmp_path / "b.off")
    content = tree({"POSITION": POINTS, "indices": np.array(corners, "u2")}, {"mode": mode})
    mine, other = read(tmp_path, content, points=50), read_cloud(tmp_path / "b.off", 50)
    assert all(np.allclose(mine[name], other[name], atol=1e-6) for name in ("points", "normals"))


def test_points_alone_are_a_cloud_and_beside_triangles_told(tmp_path):
    content = tree({"POSITION": POINTS, "COLOR_0": COLORS["bytes"]}, {"mode": 0})
    cloud = read(tmp_path, content)
    assert np.array_equal(cloud["points"], POINTS)
    assert np.array_equal(cloud["rgb"], RGB)
    content["meshes"][0]["primitives"].append({"attributes": {"POSITION": 0}, "mode": 5})
    with pytest.warns(UserWarning, match="points beside the triangles"):
        assert len(read(tmp_path, content, points=7)["points"]) == 7


def test_interleaved_and_normalised_numbers(tmp_path):
    rows = np.zeros(4, [("position", "<i2", 3), ("pad", "<i2")])
    rows["position"] = POINTS * 32767
    content = tree({"POSITION": rows["position"].astype("i2")})
    content["buffers"][0] |= {"byteLength": 32, "uri": "data:;base64," + base64.b64encode(rows.tobytes()).decode()}
    content["bufferViews"][0] |= {"byteLength": 32, "byteStride": 8}
    content["accessors"][0]["normalized"] = True
    content["meshes"][0]["primitives"][0]["mode"] = 5
    assert np.array_equal(read(tmp_path, content, scene=True)["points"], POINTS)


def changed(content, place, value):
    *path, last = place.split(".")
    inner = content
    for part in path:
        inner = inner[int(part) if part.isdecimal() else part]
    inner[int(last) if last.isdecimal() else last] = value
    return content


def mesh():
    return tree({"POSITION": POINTS, "indices": INDICES.astype("u1")})


DRACO = "KHR_draco_mesh_compression"
REFUSED = {
    "glTF 1": (changed(mesh(), "asset.version", "1.0"), "not of glTF 2"),
    "Draco": (mesh() | {"extensionsUsed": [DRACO], "extensionsRequired": [DRACO]}, f"needs {DRACO}.*write it without"),
    "meshopt": (mesh() | {"extensionsUsed": ["EXT_meshopt_compression"]}, "needs EXT_meshopt_compression"),
    "instances": (mesh() | {"extensionsUsed": ["EXT_mesh_gpu_instancing"]}, "EXT_mesh_gpu_instancing"),
    "an unknown need": (mesh() | {"extensionsRequired": ["ACME_bend"]}, "ACME_bend"),
    "sparse": (changed(mesh(), "accessors.0.sparse", {}), "sparse"),
    "lines": (changed(mesh(), "meshes.0.primitives.0.mode", 1), "lines"),
    "a mode of nothing": (changed(mesh(), "meshes.0.primitives.0.mode", 9), "mode 9"),
    "billions of vertices": (changed(mesh(), "accessors.0.count", 4_000_000_000), "cut short: its accessor 0"),
    "no vertices": (changed(mesh(), "accessors.0.count", 0), "or is empty"),
    "a start before the file": (changed(mesh(), "bufferViews.0.byteOffset", -12), "accessor 0"),
    "a view beyond": (changed(mesh(), "bufferViews.0.byteLength", 49), "accessor 0"),
    "a buffer cut short": (changed(mesh(), "buffers.0.byteLength", 49), "has 48 bytes of 49"),
    "a buffer that is missing": (changed(mesh(), "buffers.0.uri", "b.bin"), "'b.bin' is not there"),
    "a buffer elsewhere": (changed(mesh(), "buffers.0.uri", "../../../../etc/passwd"), "is not there"),
    "a device": (changed(mesh(), "buffers.0.uri", "/dev/zero"), "is not there"),
    "a corner beyond": (tree({"POSITION": POINTS, "indices": np.array([0, 1, 4], "u1")}), "0 to 4 of 4"),
    "half a triangle": (tree({"POSITION": POINTS, "indices": np.array([0, 1], "u1")}), "has 2 corners"),
    "a circle of nodes": (changed(mesh(), "nodes.0.children", [0]), "node 0 has more than one place"),
    "no meshes": ({"asset": {"version": "2.0"}}, "no triangles and no points"),
    "another JSON": ([1, 2], "not of glTF 2"),
}


@pytest.mark.parametrize("scene", [False, True])
@pytest.mark.parametrize(("content", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_read_rightly_is_refused_in_a_line(tmp_path, content, message, scene):
    with pytest.raises(InvalidInputError, match=message) as caught:
        read(tmp_path, content, scene=scene)
    assert "\n" not in str(caught.value)


def test_many_placements_of_one_mesh_are_refused_before_the_memory_is_full(tmp_path, monkeypatch):
    content = mesh() | {"nodes": [{"mesh": 0}] * 1000, "scenes": [{"nodes": list(range(1000))}]}
    assert len(read(tmp_path, content, scene=True)["points"]) == 4000
    monkeypatch.setattr("i2p_zoo.data.files.gltf._MOST", 100)
    with pytest.raises(InvalidInputError, match="more than 100 vertices"):
        read(tmp_path, content, scene=True)


@pytest.mark.parametrize(("end", "message"), [(-1, "cut short"), (30, "cut short"), (None, "longer than its header says")])
def test_a_glb_of_another_length_is_refused(tmp_path, end, message):
    content = glb(mesh())
    (tmp_path / "a.glb").write_bytes(content[:end] if end else content + b"\0\0\0\0")
    with pytest.raises(InvalidInputError, match=message):
        read_cloud(tmp_path / "a.glb")


def test_a_glb_without_json_is_refused(tmp_path):
    (tmp_path / "a.glb").write_bytes(struct.pack("<4sII", b"glTF", 2, 12))
    with pytest.raises(InvalidInputError, match="GLB file of version 2"):
        read_cloud(tmp_path / "a.glb")
