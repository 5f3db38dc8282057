"""Publishing a checkpoint folder on the Hugging Face Hub: what would change, and then the change, as one commit."""

from __future__ import annotations

import contextlib
import json
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, errors, hf_hub_download
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils.sha import git_hash

from i2p_zoo.checkpoints.card import is_edited
from i2p_zoo.checkpoints.config import CONFIG, complete_settings_, read_config
from i2p_zoo.checkpoints.loading import read_steadily
from i2p_zoo.checkpoints.saving import CARD, is_edited_card, save_adapter, save_pretrained
from i2p_zoo.checkpoints.weight_files import is_weights_name
from i2p_zoo.downloading import first_line
from i2p_zoo.errors import CheckpointError, HubError, I2PError, InvalidInputError
from i2p_zoo.staging import locate

PICTURE = "kernels.png"
_FRONT_MATTER = re.compile(r"\A---\n.*?^---$", re.DOTALL | re.MULTILINE)
_UNCHANGED = "Nothing was changed; try again."
_ADVICE = {  # by the status of a refusal
    401: "Log in with `hf auth login`, or give a token.",
    403: "The token may not write there; give one that may.",
    409: "It was created meanwhile, or the token may not see it; push again with one that may.",
    412: "It changed in the meantime; push again.",
}
_UNKNOWN = "The push may or may not have arrived; push again, which is safe."


@dataclass(frozen=True)
class PlannedFile:
    """A file of a push.

    Attributes:
        name: in the repository.
        size: bytes, here or, of one that is deleted, there.
        action: "upload", "unchanged", "keep" (a card that was edited on the Hub) or "delete" (weights of another shape).
    """

    name: str
    size: int
    action: str


@dataclass(frozen=True)
class PushPlan:
    """What a push changes.

    Attributes:
        repo: "organisation/name".
        head: the commit that it changes; None where the repository is to be created.
        files: each file of the checkpoint and each that goes.
        card: the text of the model card as it will be there.
    """

    repo: str
    head: str | None
    files: tuple[PlannedFile, ...]
    card: str = field(repr=False)

    @property
    def changes(self) -> bool:
        """Whether there is anything to do."""
        return any(file.action in ("upload", "delete") for file in self.files)

    def summary(self) -> str:
        """Returns a line for each file and one for the repository."""
        lines = [f"{file.action:>9}  {file.size:>13,d} bytes  {file.name}" for file in self.files]
        state = "a new repository" if self.head is None else f"at {self.head[:12]}"
        return "\n".join([f"{self.repo}, {state}:", *lines])


def push_folder(
    folder: str | os.PathLike[str],
    repo: str,
    *,
    private: bool | None = None,
    token: str | bool | None = None,
    revision: str | None = None,
    message: str | None = None,
    dry_run: bool = False,
) -> PushPlan:
    """Puts a checkpoint or an adapter into a model repository of the Hub, as one commit; equal files are not sent again.

    A README.md that somebody edited on the Hub is kept; delete it there to send another. After a push that failed, the next
    one sends only what is still missing.

    Args:
        folder: written by `save_pretrained` or `save_adapter`.
        repo: "organisation/name"; created where it is missing.
        private: of a new repository.
        token: of the Hub; by default the one of `hf auth login`.
        revision: a branch; by default main.
        message: of the commit.
        dry_run: only find out what would change.

    Returns:
        What changed, or would.

    Raises:
        CheckpointError: the folder holds no complete checkpoint.
        InvalidInputError: no repository can have this name, an adapter's base is a local folder, or the card is not UTF-8.
        HubError: the Hub cannot be reached or refused, or the folder was saved over meanwhile; the message says why.
    """
    if repo.count("/") != 1:
        raise InvalidInputError(f"{repo!r} is no repository's full name; give organisation/name.")
    folder = Path(folder)
    local = read_steadily(folder, lambda: _checkpoint_files(folder))
    config = json.loads(_read(local[CONFIG]))
    base = config["i2p"]["base"]
    if base is not None and os.path.isabs(base["name"]):
        raise InvalidInputError(
            f"The adapter's base is the folder {base['name']}, which only this machine has. Publish it, load the "
            f"model from there, and save the adapter again."
        )
    api = HfApi(token=token)
    with _hub_errors(repo, "comparing", _UNCHANGED):
        plan = _plan(api, local, repo, revision)
    if plan.changes and not dry_run:
        with _hub_errors(repo, "pushing", _UNKNOWN):
            if plan.head is None:
                api.create_repo(repo, private=private)  # not `exist_ok`: one that the token may not see is no new one
            parent = plan.head or api.model_info(repo).sha
            additions = _upload(api, plan, folder, local, revision)
            deletions = [CommitOperationDelete(file.name) for file in plan.files if file.action == "delete"]
            message = message or f"Upload {config['architecture']}"
            api.create_commit(repo, [*additions, *deletions], commit_message=message, revision=revision, parent_commit=parent)
    return plan


