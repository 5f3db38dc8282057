"""Which network a run trains: image weights or the same structure without them."""

from __future__ import annotations

import pytest
import torch

import i2p_zoo
from i2p_zoo import InvalidInputError
from i2p_zoo.choices import RUN_MODES
from i2p_zoo.experiments import Setup, build_model
from i2p_zoo.experiments.setup import LEARNING_RATES

CLASSES = ("a", "b")


def test_scratch_has_the_structure_and_none_of_the_weights(network):
    image, count = build_model(Setup(str(network)), CLASSES)
    scratch, other = build_model(Setup(str(network), scratch=True), CLASSES)
    assert repr(scratch) == repr(image)
    assert (count, scratch.settings) == (other, image.settings)
    source = i2p_zoo.from_pretrained(network).state_dict()
    name = "layer2.0.conv2.weight"
    assert torch.equal(image.state_dict()[name], source[name])
    assert not torch.equal(scratch.state_dict()[name], source[name])
    kernel = scratch.state_dict()[name]
    assert not torch.equal(kernel[:, 0], kernel[:, 1]), "drawn in three dimensions"


def test_new_layers_follow_from_the_seed_and_the_callers_random_state_stays(network):
    torch.manual_seed(9)
    expected = torch.rand(2)
    torch.manual_seed(9)
    models = [build_model(Setup(str(network), scratch=True), CLASSES, seed)[0] for seed in (0, 0, 1)]
    assert torch.equal(torch.rand(2), expected)
    first, again, other = (model.state_dict() for model in models)
    for name in ("conv1.0.weight", "fc.weight", "layer2.0.conv2.weight"):
        assert torch.equal(first[name], again[name])
        assert not torch.equal(first[name], other[name])


@pytest.mark.parametrize(
    ("changes", "is_random"),
    [
        ({"stem": "image", "classifier": "ridge"}, False),
        ({"stem": "image", "classifier": "ridge", "readout": "pyramid+views", "mode": "head"}, False),
        ({"stem": "image", "classifier": "ridge", "scratch": True}, True),
        ({"classifier": "ridge"}, True),
    ],
    ids=str,
)
def test_networks_that_are_said_to_have_no_random_weights_are_the_same_with_each_seed(network, changes, is_random):
    setup = Setup(str(network), **changes)
    first, other = (build_model(setup, CLASSES, seed)[0] for seed in (0, 1))
    for model in (first, other):
        for parameter in model.get_classifier().parameters():
            torch.nn.init.zeros_(parameter)  # which ridge regression replaces
    same = all(torch.equal(value, other.state_dict()[name]) for name, value in first.state_dict().items())
    assert setup.has_random_weights == is_random == (not same)


def test_settings_and_channels_are_those_asked_for(network):
    setup = Setup(str(network), features="xyz,normals", skip_downsamples=1, voxel_size=0.3)
    model, _ = build_model(setup, CLASSES)
    assert model.in_chans == setup.in_chans == 6
    assert (model.settings.skip_downsamples, model.settings.voxel_size, model.settings.stem) == (1, 0.3, "point")
    assert model.num_classes == 2
    assert model.pretrained_cfg["label_names"] == ["a", "b"]


def test_every_mode_that_trains_has_a_learning_rate(network):
    assert LEARNING_RATES.keys() == set(RUN_MODES) - {"none"}
    assert all(Setup("a", mode=mode).learning_rate == rate for mode, rate in LEARNING_RATES.items())
    assert Setup("a", mode="io").learning_rate == Setup("a", mode="io", scratch=True).learning_rate, "an equal control"


REFUSED = {
    "mode": ({"mode": "half"}, "all, io.*got 'half'"),
    "rank": ({"mode": "lora", "lora_rank": 0}, r"`lora_rank` \(=0\) must be at least 1"),
    "features": ({"features": "xyz,smell"}, "xyz, rgb, normals, ones, intensity, extra.*got 'xyz,smell'"),
    "no text": ({"features": 5}, "`features` must be of type str; got 5"),
    "no number": ({"voxel_size": "a"}, "`voxel_size` must be of type float; got 'a'"),
    "a truth value": ({"skip_downsamples": True}, "`skip_downsamples` must be of type int; got True"),
    "no size": ({"voxel_size": 0}, "positive number; got 3 and 0"),
    "a negative count": ({"skip_downsamples": -1}, "0 or more.*got -1"),
    "inflation": ({"inflation": "fancy"}, "center, triangle, average, copy; got 'fancy'"),
    "axis": ({"axis": "w"}, "z, y, x; got 'w'"),
    "stem": ({"stem": "brain"}, "image, point, patch; got 'brain'"),
    "readout": ({"readout": "first"}, "last, pyramid, pyramid.views; got 'first'"),
    "preset": ({"preset": "image3point"}, "image2point; got 'image3point'"),
    "preset of another inflation": ({"preset": "image2point", "inflation": "average"}, "has inflation='copy'"),
    "preset of another stem": ({"preset": "image2point", "stem": "image"}, "stem='point'; got inflation=None and stem='image'"),
    "preset by octants": ({"preset": "image2point", "readout": "pyramid"}, "readout 'last'"),
    "preset with views": ({"preset": "image2point", "readout": "pyramid+views"}, "readout 'last'.*'pyramid.views'"),
    "unlabelled clouds for nothing": ({"unlabelled": True}, "got classifier='random'"),
    "views of normals": ({"readout": "pyramid+views", "stem": "image", "features": "normals"}, "got features='normals'"),
    "views of a new stem": ({"readout": "pyramid+views"}, "got features='xyz' and stem='point'"),
    "views of a preset": ({"preset": "image2point", "network": "views"}, "no preset.*preset='image2point'"),
    "views beside views": ({"network": "views", "readout": "pyramid+views", "stem": "image"}, "readout='pyramid.views'"),
}


