"""Checkpoint folders: what is saved comes back bit for bit, whatever is wrong with a folder is refused, nothing is lost."""

from __future__ import annotations

import errno
import json
import os
import pickle
import resource
import shutil
import stat
import struct
import tempfile
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import i2p_zoo
from i2p_zoo import CheckpointError, InvalidInputError, SparseTensor
from i2p_zoo.checkpoints import weight_files
from i2p_zoo.checkpoints.config import CONFIG
from i2p_zoo.checkpoints.loading import load_folder
from i2p_zoo.checkpoints.saving import CARD, describe_model, save_pretrained, sha256_of_tensors
from i2p_zoo.checkpoints.weight_files import WEIGHTS, sha256_of
from i2p_zoo.zoo.pretrained import build_network
from tests.helpers import random_cloud, randomise_norms_

NAMES = {CONFIG, WEIGHTS, CARD}
SOME_CERTIFICATE = i2p_zoo.Certificate({"float32": 1e-7, "float64": 1e-15}, (1, 3, 8, 8), 1.0)
MODELS = {
    "image stem": {},
    "image stem, one channel": {"in_chans": 1},
    "image stem, five channels": {"in_chans": 5},
    "point stem": {"stem": "point"},
    "point stem, six channels": {"stem": "point", "in_chans": 6, "features": "xyz,rgb", "voxel_size": 0.2},
    "other classes": {"num_classes": 7},
    "no classifier": {"num_classes": 0},
    "halvings skipped": {"skip_downsamples": 2},
    "point stem, halvings skipped": {"stem": "point", "skip_downsamples": 2},
    "average": {"inflation": "average"},
    "copy along y": {"inflation": "copy", "axis": "y"},
    "along x": {"axis": "x"},
    "flat": {"depth": 1},
    "arguments of timm": {"global_pool": "max", "act_layer": "silu", "drop_rate": 0.2},
    "features": {"features_only": True, "out_indices": (1, 3)},
    "features, point stem": {"features_only": True, "stem": "point"},
    "efficientnet": {"name": "test_efficientnet"},
    "byobnet, point stem": {"name": "test_byobnet", "stem": "point", "num_classes": 5},
}


def make_model(name="test_resnet", seed=0, **kwargs):
    """A network with random weights and live normalisation; few classes keep its files small."""
    if not kwargs.get("features_only"):
        kwargs.setdefault("num_classes", 10)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return randomise_norms_(i2p_zoo.create_model(name, **kwargs), seed).eval()


@torch.no_grad()
def outputs(model, dtype=torch.float32, voxels=60):
    result = model(random_cloud(model.in_chans, voxels=voxels, dtype=dtype))
    parts = result if isinstance(result, list) else [result]
    return [part.features if isinstance(part, SparseTensor) else part for part in parts]


def assert_same_bits(found, expected):
    found, expected = dict(found.state_dict()), dict(expected.state_dict())
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype, name
        assert torch.equal(found[name], tensor), name


def bits(folder):
    """The bytes of every file in a folder."""
    return {path.name: path.read_bytes() for path in Path(folder).iterdir() if path.name != ".lock"}


def edit_config(folder, key, value):
    """Sets a dotted key of the config; deletes it if the value is `...`."""
    config = json.loads((folder / CONFIG).read_text())
    *parents, last = key.split(".")
    block = config
    for parent in parents:
        block = block[parent]
    if value is ...:
        del block[last]
    else:
        block[last] = value
    (folder / CONFIG).write_text(json.dumps(config))


def put_weights(folder, data):
    """Puts a new file in the weights' place, its hash noted as if `save_pretrained` had written it."""
    (folder / WEIGHTS).unlink()  # a network may be mapped to the old one
    (folder / WEIGHTS).write_bytes(data)
    edit_config(folder, "i2p.weights", {WEIGHTS: sha256_of(folder / WEIGHTS)})


