"""Folders that change as a whole: killed at any step of the file system, a writer leaves the old files or the new ones."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import stat
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

import i2p_zoo
from i2p_zoo import CheckpointError
from i2p_zoo.checkpoints import loading, saving
from i2p_zoo.checkpoints.config import CONFIG
from i2p_zoo.checkpoints.loading import load_folder
from i2p_zoo.checkpoints.saving import CARD, save_pretrained
from i2p_zoo.checkpoints.weight_files import WEIGHTS, is_weights_name
from i2p_zoo.staging import cache_folder, locate, staged_folder
from i2p_zoo.zoo.pretrained import build_network
from tests.conftest import fingerprint
from tests.helpers import randomise_norms_

OLD = {"a": "old a", "b": "old b", "stale": "old stale", "mine": "mine"}
NEW = {"a": "new a", "b": "new b", "c": "new c", "mine": "mine"}
ROOT = Path(__file__).parents[1]

# Writes a folder again and again, each time in a process that kills itself one step later, and tells how many steps there are.
# Python tells of its steps in the file system before it does them; the last folder is the one of a writer that came through.
KILLER = """
import os, shutil, sys
from pathlib import Path

def kill_at(step, folder):
    def hook(event, args):
        nonlocal step
        place = args[0] if args and isinstance(args[0], (str, os.PathLike)) else ""
        if (event.startswith(("os.", "shutil.")) or event == "open") and os.fspath(place).startswith(folder):
            step -= 1
            if step < 0:
                os.kill(os.getpid(), 9)
    sys.addaudithook(hook)

def kill_everywhere(old, root, write):
    for step in range(500):
        folder = shutil.copytree(old, f"{root}/{step:03}")
        child = os.fork()
        if child == 0:
            kill_at(step, folder)
            write(Path(folder))
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        if status == 0:
            return
        assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == 9, status
    raise AssertionError("no end of steps")
"""
STAGED = """
import importlib.util
spec = importlib.util.spec_from_file_location("staging", "i2p_zoo/staging.py")  # the package takes seconds to import
staging = importlib.util.module_from_spec(spec)
spec.loader.exec_module(staging)

def write(folder):
    with staging.staged_folder(folder, lambda path: path.name == "stale") as stage:
        for name in "abc":
            (stage / name).write_text("new " + name)

kill_everywhere(sys.argv[1], sys.argv[2], write)
"""
SAVED = """
import torch
from i2p_zoo.checkpoints import weight_files
from i2p_zoo.checkpoints.loading import load_folder
from i2p_zoo.checkpoints.saving import save_pretrained
from i2p_zoo.zoo.pretrained import build_network

torch.set_num_threads(1)
model = load_folder(sys.argv[3], build_network)
kill_everywhere(sys.argv[1], sys.argv[2], lambda folder: save_pretrained(model, folder))

