"""The Hub on loopback holds what the real client pushes, and refuses and fails as the Hub does."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import time
from pathlib import Path

import pytest

from tests.hub_cards import check_card
from tests.hub_repository import GITATTRIBUTES

REPO, TOKEN = "acme/net", "hf_test"
README, CONFIG, WEIGHTS = "README.md", "config.json", "model.safetensors"
CARD = "---\nlicense: apache-2.0\npipeline_tag: image-classification\n---\n# A net\n"
FILES = {README: CARD.encode(), CONFIG: b'{"some": "config"}', WEIGHTS: os.urandom(300_000), "figures/a b.png": b"a picture"}


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def result(outcome):
    assert outcome.error is None, outcome.message
    return outcome.result


@pytest.fixture
def folder(tmp_path):
    return write(tmp_path / "folder", FILES)


@pytest.fixture
def push(client, folder):
    """Pushes the folder."""
    return lambda token=TOKEN, **options: client.api(
        "upload_folder", repo_id=REPO, folder_path=folder, token=token, **{"commit_message": "Push", **options}
    )


@pytest.fixture
def repository(hub, client):
    """One that the client has created."""
    result(client.api("create_repo", repo_id=REPO, token=TOKEN))
    return hub.repositories[REPO]


def committed(repository, revision: str = "main") -> dict[str, bytes]:
    files = repository.commits[repository.find(revision)]
    return {path: data for path, data in files.items() if path != ".gitattributes"}


def posted(hub, ending: str) -> int:
    return len(hub.requested(ending, "POST"))


# What is pushed is there.


def test_pushed_folder_comes_back_bit_for_bit(hub, client, push):
    assert result(client.api("repo_exists", repo_id=REPO)) is False
    assert result(client.api("create_repo", repo_id=REPO, token=TOKEN)) == f"{hub.url}/{REPO}"
    assert result(client.api("repo_exists", repo_id=REPO)) is True
    repository = hub.repositories[REPO]
    assert repository.commits[repository.refs["main"]] == {".gitattributes": GITATTRIBUTES}

    commit = result(push())
    assert commit["oid"] == repository.refs["main"]
    assert commit["commit_url"] == f"{hub.url}/{REPO}/commit/{commit['oid']}"
    assert repository.titles[commit["oid"]] == "Push"
    assert committed(repository) == FILES
    assert sorted(result(client.api("list_repo_files", repo_id=REPO))) == sorted([*FILES, ".gitattributes"])
    assert [result(client.api("file_exists", repo_id=REPO, filename=name)) for name in (WEIGHTS, "else")] == [True, False]
    for name, data in FILES.items():
        path = Path(result(client.api("hf_hub_download", repo_id=REPO, filename=name)))
        assert path.read_bytes() == data
        assert f"/snapshots/{commit['oid']}/" in path.as_posix()


def test_large_files_go_to_the_storage_without_the_token_and_before_the_commit(hub, repository, push):
    result(push())
    uploads = [request for request in hub.requests if request.method == "PUT"]
    assert {request.path.split("/")[-1] for request in uploads} == {
        hashlib.sha256(FILES[name]).hexdigest() for name in (WEIGHTS, "figures/a b.png")
    }
    assert all("authorization" not in (name.lower() for name in request.headers) for request in uploads)
    assert all(request.headers["Host"] == f"localhost:{hub.port}" for request in uploads)
    assert hub.requests[-1].path == f"/api/models/{REPO}/commit/main"


def test_listings_have_sizes_and_hashes(hub, client, repository, push):
    result(push())
    sha256 = hashlib.sha256(FILES[WEIGHTS]).hexdigest()
    config = hashlib.sha1(b"blob %d\0" % len(FILES[CONFIG]) + FILES[CONFIG]).hexdigest()
    info = result(client.api("model_info", repo_id=REPO, files_metadata=True))
    assert info["sha"] == repository.refs["main"]
    siblings = {file["rfilename"]: file for file in info["siblings"]}
    assert (siblings[CONFIG]["size"], siblings[CONFIG]["blob_id"], siblings[CONFIG]["lfs"]) == (18, config, None)
    assert siblings[WEIGHTS]["lfs"] == {"size": 300_000, "sha256": sha256, "pointer_size": 131}
    assert {file["size"] for file in result(client.api("model_info", repo_id=REPO))["siblings"]} == {None}

    tree = {entry["path"]: entry for entry in result(client.api("list_repo_tree", repo_id=REPO))}
    assert sorted(tree) == sorted([README, CONFIG, WEIGHTS, "figures", ".gitattributes"])
    assert tree[WEIGHTS]["lfs"]["sha256"] == sha256
    below = result(client.api("list_repo_tree", repo_id=REPO, path_in_repo="figures", recursive=True))
    assert [entry["path"] for entry in below] == ["figures/a b.png"]
    assert client.api("list_repo_tree", repo_id=REPO, path_in_repo="else").error == "RemoteEntryNotFoundError"
    paths = result(client.api("get_paths_info", repo_id=REPO, paths=[CONFIG, "figures", "else"]))
    assert [(path["path"], path.get("size")) for path in paths] == [("figures", None), (CONFIG, 18)]


def test_second_push_of_the_same_makes_no_commit_and_one_of_a_change_uploads_the_change(hub, repository, push, folder):
    first = result(push())["oid"]
    hub.requests.clear()
    assert result(push())["oid"] == first
    assert posted(hub, "/commit/main") == 0
    assert not [request for request in hub.requests if request.method == "PUT"]

    write(folder, {WEIGHTS: b"other weights"})
    second = result(push())["oid"]
    assert second == repository.refs["main"] != first
    assert len([request for request in hub.requests if request.method == "PUT"]) == 1
    assert committed(repository) == {**FILES, WEIGHTS: b"other weights"}
    assert committed(repository, first) == FILES

    write(folder, {WEIGHTS: FILES[WEIGHTS]})  # what the storage still has
    hub.requests.clear()
    result(push())
    assert committed(repository) == FILES
    assert not [request for request in hub.requests if request.method == "PUT"]


def test_files_that_are_gone_are_deleted_by_pattern(repository, push, folder):
    result(push())
    (folder / CONFIG).unlink()
    result(push(delete_patterns=["*"]))
    assert CONFIG not in committed(repository)
    assert committed(repository) == {name: data for name, data in FILES.items() if name != CONFIG}
    assert ".gitattributes" in repository.commits[repository.refs["main"]]


def test_commit_adds_and_deletes_in_the_order_given(client, repository, push, folder):
    result(push())
    operations = [
        ("CommitOperationDelete", {"path_in_repo": "figures/"}),
        ("CommitOperationAdd", {"path_in_repo": "figures/b.txt", "path_or_fileobj": folder / CONFIG}),
        ("CommitOperationDelete", {"path_in_repo": README}),
        ("CommitOperationAdd", {"path_in_repo": "empty.bin", "path_or_fileobj": write(folder, {"empty": b""}) / "empty"}),
    ]
    commit = {"repo_id": REPO, "token": TOKEN, "commit_message": "Several"}
    result(client.api("create_commit", operations=operations, **commit))
    assert committed(repository) == {
        CONFIG: FILES[CONFIG],
        WEIGHTS: FILES[WEIGHTS],
        "figures/b.txt": FILES[CONFIG],
        "empty.bin": b"",
    }
    missing = client.api("create_commit", operations=operations[2:3], **commit)
    assert missing.error == "RemoteEntryNotFoundError"


# Names for commits.


def test_tags_stay_and_branches_move(client, repository, push, folder):
    old = result(push())["oid"]
    there = {"repo_id": REPO, "token": TOKEN}
    result(client.api("create_tag", tag="v1", **there))
    result(client.api("create_branch", branch="try/this", revision=old, **there))
    (folder / CONFIG).write_bytes(b"new")
    new = result(push(revision="try/this"))["oid"]
    assert repository.refs == {"main": old, "v1": old, "try/this": new}
    for revision, data in {"v1": FILES[CONFIG], "try/this": b"new", old: FILES[CONFIG], new: b"new"}.items():
        path = result(client.api("hf_hub_download", repo_id=REPO, filename=CONFIG, revision=revision))
        assert Path(path).read_bytes() == data

    references = result(client.api("list_repo_refs", repo_id=REPO))
    assert [(ref["name"], ref["target_commit"]) for ref in references["tags"]] == [("v1", old)]
    assert [ref["name"] for ref in references["branches"]] == ["main", "try/this"]
    for method, options in {"create_tag": {"tag": "v1"}, "create_branch": {"branch": "try/this"}}.items():
        assert "409" in client.api(method, **options, **there).message
        assert client.api(method, exist_ok=True, **options, **there).error is None
    assert client.api("create_tag", tag="v2", revision="else", **there).error == "RevisionNotFoundError"
    (folder / CONFIG).write_bytes(b"newer")
    assert push(revision="v1").error == "RevisionNotFoundError"
    assert repository.refs == {"main": old, "v1": old, "try/this": new}


def test_push_from_a_commit_that_is_no_longer_the_head_is_refused(repository, push, folder):
    old = result(push())["oid"]
    (folder / CONFIG).write_bytes(b"new")
    new = result(push(parent_commit=old[:7]))["oid"]
    (folder / CONFIG).write_bytes(b"newer")
    stale = push(parent_commit=old)
    assert stale.error == "HfHubHTTPError"
    assert "412" in stale.message
    assert "A commit has happened since" in stale.message
    assert repository.refs["main"] == new


# Who may write.


@pytest.mark.parametrize(
    ("token", "status", "message"),
    [
        (False, "401", "Invalid username or password"),
        ("hf_other", "401", "Invalid credentials"),
        ("hf_read", "403", "write token"),
    ],
)
def test_who_has_no_token_to_write_with_creates_and_pushes_nothing(hub, client, token, status, message):
    creates = {"repo_id": REPO, "token": token}
    created = client.api("create_repo", **creates)
    assert created.error == "HfHubHTTPError"
    assert status in created.message
    assert message in created.message
    assert not hub.repositories

    repository = hub.add(REPO, FILES)
    assert client.api("create_repo", exist_ok=True, **creates).error is None  # it exists: the client asks no further
    operation = ("CommitOperationDelete", {"path_in_repo": CONFIG})
    committing = client.api("create_commit", operations=[operation], commit_message="No", **creates)
    assert committing.error == ("HfHubHTTPError" if token else "RepositoryNotFoundError")
    assert message in committing.message
    assert client.api("create_tag", tag="v1", **creates).error == committing.error
    assert (len(repository.commits), repository.tags) == (1, set())


def test_others_namespaces_are_forbidden(hub, client, folder):
    create = client.api("create_repo", repo_id="forbidden/net", token=TOKEN)
    assert "403" in create.message
    assert 'You don\'t have the rights to create a model under the namespace "forbidden"' in create.message
    hub.add("forbidden/net", FILES)
    pushed = client.api("upload_folder", repo_id="forbidden/net", folder_path=folder, token=TOKEN)
    assert "403" in pushed.message
    assert result(client.api("create_repo", repo_id="mine", token=TOKEN)) == f"{hub.url}/tester/mine"


def test_whoami_names_the_user_the_organizations_and_the_role(hub, client):
    me = result(client.api("whoami", token=TOKEN))
    assert (me["name"], [org["name"] for org in me["orgs"]]) == ("tester", ["acme", "i2p-zoo"])
    assert me["auth"]["accessToken"]["role"] == "write"
    assert result(client.api("whoami", token="hf_read"))["auth"]["accessToken"]["role"] == "read"
    assert "Invalid user token" in client.api("whoami", token="hf_other").message


def test_created_twice_is_an_error_unless_that_is_fine_and_private_is_for_the_token(hub, client, repository):
    again = client.api("create_repo", repo_id=REPO, token=TOKEN)
    assert "409" in again.message
    assert result(client.api("create_repo", repo_id=REPO, token=TOKEN, exist_ok=True)) == f"{hub.url}/{REPO}"
    result(client.api("create_repo", repo_id="acme/secret", token=TOKEN, private=True))
    assert result(client.api("repo_exists", repo_id="acme/secret")) is False
    assert result(client.api("repo_exists", repo_id="acme/secret", token=TOKEN)) is True


def test_repository_that_does_not_exist_takes_no_push(push):
    assert push().error == "RepositoryNotFoundError"


# What the Hub says of a README.


@pytest.mark.parametrize(
    ("metadata", "error"),
    [
        ("license: Apache", '"license" must be one of [apache-2.0'),
        ("license: [mit, no-such]", '"license" must be one of'),
        ("license: null", '"license" must be one of'),
        ("pipeline_tag: point-cloud", 'The pipeline tag "point-cloud" is not in the official list'),
        ("- a list", "must be of type object"),
        ("license: 'mit", "Invalid YAML"),
    ],
)
def test_errors_in_the_metadata_stop_a_push_before_anything_is_sent(hub, repository, push, folder, metadata, error):
    (folder / README).write_text(f"---\n{metadata}\n---\ntext\n")
    outcome = push()
    assert outcome.error == "ValueError"
    assert error in outcome.message
    assert posted(hub, "/preupload/main") == 0
    assert committed(repository) == {}


@pytest.mark.parametrize(
    ("text", "warning"),
    [
        (CARD, None),
        (CARD.replace("\n", "\r\n"), None),
        ("---\nlicense: [mit, cc-by-nc-sa-4.0]\n---", None),
        ("---\nlicense: other\nlicense_name: mine\n---\n", None),
        ("---\nlicense: other\n---\n", '"license_name" is required'),
        ("# No metadata\n", "empty or missing yaml metadata"),
        ("---\n---\n", "empty or missing yaml metadata"),
    ],
)
def test_other_cards_have_a_warning_at_most(text, warning):
    errors, warnings = check_card(text)
    assert errors == []
    assert len(warnings) == (warning is not None)
    assert all(warning in message for message in warnings)


# Failures.


@pytest.mark.parametrize(
    ("where", "fault", "requests"),
    [
        ("create", 500, 1),
        ("create", "drop", 1),
        ("preupload", 503, 6),
        ("preupload", 400, 1),
        ("preupload", "drop", 6),
        ("batch", 400, 1),
        ("lfs", 500, 6),
        ("lfs", 403, 1),
        ("lfs", "drop", 6),
        ("lfs", "cut", 6),
        ("verify", 404, 1),
        ("commit", 500, 1),
        ("commit", "drop", 1),
        ("commit", "cut", 1),
    ],
)
def test_failed_push_leaves_the_repository_as_it_was_and_the_next_one_succeeds(hub, client, folder, where, fault, requests):
    (folder / "figures/a b.png").unlink()  # of several large files the first failure ends the others
    paths = {"create": "repos/create", "batch": "objects/batch", "lfs": f"{hashlib.sha256(FILES[WEIGHTS]).hexdigest()}"}
    push = {"repo_id": REPO, "folder_path": folder, "token": TOKEN}
    if where != "create":
        result(client.api("create_repo", repo_id=REPO, token=TOKEN))
    hub.fail(where, fault)
    failed = client.api("create_repo", repo_id=REPO, token=TOKEN) if where == "create" else client.api("upload_folder", **push)
    assert failed.error is not None
    method = "PUT" if where == "lfs" else "POST"
    asked = [r for r in hub.requests if r.method == method and paths.get(where, f"/{where}") in r.path]
    assert len(asked) == requests  # the client tries again what does no harm twice
    assert where != "create" or REPO not in hub.repositories
    assert where == "create" or committed(hub.repositories[REPO]) == {}

    hub.faults.clear()
    result(client.api("create_repo", repo_id=REPO, token=TOKEN, exist_ok=True))
    result(client.api("upload_folder", **push))
    assert committed(hub.repositories[REPO]) == {name: data for name, data in FILES.items() if "png" not in name}


def test_upload_that_fails_for_a_while_arrives(hub, repository, push):
    hub.fail("lfs", "cut", times=2)
    result(push())
    assert committed(repository) == FILES


def test_commit_whose_reply_is_lost_is_there(hub, repository, push):
    hub.fail("commit", "lost", times=1)
    assert push().error == "RemoteProtocolError"
    assert committed(repository) == FILES
    assert len(repository.commits) == 2
    assert result(push())["oid"] == repository.refs["main"]
    assert len(repository.commits) == 2


def test_hanging_commit_gives_no_reply_and_is_not_made(hub, repository):
    hub.fail("commit", "hang", times=1)
    connection = http.client.HTTPConnection("127.0.0.1", hub.port, timeout=0.3)
    start = time.monotonic()
    body = json.dumps({"key": "header", "value": {"summary": "Hang"}})
    connection.request("POST", f"/api/models/{REPO}/commit/main", body, {"Authorization": f"Bearer {TOKEN}"})
    with pytest.raises(TimeoutError):
        connection.getresponse()
    connection.close()
    assert time.monotonic() - start >= 0.3
    assert len(repository.commits) == 1