def edit_state(folder, change):
    """Changes the weights' state dict in place, its hash noted."""
    state = {name: tensor.clone() for name, tensor in load_file(folder / WEIGHTS).items()}
    change(state)
    with tempfile.NamedTemporaryFile() as file:
        save_file(state, file.name)
        put_weights(folder, Path(file.name).read_bytes())


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A model and the folder it was saved in; tests leave both alone."""
    model = make_model()
    return model, save_pretrained(model, tmp_path_factory.mktemp("checkpoint") / "saved")


@pytest.fixture
def folder(saved, tmp_path):
    """A copy of the saved folder to spoil."""
    return Path(shutil.copytree(saved[1], tmp_path / "copy"))


@pytest.mark.parametrize("kwargs", MODELS.values(), ids=MODELS.keys())
def test_network_comes_back_bit_for_bit_with_its_outputs(tmp_path, kwargs):
    model = make_model(**kwargs)
    assert model.save_pretrained(tmp_path / "net") == tmp_path / "net"
    loaded = load_folder(tmp_path / "net", build_network)
    assert type(loaded) is type(model)
    assert_same_bits(loaded, model)
    assert loaded.settings == model.settings
    assert json.dumps(describe_model(loaded)) == json.dumps(describe_model(model))
    for found, expected in zip(outputs(loaded), outputs(model), strict=True):
        assert torch.equal(found, expected)
    assert bits(save_pretrained(loaded, tmp_path / "again")) == bits(tmp_path / "net")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("stem", ["image", "point"])
def test_other_dtypes_come_back_bit_for_bit(tmp_path, dtype, stem):
    model = make_model(stem=stem).to(dtype)
    loaded = load_folder(save_pretrained(model, tmp_path), build_network)
    assert_same_bits(loaded, model)
    assert {p.dtype for p in loaded.parameters()} == {dtype}
    # Half precision takes long on a CPU.
    voxels = 60 if dtype == torch.float64 else 5
    assert torch.equal(outputs(loaded, dtype, voxels)[0], outputs(model, dtype, voxels)[0])


def test_network_after_training_steps_comes_back(tmp_path):
    model = make_model(stem="point").train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for seed in range(2):
        model(random_cloud(3, voxels=60, dtype=torch.float32, seed=seed)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert {name.rsplit(".", 1)[-1] for name in changed} >= {"weight", "running_mean", "running_var", "num_batches_tracked"}
    loaded = load_folder(save_pretrained(model, tmp_path), build_network)
    assert model.training
    assert not loaded.training
    assert_same_bits(loaded, model)
    assert torch.equal(outputs(loaded)[0], outputs(model.eval())[0])


def test_frozen_network_comes_back_ready_to_train(tmp_path):
    model = make_model(stem="point")
    i2p_zoo.finetune.freeze(model, "io+bn")
    assert not all(p.requires_grad for p in model.parameters())
    loaded = load_folder(save_pretrained(model, tmp_path), build_network)
    assert_same_bits(loaded, model)
    assert all(p.requires_grad and p.is_leaf for p in loaded.parameters())
    assert all(m.training for m in loaded.train().modules())


def test_tied_transposed_and_gradient_bearing_weights_are_saved_by_value(tmp_path):
    model = make_model()
    model.fc.weight = nn.Parameter(torch.randn(model.fc.in_features, 10).t())
    model.layer2[0].bn1.bias = model.layer2[0].bn1.weight
    model(random_cloud(3, dtype=torch.float32)).sum().backward()
    loaded = load_folder(save_pretrained(model, tmp_path), build_network)
    assert_same_bits(loaded, model)
    assert loaded.layer2[0].bn1.bias is not loaded.layer2[0].bn1.weight


def test_source_and_certificate_come_back(tmp_path):
    model = make_model()
    model.source = {"repo": "timm/net", "commit": "0" * 40, "sha256": "1" * 64, "license": "mit"}
    loaded = load_folder(save_pretrained(model, tmp_path, certificate=SOME_CERTIFICATE), build_network)
    noted = loaded.source["certificate"]
    assert noted == {**SOME_CERTIFICATE.to_dict(), "tensors": noted["tensors"], "finetuned": False}
    assert loaded.source == {**model.source, "certificate": noted}
    config = json.loads((save_pretrained(loaded, tmp_path / "again") / CONFIG).read_text())
    assert config["i2p"]["source"] == model.source
    assert config["i2p"]["certificate"] == noted


def noted(folder):
    """Whether a checkpoint's certificate is that of the network it was finetuned from, by its config and by its card."""
    certificate = json.loads((folder / CONFIG).read_text())["i2p"]["certificate"]
    assert certificate["finetuned"] == ("(of the network it was finetuned from)" in (folder / CARD).read_text())
    return certificate["finetuned"]


