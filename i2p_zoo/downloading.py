"""Files from the Hugging Face Hub, all of one load from one commit. A repository that cannot be found is noted, not raised."""

from __future__ import annotations

import contextlib
import errno
import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, constants, errors, hf_hub_download
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from i2p_zoo.errors import CacheError, HubError, NotFoundError
from i2p_zoo.staging import replacing


@dataclass(frozen=True)
class HubOptions:
    """Options of the Hub client, as `huggingface_hub.hf_hub_download` takes them."""

    revision: str | None = None
    cache_dir: str | None = None
    token: str | bool | None = None
    local_files_only: bool = False
    force_download: bool = False


def fetch_files(
    repo: str,
    names: Sequence[str],
    options: HubOptions,
    tried: list[str],
    more: Callable[[list[Path]], Iterable[str]] = lambda paths: (),
    repo_type: str = "model",
) -> tuple[str, list[Path]] | None:
    """Fetches files of a repository, or takes them from the Hub client's cache where the Hub cannot be reached.

    Args:
        repo: "organisation/name".
        names: file names, at least one.
        options: of the client.
        tried: gets a line where neither the Hub nor the cache has the repository.
        more: names that follow from the files' contents, given their paths.
        repo_type: "model" or "dataset".

    Returns:
        The commit and the local paths, or None.

    Raises:
        HubError: the repository is gated or lacks the revision or a file, the token is refused, or a download broke off.
        CacheError: a file is not in the client's cache, which cannot be written.
    """
    try:
        revision, obstacle = _find_commit(repo, options, repo_type)
        fetch = functools.partial(_fetch_file, repo, options=options, obstacle=obstacle, repo_type=repo_type)
        first = fetch(names[0], revision)
        commit = first.parent.name
        paths = [first, *(fetch(name, commit) for name in names[1:])]
        paths += [fetch(name, commit) for name in more(paths)]
    except NotFoundError as error:
        tried.append(f"{repo} on the Hub: {error}")
        return None
    if not obstacle and options.revision != commit:
        # A client that is given commits does not note what a revision's is, and finds nothing by it when offline.
        reference = first.parents[2] / "refs" / (options.revision or constants.DEFAULT_REVISION)
        with contextlib.suppress(OSError):  # a cache that cannot be written holds no less for it
            reference.parent.mkdir(parents=True, exist_ok=True)
            with replacing(reference) as new:
                new.write_text(commit, encoding="utf-8", newline="\n")
    return commit, paths


def _find_commit(repo: str, options: HubOptions, repo_type: str) -> tuple[str | None, str]:
    """Returns a revision's commit and "", or the revision as it is and the reason why the Hub cannot be reached.

    One quick request settles both; the downloader would retry for 23 s.
    """
    try:
        validate_repo_id(repo)
        if options.local_files_only or constants.HF_HUB_OFFLINE:
            return options.revision, "offline"
        return HfApi(token=options.token).repo_info(repo, revision=options.revision, repo_type=repo_type, timeout=10).sha, ""
    except errors.HFValidationError as error:
        raise NotFoundError("no repository can have this name") from error
    except errors.GatedRepoError as error:
        raise _gated(repo) from error
    except errors.RepositoryNotFoundError as error:
        raise NotFoundError("no such repository, or private (log in with `hf auth login`)") from error
    except errors.RevisionNotFoundError as error:
        raise HubError(f"{repo}: has no revision {options.revision!r}.") from error
    except (errors.HTTPError, OSError, ValueError) as error:  # type: ignore[attr-defined]
        response: Any = getattr(error, "response", None)
        status = getattr(response, "status_code", None)
        if status in (401, 403):
            raise HubError(
                f"{repo}: the Hub refuses the request ({first_line(error)}). Log in again with `hf auth login`, or go on "
                "without the Hub with local_files_only=True or HF_HUB_OFFLINE=1."
            ) from error
        if status is not None:  # of a Hub that is down, or of what is no Hub
            return options.revision, f"{constants.ENDPOINT} answers with {status} {response.reason_phrase}".rstrip()
        return options.revision, f"not reached ({first_line(error)})"


def _fetch_file(repo: str, name: str, revision: str | None, options: HubOptions, obstacle: str, repo_type: str) -> Path:
    """Downloads a file, or looks only into the cache where an obstacle keeps us from the Hub."""
    force = options.force_download and not obstacle
    try:
        # File by file: `snapshot_download` ends at Ctrl-C only when its threads have downloaded what they began, draws bars
        # for what is cached, and passes over files that the repository lacks.
        path = hf_hub_download(
            repo,
            name,
            repo_type=repo_type,
            revision=revision,
            cache_dir=options.cache_dir,
            token=options.token,
            local_files_only=bool(obstacle),
            force_download=force,
        )
    except errors.GatedRepoError as error:
        raise _gated(repo) from error
    except errors.RemoteEntryNotFoundError as error:
        raise HubError(f"{repo}: has no file {name!r} at revision {revision}.") from error
    except (errors.HTTPError, OSError, ValueError) as error:  # type: ignore[attr-defined]
        not_cached = isinstance(error, errors.LocalEntryNotFoundError)
        if not_cached and obstacle:
            raise NotFoundError(f"{obstacle}, and not in the Hub client's cache") from error
        cause = error.__cause__ if not_cached and error.__cause__ else error
        if isinstance(cause, OSError) and cause.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise CacheError(
                f"{repo}: {name!r} cannot be kept in the Hub client's cache ({cause}). Set HF_HOME to a folder that can be "
                "written, or go on without the Hub with local_files_only=True or HF_HUB_OFFLINE=1."
            ) from error
        raise HubError(f"{repo}: fetching {name!r} failed ({first_line(cause)}). Try again.") from error
    return Path(path)


def _gated(repo: str) -> HubError:
    return HubError(f"{repo}: gated; accept its terms on the Hub and log in with `hf auth login`.")


def first_line(error: object) -> str:
    """Returns the first line of an error's message, or its type where it has none."""
    return str(error).strip().split("\n")[0] or type(error).__name__
