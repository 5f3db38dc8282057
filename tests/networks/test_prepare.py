"""What a network makes of whatever it is given: one dtype, its channels, the colours and the clouds that it was trained on."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
from torch import nn

from i2p_zoo import InvalidInputError, create_model, from_pretrained, inflate, voxelize
from i2p_zoo.networks.models import Adaptation, adapt_
from i2p_zoo.segmentation.pretrained_unet import create_unet
from tests.helpers import randomise_norms_, small_net


def network(name="test_resnet", **options):
    torch.manual_seed(0)
    return randomise_norms_(create_model(name, num_classes=6, **options)).eval()


COLOURED = {"features": "rgb", "voxel_size": 0.3}
IMAGENET = {"rgb_mean": (0.485, 0.456, 0.406), "rgb_std": (0.229, 0.224, 0.225)}


def points_of(dtype, count=200):
    return np.random.default_rng(3).uniform(-1, 1, (count, 3)).astype(dtype)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("module_dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_voxelizing_first_is_the_same_as_giving_clouds(dtype, module_dtype):
    model = network(voxel_size=0.3).to(module_dtype)
    clouds = [points_of(dtype), points_of(dtype, 90)]
    with torch.no_grad():
        logits = model(clouds)
        assert torch.equal(model(voxelize(clouds, 0.3)), logits)
        assert torch.equal(model(model.prepare(clouds)), logits)
        assert torch.equal(model.predict(clouds), logits)
    assert logits.dtype == module_dtype


def test_features_beyond_half_precision_are_refused_not_infinite():
    model = network(voxel_size=1000.0).half()
    far = points_of("float64") * 1e5
    for x in (far, voxelize(far, 1000.0)):
        with pytest.raises(InvalidInputError, match=r"reach 1e.05, beyond the 6\.55e\+04 that the network's float16"):
            model.prepare(x)


def test_network_without_weights_says_so():
    with pytest.raises(InvalidInputError, match="on the meta device, which holds no weights"):
        network(voxel_size=0.3).to("meta")(points_of("float32"))


CHANNELS = {
    "ones": ({}, lambda: voxelize(points_of("float32"), 0.3, "ones"), "reads 3 channels a voxel, and the input has 1"),
    "given features": ({}, lambda: voxelize(points_of("float32"), 0.3, np.ones((200, 5))), "reads 3.*has 5"),
    "named ones": ({"in_chans": 4}, lambda: points_of("float32"), "reads 4.*has 3.*'xyz'"),
    "point stem": ({"in_chans": 1, "stem": "point"}, lambda: points_of("float32"), "reads 1.*has 3"),
    "maps": ({"features_only": True}, lambda: voxelize(points_of("float32"), 0.3, "ones"), "reads 3.*has 1"),
    "extra": ({"in_chans": 4, "features": "xyz,extra"}, lambda: np.ones((5, 5)), "reads 4.*has 5.*'xyz,extra'"),
}


@pytest.mark.parametrize(("options", "make", "message"), CHANNELS.values(), ids=CHANNELS)
@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "convnext_atto", "densenet121"])
def test_other_channels_are_refused_in_one_sentence(name, options, make, message):
    model = create_model(name, **options).eval()
    with pytest.raises(InvalidInputError, match=message):
        model(make())


@pytest.mark.parametrize("stem", ["image", "point"])
def test_a_unet_checks_casts_and_colours_alike(stem):
    unet = create_unet("test_resnet", 4, pretrained=False, devoxelization="nearest", stem=stem, **COLOURED).eval()
    cloud = {"points": points_of("float64"), "rgb": np.random.default_rng(1).integers(0, 256, (200, 3), dtype=np.uint8)}
    assert (unet.settings.rgb_mean is None) == (stem == "point")
    colors = {"rgb_mean": unet.settings.rgb_mean, "rgb_std": unet.settings.rgb_std}
    x, index = voxelize(cloud, 0.3, "rgb", return_index=True, **colors)
    with torch.no_grad():
        assert torch.equal(unet(cloud), unet(x).features[index])
        for wrong in (voxelize(cloud, 0.3, "ones"), voxelize(cloud, 0.3, "rgb,ones")):
            with pytest.raises(InvalidInputError, match=r"reads 3 channels a voxel, and the input has [14]"):
                unet(wrong)


def test_a_module_that_is_not_timms_says_so_by_its_layers():
    with pytest.raises(InvalidInputError, match="takes 3 channels"):
        inflate(small_net())(voxelize(points_of("float32"), 0.3, "ones"))
    alone = inflate(nn.Sequential(nn.BatchNorm2d(8), nn.ReLU())).eval()
    assert alone(voxelize(points_of("float32"), 0.3, np.ones((200, 8)))).features.shape[1] == 8
    pool = inflate(nn.Sequential(nn.MaxPool2d(2)))
    assert pool(voxelize(points_of("float32"), 0.3)).features.shape[1] == 3


@pytest.mark.parametrize("rgb", ["uint8", "fractions", "int64"])
@pytest.mark.parametrize("name", ["resnet10t", "test_resnet"])
def test_colours_reach_an_image_stem_standardised_as_its_images_were(name, rgb):
    model = network(name, **COLOURED)
    config = timm.create_model(name).pretrained_cfg
    colors = np.random.default_rng(5).integers(0, 256, (200, 3))
    cloud = {
        "points": points_of("float32"),
        "rgb": {"uint8": colors.astype(np.uint8), "fractions": colors / 255}.get(rgb, colors),
    }
    fractions = voxelize(cloud["points"], 0.3, colors / 255)
    expected = (fractions.features - torch.tensor(config["mean"])) / torch.tensor(config["std"])
    assert torch.allclose(model.prepare(cloud).features.double(), expected, atol=1e-5)
    assert model.settings.rgb_mean == config["mean"]
    direct = voxelize(cloud, 0.3, "rgb", rgb_mean=config["mean"], rgb_std=config["std"])
    assert torch.equal(model(direct), model(cloud))


def test_colours_beside_coordinates_are_standardised_where_they_stand():
    model = network(features="xyz,rgb", in_chans=6, voxel_size=0.3)
    cloud = {"points": points_of("float32"), "rgb": np.full((200, 3), 255, np.uint8)}
    features = model.prepare(cloud).features
    assert torch.equal(features[:, :3], voxelize(cloud, 0.3).features)
    assert torch.allclose(features[:, 3:], torch.ones(()), atol=1e-6)  # (1 - 0.5) / 0.5


def test_a_point_stem_reads_fractions():
    cloud = {"points": points_of("float32"), "rgb": np.full((200, 3), 51, np.uint8)}
    for model in (network(stem="point", **COLOURED), adapt_(network(**COLOURED), Adaptation(stem="point"), _source)):
        assert (model.settings.rgb_mean, model.settings.rgb_std) == (None, None)
        assert torch.allclose(model.prepare(cloud).features, torch.tensor(0.2))


def _source():
    return timm.create_model("test_resnet")


def test_an_inflated_network_notes_the_colours_of_its_source():
    source = timm.create_model("resnet10t")
    assert {key: getattr(inflate(source).settings, key) for key in IMAGENET} == IMAGENET
    grey = timm.create_model("test_resnet", in_chans=1, pretrained_cfg_overlay={"mean": (0.5,), "std": (0.5,)})
    assert inflate(grey).settings.rgb_mean is None
    assert inflate(small_net()).settings.rgb_mean is None


def test_what_a_checkpoint_notes_of_colours_is_what_it_means(tmp_path):
    model = network(**COLOURED)
    cloud = {"points": points_of("float32"), "rgb": np.random.default_rng(1).integers(0, 256, (200, 3), dtype=np.uint8)}
    logits = model(cloud)
    model.save_pretrained(tmp_path / "new")
    assert torch.equal(from_pretrained(tmp_path / "new")(cloud), logits)
    model.settings = model.settings.changed(rgb_mean=None, rgb_std=None)
    model.save_pretrained(tmp_path / "old")
    for options in ({}, {"features": "rgb"}):  # as trained on fractions: the same features again change nothing
        assert torch.equal(from_pretrained(tmp_path / "old", **options)(cloud), model(cloud))
    model.settings = model.settings.changed(features="xyz")
    model.save_pretrained(tmp_path / "image")  # of an older version, whose images were standardised all the same
    assert torch.equal(from_pretrained(tmp_path / "image", features="rgb")(cloud), logits)


@pytest.mark.parametrize("normalization", ["unit_sphere", ""])
def test_clouds_that_are_plainly_of_another_scale_are_told(normalization):
    model = network(voxel_size=0.3)
    model.settings = model.settings.changed(normalization=normalization)
    sphere = points_of("float32") / np.float32(3**0.5)
    for cloud in (sphere, [sphere * np.float32(1.1) + np.float32(0.2), sphere * np.float32(0.9)]):
        model(cloud)
    for cloud, reach in ((sphere * 100, "5[0-9]"), (sphere + 7, "7")):
        if normalization:
            with pytest.warns(UserWarning, match=f"centred on their mean within the unit sphere, and these reach {reach}"):
                model(cloud)
        else:
            model(cloud)
