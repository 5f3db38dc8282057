"""U-Nets: back on exactly the encoder's sites, logits in the order of the points, and the modes of finetuning."""

from __future__ import annotations

import json

import numpy as np
import pytest
import timm
import torch

import i2p_zoo
from i2p_zoo import CheckpointError, InvalidInputError, UnsupportedError, voxelize
from i2p_zoo.finetune import freeze
from i2p_zoo.networks.unet import UNet, find_levels
from i2p_zoo.segmentation.pretrained_unet import create_unet
from tests.zoo.test_archetypes import CERTIFIED, real_clouds

# Those whose convolutions without padding shift the sites, which `create_unet` refuses.
SHIFTED = {"inception_v3", "inception_v4", "inception_resnet_v2", "legacy_xception"}
NETWORKS = [
    "test_resnet",
    "mobilenetv3_small_050",
    "test_efficientnet",
    "repvgg_a0",
    "densenet121",
    "dla46_c",
    "convnext_atto",
    "test_mambaout",
]


def clouds():
    random = np.random.default_rng(0)
    return [random.uniform(-1, 1, (count, 3)).astype(np.float32) for count in (150, 90)]


def make(name="test_resnet", num_classes=4, **kwargs):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return create_unet(name, num_classes, pretrained=False, **{"skip_downsamples": 2, "voxel_size": 0.2, **kwargs})


def check_sites(name, stem):
    """Each step of the decoder stands on the very sites of the encoder's level, and the last on the input's."""
    unet = create_unet(name, 3, pretrained=False, stem=stem).eval()
    x = unet.encoder.prepare(real_clouds(3))
    seen = []
    for block in unet.decoder.blocks:
        block.register_forward_hook(lambda module, inputs, out: seen.append(out))
    with torch.no_grad():
        maps = unet.encoder(x)
        logits = unet.decoder(x, maps)
    wanted = [maps[level.maps[0]] if level.maps else x for level in unet.decoder.levels[-2::-1]]
    assert len(seen) == len(wanted) >= 1
    for out, level in zip(seen, wanted, strict=True):
        assert torch.equal(out.coords, level.coords)
        assert torch.isfinite(out.features).all()
    assert torch.equal(logits.coords, x.coords)
    assert len(logits.features) == len(x.features)


@pytest.mark.parametrize("stem", ["image", "point"])
@pytest.mark.parametrize("name", NETWORKS)
def test_decoder_returns_to_exactly_the_encoders_sites(name, stem):
    check_sites(name, stem)


@pytest.mark.long
@pytest.mark.parametrize("name", CERTIFIED)
def test_decoder_of_every_archetype_returns_to_exactly_the_encoders_sites(name):
    try:
        timm.create_model(name, features_only=True)
    except (RuntimeError, AttributeError, KeyError, TypeError, ValueError, AssertionError):  # whatever timm raises there
        with pytest.raises(InvalidInputError, match="features_only"):
            create_unet(name, 3, pretrained=False)
        return
    if name in SHIFTED:
        with pytest.raises(UnsupportedError, match="shift"):
            check_sites(name, "image")
    else:
        check_sites(name, "image")


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


def test_image_weights_are_the_encoders(tmp_path):
    model = i2p_zoo.create_model("test_resnet")
    model.save_pretrained(tmp_path)
    unet = create_unet(str(tmp_path), 3, skip_downsamples=2)
    assert torch.equal(unet.encoder.layer2[0].conv2.weight, model.layer2[0].conv2.weight)


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


def test_names_of_the_classes_are_the_unets_and_not_its_encoders(tmp_path):
    encoder = i2p_zoo.create_model("test_resnet", num_classes=2)
    encoder.pretrained_cfg = {**encoder.pretrained_cfg, "label_names": ["chair", "table"]}
    unet = create_unet(str(encoder.save_pretrained(tmp_path / "encoder")), 3)
    assert "label_names" not in i2p_zoo.from_pretrained(unet.save_pretrained(tmp_path / "unnamed")).pretrained_cfg
    unet.pretrained_cfg["label_names"] = ["floor", "wall", "lamp"]
    again = i2p_zoo.from_pretrained(unet.save_pretrained(tmp_path / "unet"))
    assert list(again.pretrained_cfg["label_names"]) == ["floor", "wall", "lamp"]


@pytest.mark.parametrize("kind", ["reversed", "read-only"])
def test_any_array_is_read_that_voxelize_reads(kind, recwarn):
    unet, points = make().eval(), clouds()[0]
    given = points[::-1] if kind == "reversed" else np.frombuffer(points.tobytes(), np.float32).reshape(-1, 3)
    with torch.no_grad():
        assert torch.allclose(unet([given]), unet([given.copy()]), atol=1e-6)
    assert not recwarn.list