def write_half(state, path, **kwargs):
    save_file(state, path, **kwargs)
    os.truncate(path, os.path.getsize(path) // 2)
    os.kill(os.getpid(), 9)

save_file, weight_files.save_file = weight_files.save_file, write_half
save_pretrained(model, shutil.copytree(sys.argv[1], sys.argv[2] + "/half"))
"""


ALTERNATING = """
import itertools, sys, time, torch
from i2p_zoo.checkpoints.loading import load_folder
from i2p_zoo.checkpoints.saving import save_pretrained
from i2p_zoo.zoo.pretrained import build_network

torch.set_num_threads(1)
models = [load_folder(path, build_network) for path in sys.argv[1:3]]
for number in itertools.count():
    save_pretrained(models[number % 2], sys.argv[3], max_shard_size=(200_000, "5GB")[number % 2])
    time.sleep(0.05)
"""


def run_script(code, *arguments):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-c", KILLER + code, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)


def put(folder, files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text)
    return folder


def texts(folder):
    """The visible files of a folder as a reader finds them, were the writer killed or not."""
    names = {path.name for place in (folder, folder / ".saved") if place.is_dir() for path in place.iterdir() if path.is_file()}
    return {name: locate(folder, name).read_text() for name in names if not name.startswith(".")}


def hidden(folder):
    return {path.name for path in folder.iterdir() if path.name.startswith(".")}


def write(folder, files=NEW):
    with staged_folder(folder, lambda path: path.name == "stale") as stage:
        for name in files.keys() - {"mine"}:
            (stage / name).write_text(files[name])


def check_order(states, expected):
    """All states are old up to some step and new from there on; both occur."""
    assert states == sorted(states, key=expected.index), states
    assert {"old", "new"} <= set(states)


def test_writer_killed_at_any_step_leaves_old_files_or_new_ones(tmp_path):
    old = put(tmp_path / "old", OLD)
    done = run_script(STAGED, old, tmp_path / "killed")
    assert done.returncode == 0, done.stderr
    states = []
    for folder in sorted((tmp_path / "killed").iterdir()):
        files = texts(folder)
        seen = {name: text for name, text in files.items() if name != "stale"}
        states.append("old" if files == OLD else "new" if seen == NEW else f"mixture {files}")
        write(folder, NEW)
        assert (texts(folder), hidden(folder)) == (NEW, {".lock"})
    assert len(states) > 10
    check_order(states, ["old", "new"])


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """The folders of two networks, by the networks' fingerprints."""
    root = tmp_path_factory.mktemp("two")
    models = [randomise_norms_(i2p_zoo.create_model("test_resnet", num_classes=10, voxel_size=v), 1).eval() for v in (0.1, 0.2)]
    return {fingerprint(model): save_pretrained(model, root / str(n)) for n, model in enumerate(models)}


def test_reader_beside_a_process_that_saves_gets_one_of_its_networks_whole(two, tmp_path):
    folder = tmp_path / "net"
    sizes = {name: load_folder(path, build_network).settings.voxel_size for name, path in two.items()}
    command = [sys.executable, "-c", ALTERNATING, *map(str, two.values()), str(folder)]
    writer = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    try:
        while not (folder / CONFIG).is_file():
            assert writer.poll() is None, writer.communicate()[1]
            time.sleep(0.05)
        fingerprints = []
        end = time.monotonic() + 60
        while time.monotonic() < end and (len(fingerprints) < 30 or set(fingerprints) != set(two)):
            model = load_folder(folder, build_network)
            fingerprints.append(fingerprint(model))
            assert model.settings.voxel_size == sizes[fingerprints[-1]]
        assert writer.poll() is None
    finally:
        writer.kill()
        writer.communicate()
    assert set(fingerprints) == set(two)


def save_while_reading(monkeypatch, folder, models, times):
    """Saves the models in turn, each right after a config was read; returns the configs."""
    read, seen = loading.read_config, []

    def read_config(path):
        config = read(path)
        if len(seen) < times:
            save_pretrained(models[len(seen) % 2], folder)
        seen.append(config)
        return config

    monkeypatch.setattr(loading, "read_config", read_config)
    return seen


def test_folder_that_changed_after_its_config_was_read_is_read_again(two, tmp_path, monkeypatch):
    first, second = (load_folder(path, build_network) for path in two.values())
    folder = save_pretrained(first, tmp_path / "net")
    seen = save_while_reading(monkeypatch, folder, [second, first], 1)
    assert fingerprint(load_folder(folder, build_network)) == fingerprint(second)
    assert len(seen) == 2


def test_folder_that_never_stands_still_is_refused(two, tmp_path, monkeypatch):
    models = [load_folder(path, build_network) for path in two.values()]
    folder = save_pretrained(models[1], tmp_path / "net")
    seen = save_while_reading(monkeypatch, folder, models, 1000)
    with pytest.raises(CheckpointError, match=r"was changed while it was read, 10 times in a row\. Load it again"):
        load_folder(folder, build_network)
    assert len(seen) == 10


def test_damaged_folder_is_read_once(two, tmp_path, monkeypatch):
    folder = Path(shutil.copytree(next(iter(two.values())), tmp_path / "net"))
    (folder / WEIGHTS).write_bytes(b"else")
    seen = save_while_reading(monkeypatch, folder, [], 0)
    with pytest.raises(CheckpointError, match="no safetensors file"):
        load_folder(folder, build_network)
    assert len(seen) == 1


@pytest.mark.parametrize("moved", [CONFIG, WEIGHTS])
def test_file_that_moves_as_it_is_opened_is_found_in_its_new_place(two, tmp_path, monkeypatch, moved):
    name, source = next(iter(two.items()))
    folder = put(tmp_path / "net", {})
    shutil.copytree(source, folder / ".saved")
    is_file, path = Path.is_file, folder / ".saved" / moved

    def is_file_and_moves(self):
        there = is_file(self)
        if self == path and there:
            calls.append(self)
            if len(calls) == 2:  # `locate` asks first, then who reads
                os.replace(path, folder / moved)
        return there

    calls = []
    monkeypatch.setattr(Path, "is_file", is_file_and_moves)
    assert fingerprint(load_folder(folder, build_network)) == name
    assert len(calls) == 2


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """Checkpoints over which another network was being saved when the process was killed, and the two networks."""
    root = tmp_path_factory.mktemp("killed")
    models = [randomise_norms_(i2p_zoo.create_model("test_resnet", num_classes=n), n).eval() for n in (10, 3)]
    for model, name in zip(models, ("old", "new"), strict=True):
        save_pretrained(model, root / name, max_shard_size=200_000 if name == "old" else "5GB")
    done = run_script(SAVED, root / "old", root / "killed", root / "new")
    assert done.returncode == -9, done.stderr
    return sorted((root / "killed").iterdir()), {fingerprint(m): name for m, name in zip(models, ("old", "new"), strict=True)}


def test_checkpoint_whose_writer_was_killed_at_any_step_is_the_old_or_the_new(killed):
    folders, names = killed
    assert len(list(folders[0].glob("*.safetensors"))) > 1  # shards, which the new network's file replaces
    states = [names[fingerprint(load_folder(folder, build_network))] for folder in folders if folder.name != "half"]
    assert len(states) > 15
    check_order(states, ["old", "new"])
    assert names[fingerprint(load_folder(folders[-1], build_network))] == "old"
    assert folders[-1].name == "half"


def test_next_save_puts_a_folder_in_order_whose_writer_was_killed(killed):
    folders, _ = killed
    model = randomise_norms_(i2p_zoo.create_model("test_resnet", num_classes=5), 5).eval()
    for folder in folders:
        save_pretrained(model, folder)
        assert {path.name for path in folder.iterdir()} == {".lock", CONFIG, WEIGHTS, CARD}, folder
        assert fingerprint(load_folder(folder, build_network)) == fingerprint(model)


@pytest.mark.parametrize("error", [OSError("full"), KeyboardInterrupt(), RuntimeError("bug")], ids=repr)
@pytest.mark.parametrize("written", [(), ("a",), ("a", "b", "c")], ids=len)
def test_error_while_writing_leaves_the_folder_as_it_was(tmp_path, error, written):
    folder = put(tmp_path / "net", OLD)
    with pytest.raises(type(error)), staged_folder(folder, lambda path: True) as stage:  # noqa: PT012
        for name in written:
            (stage / name).write_text("new")
        raise error
    assert (texts(folder), hidden(folder)) == (OLD, {".lock"})
    write(folder)  # the lock is free
    assert texts(folder) == NEW


def test_folder_in_the_place_of_a_new_file_is_refused_and_nothing_changes(tmp_path):
    folder = put(tmp_path / "net", {"a": "old a"})
    (folder / "b").mkdir()
    with pytest.raises(OSError, match="b is a folder"):
        write(folder)
    assert (folder / "a").read_text() == "old a"
    assert hidden(folder) == {".lock"}


@pytest.mark.parametrize(
    ("stale", "left"),
    [
        (lambda path: False, {"a", "b", "c", "stale", "mine"}),
        (lambda path: path.name == "stale", {"a", "b", "c", "mine"}),
        (lambda path: path.name in ("mine", "stale"), {"a", "b", "c"}),
        (lambda path: path.read_text().startswith("old"), {"a", "b", "c", "mine"}),  # asked after the change
    ],
    ids=["none", "one", "two", "by content"],
)
def test_files_that_had_their_day_go_after_the_change(tmp_path, stale, left):
    folder = put(tmp_path / "net", OLD)
    (folder / "sub").mkdir()
    with staged_folder(folder, stale) as stage:
        put(stage, {name: f"new {name}" for name in "abc"})
    assert {path.name for path in folder.iterdir()} - {".lock"} == {*left, "sub"}
    assert all((folder / name).read_text() == f"new {name}" for name in "abc")


@pytest.mark.parametrize("name", ["model.safetensors", "model-00001-of-00002.safetensors", "adapter.safetensors"])
def test_other_checkpoint_files_are_stale_and_others_are_not(name):
    assert is_weights_name(name)
    assert is_weights_name(name + ".index.json")
    for other in ("notes.safetensors", "my-" + name, name + ".bak", "../" + name, name + "\n", "model-1-of-2.safetensors"):
        assert not is_weights_name(other)


def test_writers_of_one_folder_wait_for_each_other_and_leave_one_whole_set(tmp_path):
    code = """
        import importlib.util, sys, time
        from pathlib import Path
        spec = importlib.util.spec_from_file_location("staging", "i2p_zoo/staging.py")
        staging = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(staging)
        folder, writer = Path(sys.argv[1]), sys.argv[2]
        def is_stale(path):
            return path.name.startswith("only") and path.name != "only " + writer

        for turn in range(30):
            with staging.staged_folder(folder, is_stale) as stage:
                inside = sorted(path.name for path in folder.glob(".saving-*"))
                assert inside == [stage.name], inside
                for name in ("a", "b", "c", "only " + writer):
                    (stage / name).write_text(f"{writer} {turn}")
                    time.sleep(0.001)
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path / "net")]
    writers = [subprocess.Popen([*command, name], cwd=ROOT, stderr=subprocess.PIPE, text=True) for name in ("one", "two")]
    for writer in writers:
        _, errors = writer.communicate(timeout=100)
        assert writer.returncode == 0, errors
    files = texts(tmp_path / "net")
    assert len(set(files.values())) == 1, files
    last = files["a"].split()[0]
    assert files.keys() == {"a", "b", "c", f"only {last}"}
    assert hidden(tmp_path / "net") == {".lock"}


def test_reader_finds_new_files_before_they_are_in_their_place(tmp_path):
    folder = put(tmp_path / "net", OLD)
    put(folder / ".saved", {"a": "new a"})
    assert locate(folder, "a") == folder / ".saved" / "a"
    assert locate(folder, "b") == folder / "b"
    assert locate(folder, "none") == folder / "none"


def test_new_folder_is_made_with_its_parents(tmp_path):
    write(tmp_path / "x" / "y", {"a": json.dumps(1)})
    assert texts(tmp_path / "x" / "y") == {"a": "1"}


@contextlib.contextmanager
def umask(mask):
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o755), (0o002, 0o775), (0o077, 0o700)], ids=oct)
def test_hidden_folders_can_be_read_by_those_who_can_read_the_files(tmp_path, monkeypatch, mask, mode):
    folder = put(tmp_path / "net", {"a": "old a"})
    folder.chmod(0o2775)  # who is in the folder's group shares what is new in it
    modes = []
    with monkeypatch.context() as patch, umask(mask):
        patch.setattr(os, "replace", interrupt)
        with pytest.raises(KeyboardInterrupt), staged_folder(folder, lambda path: False) as stage:  # noqa: PT012
            put(stage, {"a": "new a"})
            modes.append(stage.stat().st_mode)
    modes.append((folder / ".saved").stat().st_mode)
    assert [stat.S_IMODE(status) for status in modes] == [0o2000 | mode] * 2


def interrupt(*args):
    raise KeyboardInterrupt


def test_what_another_user_left_behind_is_no_obstacle(tmp_path, monkeypatch):
    folder = put(tmp_path / "net", OLD)
    put(folder / ".saving-theirs", {"a": "half"})

    def refuse(path, ignore_errors=False):
        if not ignore_errors:
            raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(shutil, "rmtree", refuse)
    write(folder)
    assert texts(folder) == NEW
    assert (folder / ".saving-theirs" / "a").read_text() == "half"


def test_card_edited_after_a_process_was_killed_is_kept(two, tmp_path, monkeypatch):
    first, second = (load_folder(path, build_network) for path in two.values())
    folder = save_pretrained(first, tmp_path / "net")
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", interrupt)
        with pytest.raises(KeyboardInterrupt):
            save_pretrained(second, folder)
    assert (folder / ".saved" / CARD).is_file()
    (folder / CARD).write_text("# Mine\n")
    save_pretrained(second, folder)
    assert (folder / CARD).read_text() == "# Mine\n"
    assert fingerprint(load_folder(folder, build_network)) == fingerprint(second)
    assert hidden(folder) == {".lock"}


def test_card_edited_while_a_process_saves_is_kept(two, tmp_path, monkeypatch):
    model = load_folder(next(iter(two.values())), build_network)
    folder = save_pretrained(model, tmp_path / "net")
    written = saving.write_card

    def write_card(*args):
        (folder / CARD).write_text("# Mine\n")
        return written(*args)

    monkeypatch.setattr(saving, "write_card", write_card)
    save_pretrained(model, folder)
    assert (folder / CARD).read_text() == "# Mine\n"


def test_the_cache_stands_where_it_was_told_or_beside_the_hub_s(monkeypatch, tmp_path):
    monkeypatch.setenv("I2P_ZOO_CACHE", str(tmp_path / "mine"))
    assert cache_folder() == tmp_path / "mine"
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path / "hub"))
    for unset in ("", None):
        monkeypatch.setenv("I2P_ZOO_CACHE", unset) if unset is not None else monkeypatch.delenv("I2P_ZOO_CACHE")
        assert cache_folder() == tmp_path / "hub" / "i2p-zoo"
