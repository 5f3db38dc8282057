from __future__ import annotations

import functools

import laspy
import numpy as np
import pytest
import torch

from i2p_zoo.data.scenes import IGNORED, SceneSet
from i2p_zoo.segmentation.pretrained_unet import create_unet

CLASSES = ("floor", "wall", "lamp")


def make_scene(number, points=300):
    """A floor, a wall beside it and a lamp above, of 4 x 4 x 2 units; a tenth of the points has no class."""
    random = np.random.default_rng(number)
    labels = np.arange(points) % 3
    places = random.uniform(0, 4, (points, 3))
    places[labels == 0, 2] = 0
    places[labels == 1, 0] = 0
    places[labels == 2] = random.uniform(-0.3, 0.3, ((labels == 2).sum(), 3)) + np.array([2, 2, 1.5])
    labels = np.where(random.random(points) < 0.1, IGNORED, labels)
    return {"points": places.astype(np.float32), "labels": labels.astype(np.int64)}


def make_scene_behind(first, number):
    return make_scene(first + number)


def make_set(count, first=0):
    return SceneSet(tuple(f"scene {n}" for n in range(count)), CLASSES, functools.partial(make_scene_behind, first))


def make_unet(**kwargs):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        options = {"skip_downsamples": 3, "stem": "point", "voxel_size": 0.2, "decoder_channels": (16,), **kwargs}
        return create_unet("test_resnet", len(CLASSES), pretrained=False, **options)


@pytest.fixture(scope="session")
def scene_sets():
    return make_set(4), make_set(2, first=100)


@pytest.fixture(scope="session")
def scenes_npz(tmp_path_factory):
    """The same scenes as a file in the layout of boards.npz, whose points all have a class."""
    path = tmp_path_factory.mktemp("scenes") / "scenes.npz"
    scenes = [make_scene(n) for n in (0, 1, 2, 3, 100, 101)]
    points = np.stack([scene["points"] for scene in scenes])
    np.savez(
        path,
        points=np.round(points / 0.005).astype(np.int16),
        unit=np.float32(0.005),
        label=np.stack([np.arange(300) % 3] * 6).astype(np.uint8),
        normals=np.tile(np.array([0, 0, 127], np.int8), (6, 300, 1)),
        colors=np.zeros((6, 300, 3), np.uint8),
        split=np.array([0, 0, 0, 0, 1, 1], np.uint8),
        classes=np.array(CLASSES),
    )
    return path


UTM = np.array([448_256.0, 5_411_840.0, 128.0])
CODES = np.array([2, 6, 5, 1])  # of LAS for CLASSES, and at the end for IGNORED


def write_las(path, scene, offset=UTM, compressed=False):
    """A tile of metres in UTM, as surveys have them, whose intensity tells the lamp."""
    path.parent.mkdir(parents=True, exist_ok=True)
    header = laspy.LasHeader(point_format=6, version="1.4")
    header.offsets, header.scales = np.floor(offset), [0.001] * 3
    header.vlrs.append(laspy.VLR("LASF_Projection", 2112, "WKT", b'PROJCS["WGS 84 / UTM 32N"]\0'))
    las = laspy.LasData(header)
    las.x, las.y, las.z = (scene["points"] + offset).T
    las.classification = CODES[scene["labels"]]
    las.intensity = np.where(scene["labels"] == 2, 60_000, 3_000)
    las.gps_time = np.arange(len(scene["labels"]))
    las.write(path, do_compress=compressed)
    return path
