"""Loading checkpoint folders: whatever is wrong with a folder is refused, and no pickle is ever opened."""

from __future__ import annotations

import json
import pickle
import shutil
import struct
import tempfile
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

import i2p_zoo
from i2p_zoo import CheckpointError
from i2p_zoo.checkpoints.config import CONFIG
from i2p_zoo.checkpoints.loading import load_folder
from i2p_zoo.checkpoints.saving import save_pretrained
from i2p_zoo.checkpoints.weight_files import WEIGHTS, sha256_of
from i2p_zoo.zoo.pretrained import build_network
from tests.checkpoints.conftest import assert_refused, assert_same_bits, bomb, edit_config, make_model, put_weights
from tests.helpers import random_cloud


def edit_state(folder, change):
    """Changes the weights' state dict in place, its hash noted."""
    state = {name: tensor.clone() for name, tensor in load_file(folder / WEIGHTS).items()}
    change(state)
    with tempfile.NamedTemporaryFile() as file:
        save_file(state, file.name)
        put_weights(folder, Path(file.name).read_bytes())


@pytest.fixture
def loaded_before(saved, folder):
    loaded = load_folder(folder, build_network)
    yield
    assert_same_bits(loaded, saved[0])


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
    assert_refused(folder, [str(folder / name), "not found"])


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
def test_folder_in_the_place_of_a_file_is_named(folder, name):
    (folder / name).unlink()
    (folder / name).mkdir()
    assert_refused(folder, [str(folder / name)])


def test_missing_folder_is_named(tmp_path):
    assert_refused(tmp_path / "nothing", [str(tmp_path / "nothing" / CONFIG), "not found"])


UNBUILDABLE = [
    ("architecture", "i2p-"),
    ("architecture", "i2p-no_such_network"),
    ("model_args", {"nonsense": 1}),
    ("model_args", {"in_chans": 3}),
    ("model_args", {"pretrained": True}),
]


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
