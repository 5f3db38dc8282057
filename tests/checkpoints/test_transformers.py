"""Folders of transformers: every bit, the canvas and the stem come back, compact or as an adapter; the formats they have."""

from __future__ import annotations

import json

import pytest
import torch

import i2p_zoo
from i2p_zoo import CheckpointError, create_model, from_pretrained
from tests.helpers import seeded

NETWORKS = {
    "test_vit": {"depth": 2},
    "vit_small_patch16_dinov3": {"depth": 1, "embed_dim": 48, "num_heads": 2},
    "swin_tiny_patch4_window7_224": {"depths": (2, 1, 1, 1), "embed_dim": 24, "num_heads": (1, 2, 4, 8)},
    "levit_128s": {},
}


def clouds():
    return [torch.rand(count, 3, generator=seeded(count)) for count in (30, 80)]


@pytest.mark.parametrize("options", [{}, {"stem": "patch", "skip_downsamples": 1}], ids=str)
@pytest.mark.parametrize("name", NETWORKS)
def test_folder_keeps_every_bit_and_the_settings(tmp_path, name, options):
    model = create_model(name, num_classes=3, voxel_size=0.1, **NETWORKS[name], **options).eval()
    assert model.settings.canvas is not None
    for compact in (False, True):
        model.save_pretrained(tmp_path / str(compact), compact=compact)
        loaded = from_pretrained(tmp_path / str(compact))
        assert loaded.settings == model.settings
        assert all(torch.equal(value, model.state_dict()[key]) for key, value in loaded.state_dict().items())
        with torch.no_grad():
            assert torch.equal(loaded(clouds()), model(clouds()))


def test_adapter_of_a_transformer_is_put_on_its_base(tmp_path):
    base = create_model("test_vit", num_classes=3, voxel_size=0.1).eval()
    base.save_pretrained(tmp_path / "base")
    model = from_pretrained(tmp_path / "base")
    with torch.no_grad():
        model.pos_embed.add_(1)
        model.head.weight.mul_(2)
    i2p_zoo.save_adapter(model, tmp_path / "adapter")
    loaded = from_pretrained(tmp_path / "adapter")
    with torch.no_grad():
        assert torch.equal(loaded(clouds()), model(clouds()))


def test_formats_that_an_earlier_package_reads_are_written_for_what_it_can_build(tmp_path):
    for name, version in (("test_resnet", 1), ("test_vit", 2)):
        folder = tmp_path / name
        create_model(name, num_classes=2).save_pretrained(folder)
        i2p = json.loads((folder / "config.json").read_text())["i2p"]
        assert i2p["format_version"] == version
        assert ("canvas" in i2p["settings"]) == (version == 2)
    config = json.loads((folder / "config.json").read_text())
    config["i2p"]["format_version"] = 3
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"format_version is 3; this package reads 1 to 2\. Upgrade i2p-zoo"):
        from_pretrained(folder)
