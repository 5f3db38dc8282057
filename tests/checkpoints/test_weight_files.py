"""Weights files: shards come back bit for bit, and whatever is wrong with a file or a config is refused, and soon."""

from __future__ import annotations

import json
import pickle
import re
import resource
import shutil
import struct
import threading
import time
from pathlib import Path

import pytest
import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors.torch import load_file, save, save_file

import i2p_zoo
from i2p_zoo import CheckpointError, InvalidInputError
from i2p_zoo.checkpoints import weight_files
from i2p_zoo.checkpoints.config import CONFIG
from i2p_zoo.checkpoints.loading import describe_weights, load_folder
from i2p_zoo.checkpoints.saving import CARD, save_pretrained
from i2p_zoo.checkpoints.weight_files import WEIGHTS, read_weights, sha256_of, write_weights
from i2p_zoo.zoo.pretrained import build_network
from tests.conftest import fingerprint
from tests.helpers import randomise_norms_, seeded

INDEX = WEIGHTS + ".index.json"
HASH = "0" * 64


def make_state(tensors=6, numbers=1000):
    return {f"t{n}": torch.randn(numbers, generator=seeded(n)) for n in range(tensors)}


def names(folder):
    return {path.name for path in folder.iterdir()} - {".lock"}


@pytest.fixture(scope="module")
def model():
    return randomise_norms_(i2p_zoo.create_model("test_resnet", num_classes=10)).eval()


@pytest.fixture(scope="module")
def saved(model, tmp_path_factory):
    return save_pretrained(model, tmp_path_factory.mktemp("weights") / "saved")


@pytest.fixture
def folder(saved, tmp_path):
    return Path(shutil.copytree(saved, tmp_path / "copy"))


@pytest.mark.parametrize(
    ("size", "shards"), [("5GB", 1), (24_000, 1), (12_000, 2), ("12KB", 2), (8_000, 3), (4_000, 6), (1, 6)], ids=str
)
def test_shards_are_as_small_as_asked_and_come_back(tmp_path, size, shards):
    state = make_state()
    hashes = write_weights(state, tmp_path, WEIGHTS, size)
    expected = [WEIGHTS] if shards == 1 else [f"model-{n + 1:05}-of-{shards:05}.safetensors" for n in range(shards)]
    assert sorted(hashes) == expected
    assert names(tmp_path) == {*expected, *([INDEX] if shards > 1 else [])}
    assert hashes == {name: sha256_of(tmp_path / name) for name in expected}
    loaded = read_weights({name: tmp_path / name for name in expected}, hashes)
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[key], state[key]) for key in state)


def test_index_is_that_of_the_hub(tmp_path):
    state = make_state()
    write_weights(state, tmp_path, WEIGHTS, 8_000)
    index = json.loads((tmp_path / INDEX).read_text())
    theirs = split_torch_state_dict_into_shards(state, filename_pattern="model{suffix}.safetensors", max_shard_size=8_000)
    assert index == {"metadata": {"total_size": 24_000, **theirs.metadata}, "weight_map": theirs.tensor_to_filename}
    for key, name in index["weight_map"].items():
        assert key in load_file(tmp_path / name)


@pytest.mark.parametrize("size", [100_000, "300KB", 1])
def test_sharded_network_comes_back_bit_for_bit(model, tmp_path, size):
    folder = save_pretrained(model, tmp_path, max_shard_size=size)
    weights = json.loads((folder / CONFIG).read_text())["i2p"]["weights"]
    assert len(weights) > 1
    assert names(folder) == {CONFIG, CARD, INDEX, *weights}
    assert fingerprint(load_folder(folder, build_network)) == fingerprint(model)
    described = describe_weights(folder)
    assert {part["file"]: part["sha256"] for part in described} == weights
    assert sum(part["bytes"] for part in described) == sum((folder / name).stat().st_size for name in weights)


def test_saving_in_one_file_removes_the_shards_and_back(model, tmp_path):
    (tmp_path / "other.safetensors").write_text("not the package's")
    for size, sharded in ((100_000, True), ("5GB", False), (300_000, True), (100_000, True), ("5GB", False)):
        save_pretrained(model, tmp_path, max_shard_size=size)
        weights = json.loads((tmp_path / CONFIG).read_text())["i2p"]["weights"]
        assert (len(weights) > 1) == sharded
        assert names(tmp_path) == {CONFIG, CARD, "other.safetensors", *weights, *([INDEX] if sharded else [])}
        assert fingerprint(load_folder(tmp_path, build_network)) == fingerprint(model)


