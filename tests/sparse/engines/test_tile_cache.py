"""The file of tile shapes: written as a whole, by several processes, and passed over where it is no such file."""

from __future__ import annotations

import json
import warnings

import pytest

from i2p_zoo.sparse.engines import tile_cache
from i2p_zoo.sparse.engines.tile_cache import cache_path, describe_machine, keep_shapes, load_shapes

ONE, OTHER = {"a kernel kv=27": {"BLOCK_M": 64, "num_warps": 4}}, {"another": {"ROWS": 8}}


@pytest.fixture(autouse=True)
def machine(monkeypatch, tmp_path):
    """A cache of its own, and devices whose names are their numbers; `restart` is a new process's start."""
    monkeypatch.setenv("I2P_ZOO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(tile_cache, "describe_machine", lambda index: f"GPU {index}")
    load_shapes.cache_clear()
    yield load_shapes.cache_clear
    load_shapes.cache_clear()


def test_shapes_are_found_by_later_processes_and_by_the_same_device_alone(machine):
    assert load_shapes(0) == {}
    keep_shapes(0, ONE)
    assert load_shapes(0) == ONE
    machine()
    assert (load_shapes(0), load_shapes(1)) == (ONE, {})


def test_a_second_tuning_adds_to_the_first_and_to_another_device_s(machine):
    keep_shapes(0, ONE)
    machine()
    keep_shapes(1, OTHER)
    keep_shapes(0, OTHER)
    machine()
    assert (load_shapes(0), load_shapes(1)) == ({**ONE, **OTHER}, OTHER)
    assert {path.name for path in cache_path().parent.iterdir()} <= {"tiles.json", "tiles.json.lock"}


def test_a_killed_writer_leaves_the_file_as_it_was(machine, monkeypatch):
    keep_shapes(0, ONE)
    monkeypatch.setattr("i2p_zoo.staging.os.replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        keep_shapes(0, OTHER)
    machine()
    assert load_shapes(0) == ONE


FORMAT = '{"format": "i2p-zoo tile shapes, 1", "machines": '
BAD = {
    "empty": b"",
    "cut": (FORMAT + '{"GPU 0": {"a": {"BLOCK_M"').encode(),
    "no text": b"\xff\xfe\x00",
    "a list": b"[1]",
    "another program's": b'{"version": 3, "tiles": {}}',
    "a later format": b'{"format": "i2p-zoo tile shapes, 2", "machines": {}}',
    "no machines": (FORMAT + "null}").encode(),
    "no shapes": (FORMAT + '{"GPU 0": []}}').encode(),
    "a word for a size": (FORMAT + '{"GPU 0": {"a": {"BLOCK_M": "64"}}}}').encode(),
    "yes for a size": (FORMAT + '{"GPU 0": {"a": {"BLOCK_M": true}}}}').encode(),
    "a fraction": (FORMAT + '{"GPU 0": {"a": {"BLOCK_M": 0.5}}}}').encode(),
}


@pytest.mark.parametrize("content", BAD.values(), ids=BAD)
def test_a_damaged_or_foreign_file_is_passed_over_with_one_warning_and_replaced(machine, content):
    cache_path().parent.mkdir(parents=True)
    cache_path().write_bytes(content)
    with pytest.warns(UserWarning, match=r"tiles\.json is passed over: it is (damaged|no file)") as caught:
        assert [load_shapes(0) for _ in range(3)] == [{}] * 3
    assert len(caught) == 1
    keep_shapes(0, ONE)
    machine()
    assert load_shapes(0) == ONE
    assert json.loads(cache_path().read_text())["machines"] == {"GPU 0": ONE}


def test_a_cache_that_cannot_be_written_warns_and_the_shapes_hold_in_the_process(machine, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("I2P_ZOO_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.warns(UserWarning, match="passed over: .*Not a directory"):
        load_shapes(0)
    with pytest.warns(UserWarning, match="hold in this process alone. Set I2P_ZOO_CACHE"):
        keep_shapes(0, ONE)
    assert load_shapes(0) == ONE


@pytest.mark.parametrize("error", [PermissionError("read-only"), NotImplementedError("flock")])
def test_a_file_that_cannot_be_locked_warns_too(error, monkeypatch):
    def refuse(self):
        raise error

    monkeypatch.setattr(tile_cache.FileLock, "acquire", refuse)
    with pytest.warns(UserWarning, match="hold in this process alone"):
        keep_shapes(0, ONE)
    assert load_shapes(0) == ONE


def test_a_machine_is_named_by_its_device_and_what_compiles_for_it(monkeypatch):
    monkeypatch.setattr("torch.cuda.get_device_name", lambda index: "NVIDIA H200")
    name, *packages = describe_machine(0).split(", ")
    assert name == "NVIDIA H200"
    assert {package.split()[0] for package in packages} <= {"torch", "triton", "spconv-triton"}
    assert packages[0].split()[0] == "torch"
    assert describe_machine(-1) == ""


def test_nothing_is_read_for_a_cpu(monkeypatch):
    monkeypatch.setattr(tile_cache, "describe_machine", describe_machine)
    cache_path().parent.mkdir(parents=True)
    cache_path().write_bytes(b"damaged")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_shapes(-1) == {}
