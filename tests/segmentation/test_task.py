"""Segmentation as a task: its loss and scores, and what makes another run."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from i2p_zoo import InvalidInputError
from i2p_zoo.data.scenes import IGNORED
from i2p_zoo.finetune import Options, train
from i2p_zoo.segmentation.losses import segmentation_loss
from i2p_zoo.segmentation.pretrained_unet import create_unet
from i2p_zoo.segmentation.task import Segmentation, score
from tests.segmentation.conftest import make_unet


def test_network_of_other_classes_is_not_measured(scene_sets):
    unet = make_unet()
    unet.pretrained_cfg["label_names"] = ["wall", "floor", "lamp"]
    with pytest.raises(InvalidInputError, match=r"classes are wall, floor, lamp; the scenes' are floor, wall, lamp"):
        score(unet, scene_sets[0])
    with pytest.raises(InvalidInputError, match=r"2 without names"):
        score(create_unet("test_resnet", 2, pretrained=False), scene_sets[0])
    with pytest.raises(InvalidInputError, match=r"has 2 classes, the scenes 3"):
        train(
            create_unet("test_resnet", 2, pretrained=False, voxel_size=0.2), Segmentation(scene_sets[0]), steps=1, batch_size=2
        )


def test_loss_and_accuracy_are_those_of_the_points(scene_sets):
    unet = make_unet().eval()
    task = Segmentation(scene_sets[0], loss="both", class_weights=(1.0, 2.0, 0.5))
    samples = task.batches(Options(batch_size=3))[0]
    loss, top1 = task.measure(unet, task.gather(samples, unet.settings), Options())
    logits = unet([cloud for cloud, _ in samples])
    labels = torch.from_numpy(np.concatenate([labels for _, labels in samples]))
    assert loss.item() == pytest.approx(segmentation_loss(logits, labels, "both", (1.0, 2.0, 0.5)).item(), rel=1e-6)
    known = labels != IGNORED
    assert top1.item() == pytest.approx((logits.argmax(1) == labels)[known].double().mean().item())


def test_network_learns_scenes_and_is_judged_by_mean_iou(scene_sets):
    unet, (train_set, test_set) = make_unet(), scene_sets
    before = score(unet, test_set).miou
    task = Segmentation(train_set, test_set)
    history = train(unet, task, steps=25, batch_size=4, learning_rate=0.1, evaluate_every=20)
    after = score(unet, test_set)
    assert [list(entry.scores) for entry in history.evaluations] == [["miou", "accuracy"]] * 2
    assert history.evaluations[-1].scores == {"miou": after.miou, "accuracy": after.accuracy}
    assert after.miou > before + 0.2


def test_other_scenes_or_loss_are_another_run(scene_sets, tmp_path):
    options = {"steps": 2, "batch_size": 2, "folder": tmp_path}
    train(make_unet(), Segmentation(scene_sets[0]), **options)
    judged = Segmentation(scene_sets[0], scene_sets[1])
    for other in (Segmentation(scene_sets[1]), Segmentation(scene_sets[0], loss="lovasz"), judged):
        with pytest.raises(InvalidInputError, match="network or clouds differ"):
            train(make_unet(), other, resume=True, **options)


def test_other_blocks_to_judge_by_are_another_run(scene_sets):
    tasks = [Segmentation(*scene_sets, extent=extent, overlap=overlap) for extent, overlap in ((2, 0.25), (3, 0.25), (2, 0.5))]
    assert len({task.fingerprint() for task in tasks}) == 3
    relabelled = Segmentation(dataclasses.replace(scene_sets[0], codes=(2, 6, 5)))
    assert relabelled.fingerprint() != Segmentation(scene_sets[0]).fingerprint()
    assert Segmentation(*scene_sets, extent=2).fingerprint() == tasks[0].fingerprint()