def test_index_is_not_what_tells_where_tensors_are(model, tmp_path):
    folder = save_pretrained(model, tmp_path, max_shard_size=100_000)
    (folder / INDEX).write_text("nonsense")
    assert fingerprint(load_folder(folder, build_network)) == fingerprint(model)


def remove_shard(folder, shards):
    shards[1].unlink()


def swap_shards(folder, shards):
    shards[0].rename(folder / "aside")
    shards[1].rename(shards[0])
    (folder / "aside").rename(shards[1])


def truncate_shard(folder, shards):
    shards[1].write_bytes(shards[1].read_bytes()[:-1])


def flip_bit(folder, shards):
    data = bytearray(shards[1].read_bytes())
    data[-1] ^= 1
    shards[1].write_bytes(data)


def tensor_twice(folder, shards):
    state = load_file(shards[1])
    key, tensor = next(iter(load_file(shards[0]).items()))
    save_file({**state, key: tensor}, shards[1])
    note_hash(folder, shards[1].name)


def leave_shard_out(folder, shards):
    edit(folder, lambda c: c["i2p"]["weights"].pop(shards[1].name))


def note_hash(folder, name):
    edit(folder, lambda c: c["i2p"]["weights"].update({name: sha256_of(folder / name)}))


def edit(folder, change):
    config = json.loads((folder / CONFIG).read_text())
    change(config)
    (folder / CONFIG).write_text(json.dumps(config))


SPOILED_SHARDS = {
    "missing": (remove_shard, "not found"),
    "swapped": (swap_shards, "sha256 expected"),
    "truncated": (truncate_shard, "no readable safetensors file"),
    "a bit flipped": (flip_bit, "sha256 expected"),
    "tensor twice": (tensor_twice, "which another file of the checkpoint holds too"),
    "left out of the config": (leave_shard_out, "missing "),
}


@pytest.mark.parametrize(("spoil", "words"), SPOILED_SHARDS.values(), ids=SPOILED_SHARDS.keys())
def test_spoiled_shards_are_refused(model, tmp_path, spoil, words):
    folder = save_pretrained(model, tmp_path, max_shard_size=100_000)
    spoil(folder, sorted(folder.glob("model-*.safetensors")))
    assert words in refusal(folder)


def refusal(folder):
    """The message of the CheckpointError with which a folder is refused within a second and with no more than 2 GB."""
    limits = resource.getrlimit(resource.RLIMIT_AS)
    used = int(re.search(r"VmSize:\s+(\d+)", Path("/proc/self/status").read_text())[1]) * 1024
    resource.setrlimit(resource.RLIMIT_AS, (used + 2 * 2**30, limits[1]))
    try:
        for _ in range(3):  # other processes' work can slow a try
            start = time.process_time()
            with pytest.raises(CheckpointError) as caught:
                load_folder(folder, build_network)
            seconds = time.process_time() - start
            if seconds < 1:
                break
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)
    assert seconds < 1, seconds
    assert str(folder) in str(caught.value)
    return str(caught.value)


def file(header, body=b""):
    """A safetensors file of a header, given as JSON's text or values."""
    text = header if isinstance(header, bytes) else json.dumps(header, separators=(",", ":")).encode()
    return struct.pack("<Q", len(text)) + text + body


def one(dtype="F32", shape=(10,), offsets=(0, 40), body=40, name="fc.bias"):
    """A file of one tensor, which may be none."""
    return file({name: {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}}, bytes(body))


def many(number):
    return file(
        ("{" + ",".join(f'"t{n}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}' for n in range(number)) + "}").encode()
    )


class Marker:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was opened",))


def torch_pickle(folder):
    torch.save({"fc.bias": Marker()}, folder / "pickle")
    return (folder / "pickle").read_bytes()


def swap_dtype(data, old, new):
    """The file with another dtype of the same size in the header."""
    assert data.count(old)
    assert len(old) == len(new)
    return data.replace(old, new)


