"""Files from the Hugging Face Hub, all of one load from one commit. A repository that cannot be had is told, not raised."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from i2p_zoo.errors import HubError


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
    more: Callable[[list[Path]], Sequence[str]] = lambda paths: (),
) -> tuple[str, list[Path]] | None:
    """Fetches files of a model repository, or takes them from the Hub client's cache where the Hub cannot be reached.

    Args:
        repo: "organisation/name".
        names: file names.
        options: of the client.
        tried: gets a line where the repository or the Hub cannot be had.
        more: names that follow from the files' contents, given their paths.

    Returns:
        The commit and the local paths, or None.

    Raises:
        HubError: the repository is gated or lacks the revision or a file, the token is refused, or a download broke off.
    """
    from huggingface_hub import HfApi, constants, errors, hf_hub_download

    commit, offline = options.revision, options.local_files_only or constants.HF_HUB_OFFLINE
    reason = "offline"
    if not offline:
        try:
            # One quick request settles the commit and whether the Hub answers; the downloader would retry for 23 s.
            commit = HfApi(token=options.token).model_info(repo, revision=options.revision, timeout=10).sha
        except errors.GatedRepoError as error:
            raise _gated(repo) from error
        except errors.RepositoryNotFoundError:
            tried.append(f"{repo} on the Hub: no such repository, or private (log in with `hf auth login`)")
            return None
        except errors.RevisionNotFoundError as error:
            raise HubError(f"{repo}: has no revision {options.revision!r}.") from error
        except errors.HFValidationError:
            tried.append(f"{repo} on the Hub: no repository can have this name")
            return None
        except (errors.HTTPError, OSError, ValueError) as error:  # type: ignore[attr-defined]
            if getattr(getattr(error, "response", None), "status_code", None) in (401, 403):
                raise HubError(
                    f"{repo}: the Hub refuses the request ({first_line(error)}). Log in again with `hf auth login`, or go on "
                    "without the Hub with local_files_only=True or HF_HUB_OFFLINE=1."
                ) from error
            offline, reason = True, f"not reached ({first_line(error)})"
    kwargs: dict[str, Any] = {"revision": commit, "cache_dir": options.cache_dir, "token": options.token}
    paths: list[Path] = []
    wanted = list(names)
    for name in wanted:
        try:
            force = options.force_download and not offline
            paths.append(Path(hf_hub_download(repo, name, local_files_only=offline, force_download=force, **kwargs)))
        except errors.HFValidationError:
            tried.append(f"{repo} on the Hub: no repository can have this name")
            return None
        except errors.LocalEntryNotFoundError as error:
            if not offline:
                raise HubError(
                    f"{repo}: fetching {name!r} failed ({first_line(error.__cause__ or error)}). Try again."
                ) from error
            tried.append(f"{repo} on the Hub: {reason}, and not in the Hub client's cache")
            return None
        except errors.GatedRepoError as error:
            raise _gated(repo) from error
        except errors.EntryNotFoundError as error:
            raise HubError(f"{repo}: has no file {name!r} at revision {commit}.") from error
        except (errors.HTTPError, OSError, ValueError) as error:  # type: ignore[attr-defined]
            raise HubError(f"{repo}: fetching {name!r} failed ({first_line(error)}). Try again.") from error
        if len(paths) == len(names):
            wanted += more(paths)
    if not offline and options.revision != commit:
        # A client that is given commits notes no revision's commit, without which it finds nothing when offline.
        ref = paths[0].parents[2] / "refs" / (options.revision or constants.DEFAULT_REVISION)
        new = ref.with_name(f".{ref.name}-{os.getpid()}")
        with contextlib.suppress(OSError):  # a cache that cannot be written holds no less for it
            ref.parent.mkdir(parents=True, exist_ok=True)
            new.write_text(paths[0].parent.name)
            new.replace(ref)
    return paths[0].parent.name, paths


def _gated(repo: str) -> HubError:
    return HubError(f"{repo}: gated; accept its terms on the Hub and log in with `hf auth login`.")


def first_line(error: object) -> str:
    """Returns the first line of an error's message, or its type where it has none."""
    return str(error).strip().split("\n")[0] or type(error).__name__