def _upload(
    api: HfApi, plan: PushPlan, folder: Path, local: Mapping[str, CommitOperationAdd], revision: str | None
) -> list[CommitOperationAdd]:
    """Sends the weights, apart from the commit: what was sent is compared before anybody can see it."""
    contents = {file.name: local[file.name].path_or_fileobj for file in plan.files if file.action == "upload"}
    try:
        for content in contents.values():
            if isinstance(content, str):
                os.stat(content)  # a missing file is any ValueError to the client
        additions = [CommitOperationAdd(name, content) for name, content in contents.items()]
        api.preupload_lfs_files(plan.repo, additions, revision=revision)
        intact = all(addition.upload_info.sha256 == local[addition.path_in_repo].upload_info.sha256 for addition in additions)
    except FileNotFoundError:
        intact = False
    if not intact:
        raise HubError(f"{plan.repo}: {folder} changed in the meantime; push again.")
    return additions


def push_model(model: Any, repo: str, *, adapter: bool = False, compact: bool = True, **options: Any) -> PushPlan:
    """Saves a network into a temporary folder and pushes that.

    Args:
        model: as `save_pretrained` takes it.
        repo: "organisation/name".
        adapter: push only what differs from the network's base, as `i2p_zoo.save_adapter`.
        compact: as `save_pretrained`.
        **options: as `push_folder`; the token is also for the base.

    Returns, raises: as `push_folder`, and as what saves.
    """
    with tempfile.TemporaryDirectory() as temporary:
        if adapter:
            save_adapter(model, temporary, token=options.get("token"))
        else:
            save_pretrained(model, temporary, compact=compact)
        return push_folder(temporary, repo, **options)


def _checkpoint_files(folder: Path) -> dict[str, CommitOperationAdd]:
    """The files of a checkpoint by name as one save left them: weights by path and hash, which was checked, others whole."""
    config = read_config(locate(folder, CONFIG))
    weights = config["i2p"]["weights"]
    files = {}
    for name, sha256 in weights.items():
        path = locate(folder, name)
        if path.is_file():
            files[name] = CommitOperationAdd(name, path)
        actual = files[name].upload_info.sha256.hex() if name in files else None
        if actual != sha256:
            raise CheckpointError(f"{path}: sha256 expected {sha256!r}, found {actual!r}. Save the checkpoint again.")
    first = next(iter(weights))
    index = first.split("-")[0] + ".safetensors.index.json"
    for name in (CARD, *([index] if len(weights) > 1 else []), PICTURE, CONFIG):
        # An edited card is the next writer's to keep where a killed one left another.
        path = folder / name if is_edited_card(folder / name) else locate(folder, name)
        if path.is_file():
            files[name] = CommitOperationAdd(name, path.read_bytes())
    if CONFIG not in files or complete_settings_(json.loads(_read(files[CONFIG]))) != config:
        raise CheckpointError(f"{folder}: was changed while it was read. Push it again.")
    try:
        _text_of_card(files)
    except UnicodeDecodeError as error:
        raise InvalidInputError(f"{folder / CARD}: is not UTF-8 ({error}). Save it as UTF-8.") from error
    return {name: files[name] for name in (CONFIG, CARD, *weights, index, PICTURE) if name in files}


