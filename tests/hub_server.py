"""A Hugging Face Hub on loopback: the download half of its protocol as the real client speaks it, with switches to fail."""

from __future__ import annotations

import hashlib
import json
import math
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

_REPO = r"(?P<repo>[^/]+/[^/]+)"
_AT = r"(?P<revision>[^/]+)"  # a slash in a branch's name comes quoted
_ROUTES = {  # method and path: the method of `_Handler` that answers
    rf"GET /api/models/{_REPO}(/revision/{_AT})?": "model_info",
    rf"(GET|HEAD) /cdn/{_REPO}/{_AT}/(?P<path>.+)": "content",
    rf"(GET|HEAD) /{_REPO}/resolve/{_AT}/(?P<path>.+)": "resolve",
}
_LFS = (".safetensors", ".bin")


@dataclass
class Repository:
    """A model repository: commits, and branches and tags that name them.

    Attributes:
        gated: anybody reads the metadata, only the token the files.
        private: everything needs the token.
        token: the one that opens the repository.
        commits: the files of each commit, by its 40 hex digits.
        refs: the commit that each branch or tag names.
    """

    gated: bool = False
    private: bool = False
    token: str = "hf_test"
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)

    def commit(self, files: Mapping[str, bytes | None], branch: str = "main") -> str:
        """Changes files on a branch (None deletes one) and returns the new commit."""
        parent = self.refs.get(branch, "")
        changed = {**self.commits.get(parent, {}), **files}
        kept = {path: data for path, data in changed.items() if data is not None}
        name = hashlib.sha1(f"{parent} {len(self.commits)} {sorted(kept)}".encode()).hexdigest()
        self.commits[name], self.refs[branch] = kept, name
        return name

    def find(self, revision: str) -> str | None:
        """The commit that a branch, tag or commit names."""
        return revision if revision in self.commits else self.refs.get(revision)


@dataclass(frozen=True)
class Request:
    """A request as it came in, its path unquoted."""

    method: str
    path: str
    headers: dict[str, str]