@torch.no_grad()
def test_certificate_is_told_to_be_of_another_network_once_the_weights_were_trained(tmp_path):
    model = make_model()
    certified = {**SOME_CERTIFICATE.to_dict(), "inflation": "center", "tensors": sha256_of_tensors(model)}  # as on conversion
    model.source = {"repo": "timm/net", "certificate": certified}
    first = save_pretrained(model, tmp_path / "first")
    assert not noted(first)
    for options in ({"compact": False}, {"max_shard_size": 200_000}):  # other files of the same tensors
        assert not noted(save_pretrained(load_folder(first, build_network), tmp_path / "again", **options))
    assert noted(save_pretrained(i2p_zoo.from_pretrained(first, num_classes=5), tmp_path / "classes"))
    assert noted(save_pretrained(i2p_zoo.from_pretrained(first, skip_downsamples=1), tmp_path / "finer"))
    assert not noted(save_pretrained(i2p_zoo.from_pretrained(first, voxel_size=0.5), tmp_path / "voxels"))
    loaded = i2p_zoo.from_pretrained(first)
    for trained, name in ((model, "in hand"), (loaded, "loaded")):
        trained.fc.bias[0] += 1
        assert noted(save_pretrained(trained, tmp_path / name))
        assert noted(save_pretrained(load_folder(tmp_path / name, build_network), tmp_path / name))
    assert noted(i2p_zoo.save_adapter(loaded, tmp_path / "adapter"))
    assert not noted(save_pretrained(loaded, tmp_path / "measured", certificate=SOME_CERTIFICATE))


def test_weights_of_another_tag_keep_their_preprocessing(tmp_path):
    source = timm.create_model("mobilenetv4_conv_small_050", pretrained=False)
    source.pretrained_cfg = {**source.pretrained_cfg, "tag": "another", "mean": (0.1, 0.2, 0.3), "license": "cc-by-nc-4.0"}
    first = save_pretrained(i2p_zoo.inflate(source), tmp_path / "first")
    written = json.loads((first / CONFIG).read_text())["pretrained_cfg"]
    assert (written["tag"], written["mean"], written["license"]) == ("another", [0.1, 0.2, 0.3], "cc-by-nc-4.0")
    second = save_pretrained(load_folder(first, build_network), tmp_path / "second")
    assert json.loads((second / CONFIG).read_text())["pretrained_cfg"] == written
    assert (second / CARD).read_text() == (first / CARD).read_text()


def test_saving_leaves_the_network_alone(saved, tmp_path):
    model = make_model().train()
    model.source = {"repo": "timm/net", "certificate": SOME_CERTIFICATE.to_dict()}
    before, provenance = describe_model(model), model.provenance
    save_pretrained(model, tmp_path)
    assert model.training
    assert describe_model(model) == before
    assert model.provenance is provenance
    assert_same_bits(model, saved[0])


