"""Segmentation as a task: crops that follow from their number, votes on every point, scores that are the network's."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch

from i2p_zoo import InvalidInputError
from i2p_zoo.data.scene_specs import load_scenes
from i2p_zoo.data.scenes import IGNORED, SceneSet, overlapping_blocks
from i2p_zoo.errors import DivergedError
from i2p_zoo.finetune import Options, train
from i2p_zoo.segmentation import crops as batches
from i2p_zoo.segmentation.crops import Cropping, SceneBatches, as_cloud, center, turn
from i2p_zoo.segmentation.losses import segmentation_loss
from i2p_zoo.segmentation.pretrained_unet import create_unet
from i2p_zoo.segmentation.task import Segmentation, score
from i2p_zoo.segmentation.voting import segment
from tests.segmentation.conftest import CLASSES, make_scene, make_set


def make_unet(**kwargs):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        options = {"skip_downsamples": 3, "stem": "point", "voxel_size": 0.2, "decoder_channels": (16,), **kwargs}
        return create_unet("test_resnet", len(CLASSES), pretrained=False, **options)


# --- Batches ---


def test_batch_follows_from_its_number_and_the_seed(scene_sets):
    cropping = Cropping(extent=2.0, max_points=50)
    first, again, other = (SceneBatches(scene_sets[0], 3, seed, cropping) for seed in (0, 0, 1))
    for step in (5, 0, 2):
        for (a, x), (b, y), (c, _) in zip(first[step], again[step], other[step], strict=True):
            assert np.array_equal(a["points"], b["points"])
            assert np.array_equal(x, y)
            assert len(x) == len(a["points"]) <= 50
            assert not np.array_equal(a["points"], c["points"])


def test_batches_go_to_worker_processes(scenes_npz):
    train_set, _ = load_scenes(f"scenes:{scenes_npz}")
    batches = SceneBatches(train_set, 2, 0, Cropping(extent=2.0))
    copied = pickle.loads(pickle.dumps(batches))
    assert np.array_equal(copied[3][1][0]["points"], batches[3][1][0]["points"])


def test_every_scene_comes_once_an_epoch_and_crops_are_boxes_of_it():
    def load(number):  # points that say where they are from
        numbers = np.stack([np.full(300, number), np.arange(300), np.zeros(300)], 1).astype(np.float32)
        return {**make_scene(number), "normals": numbers}

    seen = []
    batches = SceneBatches(SceneSet(tuple("abcd"), CLASSES, load), 2, 0, Cropping(extent=1.0), augmented=False)
    for step in range(6):
        for cloud, labels in batches[step]:
            points, (origin, *others) = cloud["points"], np.unique(cloud["normals"][:, 0]).astype(int).tolist()
            moved = load(origin)["points"][cloud["normals"][:, 1].astype(int)] - points
            assert others == []
            assert np.ptp(moved, axis=0).max() < 1e-5
            assert (np.ptp(points, axis=0) <= 1.0 + 1e-5).all()
            assert set(labels) <= {IGNORED, 0, 1, 2}
            seen.append(origin)
    assert all(sorted(seen[start : start + 4]) == [0, 1, 2, 3] for start in (0, 4, 8))


def test_turning_keeps_heights_distances_and_the_given_cloud():
    scene = make_scene(0)
    cloud = {**as_cloud(scene), "normals": np.tile(np.array([1, 0, 0], np.float32), (300, 1))}
    before = {name: values.copy() for name, values in cloud.items()}
    angles = []
    for seed in range(30):
        out = turn(cloud, Cropping(scale=0.1), np.random.default_rng(seed))
        ratio = np.linalg.norm(out["points"], axis=1) / np.linalg.norm(cloud["points"], axis=1)
        assert np.allclose(ratio, ratio[0], rtol=1e-4)
        assert 0.9 <= ratio[0] <= 1.1
        assert np.allclose(out["points"][:, 2], cloud["points"][:, 2] * ratio[0], atol=1e-5)
        assert np.allclose(np.linalg.norm(out["normals"], axis=1), 1, atol=1e-5)
        angles.append(np.arctan2(*out["normals"][0, 1::-1]))
    assert np.ptp(angles) > 4, "all around"
    assert all(np.array_equal(cloud[name], before[name]) for name in before)


def test_scene_may_lie_anywhere():
    unet, scene = make_unet(), make_scene(0)
    far = {**scene, "points": scene["points"] + np.array([1024, -512, 64], np.float32)}  # by which nothing is rounded much
    assert np.allclose(segment(unet, far, 1.5), segment(unet, scene, 1.5), atol=2e-3)
    first, second = center(as_cloud(scene))["points"], center(as_cloud(far))["points"]
    assert np.allclose(first, second, atol=1e-4)
    assert np.allclose(first.min(0) + first.max(0), [0, 0, np.ptp(first[:, 2])], atol=1e-4)
    assert first[:, 2].min() == 0
    intensity = np.arange(8, dtype=np.float32).reshape(2, 4)
    assert np.array_equal(center({"points": intensity})["points"][:, 3], [3, 7])
    assert np.array_equal(intensity, np.arange(8).reshape(2, 4)), "the given array stays"


def test_intensity_is_not_turned():
    cloud = {"points": np.ones((5, 4), np.float32)}
    assert (turn(cloud, Cropping(), np.random.default_rng(1))["points"][:, 3] == 1).all()


@pytest.mark.parametrize(("count", "size"), [(0, 2), (2, 0)])
def test_batches_of_nothing_are_refused(count, size):
    with pytest.raises(InvalidInputError, match=rf"scenes \({count}\) and a batch_size \(={size}\)"):
        SceneBatches(make_set(count), size, 0, Cropping())


# --- Prediction ---


def test_whole_scene_is_what_the_network_says():
    unet, scene = make_unet().eval(), make_scene(0)
    with torch.no_grad():
        expected = unet([center(as_cloud(scene))]).softmax(1).numpy()
    assert np.allclose(segment(unet, scene), expected, rtol=1e-5, atol=1e-6)


def test_blocks_cover_every_point_and_vote():
    unet, scene = make_unet().train(), make_scene(0)
    shares = segment(unet, scene, extent=1.5, overlap=0.5)
    assert shares.shape == (300, 3)
    assert np.allclose(shares.sum(1), 1, atol=1e-5)
    assert unet.training
    expected, count = np.zeros((300, 3)), np.zeros(300)
    unet.eval()
    for rows in overlapping_blocks(scene["points"], 1.5, 0.5):
        with torch.no_grad():
            expected[rows] += unet([center({"points": scene["points"][rows]})]).softmax(1).numpy()
        count[rows] += 1
    assert (count > 1).any()
    assert np.allclose(shares, expected / count[:, None], atol=1e-5)
    assert not np.allclose(shares, segment(unet, scene), atol=1e-3), "or the blocks would be the scene"


def test_progress_counts_each_point_once(capsys):
    segment(make_unet(), make_scene(0), extent=1.0, overlap=0.5, progress="a scene")
    err = capsys.readouterr().err
    assert "a scene: 100%" in err
    assert "300/300" in err


def test_progress_counts_each_point_once_also_where_a_class_has_no_chance(capsys):
    unet = make_unet()
    with torch.no_grad():
        unet.decoder.head.bias.copy_(torch.tensor([-300.0, 0.0, 0.0]))
    segment(unet, make_scene(0), extent=1.0, overlap=0.5, progress="a scene")
    assert "300/300" in capsys.readouterr().err


def test_outputs_that_are_not_finite_are_no_classes():
    unet = make_unet()
    with torch.no_grad():
        unet.decoder.head.bias[1] = float("nan")
    with pytest.raises(DivergedError, match="NaN or infinite"):
        segment(unet, make_scene(0))


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


def test_scenes_are_kept_in_memory_up_to_a_number_of_points(monkeypatch):
    monkeypatch.setattr(batches, "_KEPT", 700)
    read = []
    scenes = SceneSet(("a", "b", "c"), CLASSES, lambda number: (read.append(number), make_scene(number))[1])
    drawn = SceneBatches(scenes, 3, 0, Cropping())
    first, again = drawn[0], drawn[0]
    assert len(read) == 4, "two of 300 points are kept, the third is read again"
    assert all(np.array_equal(a["points"], b["points"]) for (a, _), (b, _) in zip(first, again, strict=True))


def test_scene_without_points_is_refused():
    with pytest.raises(InvalidInputError, match="at least one"):
        segment(make_unet(), {"points": np.zeros((0, 3), np.float32)})


# --- The task ---


def test_loss_and_accuracy_are_those_of_the_points(scene_sets):
    unet = make_unet().eval()
    task = Segmentation(scene_sets[0], loss="both", class_weights=(1.0, 2.0, 0.5))
    samples = task.batches(Options(batch_size=3))[0]
    loss, top1 = task.measure(unet, samples, Options())
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
    assert Segmentation(*scene_sets, extent=2).fingerprint() == tasks[0].fingerprint()