@pytest.mark.parametrize(("changes", "words"), REFUSED.values(), ids=REFUSED.keys())
def test_what_no_data_set_has_is_refused(changes, words):
    with pytest.raises(InvalidInputError, match=words):
        Setup("i2p-resnet18", **changes)


def test_folder_is_inflated_as_told_and_otherwise_as_it_is(network):
    kept, copied = (build_model(Setup(str(network), inflation=inflation), CLASSES)[0] for inflation in (None, "copy"))
    assert (kept.settings.inflation, copied.settings.inflation) == ("center", "copy")
    center, copy = (model.layer2[0].conv2.weight for model in (kept, copied))
    assert torch.equal(copy, center[:, 1:2].expand_as(copy))


@pytest.mark.parametrize("scratch", [False, True])
def test_pyramid_reads_the_network_of_a_folder(network, scratch, tmp_path):
    setup = Setup(str(network), mode="head", stem="image", readout="pyramid", scratch=scratch, voxel_size=0.3)
    model, count = build_model(setup, CLASSES)
    source, encoder = i2p_zoo.from_pretrained(network).state_dict(), model.encoder.state_dict()
    assert torch.equal(encoder["layer1.0.conv1.weight"], source["layer1.0.conv1.weight"]) is not scratch
    assert (model.settings.voxel_size, model.settings.skip_downsamples) == (0.3, 3)
    assert count.trained == 2 * (model.head.in_features + 1)
    model.save_pretrained(tmp_path)
    with pytest.raises(InvalidInputError, match="is a pyramid classifier, which cannot be turned into another"):
        build_model(Setup(str(tmp_path)), CLASSES)


def test_pyramid_needs_the_image_stem_of_a_folder(network, tmp_path):
    build_model(Setup(str(network)), CLASSES)[0].save_pretrained(tmp_path)
    with pytest.raises(InvalidInputError, match="its image stem is gone"):
        build_model(Setup(str(tmp_path), readout="pyramid"), CLASSES)


def test_folder_along_another_axis_is_refused(network):
    with pytest.raises(InvalidInputError, match="has the axis 'z', which cannot become 'y'"):
        build_model(Setup(str(network), axis="y"), CLASSES)


FOLDERS = {
    "the paper's network": ("resnet18", {"preset": "image2point"}),
    "a depth and arguments of timm": ("test_resnet", {"depth": 1, "drop_rate": 0.4}),
}


@pytest.mark.parametrize(("name", "arguments"), FOLDERS.values(), ids=FOLDERS.keys())
def test_scratch_is_the_network_that_the_folder_holds(tmp_path, name, arguments):
    folder = str(i2p_zoo.create_model(name, **arguments).save_pretrained(tmp_path))
    image, count = build_model(Setup(folder), CLASSES)
    scratch, other = build_model(Setup(folder, scratch=True), CLASSES)
    assert repr(scratch) == repr(image)
    assert (count, scratch.settings) == (other, image.settings)


@pytest.mark.parametrize("scratch", [False, True])
def test_preset_is_the_papers_network_with_the_weights_of_a_folder(tmp_path, scratch):
    folder = str(i2p_zoo.create_model("resnet18").save_pretrained(tmp_path))
    setup = Setup(folder, preset="image2point", skip_downsamples=0, voxel_size=0.05, scratch=scratch)
    model, count = build_model(setup, CLASSES)
    paper = i2p_zoo.create_model("resnet18", num_classes=2, preset="image2point")
    assert repr(model) == repr(paper)
    assert count.trained == sum(parameter.numel() for parameter in paper.parameters())
    expected = i2p_zoo.from_pretrained(folder, num_classes=2, preset="image2point").state_dict()
    name = "layer2.0.downsample.0.weight"
    assert torch.equal(model.state_dict()[name], expected[name]) is not scratch


@pytest.mark.parametrize("names", [None, ["b", "a"], ["a", "b"]], ids=["no names", "other names", "the same names"])
def test_classifier_is_kept_for_the_same_classes_alone(tmp_path, names):
    trained = i2p_zoo.create_model("test_resnet", num_classes=2)
    trained.pretrained_cfg = {**trained.pretrained_cfg, **({"label_names": names} if names else {})}
    model, _ = build_model(Setup(str(trained.save_pretrained(tmp_path))), CLASSES)
    assert torch.equal(model.fc.weight, trained.fc.weight) is (names == ["a", "b"])
