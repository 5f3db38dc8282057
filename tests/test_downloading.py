"""Files from a Hub on loopback by the real client: one commit a load, the caches, and every way to fail."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from i2p_zoo import downloading
from i2p_zoo.errors import CacheError

REPO = "acme/net"
CONFIG, WEIGHTS = "config.json", "model.safetensors"
FILES = {CONFIG: b'{"some": "config"}', WEIGHTS: os.urandom(300_000), "pytorch_model.bin": b"a pickle"}


def contents(outcome) -> list[bytes]:
    assert outcome.error is None, outcome.message
    return [Path(path).read_bytes() for path in outcome.paths]


@pytest.fixture
def repository(hub):
    return hub.add(REPO, FILES)


def test_files_arrive_bit_for_bit_and_only_those_asked_for(hub, repository, client):
    outcome = client.fetch(REPO, CONFIG, WEIGHTS)
    assert contents(outcome) == [FILES[CONFIG], FILES[WEIGHTS]]
    assert outcome.tried == []
    assert [Path(path).name for path in outcome.paths] == [CONFIG, WEIGHTS]
    assert not hub.requested("pytorch_model.bin")


def test_data_sets_have_addresses_and_a_cache_of_their_own(hub, client):
    hub.add(REPO, {CONFIG: b"of a data set"}, dataset=True)
    outcome = client.fetch(REPO, CONFIG, repo_type="dataset")
    assert contents(outcome) == [b"of a data set"]
    hub.reset()
    assert contents(client.fetch(REPO, CONFIG, repo_type="dataset", local_files_only=True)) == [b"of a data set"]
    (reason,) = client.fetch(REPO, CONFIG).tried
    assert "no such repository" in reason


@pytest.mark.parametrize("moves_after", [f"/api/models/{REPO}", CONFIG])
def test_all_files_are_from_one_commit_though_main_moves_meanwhile(hub, repository, client, moves_after):
    class Requests(list):
        def append(self, request):
            super().append(request)
            if request.path.endswith(moves_after) and request.method == "GET" and len(repository.commits) == 1:
                repository.commit({CONFIG: b"newer", WEIGHTS: b"newer"})

    before, hub.requests = hub.requests, Requests()
    try:
        outcome = client.fetch(REPO, CONFIG, WEIGHTS)
    finally:
        hub.requests = before
    assert len(repository.commits) == 2
    assert contents(outcome) in ([FILES[CONFIG], FILES[WEIGHTS]], [b"newer", b"newer"])
    assert {Path(path).parent.name for path in outcome.paths} == {outcome.commit}


@pytest.mark.parametrize("name", ["v1.0", "work", "refs/pr/1", "commit"])
def test_revision_is_a_tag_a_branch_a_pull_request_or_a_commit(repository, client, name):
    old = repository.refs["main"]
    repository.refs |= {"v1.0": old, "work": old, "refs/pr/1": old}
    repository.commit({CONFIG: b"newer"})
    outcome = client.fetch(REPO, CONFIG, revision=old if name == "commit" else name)
    assert contents(outcome) == [FILES[CONFIG]]
    assert outcome.commit == old


def test_main_moves_and_a_pinned_commit_stays(repository, client):
    old = repository.refs["main"]
    assert contents(client.fetch(REPO, WEIGHTS)) == [FILES[WEIGHTS]]
    new = repository.commit({WEIGHTS: b"new weights"})
    assert contents(client.fetch(REPO, WEIGHTS)) == [b"new weights"]
    assert client.fetch(REPO, WEIGHTS).commit == new
    assert contents(client.fetch(REPO, WEIGHTS, revision=old)) == [FILES[WEIGHTS]]


def test_second_call_downloads_nothing_and_a_forced_one_downloads_again(hub, repository, client):
    client.fetch(REPO, CONFIG, WEIGHTS)
    hub.requests.clear()
    assert contents(client.fetch(REPO, CONFIG, WEIGHTS)) == [FILES[CONFIG], FILES[WEIGHTS]]
    assert [request.path for request in hub.requests] == [f"/api/models/{REPO}"]
    assert contents(client.fetch(REPO, CONFIG, WEIGHTS, force_download=True)) == [FILES[CONFIG], FILES[WEIGHTS]]
    assert len(hub.requested(WEIGHTS)) == 1


@pytest.mark.parametrize("force", [False, True], ids=["", "forced"])
@pytest.mark.parametrize("revision", [None, "main", "commit"])
def test_without_the_hub_the_files_fetched_before_are_found(
    hub, repository, client, offline_client, lost_client, revision, force
):
    revision = repository.refs["main"] if revision == "commit" else revision
    assert contents(client.fetch(REPO, CONFIG, WEIGHTS, revision=revision)) == [FILES[CONFIG], FILES[WEIGHTS]]
    hub.requests.clear()
    outcomes = {
        "local_files_only": client.fetch(REPO, CONFIG, WEIGHTS, revision=revision, local_files_only=True, force_download=force),
        "HF_HUB_OFFLINE": offline_client.fetch(REPO, CONFIG, WEIGHTS, revision=revision, force_download=force),
        "no server": lost_client.fetch(REPO, CONFIG, WEIGHTS, revision=revision, force_download=force),
    }
    assert hub.requests == []
    for case, outcome in outcomes.items():
        assert outcome.tried == [], case
        assert contents(outcome) == [FILES[CONFIG], FILES[WEIGHTS]], case
        assert outcome.commit == repository.refs["main"], case


@pytest.mark.parametrize("fault", [500, 502, 503, 429, "drop", "portal"])
def test_a_hub_that_answers_nonsense_leaves_what_the_cache_holds(hub, repository, client, fault):
    commit = repository.refs["main"]
    client.fetch(REPO, CONFIG, WEIGHTS, revision=commit)
    hub.fail("api", fault)
    outcome = client.fetch(REPO, CONFIG, WEIGHTS, revision=commit)
    assert contents(outcome) == [FILES[CONFIG], FILES[WEIGHTS]]


@pytest.mark.parametrize(
    ("fault", "cause"),
    [(500, "500"), (503, "503"), ("drop", "disconnected"), ("portal", "")],
    ids=["500", "503", "drop", "portal"],
)
@pytest.mark.parametrize("where", ["api", WEIGHTS])
def test_a_hub_that_does_not_work_and_an_empty_cache_are_reported_with_the_cause(hub, repository, client, where, fault, cause):
    hub.fail(where, fault)
    outcome = client.fetch(REPO, WEIGHTS)
    # Files that are known to be there and cannot be had may also be an error of ours; never the client's.
    assert outcome.error in (None, "HubError"), outcome.message
    message = outcome.message or "\n".join(outcome.tried)
    assert message.startswith(f"{REPO}")
    assert cause in message
    assert "offline" not in message, "the Hub was reached"
    assert "\n" not in message


@pytest.mark.parametrize("which", ["lost_client", "offline_client"])
def test_no_hub_and_an_empty_cache_are_reported_in_a_line(hub, which, request):
    outcome = request.getfixturevalue(which).fetch(REPO, WEIGHTS)
    assert outcome.error is None, outcome.message
    (line,) = outcome.tried
    assert REPO in line
    assert ("offline" if which == "offline_client" else "not reached") in line
    assert "cache" in line
    assert "\n" not in line


def test_missing_repository_is_reported_in_a_line(hub, client):
    outcome = client.fetch("acme/nothing", CONFIG)
    assert (outcome.error, outcome.commit) == (None, None)
    (line,) = outcome.tried
    assert "acme/nothing" in line
    assert "no such repository" in line
    assert "log in" in line


def test_private_repository_opens_with_its_token_only(hub, client):
    token = hub.add(REPO, FILES, private=True).token
    assert "private" in client.fetch(REPO, CONFIG).tried[0]
    assert "no such repository" in client.fetch(REPO, CONFIG, token="hf_wrong").tried[0]
    assert contents(client.fetch(REPO, CONFIG, WEIGHTS, token=token)) == [FILES[CONFIG], FILES[WEIGHTS]]
    assert not any("Authorization" in request.headers for request in hub.requests if request.path.startswith("/cdn/"))


def test_gated_repository_is_an_error_that_says_how_to_get_in(hub, client):
    token = hub.add(REPO, FILES, gated=True).token
    outcome = client.fetch(REPO, CONFIG, WEIGHTS)
    assert outcome.error == "HubError"
    assert outcome.message == f"{REPO}: gated; accept its terms on the Hub and log in with `hf auth login`."
    assert contents(client.fetch(REPO, CONFIG, token=token)) == [FILES[CONFIG]]


ERRORS = {  # options of the call, its file, and words of the message
    "missing revision": ({"revision": "v9"}, CONFIG, ["has no revision 'v9'"]),
    "missing commit": ({"revision": "0" * 40}, CONFIG, ["has no revision", "0" * 40]),
    "missing file": ({}, "weights.safetensors", ["has no file 'weights.safetensors'", "at revision"]),
    "missing file of a tag": ({"revision": "v1"}, "weights.safetensors", ["has no file 'weights.safetensors'"]),
}


@pytest.mark.parametrize(("options", "file", "words"), ERRORS.values(), ids=ERRORS.keys())
def test_what_the_repository_lacks_is_an_error_in_a_line(repository, client, options, file, words):
    repository.refs["v1"] = repository.refs["main"]
    outcome = client.fetch(REPO, file, **options)
    assert outcome.error == "HubError"
    assert "\n" not in outcome.message
    for word in (REPO, *words):
        assert word in outcome.message


def test_cut_connection_is_resumed_where_it_broke(hub, client):
    weights = os.urandom(1 << 20) * 24  # the client writes 10 MB at a time and resumes behind those
    hub.add(REPO, {WEIGHTS: weights})
    hub.fail(WEIGHTS, "cut", times=1)
    assert contents(client.fetch(REPO, WEIGHTS)) == [weights]
    first, second = hub.requested(WEIGHTS)
    assert "Range" not in first.headers
    assert 0 < int(second.headers["Range"].removeprefix("bytes=").removesuffix("-")) <= len(weights) // 2


@pytest.mark.parametrize("fault", ["cut", "short"])
def test_truncated_download_is_an_error_that_leaves_no_file_behind(hub, repository, client, fault):
    hub.fail(WEIGHTS, fault)
    outcome = client.fetch(REPO, WEIGHTS)
    assert outcome.error == "HubError", outcome.message
    assert REPO in outcome.message
    assert WEIGHTS in outcome.message
    assert "\n" not in outcome.message
    hub.faults.clear()
    assert contents(client.fetch(REPO, WEIGHTS)) == [FILES[WEIGHTS]]


def test_slow_download_arrives(hub, repository, client):
    hub.fail(WEIGHTS, "slow")
    assert contents(client.fetch(REPO, WEIGHTS)) == [FILES[WEIGHTS]]


@pytest.mark.parametrize("repo", ["acme/a b", "acme/..", "-acme/net", "acme/net.git"])
def test_name_that_no_repository_can_have_is_our_error(client, repo):
    outcome = client.fetch(repo, CONFIG)
    assert outcome.error in (None, "InvalidInputError", "HubError"), outcome.message
    assert repo in (outcome.message or outcome.tried[0])


@pytest.mark.long
def test_hub_that_never_answers_is_given_up_for_the_cache(hub, repository, client):
    client.fetch(REPO, WEIGHTS)
    hub.fail("api", "hang")
    assert contents(client.fetch(REPO, WEIGHTS, revision=repository.refs["main"])) == [FILES[WEIGHTS]]


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS])
def test_a_client_cache_that_cannot_be_written_is_told_with_the_ways_out(monkeypatch, number):
    def refuse(*_, **__):
        raise OSError(number, os.strerror(number), "/shared/hub/blobs")

    monkeypatch.setattr(downloading, "_find_commit", lambda *arguments: ("0" * 40, ""))
    monkeypatch.setattr(downloading, "hf_hub_download", refuse)
    with pytest.raises(CacheError, match=r"'config\.json' cannot be kept in .*/shared/hub/blobs.*HF_HOME.*HF_HUB_OFFLINE=1"):
        downloading.fetch_files(REPO, [CONFIG], downloading.HubOptions(), [])


def test_what_is_no_hub_is_told_by_its_answer(hub, client):
    hub.fail("api", 404)
    outcome = client.fetch(REPO, CONFIG)
    (line,) = outcome.tried
    assert f"{hub.url} answers with 404 Not Found, and not in the Hub client's cache" in line
