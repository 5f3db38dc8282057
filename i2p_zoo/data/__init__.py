"""Labelled point clouds: data sets, files of clouds and meshes, augmentation and batches."""

from i2p_zoo.data.batches import TrainingBatches, augment, evaluation_batches
from i2p_zoo.data.clouds import CloudSet, choose_shots, hold_out
from i2p_zoo.data.files.cloud_files import read_cloud
from i2p_zoo.data.scenes import SceneSet
from i2p_zoo.data.sets.npz import load_npz
from i2p_zoo.data.specs import load_data, load_scenes
from i2p_zoo.data.unit_sphere import to_unit_sphere

__all__ = ["CloudSet", "SceneSet", "TrainingBatches", "augment", "evaluation_batches"]
__all__ += ["choose_shots", "hold_out", "load_data", "load_npz", "load_scenes", "read_cloud", "to_unit_sphere"]
