"""Labelled point clouds: data sets, files of clouds and meshes, augmentation and batches."""

from i2p_zoo.data.batches import TrainingBatches as TrainingBatches
from i2p_zoo.data.batches import augment as augment
from i2p_zoo.data.batches import evaluation_batches as evaluation_batches
from i2p_zoo.data.clouds import CloudSet as CloudSet
from i2p_zoo.data.clouds import choose_shots as choose_shots
from i2p_zoo.data.clouds import hold_out as hold_out
from i2p_zoo.data.files.cloud_files import read_cloud as read_cloud
from i2p_zoo.data.sets.npz import load_npz as load_npz
from i2p_zoo.data.specs import load_data as load_data
