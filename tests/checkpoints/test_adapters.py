"""Adapters: only what finetuning changed is saved, and put on its very base it is the network, bit for bit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import i2p_zoo
from i2p_zoo import CheckpointError, InvalidInputError, NotFoundError
from i2p_zoo.checkpoints.config import CONFIG
from i2p_zoo.checkpoints.loading import load_folder
from i2p_zoo.checkpoints.saving import CARD, save_adapter, save_pretrained
from i2p_zoo.checkpoints.weight_files import ADAPTER_WEIGHTS, WEIGHTS, sha256_of
from i2p_zoo.finetune import freeze
from i2p_zoo.layers.kernel_inflation import has_same_bits
from i2p_zoo.segmentation.pretrained_unet import create_unet
from i2p_zoo.zoo import pretrained as hub
from i2p_zoo.zoo.pretrained import build_network
from tests.conftest import fingerprint
from tests.helpers import random_cloud, randomise_norms_


def make_base(folder, name="test_resnet", seed=0, **kwargs):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return save_pretrained(randomise_norms_(i2p_zoo.create_model(name, **kwargs), seed), folder)


def train(model, mode="io+bn", steps=1):
    """Finetunes by plain steps of SGD and returns the network in eval mode."""
    freeze(model, mode)
    model.train()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for seed in range(steps):
        cloud = random_cloud(model.in_chans, voxels=200, batch_size=4, extent=8, dtype=torch.float32, seed=seed)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(cloud), torch.arange(4) % model.num_classes).backward()
        optimizer.step()
    return model.eval()


def names(folder):
    return {path.name for path in folder.iterdir()} - {".lock"}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The folders of a base and an adapter on it, and the finetuned network; tests leave all alone."""
    root = tmp_path_factory.mktemp("adapter")
    model = train(i2p_zoo.from_pretrained(make_base(root / "base"), num_classes=5))
    return root / "base", save_adapter(model, root / "adapter"), model


@pytest.fixture
def place(made, tmp_path):
    """A base and an adapter on it to spoil."""
    base = Path(shutil.copytree(made[0], tmp_path / "base"))
    save_adapter(train(i2p_zoo.from_pretrained(base, num_classes=5)), tmp_path / "adapter")
    return tmp_path


SETTINGS = {
    "classes": {"num_classes": 5},
    "point stem": {"num_classes": 5, "stem": "point", "in_chans": 4, "features": "xyz,ones"},
    "image stem of one channel": {"num_classes": 5, "in_chans": 1},
    "halvings skipped": {"skip_downsamples": 2, "voxel_size": 0.1},
}


@pytest.mark.parametrize("mode", ["io", "io+bn", "all"])
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS.keys())
def test_finetuned_network_comes_back_bit_for_bit(made, tmp_path, settings, mode):
    model = train(i2p_zoo.from_pretrained(made[0], **settings), mode)
    adapter = save_adapter(model, tmp_path / "adapter")
    assert names(adapter) == {CONFIG, ADAPTER_WEIGHTS, CARD}
    again = i2p_zoo.from_pretrained(adapter)
    assert fingerprint(again) == fingerprint(model)
    assert again.settings == model.settings
    cloud = random_cloud(model.in_chans, dtype=torch.float32)
    with torch.no_grad():
        assert torch.equal(again(cloud), model(cloud))


@pytest.mark.parametrize("kwargs", [{"inflation": "average"}, {"inflation": "copy", "axis": "y"}], ids=str)
@pytest.mark.parametrize("compact", [True, False])
def test_base_of_any_inflation_carries_an_adapter(tmp_path, kwargs, compact):
    save_pretrained(i2p_zoo.create_model("test_resnet", **kwargs), tmp_path / "base", compact=compact, max_shard_size=200_000)
    model = train(i2p_zoo.from_pretrained(tmp_path / "base", num_classes=5))
    assert fingerprint(i2p_zoo.from_pretrained(save_adapter(model, tmp_path / "adapter"))) == fingerprint(model)


def test_only_changed_tensors_are_in_the_file(made):
    base, adapter, model = made
    source, found = load_folder(base, build_network).state_dict(), load_file(adapter / ADAPTER_WEIGHTS)
    changed = {k for k, t in model.state_dict().items() if k not in source or not has_same_bits(t, source[k])}
    assert found.keys() == changed
    assert {"fc.weight", "fc.bias", "bn1.running_mean", "bn1.num_batches_tracked", "layer3.0.bn2.weight"} <= changed
    frozen = {f"{name}.weight" for name, m in model.named_modules() if isinstance(m, i2p_zoo.SparseConv3d)}
    assert frozen - changed == {key for key in frozen if not key.startswith("conv1.0")}


def test_a_sign_of_zero_is_a_change(made, tmp_path):
    model = i2p_zoo.from_pretrained(made[0])
    weight = model.layer1[0].conv1.weight.detach()
    zero = (weight.view(-1) == 0).nonzero()[0]
    weight.view(-1)[zero] = -0.0
    adapter = save_adapter(model, tmp_path / "adapter")
    assert load_file(adapter / ADAPTER_WEIGHTS).keys() == {"layer1.0.conv1.weight"}
    assert fingerprint(i2p_zoo.from_pretrained(adapter)) == fingerprint(model)