def test_changing_the_folder_does_not_change_a_loaded_network(saved, folder):
    loaded = load_folder(folder, build_network)
    size = (folder / WEIGHTS).stat().st_size
    with (folder / WEIGHTS).open("r+b") as file:  # as `cp` over it does
        file.seek(size // 2)
        file.write(bytes(size - size // 2))
    assert_same_bits(loaded, saved[0])


def test_pickle_beside_the_weights_is_never_opened(saved, folder, monkeypatch):
    (folder / "pytorch_model.bin").write_bytes(bomb(folder / "exploded"))
    monkeypatch.setattr(torch, "load", lambda *a, **k: pytest.fail("a pickle was opened"))
    assert_same_bits(load_folder(folder, build_network), saved[0])
    (folder / WEIGHTS).unlink()
    with pytest.raises(CheckpointError, match="never pickles"):
        load_folder(folder, build_network)
    assert not (folder / "exploded").exists()


def test_network_of_no_timm_architecture_is_refused_with_the_way_out(tmp_path):
    model = i2p_zoo.inflate(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()))
    with pytest.raises(InvalidInputError, match=r"Sequential comes from no timm architecture.*state_dict.*i2p_zoo\.inflate"):
        save_pretrained(model, tmp_path / "net")
    assert not (tmp_path / "net").exists()


UNNOTED = {  # arguments that change shapes, keys, or nothing but the function
    "width": {"stem_width": 24},
    "depth": {"layers": (2, 1, 1, 1)},
    "activation": {"act_layer": "silu"},
    "pooling": {"global_pool": "max"},
    "stride": {"output_stride": 16},
}


@pytest.mark.parametrize("kwargs", UNNOTED.values(), ids=UNNOTED.keys())
def test_network_whose_timm_arguments_were_not_noted_is_refused(tmp_path, kwargs):
    model = i2p_zoo.inflate(timm.create_model("test_resnet", **kwargs))
    with pytest.raises(InvalidInputError, match=r"does not rebuild this network.*i2p_zoo\.create_model"):
        save_pretrained(model, tmp_path / "net")
    assert not (tmp_path / "net").exists()


def test_timm_network_with_its_own_arguments_needs_no_notes(tmp_path):
    model = i2p_zoo.inflate(timm.create_model("test_resnet", num_classes=5, in_chans=2)).eval()
    assert_same_bits(load_folder(save_pretrained(model, tmp_path), build_network), model)


def test_classifier_with_another_pooling_comes_back_or_is_refused(tmp_path):
    model = make_model()
    model.reset_classifier(4, "max")
    try:
        save_pretrained(model, tmp_path)
    except InvalidInputError:
        return
    assert torch.equal(outputs(load_folder(tmp_path, build_network))[0], outputs(model)[0])


def test_arguments_that_json_cannot_hold_are_refused(tmp_path):
    with pytest.raises(InvalidInputError, match="act_layer"):
        save_pretrained(make_model(act_layer=nn.SiLU), tmp_path / "net")


def test_mixed_dtypes_are_refused(tmp_path):
    model = make_model()
    model.fc.double()
    with pytest.raises(InvalidInputError, match="dtype"):
        save_pretrained(model, tmp_path / "net")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", ["layer1.0.conv1.weight", "layer3.0.bn2.running_var"])
def test_values_that_are_not_finite_are_refused(folder, name, value):
    model, before = make_model(), bits(folder)
    model.state_dict()[name].view(-1)[-1] = value
    with pytest.raises(CheckpointError, match=name):
        save_pretrained(model, folder)
    assert bits(folder) == before


@pytest.mark.parametrize("thing", [nn.Linear(2, 2), timm.create_model("test_resnet"), None, {}], ids=type)
def test_other_things_are_refused(tmp_path, thing):
    with pytest.raises(InvalidInputError, match=type(thing).__name__):
        save_pretrained(thing, tmp_path / "net")


def bomb(marker: Path) -> bytes:
    """A pickle that leaves a file when it is loaded."""

    class Bomb:
        def __reduce__(self):
            return (Path.touch, (marker,))

    return pickle.dumps(Bomb())


def header(text: bytes, body: bytes = b"") -> bytes:
    return struct.pack("<Q", len(text)) + text + body


KEY = "layer2.0.conv1.weight"
SHAPE = (48, 3, 3, 3, 32)
ALTERED_STATES = {  # a change to the state dict, and what the message says
    "missing key": (lambda s: s.pop(KEY), [f"missing {KEY}"]),
    "missing buffer": (lambda s: s.pop("bn1.running_mean"), ["missing bn1.running_mean"]),
    "all keys missing": (lambda s: s.clear(), ["missing bn1.bias", "more"]),
    "extra key": (lambda s: s.update(extra=torch.ones(1)), ["unexpected extra"]),
    "renamed key": (lambda s: s.update(other=s.pop(KEY)), [f"missing {KEY}", "unexpected other"]),
    "wrong shape": (lambda s: s.update({KEY: s[KEY][:5].clone()}), [KEY, f"expected {SHAPE}", "found (5, 32, 3, 3)"]),
    "1D weight": (lambda s: s.update({KEY: s[KEY][:, :, 1].clone()}), [KEY, f"expected {SHAPE}", "found (48, 32, 3)"]),
    "2D weight in 3D's order": (
        lambda s: s.update({KEY: s[KEY].permute(0, 2, 3, 1).contiguous()}),
        [KEY, f"expected {SHAPE}", "found (48, 3, 3, 32)"],
    ),
    "other axis order": (
        lambda s: s.update({KEY: s[KEY][:, :, None].repeat(1, 1, 3, 1, 1)}),
        [KEY, f"expected {SHAPE}", "found (48, 32, 3, 3, 3)"],
    ),
    "integers": (lambda s: s.update({KEY: s[KEY].long()}), [KEY, "expected torch.float32", "found torch.int64"]),
    "half": (lambda s: s.update({KEY: s[KEY].half()}), [KEY, "expected torch.float32", "found torch.float16"]),
    "double": (lambda s: s.update({KEY: s[KEY].double()}), [KEY, "expected torch.float32", "found torch.float64"]),
    "all half": (lambda s: s.update({k: t.half() for k, t in s.items()}), ["expected torch.float32", "found torch.float16"]),
    "float counter": (
        lambda s: s.update({"bn1.num_batches_tracked": torch.tensor(0.0)}),
        ["bn1.num_batches_tracked", "expected torch.int64", "found torch.float32"],
    ),
    "NaN": (lambda s: s[KEY].view(-1)[7].fill_(float("nan")), [KEY, "expected finite", "found NaN"]),
    "infinity": (lambda s: s["fc.bias"][-1].fill_(-float("inf")), ["fc.bias", "expected finite"]),
    "NaN in a buffer": (lambda s: s["bn1.running_var"][0].fill_(float("nan")), ["bn1.running_var", "expected finite"]),
}
LENGTHS = {"empty": 0, "half a length": 4, "a length": 8, "half a header": 1000, "half": 0.5, "a byte less": -1}
FOREIGN_FILES = {
    "pickle of the state": lambda s: pickle.dumps(s),
    "enormous header": lambda s: struct.pack("<Q", 2**63) + b"{}" * 50,
    "header over the limit": lambda s: struct.pack("<Q", 25_000_001) + b"{}" * 50,
    "no header": lambda s: header(b""),
    "header not JSON": lambda s: header(b"hello world"),
    "overlapping tensors": lambda s: header(
        json.dumps({n: {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} for n in ("a", "b")}).encode(), bytes(8)
    ),
    "offsets beyond the end": lambda s: header(b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}', bytes(4)),
    "unknown dtype": lambda s: header(b'{"a": {"dtype": "F31", "shape": [2], "data_offsets": [0, 8]}}', bytes(8)),
    "bytes behind the end": lambda s: s + b"more",
}


def assert_refused(folder, words):
    """Loading raises a CheckpointError that says these words, and a network loaded before keeps its bits."""
    with pytest.raises(CheckpointError) as caught:
        load_folder(folder, build_network)
    for word in words:
        assert word in str(caught.value)


@pytest.fixture
def loaded_before(saved, folder):
    loaded = load_folder(folder, build_network)
    yield
    assert_same_bits(loaded, saved[0])


@pytest.mark.parametrize(("change", "words"), ALTERED_STATES.values(), ids=ALTERED_STATES.keys())
def test_altered_tensors_are_refused_though_the_hash_fits(folder, loaded_before, change, words):
    edit_state(folder, change)
    assert_refused(folder, [str(folder / WEIGHTS), *words])


@pytest.mark.parametrize("fits", [False, True], ids=["", "hash fits"])
@pytest.mark.parametrize("length", LENGTHS.values(), ids=LENGTHS.keys())
def test_truncated_file_is_refused(folder, loaded_before, length, fits):
    data, config = (folder / WEIGHTS).read_bytes(), (folder / CONFIG).read_bytes()
    put_weights(folder, data[: int(len(data) * length) if length == 0.5 else length])
    if not fits:
        (folder / CONFIG).write_bytes(config)
    assert_refused(folder, [str(folder / WEIGHTS)])


@pytest.mark.parametrize("place", [53, -1, 0.5])
def test_flipped_bit_is_refused_with_both_hashes(folder, loaded_before, place):
    config = json.loads((folder / CONFIG).read_text())
    data = bytearray((folder / WEIGHTS).read_bytes())
    data[len(data) // 2 if place == 0.5 else place] ^= 1
    put_weights(folder, bytes(data))
    found = sha256_of(folder / WEIGHTS)
    (folder / CONFIG).write_text(json.dumps(config))
    assert_refused(folder, [str(folder / WEIGHTS), "sha256", config["i2p"]["weights"][WEIGHTS], found])


@pytest.mark.parametrize("make", FOREIGN_FILES.values(), ids=FOREIGN_FILES.keys())
def test_foreign_file_is_refused_though_the_hash_fits(folder, loaded_before, make):
    put_weights(folder, make((folder / WEIGHTS).read_bytes()))
    assert_refused(folder, [str(folder / WEIGHTS), "safetensors file"])


def test_pickle_in_the_place_of_the_weights_is_not_unpickled(folder, loaded_before):
    marker = folder / "exploded"
    pickle.loads(bomb(marker))
    marker.unlink()  # raises if the bomb were a dud
    put_weights(folder, bomb(marker))
    assert_refused(folder, [str(folder / WEIGHTS)])
    assert not marker.exists()


def test_weights_of_another_network_are_refused(folder, tmp_path):
    other = save_pretrained(make_model(seed=1), tmp_path / "other")
    shutil.copyfile(other / WEIGHTS, folder / WEIGHTS)
    assert_refused(folder, [str(folder / WEIGHTS), "sha256"])


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
def test_missing_file_is_named(folder, name):
    (folder / name).unlink()
    assert_refused(folder, [str(folder / name), "not there"])


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
def test_folder_in_the_place_of_a_file_is_named(folder, name):
    (folder / name).unlink()
    (folder / name).mkdir()
    assert_refused(folder, [str(folder / name)])


def test_missing_folder_is_named(tmp_path):
    assert_refused(tmp_path / "nothing", [str(tmp_path / "nothing" / CONFIG), "not there"])


UNREADABLE_CONFIGS = {
    "empty": b"",
    "not JSON": b"hello",
    "cut": b'{"architecture": "i2p-test_resnet"',
    "not UTF-8": b'{"architecture": "\xff\xfe"}',
    "a list": b"[]",
    "a number": b"1",
    "nested too deep": b"[" * 100_000,
    "of timm": b'{"architecture": "test_resnet", "num_classes": 10, "pretrained_cfg": {}}',
    "null": b"null",
    "block is a list": b'{"i2p": []}',
}
TOP_KEYS = ["architecture", "num_classes", "num_features", "global_pool", "model_args", "pretrained_cfg", "i2p"]
I2P_KEYS = [
    "format_version",
    "package_version",
    "in_chans",
    "dtype",
    "settings",
    "source",
    "certificate",
    "compact",
    "base",
    "weights",
]
SETTINGS_KEYS = ["inflation", "axis", "depth", "stem", "skip_downsamples", "voxel_size", "features"]
ALL_KEYS = [*TOP_KEYS, *(f"i2p.{key}" for key in I2P_KEYS), *(f"i2p.settings.{key}" for key in SETTINGS_KEYS)]
WRONG_VALUES = {
    "architecture": [5, None, "test_resnet", "I2P-test_resnet"],
    "num_classes": ["ten", 10.0, True],
    "num_features": ["many"],
    "global_pool": [5],
    "model_args": [[], None],
    "pretrained_cfg": [None, "timm"],
    "i2p.format_version": [2, 0, "1", True, None],
    "i2p.package_version": [1],
    "i2p.in_chans": ["3", None, True, 0],
    "i2p.dtype": ["int8", "load", ["float32"]],
    "i2p.settings": [None, []],
    "i2p.settings.inflation": ["sideways", ""],
    "i2p.settings.axis": ["w", 0],
    "i2p.settings.depth": [1.5, True, 0],
    "i2p.settings.stem": ["trunk", ["image"]],
    "i2p.settings.skip_downsamples": [-1, "2", None],
    "i2p.settings.voxel_size": [0.0, -0.05, 10**400, "small"],
    "i2p.settings.features": [3, "colour"],
    "i2p.source": [None, "timm"],
    "i2p.certificate": ["passed", {"passed": True}],
    "i2p.compact": [None, 1, "yes"],
    "i2p.base": ["i2p-resnet50"],
    "i2p.weights": [None, 5, {}],
}
HASH = "0" * 64
WRONG_PARTS = [  # a key, its value, and what the message says
    ("i2p.base", {}, "i2p.base.name"),
    ("i2p.base", {"name": "a", "commit": None}, "i2p.base.weights"),
    ("i2p.base", {"name": "", "commit": None, "weights": {WEIGHTS: HASH}}, "`i2p.base.name` must be a name"),
    ("i2p.base", {"name": "a", "commit": 1, "weights": {WEIGHTS: HASH}}, "`i2p.base.commit` must be a commit"),
    ("i2p.base", {"name": "a", "commit": None, "weights": {}}, "`i2p.base.weights` must map"),
    ("i2p.weights", {WEIGHTS: 5}, "no sha256 for 'model.safetensors'; found 5"),
    ("i2p.weights", {WEIGHTS: "0" * 63}, "no sha256 for 'model.safetensors'"),
    ("i2p.weights", {"../" + WEIGHTS: HASH}, f"names {'../' + WEIGHTS!r}"),
    ("i2p.weights", {"pytorch_model.bin": HASH}, "names 'pytorch_model.bin'"),
    ("i2p.weights", {WEIGHTS + ".index.json": HASH}, f"names {WEIGHTS + '.index.json'!r}"),
]
UNBUILDABLE = [
    ("architecture", "i2p-"),
    ("architecture", "i2p-no_such_network"),
    ("model_args", {"nonsense": 1}),
    ("model_args", {"in_chans": 3}),
    ("model_args", {"pretrained": True}),
]


@pytest.mark.parametrize("text", UNREADABLE_CONFIGS.values(), ids=UNREADABLE_CONFIGS.keys())
def test_file_that_is_no_config_is_refused(folder, text):
    (folder / CONFIG).write_bytes(text)
    assert_refused(folder, [str(folder / CONFIG)])


@pytest.mark.parametrize("key", ALL_KEYS)
def test_missing_key_is_named(folder, key):
    edit_config(folder, key, ...)
    assert_refused(folder, [str(folder / CONFIG), key.removeprefix("i2p.") if key == "i2p.format_version" else key])


@pytest.mark.parametrize("key", ["extra", "i2p.extra", "i2p.settings.extra"])
def test_unknown_key_is_named(folder, key):
    edit_config(folder, key, 1)
    assert_refused(folder, [str(folder / CONFIG), "unknown", repr(key)])


@pytest.mark.parametrize(("key", "value"), [(key, value) for key in WRONG_VALUES for value in WRONG_VALUES[key]], ids=str)
def test_wrong_value_is_named_with_its_key(folder, key, value):
    edit_config(folder, key, value)
    assert_refused(folder, [str(folder / CONFIG), key.removeprefix("i2p.") if "version" in key else key, repr(value)])


@pytest.mark.parametrize(("key", "value", "words"), WRONG_PARTS, ids=str)
def test_wrong_part_of_a_value_is_named(folder, key, value, words):
    edit_config(folder, key, value)
    assert_refused(folder, [str(folder / CONFIG), words])


@pytest.mark.parametrize(("key", "value"), UNBUILDABLE, ids=str)
def test_network_that_timm_cannot_build_is_refused_with_its_reason(folder, key, value):
    edit_config(folder, key, value)
    assert_refused(folder, [str(folder / CONFIG), "describes a network that cannot be built: "])


def test_more_classes_than_memory_holds_are_refused_before_any_is_created(folder):
    edit_config(folder, "num_classes", 10**12)
    assert_refused(folder, [str(folder / WEIGHTS), "fc.weight", str(10**12)])


def test_loading_draws_no_random_weights(folder, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("drew random weights")

    monkeypatch.setattr(torch.nn.init, "normal_", refuse)
    before = torch.get_rng_state()
    load_folder(folder, build_network)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("kept", [True, False], ids=["in the file", "in no file"])
def test_buffer_that_is_in_no_file_gets_its_value(kept, tmp_path, monkeypatch):
    """timm's blur pool is such a case; here a module that only its own code can fill."""

    class Scaled(torch.nn.Identity):
        def __init__(self):
            super().__init__()
            self.register_buffer("factor", torch.tensor(3.0), persistent=kept)

        def forward(self, x):
            return x * self.factor

    create = timm.create_model

    def create_scaled(*args, **kwargs):
        model = create(*args, **kwargs)
        model.act1 = Scaled()
        return model

    i2p_zoo.keep(Scaled)
    monkeypatch.setattr(timm, "create_model", create_scaled)
    model = i2p_zoo.create_model("test_resnet").eval()
    model.save_pretrained(tmp_path)
    x = random_cloud(3, dtype=torch.float32)
    assert torch.equal(load_folder(tmp_path, build_network)(x), model(x))


def test_newer_format_says_to_upgrade(folder):
    edit_config(folder, "i2p.format_version", 2)
    edit_config(folder, "new", "key")
    assert_refused(folder, [str(folder / CONFIG), "format_version is 2", "reads 1", "Upgrade i2p-zoo"])


@pytest.mark.parametrize("dtype", ["float64", "float16"])
def test_dtype_that_is_not_the_weights_is_refused(folder, dtype):
    edit_config(folder, "i2p.dtype", dtype)
    assert_refused(folder, [f"expected torch.{dtype}", "found torch.float32"])


@pytest.mark.parametrize(
    ("key", "value"), [("num_classes", 11), ("num_classes", 0), ("i2p.in_chans", 4), ("i2p.settings.depth", 1)], ids=str
)
def test_config_of_another_network_is_refused(tmp_path, key, value):
    folder = save_pretrained(make_model(), tmp_path / "net", compact=False)  # 2D kernels are of no depth
    edit_config(folder, key, value)
    assert_refused(folder, [str(folder / WEIGHTS)])


@pytest.mark.parametrize("scheme", ["hf-hub:acme/net", "local-dir:/somewhere"])
def test_architecture_that_points_timm_elsewhere_is_refused(folder, monkeypatch, scheme):
    monkeypatch.setattr(timm, "create_model", lambda *a, **k: pytest.fail("timm went to look for it"))
    edit_config(folder, "architecture", f"i2p-{scheme}")
    assert_refused(folder, [str(folder / CONFIG), scheme])


def test_argument_by_which_timm_opens_a_pickle_is_refused(folder, monkeypatch):
    torch.save(timm.create_model("test_resnet", num_classes=10).state_dict(), folder / "model.pth")
    monkeypatch.setattr(torch, "load", lambda *a, **k: pytest.fail("a pickle was opened"))
    edit_config(folder, "model_args", {"checkpoint_path": str(folder / "model.pth")})
    assert_refused(folder, [str(folder / CONFIG), "checkpoint_path"])


def fail_in_call(monkeypatch, owner, name, number, error):
    """Makes the call number `number` of a function raise, and only that one."""
    original, calls = getattr(owner, name), []

    def called(*args, **kwargs):
        calls.append(args)
        if len(calls) == number:
            raise error
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, name, called)


def half_write(monkeypatch, error):
    def save(state, path, **kwargs):
        save_file(state, path, **kwargs)
        os.truncate(path, os.path.getsize(path) // 2)
        raise error

    monkeypatch.setattr(weight_files, "save_file", save)


FAULTS = {
    "weights written half": half_write,
    "hidden folder": lambda m, e: fail_in_call(m, Path, "mkdir", 2, e),
    "change": lambda m, e: fail_in_call(m, Path, "rename", 1, e),
    **{f"mode {n}": lambda m, e, n=n: fail_in_call(m, Path, "chmod", n, e) for n in (1, 2, 3)},
    **{f"text {n}": lambda m, e, n=n: fail_in_call(m, Path, "write_text", n, e) for n in (1, 2)},
}
DISK_FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("error", [DISK_FULL, KeyboardInterrupt()], ids=repr)
@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
def test_old_checkpoint_survives_a_fault(saved, folder, monkeypatch, fault, error):
    with monkeypatch.context() as patch:
        fault(patch, error)
        with pytest.raises(type(error)):
            save_pretrained(saved[0], folder, certificate=SOME_CERTIFICATE)
    assert bits(folder) == bits(saved[1])


@pytest.mark.parametrize("error", [DISK_FULL, KeyboardInterrupt()], ids=repr)
@pytest.mark.parametrize("number", [1, 2, 3])
def test_new_checkpoint_survives_a_fault_after_the_change(folder, monkeypatch, number, error):
    other = make_model(num_classes=3, seed=1)
    with monkeypatch.context() as patch:
        fail_in_call(patch, os, "replace", number, error)
        with pytest.raises(type(error)):
            save_pretrained(other, folder)
    assert_same_bits(load_folder(folder, build_network), other)
    save_pretrained(other, folder)
    assert set(bits(folder)) == NAMES


@pytest.mark.parametrize("fault", FAULTS)
def test_new_folder_is_left_empty_by_a_fault(saved, tmp_path, monkeypatch, fault):
    with monkeypatch.context() as patch:
        FAULTS[fault](patch, DISK_FULL)
        with pytest.raises(OSError, match="No space"):
            save_pretrained(saved[0], tmp_path / "net")
    assert not (tmp_path / "net").exists() or bits(tmp_path / "net") == {}


def test_file_system_that_refuses_the_weights_raises_oserror(folder):
    before, limits = bits(folder), resource.getrlimit(resource.RLIMIT_FSIZE)
    model = make_model(seed=1)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            save_pretrained(model, folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert bits(folder) == before


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_folder_that_cannot_be_made_raises_oserror(tmp_path, place):
    (tmp_path / "file").write_text("a file")
    with pytest.raises(OSError, match="file"):
        save_pretrained(make_model(), tmp_path / place)
    assert (tmp_path / "file").read_text() == "a file"


def test_saving_again_replaces_all_files_and_leaves_others(folder):
    (folder / "notes.txt").write_text("mine")
    other = make_model(num_classes=3, seed=1)
    save_pretrained(other, folder)
    assert {path.name for path in folder.iterdir()} == {*NAMES, ".lock", "notes.txt"}
    assert_same_bits(load_folder(folder, build_network), other)
    assert "| classes | 3 |" in (folder / CARD).read_text()


def test_network_saved_over_the_folder_it_came_from_is_whole(saved, folder):
    loaded = load_folder(folder, build_network)
    save_pretrained(loaded, folder)
    assert bits(folder) == bits(saved[1])
    assert_same_bits(loaded, saved[0])


@pytest.mark.parametrize("text", ["# My own card\n", "", b"\xff\xfe no UTF-8"], ids=["own", "empty", "not UTF-8"])
def test_edited_card_is_kept_and_the_rest_is_saved(folder, text):
    text = text if isinstance(text, bytes) else text.encode()
    (folder / CARD).write_bytes(text)
    other = make_model(num_classes=3, seed=1)
    save_pretrained(other, folder)
    assert (folder / CARD).read_bytes() == text
    assert_same_bits(load_folder(folder, build_network), other)


def test_card_with_notes_at_its_end_is_kept(folder):
    text = (folder / CARD).read_text() + "\n## My notes\n"
    (folder / CARD).write_text(text)
    save_pretrained(make_model(num_classes=3), folder)
    assert (folder / CARD).read_text() == text


def test_missing_card_is_written(folder):
    (folder / CARD).unlink()
    save_pretrained(make_model(num_classes=3), folder)
    assert "| classes | 3 |" in (folder / CARD).read_text()


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600), (0o002, 0o664)], ids=oct)
def test_file_modes_follow_the_umask(tmp_path, mask, mode):
    before = os.umask(mask)
    try:
        folder = save_pretrained(make_model(), tmp_path / "net")
        assert os.umask(mask) == mask
    finally:
        os.umask(before)
    assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == dict.fromkeys([*NAMES, ".lock"], mode)
