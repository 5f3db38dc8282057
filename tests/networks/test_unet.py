"""U-Nets: logits in the order of the points, the modes of finetuning, and checkpoints."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
import torch

import i2p_zoo
from i2p_zoo import CheckpointError, InvalidInputError, UnsupportedError, voxelize
from i2p_zoo.finetune import freeze
from i2p_zoo.networks.unet import UNet, find_levels
from i2p_zoo.segmentation.pretrained_unet import create_unet
from tests.helpers import randomise_norms_
from tests.networks.conftest import clouds, make_papers_unet


def make(name="test_resnet", num_classes=4, **kwargs):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return create_unet(name, num_classes, pretrained=False, **{"skip_downsamples": 2, "voxel_size": 0.2, **kwargs})


def test_levels_of_one_stride_are_joined():
    encoder = i2p_zoo.create_model("test_resnet", features_only=True, skip_downsamples=2)
    levels = find_levels(encoder)
    assert [(level.channels, level.stride, level.maps) for level in levels] == [
        (64, (1, 1, 1), (0, 1)),
        (48, (2, 2, 2), (2,)),
        (192, (4, 4, 4), (3,)),
        (96, (8, 8, 8), (4,)),
    ]


@pytest.mark.parametrize("devoxelization", ["nearest", "trilinear"])
def test_logits_are_in_the_order_of_the_points(devoxelization):
    unet = make(devoxelization=devoxelization).eval()
    first, second = clouds()
    order = np.random.default_rng(1).permutation(len(first))
    with torch.no_grad():
        logits = unet([first, second])
        shuffled = unet([first[order], second])
    assert logits.shape == (240, 4)
    assert torch.allclose(shuffled[:150], logits[:150][order], rtol=1e-4, atol=1e-5)
    assert torch.allclose(shuffled[150:], logits[150:], rtol=1e-4, atol=1e-5)


def test_nearest_logits_are_those_of_the_voxels():
    unet = make(devoxelization="nearest").eval()
    x, index = voxelize(clouds(), 0.2, return_index=True)
    with torch.no_grad():
        assert torch.allclose(unet(clouds()), unet(x).features[index], rtol=1e-5, atol=1e-6)


def test_points_of_voxels_that_were_made_elsewhere_get_the_logits_of_the_clouds():
    unet = make().eval()
    first, second = clouds()
    mixed = [first, second.astype(np.float64) + 1e-9]
    x, index = voxelize(mixed, 0.2, return_index=True)
    points = torch.cat([torch.from_numpy(cloud).double() for cloud in mixed])
    with torch.no_grad():
        assert torch.equal(unet(x, points, index), unet(mixed))
        assert len(unet(x).features) == len(x.coords), "without points, of the voxels"
    for arguments in ((x, points), (x, None, index), (mixed, points, index)):
        with pytest.raises(InvalidInputError, match="go together, beside the SparseTensor"):
            unet(*arguments)


def test_mappings_and_single_clouds_are_read_as_everywhere():
    unet = make().eval()
    cloud = clouds()[0]
    with torch.no_grad():
        expected = unet([cloud])
        for given in (cloud, torch.from_numpy(cloud), {"points": cloud}, [{"points": cloud}], cloud[None]):
            assert torch.allclose(unet(given), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("mode", ["all", "io+bn", "io+stats", "io"])
def test_each_mode_trains_the_decoder_and_its_part_of_the_encoder(mode):
    unet = make("test_efficientnet")
    freeze(unet, mode)
    before = {name: tensor.clone() for name, tensor in unet.state_dict().items()}
    unet.train()
    optimizer = torch.optim.SGD([p for p in unet.parameters() if p.requires_grad], 0.1)
    unet(clouds()).square().sum().backward()
    optimizer.step()
    changed = {name for name, tensor in unet.state_dict().items() if not torch.equal(tensor, before[name])}
    assert {name for name in before if name.startswith("decoder.up.0")} <= changed
    assert {name.split(".")[1] for name in changed if name.startswith("encoder.") and "running" not in name} >= {"conv_stem"}
    encoders = {name for name in changed if name.startswith("encoder.")}
    statistics = {name for name in encoders if "running" in name or "num_batches" in name}
    assert (statistics == set()) is (mode == "io")
    weights = {name for name, _ in unet.encoder.named_parameters()}
    trained = {name.removeprefix("encoder.") for name in encoders} & weights
    assert (trained == {"conv_stem.weight"}) is (mode in ("io", "io+stats"))


def test_dropout_is_used_in_training_alone():
    unet = make(dropout=0.5)
    torch.manual_seed(0)
    unet.train()
    assert not torch.equal(unet(clouds()), unet(clouds()))
    unet.eval()
    assert torch.equal(unet(clouds()), unet(clouds()))


REFUSED = {
    "no classes": ({"num_classes": 0}, r"num_classes \(=0\)"),
    "no channels": ({"decoder_channels": ()}, r"decoder_channels \(=\(\)\)"),
    "all dropped": ({"dropout": 1.0}, r"dropout \(=1\.0\)"),
    "unknown devoxelization": ({"devoxelization": "cubic"}, "'cubic'"),
}


@pytest.mark.parametrize(("arguments", "words"), REFUSED.values(), ids=REFUSED.keys())
def test_numbers_out_of_range_are_quoted(arguments, words):
    with pytest.raises(InvalidInputError, match=words):
        make(**arguments)


def test_encoder_must_give_features():
    with pytest.raises(InvalidInputError, match="features_only=True; got PointCloudResNet"):
        UNet(i2p_zoo.create_model("test_resnet"), 3)


def test_saved_network_loads_again_bit_for_bit(tmp_path):
    unet = make("test_efficientnet", stem="point", dropout=0.1, decoder_channels=(32, 16), devoxelization="nearest").eval()
    unet.save_pretrained(tmp_path)
    again = i2p_zoo.from_pretrained(tmp_path)
    assert type(again) is UNet
    assert not again.training
    assert repr(again) == repr(unet)
    assert (again.to_config(), again.settings) == (unet.to_config(), unet.settings)
    for name, tensor in unet.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    with torch.no_grad():
        assert torch.equal(again(clouds()), unet(clouds()))
    with pytest.raises(InvalidInputError, match="is a U-Net, which is loaded as it is"):
        i2p_zoo.from_pretrained(tmp_path, num_classes=7)


def test_settings_of_the_encoder_are_those_of_the_network(tmp_path):
    unet = make("test_resnet").eval()
    unet.encoder.settings = unet.encoder.settings.changed(voxel_size=0.4)
    assert unet.settings.voxel_size == 0.4
    unet.settings = unet.settings.changed(features="xyz")
    assert unet.encoder.settings.features == "xyz"
    unet.encoder.source = {"license": "mit"}
    again = i2p_zoo.from_pretrained(unet.save_pretrained(tmp_path))
    assert (again.settings, again.source["license"]) == (unet.settings, "mit")
    with torch.no_grad():
        assert torch.equal(again(clouds()), unet(clouds()))
    assert copy.deepcopy(unet).settings == unet.settings


def test_subclass_that_would_load_as_another_class_is_not_saved(tmp_path):
    class Doubled(UNet):
        def forward(self, x):
            return super().forward(x) * 2

    plain = make("test_resnet")
    unet = Doubled(plain.encoder, 4, levels=plain.levels)
    with pytest.raises(InvalidInputError, match=r"it is Doubled\(\), not UNet\(\)"):
        unet.save_pretrained(tmp_path / "net")
    assert not (tmp_path / "net").exists()


DAMAGES = {
    "a level too few": lambda unet: unet["levels"].pop(),
    "no levels": lambda unet: unet.update(levels=[]),
    "a level of text": lambda unet: unet["levels"][0].__setitem__(0, "many"),
    "channels of text": lambda unet: unet.update(decoder_channels="wide"),
    "endless channels": lambda unet: unet.update(decoder_channels=[10**9]),
    "unknown key": lambda unet: unet.update(depth=3),
    "unknown devoxelization": lambda unet: unet.update(devoxelization="cubic"),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_damaged_config_is_refused(tmp_path, damage):
    make().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    damage(config["i2p"]["unet"])
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=tmp_path.name):
        i2p_zoo.from_pretrained(tmp_path)


@pytest.mark.parametrize("name", ["legacy_xception", "inception_v3"])
def test_encoder_whose_sites_shift_is_refused(name):
    with pytest.raises(UnsupportedError, match=rf"{name}: convolutions without padding"):
        create_unet(name, 3, pretrained=False, stem="point", skip_downsamples=3)


@pytest.mark.parametrize("kind", ["reversed", "read-only"])
def test_any_array_is_read_that_voxelize_reads(kind, recwarn):
    unet, points = make().eval(), clouds()[0]
    given = points[::-1] if kind == "reversed" else np.frombuffer(points.tobytes(), np.float32).reshape(-1, 3)
    with torch.no_grad():
        assert torch.allclose(unet([given]), unet([given.copy()]), atol=1e-6)
    assert not recwarn.list


@pytest.mark.parametrize("mode", ["io", "io+bn", "all"])
def test_each_mode_trains_all_that_is_new(mode):
    unet = make_papers_unet().float()
    freeze(unet, mode)
    trained = {name for name, parameter in unet.named_parameters() if parameter.requires_grad}
    new = {"encoder.conv1.weight", "encoder.act1.1.weight", "encoder.maxpool.0.weight", "decoder.up.0.weight"}
    assert new <= trained
    assert ("encoder.layer1.0.conv1.weight" in trained) is (mode == "all")
    unet.train()
    unet([np.random.default_rng(0).random((200, 3)).astype(np.float32)]).sum().backward()
    assert all(parameter.grad is not None for parameter in unet.parameters() if parameter.requires_grad)


@pytest.mark.parametrize("mode", ["io", "head", "none"])
def test_norms_that_have_no_images_statistics_learn_the_clouds(mode):
    unet = make_papers_unet()
    freeze(unet, mode)
    unet.train()
    assert unet.encoder.act1[1].training
    assert unet.encoder.maxpool[1].training
    assert not unet.encoder.bn1.training


HIERARCHICAL = {
    "swin_tiny_patch4_window7_224": {"depths": [1, 1, 2, 1], "embed_dim": 24, "num_heads": [1, 2, 4, 8]},
    "mobilevit_xxs": {},
    "pvt_v2_b0": {},
    "test_coatnet": {},
}
ON_ONES = {"stem": "point", "skip_downsamples": 0, "features": "ones", "in_chans": 1}


@pytest.mark.parametrize("mode", ["all", "io+bn"])
@pytest.mark.parametrize("name", HIERARCHICAL)
def test_a_gradient_reaches_every_trained_parameter_of_a_transformer(name, mode):
    unet = make(name, drop_path_rate=0.0, **ON_ONES, **HIERARCHICAL[name])
    randomise_norms_(unet)  # those of a branch's end begin with zeros, which let no gradient through
    freeze(unet, mode)
    unet.train()
    unet(clouds()).square().sum().backward()
    assert not [key for key, p in unet.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]


@pytest.mark.parametrize("stem", ["point", "image"])
@pytest.mark.parametrize("name", HIERARCHICAL)
def test_transformers_tell_each_point_what_its_place_and_no_other_cloud_says(name, stem):
    unet = make(name, **{**ON_ONES, "stem": stem, "inflation": "average"}, **HIERARCHICAL[name]).double().eval()
    first, second = ((np.floor(cloud.astype(float) / 0.2) + 0.5) * 0.2 for cloud in clouds())  # the middles of voxels
    with torch.no_grad():
        logits = unet([first, second])
        scale = logits.abs().max()
        assert (unet([second]) - logits[150:]).abs().max() < 1e-9 * scale
        assert (unet([first + 0.2 * np.array([3, 1, -2])]) - logits[:150]).abs().max() < 1e-9 * scale
        unet.devoxelization = "nearest"
        assert (unet([first, second]) - logits).abs().max() < 1e-9 * scale  # in its middle a point reads its voxel alone
        voxels, index = unet.settings.voxelize([first, second])
        out = unet(voxels)
        assert torch.equal(out.coords, voxels.coords)
        assert (out.features[index] - logits).abs().max() < 1e-9 * scale
    assert logits.std(0).min() > 1e-6


@pytest.mark.parametrize("name", HIERARCHICAL)
def test_saved_transformer_loads_again_bit_for_bit(tmp_path, name):
    unet = make(name, **ON_ONES, **HIERARCHICAL[name]).eval()
    again = i2p_zoo.from_pretrained(unet.save_pretrained(tmp_path))
    assert (again.to_config(), again.settings) == (unet.to_config(), unet.settings)
    assert all(torch.equal(again.state_dict()[key], tensor) for key, tensor in unet.state_dict().items())
    with torch.no_grad():
        assert torch.equal(again(clouds()), unet(clouds()))


@pytest.mark.parametrize(("name", "stride"), [("test_vit", 16), ("levit_128s", 16), ("mixer_s32_224", 32)])
def test_feature_maps_that_are_too_coarse_for_points_are_refused_with_what_helps(name, stride):
    words = rf"{name}: .* stride {stride} back to stride 1 would have {stride**3:,} taps; .* stem='point' or stem='patch'"
    with pytest.raises(UnsupportedError, match=words):
        make(name, skip_downsamples=0)


def test_plain_vit_is_served_where_a_token_is_a_voxel():
    unet = make("test_vit", **ON_ONES).double().eval()
    assert [(level.stride, level.maps) for level in unet.levels] == [((1, 1, 1), (0, 1, 2))]
    first, second = clouds()
    with torch.no_grad():
        assert torch.allclose(unet([first, second])[150:], unet([second]), rtol=1e-9, atol=1e-12)
