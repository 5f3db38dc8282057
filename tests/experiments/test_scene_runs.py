"""Runs over scenes: whose result a folder holds."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import i2p_zoo
from i2p_zoo import InvalidInputError
from i2p_zoo.data.scenes import IGNORED, SceneSet
from i2p_zoo.experiments.run_options import RunOptions
from i2p_zoo.experiments.scene_runs import run_segmentation
from i2p_zoo.experiments.setup import Setup
from i2p_zoo.finetune import Options
from tests.segmentation.conftest import CLASSES


def swapped(scenes):
    """The same names and points, two classes exchanged."""

    def load(number):
        scene = scenes.scene(number)
        return {**scene, "labels": np.array([1, 0, 2, IGNORED])[scene["labels"]]}  # IGNORED is the last

    return SceneSet(scenes.names, CLASSES, load)


def test_a_finished_run_is_no_result_for_other_scenes(scene_sets, tmp_path):
    network = i2p_zoo.create_model("test_resnet").save_pretrained(tmp_path / "network")
    setup = Setup(str(network), stem="image", skip_downsamples=1, voxel_size=0.2)
    options = Options(steps=1, batch_size=2)
    metrics = run_segmentation(setup, *scene_sets, options, tmp_path / "run")
    assert run_segmentation(setup, *scene_sets, options, tmp_path / "run", RunOptions(resume=True)) == metrics
    train_set, test_set = scene_sets
    renamed = SceneSet(tuple(f"other {name}" for name in test_set.names), CLASSES, test_set.load)
    for others in ((train_set, renamed), (train_set, swapped(test_set)), (swapped(train_set), test_set)):
        with pytest.raises(InvalidInputError, match=r"the (train|test) data were others"):
            run_segmentation(setup, *others, options, tmp_path / "run", RunOptions(resume=True))


def test_low_rank_changes_of_an_encoder_are_merged(scene_sets, tmp_path):
    network = i2p_zoo.create_model("test_resnet").save_pretrained(tmp_path / "network")
    setup = Setup(str(network), mode="lora", stem="image", skip_downsamples=1, voxel_size=0.2)
    metrics = run_segmentation(setup, *scene_sets, Options(steps=2, batch_size=2), tmp_path / "run")
    unet = i2p_zoo.from_pretrained(tmp_path / "run" / "model")
    decoder = sum(parameter.numel() for parameter in unet.decoder.parameters())
    assert decoder < metrics["trained"] < metrics["total"]
    before = i2p_zoo.from_pretrained(network, num_classes=0, inflation="average").layer4[0].conv1.weight
    assert not torch.equal(unet.encoder.layer4[0].conv1.weight, before)


@pytest.mark.parametrize(
    "changes", [{"statistics": "clouds"}, {"classifier": "ridge"}, {"network": "views"}, {"readout": "pyramid"}], ids=str
)
def test_what_is_for_whole_clouds_is_refused(scene_sets, tmp_path, changes):
    with pytest.raises(InvalidInputError, match="for classes of whole clouds, not of points"):
        run_segmentation(Setup("i2p-test_resnet", **changes), *scene_sets, Options(steps=1), tmp_path / "run")
