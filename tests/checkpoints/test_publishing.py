"""Pushing to a Hub on loopback by the real client and loading from there: what is sent, what comes back, every fault."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import timm
from huggingface_hub import CommitOperationAdd

import i2p_zoo
from i2p_zoo import CheckpointError, HubError, InvalidInputError, push_folder
from i2p_zoo.checkpoints import publishing
from i2p_zoo.checkpoints.config import CONFIG
from i2p_zoo.checkpoints.publishing import PICTURE, _hub_errors
from i2p_zoo.checkpoints.saving import CARD, save_pretrained
from i2p_zoo.checkpoints.weight_files import ADAPTER_WEIGHTS, WEIGHTS
from tests.checkpoints.conftest import PICKLE, REPO, assert_error, assert_loaded, files_in
from tests.conftest import output

TOKEN = "hf_test"


@pytest.fixture
def folder(folders, tmp_path):
    """A copy of the first that a test may change."""
    return Path(shutil.copytree(folders[0], tmp_path / "folder"))


def push(client, folder, **options):
    outcome = client.push(folder, REPO, token=TOKEN, **options)
    assert outcome.error is None, outcome.message
    return outcome


def sent(hub):
    return [request for request in hub.requests if request.method in ("POST", "PUT")]


def files_of(hub, repo=REPO):
    repository = hub.repositories[repo]
    return repository.commits[repository.refs["main"]]


def names_of(hub):
    return set(files_of(hub)) - {".gitattributes"}


# --- There and back ---


def test_converted_efficientnet_is_pushed_pinned_and_loaded_elsewhere_bit_for_bit(
    hub, client, offline_client, tmp_path, folders
):
    made = client.convert("i2p-tf_efficientnet_lite0", "lite0")
    assert made.error is None, made.message
    outcome = push(client, tmp_path / "lite0")
    assert outcome.files == dict.fromkeys((CONFIG, CARD, WEIGHTS), "upload")
    assert outcome.head is None
    assert outcome.card == (tmp_path / "lite0" / CARD).read_text()
    assert f"{REPO}, a new repository" in outcome.summary
    assert files_of(hub)[WEIGHTS] == (tmp_path / "lite0" / WEIGHTS).read_bytes()

    expected = output(i2p_zoo.from_pretrained(tmp_path / "lite0"))
    client.use(tmp_path / "elsewhere")
    loaded = client.load(REPO, run=True)
    assert (loaded.error, loaded.fingerprint, loaded.output) == (None, made.fingerprint, expected)
    assert loaded.source == made.source
    assert loaded.source["certificate"]["passed"]

    assert client.api("create_tag", repo_id=REPO, tag="v1", token=TOKEN).error is None
    push(client, folders[1])
    assert client.load(REPO).fingerprint != made.fingerprint
    client.use(tmp_path / "third")
    for pinned in (client.load(f"{REPO}@v1", run=True), client.load(REPO, revision="v1", run=True)):
        assert (pinned.error, pinned.fingerprint, pinned.output) == (None, made.fingerprint, expected)
    hub.requests.clear()
    again = offline_client.use(tmp_path / "third").load(f"{REPO}@v1", run=True)
    assert (again.error, again.output) == (None, expected)
    assert hub.requests == []


def test_dry_run_sends_nothing_and_says_what_a_push_does(hub, client, folder):
    (folder / PICTURE).write_bytes(b"a picture")
    plan = push(client, folder, dry_run=True)
    assert sent(hub) == []
    assert hub.repositories == {}
    done = push(client, folder)
    assert (plan.files, plan.head, plan.card) == (done.files, done.head, done.card)
    assert names_of(hub) == {CONFIG, CARD, WEIGHTS, PICTURE}
    (folder / PICTURE).write_bytes(b"another")
    hub.requests.clear()
    plan = push(client, folder, dry_run=True)
    assert plan.files == {CONFIG: "unchanged", CARD: "unchanged", WEIGHTS: "unchanged", PICTURE: "upload"}
    assert sent(hub) == []
    assert plan.head == hub.repositories[REPO].refs["main"]
    assert f"at {plan.head[:12]}" in plan.summary


def test_pushing_again_makes_no_commit_and_another_network_one(hub, client, folders):
    push(client, folders[0], message="The first")
    repository = hub.repositories[REPO]
    first = repository.refs["main"]
    assert repository.titles[first] == "The first"
    hub.requests.clear()
    assert set(push(client, folders[0]).files.values()) == {"unchanged"}
    assert sent(hub) == []
    plan = push(client, folders[1])
    assert (plan.head, plan.files[WEIGHTS]) == (first, "upload")
    assert len(repository.commits) == 3
    assert repository.titles[repository.refs["main"]] == "Upload i2p-test_resnet"


def test_private_repository_is_created_and_opens_with_the_token(hub, client, folders, models):
    push(client, folders[0], private=True)
    assert hub.repositories[REPO].private
    assert_error(client.load(REPO), "NotFoundError", "no such repository, or private")
    assert_loaded(client.load(REPO, token=TOKEN), models[0])


def test_branch_takes_a_push_and_main_stays(hub, client, folders):
    push(client, folders[0])
    repository = hub.repositories[REPO]
    main = repository.refs["main"]
    assert_error(client.push(folders[1], REPO, token=TOKEN, revision="try"), "HubError", "no such branch")
    client.api("create_branch", repo_id=REPO, branch="try", token=TOKEN)
    push(client, folders[1], revision="try")
    assert repository.refs["main"] == main
    assert repository.commits[repository.refs["try"]][WEIGHTS] == (folders[1] / WEIGHTS).read_bytes()


CARDS = {  # a README.md on the Hub, and whether it is kept
    "written by somebody": (b"---\nlicense: mit\n---\n# Mine\n", True),
    "no front matter": (b"# Mine\n", True),
    "a rule at its end": (b"---\nlicense: mit\n---\n# Mine\n---\n", True),
    "not UTF-8": (b"# M\xefn\n", True),
    "only front matter": (b"---\nlicense: mit\n---\n", False),
    "empty": (b"", False),
}


@pytest.mark.parametrize(("card", "kept"), CARDS.values(), ids=CARDS.keys())
def test_card_that_somebody_wrote_on_the_hub_is_kept(hub, client, folders, card, kept):
    hub.add(REPO, {CARD: card})
    plan = push(client, folders[0])
    assert plan.files[CARD] == ("keep" if kept else "upload")
    assert files_of(hub)[CARD] == (card if kept else (folders[0] / CARD).read_bytes())
    assert plan.card == (card if kept else (folders[0] / CARD).read_bytes()).decode(errors="replace")
    assert names_of(hub) == {CONFIG, CARD, WEIGHTS}


def test_card_that_was_written_by_an_older_push_is_replaced(hub, client, folders, folder):
    push(client, folders[0])
    net = i2p_zoo.from_pretrained(folder, voxel_size=0.25)
    net.save_pretrained(folder)
    assert push(client, folder).files[CARD] == "upload"
    assert files_of(hub)[CARD] == (folder / CARD).read_bytes()


def test_weights_of_another_shape_are_deleted_and_nothing_else(hub, client, models, folders, tmp_path):
    shards = save_pretrained(models[1], tmp_path / "shards", max_shard_size=400_000)
    names = {path.name for path in shards.glob("model-*")} | {f"{WEIGHTS}.index.json"}
    assert len(names) > 2
    push(client, shards)
    hub.repositories[REPO].commit({"notes.txt": b"mine", PICKLE: b"a pickle", "old/model.safetensors": b"old"})
    others = {"notes.txt", PICKLE, "old/model.safetensors"}
    assert names_of(hub) == {CONFIG, CARD, *names, *others}
    assert_loaded(client.load(REPO), models[1])
    plan = push(client, folders[0])
    assert {name for name, action in plan.files.items() if action == "delete"} == names
    assert names_of(hub) == {CONFIG, CARD, WEIGHTS, *others}
    assert_loaded(client.load(REPO), models[0])
    push(client, shards)
    assert names_of(hub) == {CONFIG, CARD, *names, *others}


def test_adapter_is_pushed_small_and_fetches_its_base_at_its_commit(hub, client, folders, tmp_path):
    push(client, folders[0])
    made = client.push_adapter(REPO, "acme/adapter", token=TOKEN)
    assert made.error is None, made.message
    assert made.files == dict.fromkeys((CONFIG, CARD, ADAPTER_WEIGHTS), "upload")
    assert len(files_of(hub, "acme/adapter")[ADAPTER_WEIGHTS]) < len(files_of(hub)[WEIGHTS]) / 20
    push(client, folders[1])  # the base's main moves
    hub.requests.clear()
    loaded = client.use(tmp_path / "elsewhere").load("acme/adapter")
    assert (loaded.error, loaded.fingerprint, loaded.num_classes) == (None, made.fingerprint, 3)
    assert {r.path.split("/")[-1] for r in hub.requested(WEIGHTS) + hub.requested(ADAPTER_WEIGHTS)} == {
        WEIGHTS,
        ADAPTER_WEIGHTS,
    }
    del hub.repositories[REPO]
    client.use(tmp_path / "nowhere")
    assert_error(client.load("acme/adapter"), "NotFoundError", REPO, "no such repository")
    assert client.load("acme/adapter", base=str(folders[0])).fingerprint == made.fingerprint
    assert_error(client.load("acme/adapter", base=str(folders[1])), "CheckpointError", "the adapter was made on")


def test_timm_builds_nothing_of_a_checkpoint(hub, client, folders):
    with pytest.raises(RuntimeError, match="i2p-test_resnet"):
        timm.create_model(f"local-dir:{folders[0]}", pretrained=True)
    push(client, folders[0])
    assert_error(client.timm(f"hf-hub:{REPO}"), "RuntimeError", "i2p-test_resnet")


# --- Faults of a push ---


REFUSALS = {  # the repository, whether it is there, the token, and words of the message
    "no token": (REPO, False, False, ["401", "Log in with `hf auth login`"]),
    "no token, there": (REPO, True, False, ["401", "Log in with `hf auth login`"]),
    "wrong token": (REPO, False, "hf_other", ["401", "Log in"]),
    "token to read": (REPO, False, "hf_read", ["403", "you must use a write token", "may not write there"]),
    "token to read, there": (REPO, True, "hf_read", ["403", "you must use a write token", "may not write there"]),
    "forbidden organisation": ("others/net", False, TOKEN, ["403", "You don't have the rights", "may not write there"]),
    "forbidden organisation, there": ("others/net", True, TOKEN, ["403", "may not write there"]),
}


@pytest.mark.parametrize(("repo", "there", "token", "words"), REFUSALS.values(), ids=REFUSALS.keys())
def test_push_without_the_right_is_refused_with_the_way_out(hub, client, folders, repo, there, token, words):
    if there:
        hub.add(repo, {"notes.txt": b"mine"})
    outcome = client.push(folders[0], repo, token=token)
    assert_error(outcome, "HubError", *words)
    assert outcome.message.startswith(f"{repo}: refused (")
    assert "\n" not in outcome.message
    assert "may or may not" not in outcome.message
    assert (files_of(hub, repo) == {"notes.txt": b"mine"}) if there else not hub.repositories
    if repo == REPO:
        push(client, folders[0])


def test_repository_that_the_token_may_not_see_is_not_pushed_over(hub, client, folders):
    repository = hub.add(REPO, {"notes.txt": b"mine"}, private=True)
    repository.token = "hf_else"
    assert_error(client.push(folders[0], REPO, token=TOKEN), "HubError", "409", "the token may not see it")
    assert names_of(hub) == {"notes.txt"}


PUSHES = {  # where, the fault, and words of the message
    "create 500": ("create", 500, ["500", "may or may not have arrived"]),
    "create drop": ("create", "drop", ["disconnected", "may or may not have arrived"]),
    "look-up 503": ("api", 503, ["503", "Nothing was changed"]),
    "look-up drop": ("api", "drop", ["disconnected", "Nothing was changed"]),
    "modes 503": ("preupload", 503, ["503", "may or may not have arrived"]),
    "batch 500": ("batch", 500, ["500", "may or may not have arrived"]),
    "large file 500": ("lfs", 500, ["500"]),
    "large file 403": ("lfs", 403, ["403", "may not write"]),
    "large file drop": ("lfs", "drop", ["disconnected"]),
    "large file cut": ("lfs", "cut", ["may or may not have arrived"]),
    "verify 404": ("verify", 404, ["404"]),
    "commit 500": ("commit", 500, ["500", "may or may not have arrived"]),
    "commit 412": ("commit", 412, ["412", "changed in the meantime; push again"]),
    "commit drop": ("commit", "drop", ["disconnected", "may or may not have arrived"]),
    "commit cut": ("commit", "cut", ["may or may not have arrived"]),
}


@pytest.mark.parametrize(("where", "fault", "words"), PUSHES.values(), ids=PUSHES.keys())
def test_push_that_failed_is_reported_in_a_line_and_the_next_one_succeeds(hub, client, folders, where, fault, words):
    if where != "create":
        before = files_in(folders[1])
        hub.add(REPO, before)
    hub.fail(where, fault)
    outcome = client.push(folders[0], REPO, token=TOKEN)
    hub.faults.clear()
    assert_error(outcome, "HubError", *words)
    assert outcome.message.startswith(f"{REPO}: ")
    assert "\n" not in outcome.message
    assert "Error while uploading" not in outcome.message
    assert hub.repositories == {} if where == "create" else files_of(hub) == before
    push(client, folders[0])
    assert {name: files_of(hub)[name] for name in names_of(hub)} == files_in(folders[0])


@pytest.mark.parametrize("fault", [500, "portal", "drop"])
def test_push_of_a_new_card_that_is_not_validated_is_reported_in_a_line(hub, client, folders, fault):
    hub.fail("validate", fault)
    outcome = client.push(folders[0], REPO, token=TOKEN)
    assert_error(outcome, "HubError", "may or may not have arrived; push again, which is safe")
    assert "metadata" not in outcome.message
    assert "\n" not in outcome.message
    hub.faults.clear()
    push(client, folders[0])
    assert names_of(hub) == {CONFIG, CARD, WEIGHTS}


def test_lost_reply_is_reported_as_what_it_is_and_the_next_push_makes_no_commit(hub, client, folders, models):
    push(client, folders[1])
    hub.fail("commit", "lost", 1)
    outcome = client.push(folders[0], REPO, token=TOKEN)
    assert_error(outcome, "HubError", "The push may or may not have arrived; push again, which is safe.")
    assert "othing was changed" not in outcome.message
    head = hub.repositories[REPO].refs["main"]
    assert set(push(client, folders[0]).files.values()) == {"unchanged"}
    assert hub.repositories[REPO].refs["main"] == head
    assert_loaded(client.load(REPO), models[0])


def test_repository_that_changes_meanwhile_is_not_written_over(hub, client, folders):
    push(client, folders[1])
    repository = hub.repositories[REPO]

    class Requests(list):
        def append(self, request):
            super().append(request)
            if request.path.endswith("/objects/batch"):
                repository.commit({CARD: b"# Mine\n"})

    before, hub.requests = hub.requests, Requests()
    try:
        outcome = client.push(folders[0], REPO, token=TOKEN)
    finally:
        hub.requests = before
    assert_error(outcome, "HubError", "412", "changed in the meantime; push again")
    assert files_of(hub)[WEIGHTS] == (folders[1] / WEIGHTS).read_bytes()
    assert push(client, folders[0]).files[CARD] == "keep"
    assert files_of(hub)[CARD] == b"# Mine\n"
    assert files_of(hub)[WEIGHTS] == (folders[0] / WEIGHTS).read_bytes()


class Interrupted(list):
    """The requests of a Hub, with something done at the first whose path ends so."""

    def __init__(self, ending, action):
        super().__init__()
        self.ending, self.action = ending, action

    def append(self, request):
        super().append(request)
        if request.path.endswith(self.ending) and self.action is not None:
            action, self.action = self.action, None
            action()


SAVES = {  # at which request another process saves, and whether the Hub has the weights of before already
    "Hub is asked": (f"models/{REPO}", False),
    "weights are sent": ("/preupload/main", False),
    "weights are there": (f"models/{REPO}", True),
}


@pytest.mark.parametrize(("ending", "there"), SAVES.values(), ids=SAVES.keys())
@pytest.mark.parametrize("shards", [False, True], ids=["same names", "other names"])
def test_save_during_a_push_puts_no_mixture_on_the_hub(
    hub, client, models, folders, folder, monkeypatch, ending, there, shards
):
    old = {CONFIG: b"{}", **({WEIGHTS: (folder / WEIGHTS).read_bytes()} if there else {})}
    hub.add(REPO, old)
    size = 400_000 if shards else "5GB"
    monkeypatch.setattr(hub, "requests", Interrupted(ending, lambda: save_pretrained(models[1], folder, max_shard_size=size)))
    outcome = client.push(folder, REPO, token=TOKEN)
    assert hub.requests.action is None
    if there:
        assert outcome.error is None, outcome.message
        assert_loaded(client.load(REPO), models[0])
        assert {name: files_of(hub)[name] for name in names_of(hub)} == files_in(folders[0])
    else:
        assert_error(outcome, "HubError", f"{folder} changed in the meantime; push again")
        assert {name: files_of(hub)[name] for name in names_of(hub)} == old
    push(client, folder)
    assert_loaded(client.use(folder.parent / "elsewhere").load(REPO), models[1])


def test_save_while_the_folder_is_read_is_pushed_instead(hub, client, models, folders, folder, monkeypatch):
    class PlannedError(Exception):
        pass

    seen = []

    def save_first(name, content):
        if not seen:
            save_pretrained(models[1], folder)
        seen.append(name)
        return CommitOperationAdd(name, content)

    def plan(api, local, repo, revision):
        raise PlannedError(local)

    monkeypatch.setattr(publishing, "CommitOperationAdd", save_first)
    monkeypatch.setattr(publishing, "_plan", plan)
    with pytest.raises(PlannedError) as caught:
        push_folder(folder, REPO)
    (local,) = caught.value.args
    assert local[CONFIG].path_or_fileobj == (folders[1] / CONFIG).read_bytes()


def test_metadata_that_the_hub_refuses_is_reported_with_its_words(hub, client, folders, folder):
    (folder / CARD).write_text("---\nlicense: Apache\npipeline_tag: point-cloud\n---\n# Mine\n")
    outcome = client.push(folder, REPO, token=TOKEN)
    assert_error(outcome, "HubError", "the card's metadata is refused", '"license" must be one of', "pipeline tag")
    assert "may or may not" not in outcome.message
    assert names_of(hub) == set()
    push(client, folders[0])


def test_gated_repository_that_is_not_open_is_not_taken_for_a_missing_one(hub, client, folders):
    hub.add(REPO, {CARD: b"# Mine\n"}, gated=True).token = "hf_else"
    outcome = client.push(folders[0], REPO, token=TOKEN)
    assert_error(outcome, "HubError", "401")
    assert not sent(hub)


def test_offline_client_pushes_nothing(hub, offline_client, folders):
    assert_error(offline_client.push(folders[0], REPO, token=TOKEN), "HubError", "unset HF_HUB_OFFLINE")
    assert hub.requests == []


# --- Before the Hub is asked ---


def test_card_that_is_no_utf8_is_refused_by_its_name(hub, client, folder):
    (folder / CARD).write_bytes(b"# M\xefn\n")
    assert_error(client.push(folder, REPO, token=TOKEN), "InvalidInputError", str(folder / CARD), "is not UTF-8")
    assert hub.requests == []


def test_card_edited_after_a_process_was_killed_is_the_one_that_is_pushed(hub, client, folder):
    (folder / ".saved").mkdir()
    shutil.copyfile(folder / CARD, folder / ".saved" / CARD)
    (folder / CARD).write_text("# Mine\n")
    push(client, folder)
    assert files_of(hub)[CARD] == b"# Mine\n"


@pytest.mark.parametrize("repo", ["net", "a/b/c", "acme/a b", "-acme/net"])
def test_name_that_no_repository_can_have_is_refused(folders, repo):
    with pytest.raises(InvalidInputError, match="organisation/name"):
        push_folder(folders[0], repo)


DAMAGES = {  # what is done to a folder, and words of the message
    "no config": (lambda folder: (folder / CONFIG).unlink(), "config.json: not found"),
    "no weights": (lambda folder: (folder / WEIGHTS).unlink(), "model.safetensors: sha256 expected"),
    "other weights": (lambda folder: (folder / WEIGHTS).write_bytes(b"else"), "model.safetensors: sha256 expected"),
    "another format": (lambda folder: (folder / CONFIG).write_text('{"i2p": {"format_version": 0}}'), "format_version is 0"),
}


@pytest.mark.parametrize(("damage", "words"), DAMAGES.values(), ids=DAMAGES.keys())
def test_damaged_folder_is_not_pushed(hub, client, folder, damage, words):
    damage(folder)
    assert_error(client.push(folder, REPO, token=TOKEN), "CheckpointError", words)
    assert hub.requests == []


@pytest.mark.parametrize("error", [CheckpointError("mine"), HubError("mine"), InvalidInputError("metadata")])
def test_errors_of_this_package_pass_as_they_are(error):
    with pytest.raises(type(error)) as caught, _hub_errors(REPO, "", ""):
        raise error
    assert caught.value is error