class Hub:
    """The server, a context manager; a client has it as HF_ENDPOINT=hub.url."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.requests: list[Request] = []
        self.faults: dict[str, tuple[str | int, float]] = {}
        self.stopping = threading.Event()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.hub = self
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self.port = self._server.server_port
        self.url = f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Hub:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopping.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def reset(self) -> None:
        """Forgets repositories, requests and faults."""
        for store in (self.repositories, self.requests, self.faults):
            store.clear()

    def add(self, name: str, files: Mapping[str, bytes], **access: bool) -> Repository:
        """Creates a repository with one commit on main."""
        repository = self.repositories[name] = Repository(**access)
        repository.commit(files)
        return repository

    def fail(self, where: str, kind: str | int, times: float = math.inf) -> None:
        """Makes requests fail.

        Args:
            where: "api", or the path of a file in its repository.
            kind: an HTTP status; "drop" (closes without a reply), "hang", "portal" (200 and a page of HTML, as a hotel's
                network gives); and for the body of a file "cut" (closes half-way), "short" (half a body, declared so),
                "flip" (a byte is changed) or "slow".
            times: how often.
        """
        self.faults[where] = (kind, times)

    def take_fault(self, where: str, *kinds: str | type) -> str | int | None:
        """Counts down a fault that is among these kinds, and returns its kind."""
        kind, times = self.faults.get(where, (None, 0))
        if times < 1 or not (kind in kinds or type(kind) in kinds):
            return None
        self.faults[where] = (kind, times - 1)
        return kind

    def requested(self, ending: str = "", method: str = "GET") -> list[Request]:
        """The requests whose path ends so."""
        return [r for r in self.requests if r.method == method and r.path.endswith(ending)]


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False  # clients that are still connected do not hold up the end
    hub: Hub

    def handle_error(self, *_: object) -> None:
        """Closed connections are no news."""


class _Refusal(Exception):  # noqa: N818  (a reply, no error of ours)
    def __init__(self, status: int, code: str = "", message: str = "", commit: str = "") -> None:
        super().__init__(message)
        self.status = status
        headers = {"X-Error-Code": code, "X-Error-Message": message, "X-Repo-Commit": commit}
        self.headers = {name: value for name, value in headers.items() if value}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # keeps connections open, as the Hub does
    timeout = 60
    server: _Server

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        self.hub = self.server.hub
        self.hub.requests.append(Request(self.command, unquote(path), dict(self.headers.items())))
        try:
            for pattern, name in _ROUTES.items():
                if match := re.fullmatch(pattern, f"{self.command} {path}"):
                    arguments = {key: unquote(value) for key, value in match.groupdict().items() if value}
                    self.fail_at_once(arguments.get("path", "api"))
                    return getattr(self, name)(**arguments)
            raise _Refusal(404, message="No such route")
        except _Refusal as refusal:
            self.reply(refusal.status, b"", refusal.headers)

    do_HEAD = do_GET  # noqa: N815

    def model_info(self, repo: str, revision: str = "main") -> None:
        repository, commit = self.find(repo, revision)
        siblings = [{"rfilename": path} for path in repository.commits[commit]]
        info = {"id": repo, "sha": commit, "private": repository.private, "gated": repository.gated, "siblings": siblings}
        self.reply(200, json.dumps(info).encode(), {"Content-Type": "application/json"})

    def resolve(self, repo: str, revision: str, path: str) -> None:
        repository, commit = self.find(repo, revision)
        if repository.gated and not self.has_token(repository):
            raise _Refusal(401, "GatedRepo", f"Access to model {repo} is restricted.")
        data = repository.commits[commit].get(path)
        if data is None:
            raise _Refusal(404, "EntryNotFound", "Entry not found", commit)
        if not path.endswith(_LFS):
            blob = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
            return self.reply_file(path, data, {"ETag": f'"{blob}"', "X-Repo-Commit": commit})
        headers = {
            # As the Hub's storage is, on another origin: within one the client follows a redirect as an API call.
            "Location": f"http://localhost:{self.hub.port}/cdn/{repo}/{commit}/{path}",
            "X-Linked-Etag": f'"{hashlib.sha256(data).hexdigest()}"',
            "X-Linked-Size": str(len(data)),
            "X-Repo-Commit": commit,
        }
        return self.reply(302, b"", headers)

    def content(self, repo: str, revision: str, path: str) -> None:
        self.reply_file(path, self.hub.repositories[repo].commits[revision][path], {})

    def has_token(self, repository: Repository) -> bool:
        return self.headers.get("Authorization") == f"Bearer {repository.token}"

    def find(self, name: str, revision: str) -> tuple[Repository, str]:
        repository = self.hub.repositories.get(name)
        if repository is None or (repository.private and not self.has_token(repository)):
            # Without a token the Hub says 401 and no code; the client takes that for a missing repository over https only.
            raise _Refusal(404 if "Authorization" in self.headers else 401, "RepoNotFound", "Repository not found")
        commit = repository.find(revision)
        if commit is None:
            raise _Refusal(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return repository, commit

    def fail_at_once(self, where: str) -> None:
        kind = self.hub.take_fault(where, int, "drop", "hang", "portal")
        if isinstance(kind, int):
            raise _Refusal(kind, message="Told to fail")
        if kind == "hang":
            self.hub.stopping.wait(30)
        if kind == "portal":
            self.reply(200, b"<html>Please log in.</html>", {"Content-Type": "text/html"})
        if kind:
            raise ConnectionAbortedError

    def reply_file(self, path: str, data: bytes, headers: dict[str, str]) -> None:
        kind = self.hub.take_fault(path, "cut", "short", "flip", "slow") if self.command == "GET" else None
        half = len(data) // 2
        if kind == "flip":
            data = data[:half] + bytes([data[half] ^ 1]) + data[half + 1 :]
        elif kind == "short":
            data = data[:half]
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(asked.group(1)) if asked else 0
        if asked:
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        end = half - start if kind == "cut" else None
        self.reply(206 if asked else 200, data[start:], headers, end=end, slow=kind == "slow")

    def reply(self, status: int, body: bytes, headers: dict[str, str], *, end: int | None = None, slow: bool = False) -> None:
        """Sends a reply; `end` is where the connection closes within the body."""
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        sent = body if end is None else body[: max(end, 0)]
        step = len(sent) // 20 + 1 if slow else len(sent) + 1
        for start in range(0, len(sent), step):
            self.wfile.write(sent[start : start + step])
            self.hub.stopping.wait(0.02 if slow else 0)
        self.close_connection = self.close_connection or end is not None

    def log_message(self, *_: object) -> None:
        """Keeps the tests' output clean."""