def _read(file: CommitOperationAdd) -> bytes:
    with file.as_file() as stream:
        return stream.read()


def _text_of_card(local: Mapping[str, CommitOperationAdd]) -> str:
    return str(_read(local[CARD]), "utf-8") if CARD in local else ""


def _plan(api: HfApi, local: Mapping[str, CommitOperationAdd], repo: str, revision: str | None) -> PushPlan:
    head, remote = _list_remote(api, repo, revision)
    card = _text_of_card(local)
    files = []
    for name, file in local.items():
        action = "unchanged" if name in remote and _is_same(file, remote[name]) else "upload"
        if name == CARD and name in remote and action == "upload":
            text = _read_remote_card(api, repo, head)
            # The Hub starts a repository that is made in the browser with front matter only: nobody wrote that.
            if is_edited(text) and _FRONT_MATTER.sub("", text).strip():
                card, action = text, "keep"
        files.append(PlannedFile(name, file.upload_info.size, action))
    stale = [name for name in remote if is_weights_name(name) and name not in local]
    files += [PlannedFile(name, remote[name].size, "delete") for name in stale]
    return PushPlan(repo, head, tuple(files), card)


def _list_remote(api: HfApi, repo: str, revision: str | None) -> tuple[str | None, dict[str, RepoFile]]:
    """Returns the commit of a repository and its files by name; None and none where there is no repository."""
    try:
        head = api.model_info(repo, revision=revision).sha
        entries = api.list_repo_tree(repo, recursive=True, revision=head)
        return head, {entry.path: entry for entry in entries if isinstance(entry, RepoFile)}
    except errors.GatedRepoError:  # a RepositoryNotFoundError, but it is there
        raise
    except errors.RepositoryNotFoundError:
        return None, {}


def _read_remote_card(api: HfApi, repo: str, head: str | None) -> str:
    with tempfile.TemporaryDirectory() as cache:
        path = hf_hub_download(repo, CARD, revision=head, token=api.token, cache_dir=cache)
        return Path(path).read_text(encoding="utf-8", errors="replace")


def _is_same(file: CommitOperationAdd, remote: RepoFile) -> bool:
    if file.upload_info.size != remote.size:
        return False
    if remote.lfs is not None:
        return bool(file.upload_info.sha256.hex() == remote.lfs.sha256)
    return bool(git_hash(_read(file)) == remote.blob_id)


@contextlib.contextmanager
def _hub_errors(repo: str, step: str, outcome: str) -> Iterator[None]:
    """Raises this package's errors in place of the client's, with the step that failed and what that leaves on the Hub."""
    try:
        yield
    except I2PError:
        raise
    except errors.HFValidationError as error:
        raise InvalidInputError(f"{repo!r} is no repository name (organisation/name): {error}") from error
    except errors.OfflineModeIsEnabled as error:
        raise HubError(f"{repo}: the Hub client is offline; unset HF_HUB_OFFLINE to push.") from error
    except errors.RevisionNotFoundError as error:
        raise HubError(f"{repo}: has no such branch; create it first.") from error
    except (errors.HTTPError, OSError, ValueError, RuntimeError) as error:  # type: ignore[attr-defined]
        if isinstance(error, ValueError) and not isinstance(error, json.JSONDecodeError) and "metadata" in str(error):
            raise HubError(f"{repo}: the card's metadata is refused; correct {CARD} and push again. {error}") from error
        # For a large file only the cause says what went wrong.
        cause = error.__cause__ if isinstance(error, RuntimeError) and error.__cause__ else error
        if isinstance(cause, errors.HfHubHTTPError):
            status = cause.response.status_code
            reason = f"refused ({status}, {first_line(cause.server_message or cause)})"
            outcome = _ADVICE.get(status, outcome)
        else:
            reason = f"{step} failed ({first_line(cause)})"
        raise HubError(f"{repo}: {reason}. {outcome}") from error
