"""Pyramid classifiers: what they read, checkpoints, modes of finetuning, and few labels."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import nn
from torch.nn import functional as F

import i2p_zoo
from i2p_zoo import CheckpointError, InvalidInputError, UnsupportedError, create_pyramid_classifier
from i2p_zoo.experiments.classification import classify
from i2p_zoo.finetune import add_lora_, evaluate, fit_ridge_, freeze, train
from i2p_zoo.modules import class_names, set_class_names_
from i2p_zoo.networks.pyramid_classifier import PyramidClassifier
from i2p_zoo.sparse.octants import pool_octants
from tests.finetune.conftest import shapes
from tests.helpers import randomise_norms_
from tests.networks.conftest import clouds


def make(name="test_resnet", num_classes=4, **kwargs):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        settings = {"skip_downsamples": 2, "voxel_size": 0.2, **kwargs}
        return create_pyramid_classifier(name, num_classes, pretrained=False, **settings).eval()


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "mambaout_femto", "test_vit2"])
def test_classifier_reads_every_map_by_octants(name):
    model = make(name)
    randomise_norms_(model)
    with torch.no_grad():
        maps = model.encoder(clouds())
        rows = [F.normalize(pool_octants(each.derive(each.features, channels_last=False)), dim=1) for each in maps]
        expected = model.head(torch.cat(rows, 1))
        torch.testing.assert_close(model(clouds()), expected)
        alone = torch.cat([model([cloud]) for cloud in clouds()])
    torch.testing.assert_close(alone, expected, rtol=1e-4, atol=1e-5)
    assert model.head.in_features == 8 * sum(each.features.shape[1] for each in maps)


@pytest.mark.parametrize("views", [False, True])
@pytest.mark.parametrize("name", ["test_resnet", "test_vit2"])
def test_folder_gives_the_same_network_and_another_number_of_classes(tmp_path, name, views):
    model = make(name, skip_downsamples=0, views=views)
    randomise_norms_(model.encoder)  # its views keep the image network's
    set_class_names_(model, "abcd")
    model.save_pretrained(tmp_path)
    loaded = i2p_zoo.from_pretrained(tmp_path)
    assert type(loaded) is PyramidClassifier
    for key, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], tensor), key
    assert torch.equal(loaded.predict(clouds()), model.predict(clouds()))
    assert class_names(loaded) == tuple("abcd")
    other = i2p_zoo.from_pretrained(tmp_path, num_classes=7)
    assert (other(clouds()).shape, class_names(other)) == ((2, 7), ())
    assert sum(classify(loaded, {"points": clouds()[0]}, top=4).values()) == pytest.approx(1)


def test_classifier_reads_views_too():
    model = make(views=True)
    randomise_norms_(model.encoder)
    voxels = model.prepare(clouds())
    with torch.no_grad():
        maps = [each.derive(each.features, channels_last=False) for each in model.encoder(voxels)]
        rows = [*(F.normalize(pool_octants(each), dim=1) for each in maps), model.views(voxels)]
        torch.testing.assert_close(model(clouds()), model.head(torch.cat(rows, 1)))
    assert model.head.in_features == (8 + 6) * model.channels


@pytest.mark.parametrize("changes", [{"stem": "point"}, {"voxel_size": 0.3}, {"features_only": True}], ids=str)
def test_folder_takes_no_other_change(tmp_path, changes):
    make().save_pretrained(tmp_path)
    with pytest.raises(InvalidInputError, match="is a pyramid classifier, of which only num_classes can be changed"):
        i2p_zoo.from_pretrained(tmp_path, **changes)


REFUSED = {
    "no channels": ({"channels": 0}, r"`i2p\.pyramid\.channels` must be a positive whole number"),
    "channels in words": ({"channels": "many"}, r"`i2p\.pyramid\.channels` must be a positive whole number"),
    "too many channels": ({"channels": 10**9}, r"`i2p\.pyramid\.channels` must be a positive whole number"),
    "views in words": ({"views": "six"}, r"`i2p\.pyramid\.views` must be null or a number of pixels"),
    "too large views": ({"views": 10**6}, "at most 2048"),
    "views without weights": ({"views": 64}, "views.network"),
}


@pytest.mark.parametrize(("changes", "words"), REFUSED.values(), ids=REFUSED.keys())
def test_config_with_another_pyramid_is_refused(tmp_path, changes, words):
    make().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["i2p"]["format_version"] == 2
    config["i2p"]["pyramid"] |= changes
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=words):
        i2p_zoo.from_pretrained(tmp_path)


def test_config_of_before_there_were_views_is_read(tmp_path):
    model = make()
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["i2p"]["pyramid"]["views"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert torch.equal(i2p_zoo.from_pretrained(tmp_path).predict(clouds()), model.predict(clouds()))


@pytest.mark.parametrize("inflation", ["center", "average"])
@pytest.mark.parametrize("views", [False, True])
def test_adapter_holds_the_classifier_alone(tmp_path, views, inflation):
    i2p_zoo.create_model("test_resnet").save_pretrained(tmp_path / "base")
    model = create_pyramid_classifier(str(tmp_path / "base"), 3, voxel_size=0.2, views=views, inflation=inflation)
    fit_ridge_(model, shapes(6))
    i2p_zoo.save_adapter(model, tmp_path / "adapter")
    with safe_open(tmp_path / "adapter" / "adapter.safetensors", "pt") as file:
        colors = {"views.mean", "views.std"} if views else set()
        assert set(file.keys()) == {"head.weight", "head.bias"} | colors
    assert torch.equal(i2p_zoo.from_pretrained(tmp_path / "adapter").predict(clouds()), model.predict(clouds()))


def test_another_head_is_saved(tmp_path):
    model = make()
    model.head = nn.Sequential(nn.Linear(model.head.in_features, 5), nn.ReLU(), nn.Linear(5, 3))
    model.save_pretrained(tmp_path)
    assert torch.equal(i2p_zoo.from_pretrained(tmp_path).predict(clouds()), model.predict(clouds()))


def test_few_labels_suffice_to_tell_easy_shapes_apart():
    model, labelled = make(num_classes=3), shapes(60)
    fit_ridge_(model, labelled.subset(np.arange(3)))
    assert evaluate(model, labelled).top1 > 0.6
    assert class_names(model) == labelled.classes


@pytest.mark.parametrize("views", [False, True])
@pytest.mark.parametrize("mode", ["all", "io+bn", "io", "head"])
def test_each_mode_trains_the_classifier_and_its_part_of_the_encoder(mode, views):
    model, labelled = make(num_classes=3, views=views), shapes(12)
    freeze(model, mode)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    train(model, labelled, steps=1, learning_rate=0.1, batch_size=6)
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert {"head.weight", "head.bias"} <= changed
    assert ("encoder.conv1.0.weight" in changed) is (mode != "head")
    assert ("encoder.layer2.0.conv2.weight" in changed) is (mode == "all")


@pytest.mark.parametrize("mode", ["all", "io+bn", "io+stats", "io", "head", "lora"])
def test_views_train_where_all_does_and_else_keep_the_statistics_of_images(mode):
    model, labelled = make(num_classes=3, views=True), shapes(12)
    if mode == "lora":
        add_lora_(model, 2)
    else:
        freeze(model, mode)
    before = {name: tensor.clone() for name, tensor in model.views.state_dict().items()}
    train(model, labelled, steps=1, learning_rate=0.1, batch_size=6)
    after = model.views.state_dict()
    assert after.keys() == before.keys()
    changed = {name for name, tensor in before.items() if not torch.equal(after[name], tensor)}
    assert bool(changed) is (mode == "all")


@pytest.mark.parametrize(
    ("dtype", "inflation"),
    [(torch.float16, "triangle"), (torch.bfloat16, "average"), (torch.float64, "triangle")],
    ids=str,
)
def test_views_are_made_before_weights_are_rounded(tmp_path, dtype, inflation):
    i2p_zoo.create_model("test_resnet").save_pretrained(tmp_path / "base")
    arguments = {"voxel_size": 0.2, "views": True, "inflation": inflation}
    model = create_pyramid_classifier(str(tmp_path / "base"), 3, dtype=dtype, **arguments)
    plain = create_pyramid_classifier(str(tmp_path / "base"), 3, **arguments)
    for key, tensor in plain.views.state_dict().items():
        assert torch.equal(model.views.state_dict()[key], tensor.to(dtype) if tensor.is_floating_point() else tensor), key
    assert model.predict(clouds()).dtype == dtype
    model.save_pretrained(tmp_path / "model")
    assert torch.equal(i2p_zoo.from_pretrained(tmp_path / "model").predict(clouds()), model.predict(clouds()))


def test_gradients_reach_the_first_layer():
    model = make()
    model(clouds()).square().sum().backward()
    assert all(parameter.grad is not None for name, parameter in model.named_parameters() if not name.endswith("num_batches"))


def test_what_it_cannot_be_made_of_is_refused():
    with pytest.raises(InvalidInputError, match="features_only=True"):
        PyramidClassifier(i2p_zoo.create_model("test_resnet"), 3)
    with pytest.raises(InvalidInputError, match="num_classes of 1 or more; got 0"):
        make(num_classes=0)
    with pytest.raises(InvalidInputError, match="num_classes of 1 or more; got 0"):
        make().reset_classifier(0)


def test_it_is_not_exported(tmp_path):
    with pytest.raises(UnsupportedError, match="A pyramid classifier cannot be exported"):
        i2p_zoo.export_onnx(make(), tmp_path / "model.onnx")
