"""Conversions killed with SIGKILL: the next run recovers by itself, and a cache's reader sees a whole entry or none."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import timm
from safetensors.torch import load_file, save_file

import i2p_zoo
from i2p_zoo.checkpoints.config import CONFIG
from i2p_zoo.checkpoints.loading import load_folder
from i2p_zoo.checkpoints.saving import CARD
from i2p_zoo.checkpoints.weight_files import WEIGHTS
from i2p_zoo.zoo.pretrained import build_network
from tests.conftest import fingerprint
from tests.test_staging import run_script

# The cache's writer and, at each step of its predecessor's death, the next process that wants the network.
CACHED = """
import i2p_zoo
from i2p_zoo.zoo import pretrained as hub

os.environ.update(I2P_ZOO_CACHE=sys.argv[2], HF_HUB_OFFLINE="1")
converted = hub.convert_model("test_resnet", weights=sys.argv[3])
hub.convert_model = lambda *args, **kwargs: converted
entry = sys.argv[2] + "/converted"
step = 0
while True:
    shutil.rmtree(sys.argv[2], ignore_errors=True)
    child = os.fork()
    if child == 0:
        kill_at(step, entry)
        i2p_zoo.from_pretrained("i2p-test_resnet")
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    again = i2p_zoo.from_pretrained("i2p-test_resnet")
    same = all(torch.equal(a, b) for a, b in zip(again.state_dict().values(), converted[0].state_dict().values(), strict=True))
    left = sorted(p.name for p in Path(entry, "i2p-test_resnet-center").rglob("*") if p.is_file())
    print(step, status, same, *left)
    if status == 0:
        break
    step += 1
"""


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "test_resnet.safetensors"
    save_file(timm.create_model("test_resnet").state_dict(), path)
    return path


def test_cache_entry_whose_writer_was_killed_at_any_step_is_made_by_the_next(tmp_path, weights):
    done = run_script("import torch\ntorch.set_num_threads(1)\n" + CACHED, "-", tmp_path / "cache", weights)
    assert done.returncode == 0, done.stderr
    steps = [line.split() for line in done.stdout.splitlines()]
    assert len(steps) > 15
    assert [status for _, status, *_ in steps] == ["9"] * (len(steps) - 1) + ["0"]
    for step, _, same, *left in steps:  # what was not yet moved out of `.saved` is read there
        assert (same, sorted(left)) == ("True", sorted([".lock", CONFIG, WEIGHTS, CARD])), step


@pytest.mark.parametrize("word", [pytest.param("certifying", marks=pytest.mark.long), "saving"])
def test_convert_command_that_was_killed_runs_through_when_run_again(tmp_path, weights, word):
    command = [sys.executable, "-m", "i2p_zoo", "convert", "test_resnet", "--weights", weights, "--out", tmp_path / "net"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL) as process:
        seen = b""
        while word.encode() not in seen:
            seen += os.read(process.stderr.fileno(), 4096) or pytest.fail(f"ended before {word!r}: {seen}")
        process.kill()
        process.wait()
    assert process.returncode == -9
    again = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert again.returncode == 0, again.stderr
    assert {path.name for path in (tmp_path / "net").iterdir()} == {".lock", CONFIG, WEIGHTS, CARD}
    source = timm.create_model("test_resnet").eval()
    source.load_state_dict(load_file(weights))
    assert fingerprint(load_folder(tmp_path / "net", build_network)) == fingerprint(i2p_zoo.inflate(source))
