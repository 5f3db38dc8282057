"""A device's memory that does not suffice, as torch tells it, in each place where a batch is run."""

from __future__ import annotations

import pytest
import torch

import i2p_zoo
from i2p_zoo import I2PError
from i2p_zoo.analysis import penultimate_features
from i2p_zoo.experiments.classification import classify
from i2p_zoo.finetune.evaluation import predict_logits
from i2p_zoo.segmentation.crops import center
from i2p_zoo.segmentation.voting import segment
from i2p_zoo.sparse.device_memory import DeviceMemoryError, explain_memory
from i2p_zoo.sparse.engines.numba_engine import NumbaConvolution
from tests.finetune.conftest import resnet, shapes, tiny, train
from tests.segmentation.conftest import make_scene, make_unet

TORCH_S = "CUDA out of memory. Tried to allocate 20.00 GiB."


@pytest.fixture
def full(monkeypatch):
    """Has a method of the convolutions' engine run out of memory."""

    def fill(method):
        def refuse(*args):
            raise torch.OutOfMemoryError(TORCH_S)

        monkeypatch.setattr(NumbaConvolution, method, refuse)

    return fill


def count_voxels(model, clouds):
    return len(model.settings.voxelize([clouds.cloud(number) for number in range(len(clouds))])[0].coords)


@pytest.mark.parametrize("method", ["forward", "weight_gradient"])
def test_a_training_step_names_the_voxels_of_its_part_and_accumulate(full, method):
    full(method)
    model, clouds = tiny(), shapes(count=12)
    with pytest.raises(torch.cuda.OutOfMemoryError, match=r"--accumulate") as caught:
        train(model, clouds, steps=1, batch_size=12, accumulate=1, augmented=False)
    assert f" {count_voxels(model, clouds):,d} voxels " in str(caught.value)
    assert TORCH_S in str(caught.value)
    assert isinstance(caught.value, I2PError)
    assert str(caught.value.__cause__) == TORCH_S


def test_prediction_names_the_voxels_of_the_scene_or_the_block_and_max_voxels(full):
    model = i2p_zoo.create_model("test_resnet", num_classes=3, voxel_size=1.0)
    points = torch.arange(200.0)[:, None] * torch.tensor([1.0, 0, 0])
    full("forward")
    with pytest.raises(DeviceMemoryError, match=r"200 voxels .*blocks by `max_voxels`"):
        model.predict(points)
    with pytest.raises(DeviceMemoryError, match=r"\d+ voxels .*`max_voxels` below 70"):
        model.predict(points, max_voxels=70, margin=0)


def test_accuracy_names_the_voxels_of_its_batch(full):
    full("forward")
    model, clouds = tiny(), shapes(count=6)
    with pytest.raises(DeviceMemoryError, match=rf"{count_voxels(model, clouds)} voxels .*batch_size"):
        predict_logits(model, clouds)


def test_the_step_of_the_optimizer_names_the_largest_part(monkeypatch):
    def refuse(*args, **kwargs):
        raise torch.OutOfMemoryError(TORCH_S)

    monkeypatch.setattr(torch.optim.AdamW, "step", refuse)
    model, clouds = tiny(), shapes(count=12)
    whole, half = (count_voxels(model, clouds.subset(rows)) for rows in (range(12), range(6)))
    with pytest.raises(DeviceMemoryError, match=r"([\d,]+) voxels .*--accumulate") as caught:
        train(model, clouds, steps=1, batch_size=12, accumulate=2, augmented=False, optimizer="adamw")
    voxels = int(str(caught.value).split(" voxels")[0].split()[-1].replace(",", ""))
    assert half / 2 < voxels < whole


def test_scenes_name_the_voxels_of_the_block_and_its_edge(full):
    unet, scene = make_unet(), make_scene(0)
    full("forward")
    voxels = len(unet.settings.voxelize([center(scene)["points"]])[0].coords)
    with pytest.raises(DeviceMemoryError, match=rf" {voxels} voxels .*`extent` \(`--block`\)") as caught:
        segment(unet, scene)
    assert TORCH_S in str(caught.value)
    with pytest.raises(DeviceMemoryError) as caught:
        segment(unet, scene, extent=1.0)
    assert f" {voxels} voxels" not in str(caught.value), "of the block"


def test_a_cloud_to_classify_names_its_voxels(full):
    model, cloud = resnet(), shapes(1).cloud(0)
    full("forward")
    with pytest.raises(DeviceMemoryError, match=rf" {count_voxels(model, shapes(1))} voxels .*max_voxels"):
        classify(model, cloud)


def test_neural_collapse_names_the_voxels_of_its_batch(full):
    model, clouds = resnet(), shapes(6)
    full("forward")
    with pytest.raises(DeviceMemoryError, match=rf" {count_voxels(model, clouds)} voxels .*batch_size"):
        penultimate_features(model, clouds)


def test_an_explained_error_is_not_explained_again_and_others_pass():
    inner, outer = explain_memory(lambda: 2, "First."), explain_memory(lambda: 3, "Second.")
    with pytest.raises(DeviceMemoryError, match=r"2 voxels at once\. First\."), outer, inner:
        raise torch.OutOfMemoryError(TORCH_S)
    with pytest.raises(ZeroDivisionError), explain_memory(lambda: 3, "None."):
        raise ZeroDivisionError
