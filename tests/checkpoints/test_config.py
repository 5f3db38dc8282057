"""config.json of a checkpoint: whatever is unknown, missing or wrong in it is refused by its key."""

from __future__ import annotations

import pytest
from torch import nn

import i2p_zoo
from i2p_zoo import InvalidInputError
from i2p_zoo.checkpoints.config import CONFIG
from i2p_zoo.checkpoints.saving import save_pretrained
from i2p_zoo.checkpoints.weight_files import WEIGHTS
from tests.checkpoints.conftest import assert_refused, edit_config, make_model


def test_network_of_no_timm_architecture_is_refused_with_the_way_out(tmp_path):
    model = i2p_zoo.inflate(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()))
    with pytest.raises(
        InvalidInputError, match=r"Sequential was not made from a timm architecture.*state_dict.*i2p_zoo\.inflate"
    ):
        save_pretrained(model, tmp_path / "net")
    assert not (tmp_path / "net").exists()


def test_arguments_that_json_cannot_hold_are_refused(tmp_path):
    with pytest.raises(InvalidInputError, match="act_layer"):
        save_pretrained(make_model(act_layer=nn.SiLU), tmp_path / "net")


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
    "i2p.format_version": [3, 0, "1", True, None],
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


def test_newer_format_says_to_upgrade(folder):
    edit_config(folder, "i2p.format_version", 3)
    edit_config(folder, "new", "key")
    assert_refused(folder, [str(folder / CONFIG), "format_version is 3", "reads 1 to 2", "Upgrade i2p-zoo"])
