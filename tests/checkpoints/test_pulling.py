"""Loading from a Hub on loopback by the real client: pickles are not asked for, and a download that failed leaves nothing."""

from __future__ import annotations

import json
import os
import pickle

import pytest

from i2p_zoo.checkpoints.config import CONFIG
from i2p_zoo.checkpoints.weight_files import WEIGHTS
from tests.checkpoints.conftest import PICKLE, REPO, assert_error, assert_loaded, files_in


class Bomb:
    """Unpickled, it creates a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.fixture
def bomb(hub, tmp_path):
    path = tmp_path / "exploded"
    data = pickle.dumps(Bomb(path))
    pickle.loads(data)
    path.rmdir()  # it works
    yield data
    assert not path.exists()
    assert not [request for request in hub.requests if request.path.endswith(PICKLE)]


def test_pickle_beside_the_weights_is_not_asked_for(hub, client, folders, models, bomb):
    hub.add(REPO, {**files_in(folders[0]), PICKLE: bomb})
    assert_loaded(client.load(REPO), models[0])


def test_pickle_in_place_of_the_weights_is_not_asked_for(hub, client, folders, bomb):
    files = files_in(folders[0])
    config = json.loads(files[CONFIG])
    others = []
    for name in (PICKLE, "../model.safetensors", "/etc/passwd"):
        config["i2p"]["weights"] = {name: "0" * 64}
        words = ["no weights file of this package", repr(name)]
        others.append(({**files, CONFIG: json.dumps(config).encode()}, "CheckpointError", words))
    cases = [
        ({}, "HubError", ["has no file 'config.json'"]),
        ({CONFIG: b'{"architecture": "test_resnet"}'}, "CheckpointError", ["no block `i2p`"]),
        ({CONFIG: files[CONFIG]}, "HubError", [f"has no file '{WEIGHTS}'"]),
        ({CONFIG: files[CONFIG], WEIGHTS: bomb}, "CheckpointError", [WEIGHTS]),
        *others,
    ]
    for number, (content, error, words) in enumerate(cases):
        hub.add(f"acme/net{number}", {PICKLE: bomb, **content})
        assert_error(client.load(f"acme/net{number}"), error, *words)


@pytest.mark.parametrize("fault", [503, "drop", "cut"])
def test_weights_that_are_not_given_are_not_replaced_by_a_pickle(hub, client, folders, models, bomb, fault):
    hub.add(REPO, {**files_in(folders[0]), PICKLE: bomb})
    hub.fail(WEIGHTS, fault)
    assert_error(client.load(REPO), "HubError", REPO, WEIGHTS, "Try again")
    hub.faults.clear()
    assert_loaded(client.load(REPO), models[0])


PULLS = {  # where, the fault, its times, the error (or none), and words
    "401": ("api", 401, 9, "HubError", ["401", "Log in again"]),
    "404": ("api", 404, 9, "NotFoundError", ["acme/net on the Hub"]),
    "503": ("api", 503, 9, "NotFoundError", ["503"]),
    "401 on the weights": (WEIGHTS, 401, 9, "HubError", ["401"]),
    "403 on the weights": (WEIGHTS, 403, 9, "HubError", ["403"]),
    "404 on the weights": (WEIGHTS, 404, 9, "HubError", ["404"]),
    "503 on the config": (CONFIG, 503, 99, "HubError", ["503"]),
    "503 for a moment": (WEIGHTS, 503, 1, None, []),
    "cut once": (WEIGHTS, "cut", 1, None, []),
    "cut": (WEIGHTS, "cut", 99, "HubError", [WEIGHTS]),
    "short": (WEIGHTS, "short", 99, "HubError", [WEIGHTS]),
    "portal": (CONFIG, "portal", 99, "HubError", [CONFIG]),
}


@pytest.mark.parametrize(("where", "fault", "times", "error", "words"), PULLS.values(), ids=PULLS.keys())
def test_download_that_failed_leaves_nothing_that_a_later_load_uses(
    hub, client, folders, models, where, fault, times, error, words
):
    hub.add(REPO, files_in(folders[0]))
    hub.fail(where, fault, times)
    outcome = client.load(REPO)
    if error is None:
        assert_loaded(outcome, models[0])
    else:
        assert_error(outcome, error, REPO, *words)
        assert client.load(REPO, local_files_only=True).error == "NotFoundError"
    hub.faults.clear()
    assert_loaded(client.load(REPO), models[0])


def test_gated_repository_is_refused_with_the_way_in(hub, client, folders, models):
    token = hub.add(REPO, files_in(folders[0]), gated=True).token
    assert_error(client.load(REPO), "HubError", "gated", "hf auth login")
    assert_loaded(client.load(REPO, token=token), models[0])


def test_same_size_corruption_is_refused_until_it_is_downloaded_again(hub, client, folders, models):
    hub.add(REPO, files_in(folders[0]))
    hub.fail(WEIGHTS, "flip", 1)
    for _ in range(2):
        assert_error(client.load(REPO), "CheckpointError", WEIGHTS, "sha256 expected")
    assert_loaded(client.load(REPO, force_download=True), models[0])
    assert_loaded(client.load(REPO), models[0])


def test_full_disk_is_an_error_that_leaves_nothing_behind(hub, client, folders, models):
    hub.add(REPO, files_in(folders[0]))
    client.file_limit = 100_000
    assert_error(client.load(REPO), "HubError", REPO, WEIGHTS, "File too large")
    assert client.load(REPO, local_files_only=True).error == "NotFoundError"
    assert_loaded(client.load(REPO), models[0])


def test_full_disk_while_a_converted_network_is_cached_leaves_no_half_of_it(client):
    client.file_limit = 1_000_000
    assert_error(client.load("i2p-tf_efficientnet_lite0"), "CacheError", "File too large", "I2P_ZOO_CACHE")
    (entry,) = [path for path in (client.folder / "zoo" / "converted").iterdir() if path.is_dir()]
    assert [path.name for path in entry.iterdir()] == [".lock"]
    assert client.load("i2p-tf_efficientnet_lite0").error is None


def test_two_processes_load_one_model_at_once(hub, load_at_once, folders, models):
    hub.add(REPO, files_in(folders[0]))
    for outcome in load_at_once(REPO, WEIGHTS):
        assert_loaded(outcome, models[0])
    assert len(hub.requested(WEIGHTS)) == 1