READABLE = "no readable safetensors file"
NO_FILE = "no safetensors file"
MALFORMED_WEIGHTS = {  # what stands in place of the file, whose hash is noted, and what the message says
    "pickle": (lambda d, f: pickle.dumps(Marker()), NO_FILE),
    "torch's pickle": (lambda d, f: torch_pickle(f), NO_FILE),
    "zip": (lambda d, f: b"PK\x03\x04" + bytes(100), NO_FILE),
    "nothing": (lambda d, f: b"", NO_FILE),
    "seven bytes": (lambda d, f: bytes(7), NO_FILE),
    "zeros": (lambda d, f: bytes(1000), NO_FILE),
    "header over the limit": (lambda d, f: struct.pack("<Q", 1_000_001) + bytes(1_000_001), NO_FILE),
    "header of all memory": (lambda d, f: struct.pack("<Q", 2**64 - 1) + d[8:], NO_FILE),
    "header longer than the file": (lambda d, f: struct.pack("<Q", 1_000_000) + d[8:], READABLE),
    "header a byte short": (lambda d, f: struct.pack("<Q", struct.unpack("<Q", d[:8])[0] - 1) + d[8:], READABLE),
    "half": (lambda d, f: d[: len(d) // 2], READABLE),
    "a byte less": (lambda d, f: d[:-1], READABLE),
    "a byte more": (lambda d, f: d + b"\0", READABLE),
    "header a list": (lambda d, f: file([]), READABLE),
    "header a string": (lambda d, f: file("x"), READABLE),
    "header not UTF-8": (lambda d, f: file(b'{"\xff\xfe": 1}'), READABLE),
    "header nested": (lambda d, f: file(b'{"a":' + b"[" * 400_000 + b"]" * 400_000 + b"}"), READABLE),
    "header of NaN": (
        lambda d, f: file(b'{"a": {"dtype": "F32", "shape": [NaN], "data_offsets": [0, 4]}}', bytes(4)),
        READABLE,
    ),
    "tensor without a shape": (lambda d, f: file({"a": {"dtype": "F32", "data_offsets": [0, 4]}}, bytes(4)), READABLE),
    "overlapping": (
        lambda d, f: file({n: {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} for n in "ab"}, bytes(8)),
        READABLE,
    ),
    "half overlapping": (
        lambda d, f: file({n: {"dtype": "F32", "shape": [2], "data_offsets": [4 * i, 4 * i + 8]} for i, n in enumerate("ab")}),
        READABLE,
    ),
    "hole": (lambda d, f: one(offsets=(40, 80), body=80), READABLE),
    "offsets reversed": (lambda d, f: one(offsets=(40, 0)), READABLE),
    "offsets beyond the end": (lambda d, f: one(body=20), READABLE),
    "offsets of another size": (lambda d, f: one(shape=(11,)), READABLE),
    "offsets overflow": (lambda d, f: one(offsets=(0, 2**64)), READABLE),
    "negative shape": (lambda d, f: one(shape=(-10,)), READABLE),
    "shape overflows": (lambda d, f: one(shape=(2**32, 2**32)), READABLE),
    "empty shape that torch lacks": (lambda d, f: one(shape=(0, 2**64 - 1), offsets=(0, 0), body=0), READABLE),
    "shape of fractions": (lambda d, f: one(shape=(2.5,), offsets=(0, 10), body=10), READABLE),
    "dtype unknown": (lambda d, f: one(dtype="F31"), READABLE),
    "dtype of two words": (lambda d, f: one(dtype=["F32"]), READABLE),
    "500,000 empty tensors": (lambda d, f: many(500_000), NO_FILE),
    "80,000 empty tensors": (lambda d, f: many(80_000), NO_FILE),
    "5,000 empty tensors": (lambda d, f: many(5_000), "missing bn1.bias"),
    "no tensor": (lambda d, f: file({}), "missing bn1.bias"),
    "metadata alone": (lambda d, f: file({"__metadata__": {"format": "pt"}}), "missing bn1.bias"),
    "100,000 dimensions": (lambda d, f: one(shape=[1] * 100_000, offsets=(0, 4), body=4, name="a"), ""),
    "all I32": (lambda d, f: swap_dtype(d, b'"F32"', b'"I32"'), "expected torch.float32, found torch.int32"),
    "all U32": (lambda d, f: swap_dtype(d, b'"F32"', b'"U32"'), "expected torch.float32, found torch.uint32"),
    "counters F64": (lambda d, f: swap_dtype(d, b'"I64"', b'"F64"'), "expected torch.int64, found torch.float64"),
    "half precision": (lambda d, f: change_dtype(f, torch.float16), "expected torch.float32, found torch.float16"),
    "eight bits": (lambda d, f: change_dtype(f, torch.float8_e4m3fn), "expected torch.float32, found torch.float8_e4m3fn"),
    "integers": (lambda d, f: change_dtype(f, torch.int64), "expected torch.float32, found torch.int64"),
    "complex": (lambda d, f: change_dtype(f, torch.complex64), "expected torch.float32, found torch.complex64"),
}


def change_dtype(folder, dtype):
    return save({key: t.to(dtype) if t.is_floating_point() else t for key, t in load_file(folder / WEIGHTS).items()})


@pytest.mark.parametrize("inflation", ["center", "average"])
@pytest.mark.parametrize(("make", "words"), MALFORMED_WEIGHTS.values(), ids=MALFORMED_WEIGHTS.keys())
def test_malformed_file_is_refused_within_a_second_though_its_hash_fits(folder, make, words, inflation):
    data = make((folder / WEIGHTS).read_bytes(), folder)
    (folder / WEIGHTS).unlink()
    (folder / WEIGHTS).write_bytes(data)
    note_hash(folder, WEIGHTS)
    edit(folder, lambda c: c["i2p"]["settings"].update(inflation=inflation))
    assert words in refusal(folder)


def put_key(key, value):
    """An edit of the config's dotted key."""
    *parents, last = key.split(".")

    def change(config):
        for parent in parents:
            config = config[parent]
        config[last] = value

    return lambda folder: edit(folder, change)


def put_text(text):
    return lambda folder: (folder / CONFIG).write_bytes(text)


def replace_text(old, new):
    def change(folder):
        text = (folder / CONFIG).read_text()
        assert text.count(old) == 1
        (folder / CONFIG).write_text(text.replace(old, new))

    return change


def several(*changes):
    return lambda folder: [change(folder) for change in changes]


NO_NETWORK = "describes a network that cannot be built"
ARGS = '"model_args": {}'
MALFORMED_CONFIGS = {  # a change to the folder, and what the message says
    "in_chans 10**9": (put_key("i2p.in_chans", 10**9), "conv1.0.weight: shape expected"),
    "in_chans 2**62": (put_key("i2p.in_chans", 2**62), ""),
    "in_chans 10**30": (put_key("i2p.in_chans", 10**30), ""),
    "in_chans 10**9, point stem": (several(put_key("i2p.in_chans", 10**9), put_key("i2p.settings.stem", "point")), "conv1.0"),
    "classes 10**12": (put_key("num_classes", 10**12), "fc.weight: shape expected"),
    "classes 10**30": (put_key("num_classes", 10**30), ""),
    "classes negative": (put_key("num_classes", -1), ""),
    "10**9 layers": (put_key("model_args", {"layers": [10**9, 1, 1, 1]}), "`model_args` has 1000000000"),
    "99,999 layers": (put_key("model_args", {"layers": [99_999, 1, 1, 1]}), NO_NETWORK),
    "99,999 layers of convnext": (
        several(put_key("architecture", "i2p-convnext_atto"), put_key("model_args", {"depths": [99_999, 1, 1, 1]})),
        NO_NETWORK,
    ),
    "a million layers, nested": (put_key("model_args", {"layers": [[{"a": 10**6}]]}), "`model_args` has 1000000"),
    "stem of 10**12": (put_key("model_args", {"stem_width": 10**12}), "`model_args` has"),
    "stem of 10**5": (put_key("model_args", {"stem_width": 10**5}), "shape expected"),
    "layers nested 900 deep": (replace_text(ARGS, '"model_args": {"layers": ' + "[" * 900 + "]" * 900 + "}"), ""),
    "layers nested 100,000 deep": (replace_text(ARGS, '"model_args": {"layers": ' + "[" * 10**5 + "]" * 10**5 + "}"), ""),
    "objects nested 100,000 deep": (put_text(b'{"a":' * 10**5), "not JSON"),
    "NaN": (replace_text(ARGS, '"model_args": {"drop_rate": NaN}'), "NaN is no number"),
    "infinity": (replace_text(ARGS, '"model_args": {"drop_rate": -Infinity}'), "-Infinity is no number"),
    "NaN for a voxel": (put_key("i2p.settings.voxel_size", float("nan")), "NaN is no number"),
    "voxel of 10**400": (put_key("i2p.settings.voxel_size", 10**400), "`i2p.settings.voxel_size` must be a positive number"),
    "integer of 5,000 digits": (put_text(b'{"i2p": ' + b"9" * 5000 + b"}"), "not JSON"),
    "200 MB": (put_text(b" " * 200_000_000), "at most 1000000"),
    "100,000 weights files": (
        put_key("i2p.weights", {f"model-{n:05}-of-99999.safetensors": HASH for n in range(100_000)}),
        "at most 1000000",
    ),
    "9,000 weights files": (
        put_key("i2p.weights", {f"model-{n:05}-of-09000.safetensors": HASH for n in range(9_000)}),
        "not found",
    ),
    "name of 500,000 letters": (put_key("architecture", "i2p-" + "x" * 500_000), NO_NETWORK),
    "name with a zero": (put_key("architecture", "i2p-test_resnet\0"), NO_NETWORK),
    "another network": (put_key("architecture", "i2p-vit_tiny_patch16_224"), "missing blocks.0.attn"),
    "block of another kind": (put_key("model_args", {"block": "BasicBlock"}), NO_NETWORK),
    "layers of another kind": (put_key("model_args", {"layers": "many"}), NO_NETWORK),
    "100,000 features": (put_key("i2p.settings.features", ",".join(f"f{n}" for n in range(100_000))), "features` must be"),
    "UTF-16": (put_text('{"i2p": {}}'.encode("utf-16")), "not JSON"),
    "lone surrogate": (put_text(b'{"architecture": "\\ud800", "i2p": {}}'), "format_version"),
    "no compact": (put_key("i2p.compact", False), "shape expected"),
}


@pytest.mark.parametrize(("change", "words"), MALFORMED_CONFIGS.values(), ids=MALFORMED_CONFIGS.keys())
def test_malformed_config_is_refused_within_a_second(folder, change, words):
    change(folder)
    assert words in refusal(folder)


@pytest.mark.parametrize("name", ["resnetrs420", "ghostnetv3_130", "resnest269e"])
def test_largest_networks_of_timm_are_within_the_limits(name):
    """Of all 1,371 the first makes the most modules, 2,540, and has the most tensors."""
    from i2p_zoo.checkpoints.config import make_config
    from i2p_zoo.inflation.settings import Settings
    from i2p_zoo.inflation.structure import inflate_structure
    from i2p_zoo.networks.point_cloud_model import build_structure
    from i2p_zoo.networks.timm_models import create_timm_model

    model = inflate_structure(create_timm_model(name, structure=True), Settings())
    built = build_structure(make_config(model))
    assert built.state_dict().keys() == model.state_dict().keys()


def test_file_that_is_replaced_between_hash_and_tensors_is_not_taken_for_the_hashed_one(tmp_path, monkeypatch):
    write_weights(make_state(), tmp_path, WEIGHTS, "5GB")
    hashes = {WEIGHTS: sha256_of(tmp_path / WEIGHTS)}
    save_file({key: tensor + 1 for key, tensor in make_state().items()}, tmp_path / "other")

    def load(path):
        (tmp_path / "other").replace(path)
        return load_file(path)

    hash_of = weight_files._sha256

    def hash_first(file):
        digest = hash_of(file)
        hashed.set()
        return digest

    hashed = threading.Event()
    monkeypatch.setattr(weight_files, "_sha256", hash_first)
    monkeypatch.setattr(weight_files, "load_file", lambda path: hashed.wait(10) and load(path))
    with pytest.raises(CheckpointError, match="was replaced while it was read"):
        read_weights({WEIGHTS: tmp_path / WEIGHTS}, hashes)


def test_file_that_is_long_for_its_header_is_refused_before_it_is_hashed(folder, monkeypatch):
    monkeypatch.setattr(weight_files, "_sha256", lambda file: pytest.fail("hashed"))
    with (folder / WEIGHTS).open("r+b") as weights:
        weights.truncate(4 * 2**30)
    assert re.search(r"no readable safetensors file: \d+ bytes expected, found 4294967296", refusal(folder))


def test_damaged_header_is_refused_before_the_file_is_hashed(folder, monkeypatch):
    monkeypatch.setattr(weight_files, "_sha256", lambda file: pytest.fail("hashed"))
    data = bytearray((folder / WEIGHTS).read_bytes())
    data[9] ^= 1
    (folder / WEIGHTS).write_bytes(data)
    with pytest.raises(CheckpointError, match="no readable safetensors file: its header is damaged"):
        load_folder(folder, build_network)


@pytest.mark.parametrize("levels", [900, 100_000])
def test_arguments_nested_to_any_depth_are_walked(levels):
    from i2p_zoo.checkpoints.config import _check_args

    nested = [5]
    for _ in range(levels):
        nested = [nested]
    _check_args(Path(CONFIG), nested, "model_args")
    nested = [10**6]
    for _ in range(levels):
        nested = {"a": nested}
    with pytest.raises(CheckpointError, match="1000000"):
        _check_args(Path(CONFIG), nested, "model_args")


@pytest.mark.parametrize("size", ["abc", "5XB", "GB", "", "-1GB", "0GB", "infGB", "5", None, 0, -5, 1.5, True], ids=repr)
def test_shard_size_that_is_none_is_refused(model, tmp_path, size):
    with pytest.raises(InvalidInputError, match=f"`max_shard_size` is {size!r}"):
        save_pretrained(model, tmp_path / "net", max_shard_size=size)
    assert not (tmp_path / "net").exists()


@pytest.mark.parametrize("size", ["1.5GB", " 5 gb ", "300KB", 10**12])
def test_shard_sizes_as_the_hub_takes_them(model, tmp_path, size):
    save_pretrained(model, tmp_path, max_shard_size=size)