def test_config_names_the_base_and_its_hash(made):
    base, adapter, _ = made
    noted = json.loads((adapter / CONFIG).read_text())["i2p"]["base"]
    assert noted == {"name": str(base.resolve()), "commit": None, "weights": {WEIGHTS: sha256_of(base / WEIGHTS)}}


def test_base_that_moved_is_found_by_the_argument(place):
    expected = fingerprint(i2p_zoo.from_pretrained(place / "adapter"))
    (place / "base").rename(place / "moved")
    with pytest.raises(NotFoundError, match=r"base was the folder .*base, which cannot be found\. Give it as `base=`"):
        i2p_zoo.from_pretrained(place / "adapter")
    assert fingerprint(i2p_zoo.from_pretrained(place / "adapter", base=place / "moved")) == expected
    model = i2p_zoo.from_pretrained(place / "adapter", base=place / "moved")
    train(model)
    with pytest.raises(NotFoundError, match="`base=`"):
        save_adapter(model, place / "second")
    save_adapter(model, place / "second", base=place / "moved")
    again = i2p_zoo.from_pretrained(place / "second", base=place / "moved")
    assert fingerprint(again) == fingerprint(model)


@pytest.mark.parametrize("given", [False, True], ids=["noted", "given"])
def test_another_base_is_refused_by_its_hash(place, given):
    other = make_base(place / ("other" if given else "base"), seed=1)
    options = {"base": other} if given else {}
    with pytest.raises(CheckpointError, match=r"sha256 .* the adapter was made on .*`base=`"):
        i2p_zoo.from_pretrained(place / "adapter", **options)


def test_same_weights_saved_anew_are_the_same_base(place):
    expected = fingerprint(i2p_zoo.from_pretrained(place / "adapter"))
    save_pretrained(load_folder(place / "base", build_network), place / "again")
    assert fingerprint(i2p_zoo.from_pretrained(place / "adapter", base=place / "again")) == expected


@pytest.mark.parametrize("name", [WEIGHTS, CONFIG])
@pytest.mark.parametrize("folder", ["base", "adapter"])
def test_damaged_file_is_refused(place, folder, name):
    path = place / folder / (ADAPTER_WEIGHTS if (folder, name) == ("adapter", WEIGHTS) else name)
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(CheckpointError, match=path.name):
        i2p_zoo.from_pretrained(place / "adapter")


def test_base_that_changed_since_loading_is_refused_at_saving(place):
    model = train(i2p_zoo.from_pretrained(place / "base"))
    make_base(place / "base", seed=1)
    with pytest.raises(CheckpointError, match="was made on"):
        save_adapter(model, place / "late")
    assert not (place / "late").exists()


def test_adapter_on_a_folder_is_not_pushed(place):
    with pytest.raises(InvalidInputError, match=str(place / "base")):
        i2p_zoo.push_folder(place / "adapter", "acme/adapter", dry_run=True)


def test_adapter_is_no_base(place, made):
    with pytest.raises(CheckpointError, match="it is an adapter, but a whole checkpoint is needed"):
        i2p_zoo.from_pretrained(place / "adapter", base=made[1])
    with pytest.raises(CheckpointError, match="it is an adapter, but a whole checkpoint is needed"):
        load_folder(place / "adapter", build_network)


def test_adapter_trained_further_stands_on_the_same_base(made, tmp_path):
    model = train(i2p_zoo.from_pretrained(made[1]), steps=2)
    adapter = save_adapter(model, tmp_path / "adapter")
    first, second = (json.loads((f / CONFIG).read_text())["i2p"]["base"] for f in (made[1], adapter))
    assert first == second
    assert fingerprint(i2p_zoo.from_pretrained(adapter)) == fingerprint(model)


def test_adapter_saved_whole_needs_no_base(place):
    model = i2p_zoo.from_pretrained(place / "adapter")
    save_pretrained(model, place / "whole")
    shutil.rmtree(place / "base")
    assert fingerprint(load_folder(place / "whole", build_network)) == fingerprint(model)


def test_unchanged_network_is_refused(made, tmp_path):
    with pytest.raises(InvalidInputError, match="does not differ from its base"):
        save_adapter(i2p_zoo.from_pretrained(made[0]), tmp_path / "adapter")
    assert not (tmp_path / "adapter").exists()


@pytest.mark.parametrize("thing", [i2p_zoo.create_model("test_resnet"), nn.Linear(2, 2)], ids=type)
def test_network_without_a_base_is_refused(tmp_path, thing):
    with pytest.raises(InvalidInputError, match=r"no base; use `save_pretrained`|Only networks made by i2p_zoo"):
        save_adapter(thing, tmp_path / "adapter")
    assert not (tmp_path / "adapter").exists()


