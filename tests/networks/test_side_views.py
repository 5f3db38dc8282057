"""Six views of a cloud: the weights are those of timm's 2D network, the features what it has of images drawn by hand."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
from torch.nn import functional as F

import i2p_zoo
from i2p_zoo import InvalidInputError, UnsupportedError
from i2p_zoo.networks.side_views import create_side_views
from tests.helpers import randomise_norms_
from tests.networks.conftest import clouds
from tests.networks.test_depth_images import draw_slowly

NAMES = ["test_resnet", "test_efficientnet", "mambaout_femto", "test_vit2", "swin_tiny_patch4_window7_224"]


def encoder_of(name, **kwargs):
    """An encoder and the 2D network that it was inflated from."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder = i2p_zoo.create_model(name, features_only=True, **{"voxel_size": 0.2, **kwargs})
        torch.manual_seed(0)
        source = timm.create_model(name, features_only=True)
    return encoder.eval(), source.eval()


@pytest.mark.parametrize("inflation", ["center", "triangle", "average", "copy"])
@pytest.mark.parametrize("name", NAMES)
def test_weights_are_those_that_were_inflated(name, inflation):
    encoder, source = encoder_of(name, inflation=inflation)
    state = create_side_views(encoder).network.state_dict()
    assert state.keys() == source.state_dict().keys()
    for key, tensor in source.state_dict().items():
        if inflation in ("center", "copy"):
            assert torch.equal(state[key], tensor), key
        else:
            torch.testing.assert_close(state[key], tensor, rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", NAMES)
def test_features_are_the_means_of_the_maps_of_images_drawn_point_by_point(name):
    encoder, source = encoder_of(name)
    views = create_side_views(encoder)
    x = encoder.prepare(clouds())
    size = 224 if "swin" in name else 160 if "vit" in name else 128
    assert (views.size, views.splat % 2) == (size, 1)
    drawn = draw_slowly(x.features.numpy(), x.coords[:, 0].numpy(), 2, views.size)
    images = F.max_pool2d(torch.from_numpy(drawn), views.splat, 1, views.splat // 2).float()
    mean, std = (torch.tensor(source.pretrained_cfg[key]).view(3, 1, 1) for key in ("mean", "std"))
    with torch.no_grad():
        maps = source((images.flatten(0, 1)[:, None] - mean) / std)
        got = views(x)
    channels = source.feature_info.channels()
    maps = [each if each.shape[1] == width else each.permute(0, 3, 1, 2) for each, width in zip(maps, channels, strict=True)]
    means = torch.cat([F.normalize(each.double().mean((2, 3)), dim=1) for each in maps], 1)
    torch.testing.assert_close(got.double(), means.view(2, -1), rtol=1e-4, atol=1e-5)


def test_clouds_of_a_batch_do_not_meet():
    encoder, _ = encoder_of("test_resnet")
    views = create_side_views(encoder)
    with torch.no_grad():
        alone = torch.cat([views(encoder.prepare([cloud])) for cloud in clouds()])
        torch.testing.assert_close(views(encoder.prepare(clouds())), alone, rtol=1e-4, atol=1e-6)


def test_colours_are_scaled_as_the_weights_are_used_to():
    encoder, _ = encoder_of("test_resnet")
    encoder.pretrained_cfg = {**encoder.pretrained_cfg, "mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6)}
    views = create_side_views(encoder)
    assert views.mean.flatten().tolist() == pytest.approx([0.1, 0.2, 0.3])
    assert views.std.flatten().tolist() == pytest.approx([0.4, 0.5, 0.6])


def test_statistics_of_the_encoder_that_change_later_are_not_the_views():
    encoder, source = encoder_of("test_resnet")
    views = create_side_views(encoder)
    randomise_norms_(encoder)
    for key, tensor in source.state_dict().items():
        assert torch.equal(views.network.state_dict()[key], tensor), key


REFUSED = {
    "a new stem": ({"stem": "point"}, "stem='point', 3 channels"),
    "no coordinates": ({"features": "normals"}, "3 channels and features='normals'"),
    "one channel": ({"in_chans": 1, "features": "ones"}, "1 channels and features='ones'"),
}


@pytest.mark.parametrize(("changes", "words"), REFUSED.values(), ids=REFUSED.keys())
def test_clouds_that_cannot_be_drawn_are_refused(changes, words):
    with pytest.raises(InvalidInputError, match=words):
        create_side_views(encoder_of("test_resnet", **changes)[0])


def test_kernels_that_were_trained_are_refused():
    encoder, _ = encoder_of("test_resnet")
    with torch.no_grad():
        encoder.layer2[0].conv2.weight[0, 0, 0, 0, 0] += np.float32(1)
    with pytest.raises(InvalidInputError, match=r"layer2\.0\.conv2\.weight is no inflation any more"):
        create_side_views(encoder)


def test_images_that_are_not_square_are_refused():
    encoder, _ = encoder_of("test_vit2", img_size=(160, 128))
    with pytest.raises(UnsupportedError, match="takes no square images"):
        create_side_views(encoder)


def test_a_network_that_takes_its_own_size_alone_gets_it():
    encoder, _ = encoder_of("bat_resnext26ts")
    assert encoder.settings.canvas is None
    views = create_side_views(encoder)
    assert views.size == 256
    with torch.no_grad():
        assert views(encoder.prepare(clouds())).shape == (2, 6 * views.channels)


def test_the_callers_random_state_stays():
    encoder, _ = encoder_of("test_resnet")
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    create_side_views(encoder)
    assert torch.equal(torch.rand(1), expected)