def test_value_that_is_not_finite_is_refused(made, tmp_path):
    model = i2p_zoo.from_pretrained(made[0])
    model.fc.bias.data[0] = float("nan")
    with pytest.raises(CheckpointError, match=r"fc\.bias"):
        save_adapter(model, tmp_path / "adapter")


def test_checkpoint_in_the_adapters_folder_is_replaced(place):
    model = i2p_zoo.from_pretrained(place / "adapter")
    save_pretrained(model, place / "adapter")
    assert names(place / "adapter") == {CONFIG, WEIGHTS, CARD}
    save_adapter(model, place / "adapter")
    assert names(place / "adapter") == {CONFIG, ADAPTER_WEIGHTS, CARD}
    assert fingerprint(i2p_zoo.from_pretrained(place / "adapter")) == fingerprint(model)


def test_adapter_of_efficientnet_lite0_is_under_a_megabyte(tmp_path):
    base = save_pretrained(i2p_zoo.create_model("efficientnet_lite0"), tmp_path / "base")
    model = i2p_zoo.from_pretrained(base, num_classes=40)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    train(model)
    statistics = [key for key in before if key.endswith(("running_mean", "running_var"))]
    assert len(statistics) > 90
    unchanged = [key for key in statistics if has_same_bits(before[key], model.state_dict()[key])]
    assert unchanged == []
    adapter = save_adapter(model, tmp_path / "adapter")
    size = sum(path.stat().st_size for path in adapter.iterdir())
    assert size < 1_000_000
    assert fingerprint(i2p_zoo.from_pretrained(adapter)) == fingerprint(model)


@pytest.mark.parametrize("place", ["noted", "by a link", "relative", "given"])
def test_adapter_is_not_written_over_its_base(place, made, tmp_path, monkeypatch):
    base = Path(shutil.copytree(made[0], tmp_path / "base"))
    model = train(i2p_zoo.from_pretrained(made[0] if place == "given" else base))
    (tmp_path / "link").symlink_to(base)
    monkeypatch.chdir(tmp_path)
    folder = {"by a link": tmp_path / "link", "relative": "base"}.get(place, base)
    before = {path.name: path.read_bytes() for path in base.iterdir()}
    with pytest.raises(InvalidInputError, match=f"base is in '{folder}' itself"):
        save_adapter(model, folder, **({"base": base} if place == "given" else {}))
    assert {path.name: path.read_bytes() for path in base.iterdir()} == before


def test_adapter_is_not_written_where_its_base_of_the_hub_would_be_looked_for(made, tmp_path, monkeypatch):
    model = train(i2p_zoo.from_pretrained(made[0]))
    model.base = {**model.base, "name": "acme/base"}
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidInputError, match="base is in 'acme/base' itself"):
        save_adapter(model, "acme/base", base=made[0])
    assert not (tmp_path / "acme").exists()


def test_options_of_the_hub_are_for_the_base(made, tmp_path, monkeypatch):
    model, seen = train(i2p_zoo.from_pretrained(made[0])), []
    model.base = {**model.base, "name": "acme/private", "commit": "1" * 40}

    def fetch_files(repo, names, options, tried, more):
        seen.append((repo, options.token, options.cache_dir, options.local_files_only, options.revision))

    monkeypatch.setattr(hub, "fetch_files", fetch_files)
    with pytest.raises(NotFoundError, match="acme/private"):
        save_adapter(model, tmp_path / "adapter", token="hf_mine", cache_dir="cache", local_files_only=True)
    with pytest.raises(NotFoundError, match="acme/private"):
        model.push_to_hub("acme/adapter", adapter=True, token="hf_mine")
    assert seen == [("acme/private", "hf_mine", "cache", True, "1" * 40), ("acme/private", "hf_mine", None, False, "1" * 40)]


@pytest.mark.parametrize("name", ["test_resnet", "regnetx_002"])  # of the second timm joins the extractor's names by "_"
def test_unet_stands_on_its_encoders_base(tmp_path, name):
    base = make_base(tmp_path / "base", name)
    unet = create_unet(str(base), 3, stem="point", skip_downsamples=2, voxel_size=0.1, decoder_channels=(8,))
    freeze(unet, "io+bn")
    unet.train()
    optimizer = torch.optim.SGD([p for p in unet.parameters() if p.requires_grad], lr=0.1)
    points = torch.rand(300, 3)
    nn.functional.cross_entropy(unet(points), torch.arange(300) % 3).backward()
    optimizer.step()
    adapter = save_adapter(unet.eval(), tmp_path / "adapter")
    saved = load_file(adapter / ADAPTER_WEIGHTS)
    frozen = [key for key, p in unet.named_parameters() if not p.requires_grad]
    assert frozen
    assert not saved.keys() & set(frozen)
    again = i2p_zoo.from_pretrained(adapter)
    assert fingerprint(again) == fingerprint(unet)
    with torch.no_grad():
        assert torch.equal(again(points), unet(points))
