"""A Hugging Face Hub on loopback: its protocol as the real client speaks it, with switches to fail.

Here are the server and what reads; `hub_uploads` has what writes.
"""

from __future__ import annotations

import json
import math
import re
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from tests.hub_repository import Refusal, Repository, file_entry, folder_entries
from tests.hub_uploads import AT, REPO, UPLOAD_ROUTES, Uploads

_ROUTES = {  # method and path: the method of `_Handler` that answers
    rf"GET /api/(models|datasets)/{REPO}(/revision/{AT})?": "model_info",
    rf"GET /api/models/{REPO}/tree/{AT}(/(?P<folder>.+))?": "tree",
    rf"POST /api/models/{REPO}/paths-info/{AT}": "paths_info",
    rf"GET /api/models/{REPO}/refs": "references",
    rf"(GET|HEAD) /cdn/{REPO}/{AT}/(?P<path>.+)": "content",
    rf"(GET|HEAD) (/datasets)?/{REPO}/resolve/{AT}/(?P<path>.+)": "resolve",
    **UPLOAD_ROUTES,
}


@dataclass(frozen=True)
class Request:
    """A request as it came in, its path unquoted."""

    method: str
    path: str
    headers: dict[str, str]


class Hub:
    """The server, a context manager; a client has it as HF_ENDPOINT=hub.url.

    Attributes:
        token: the user's, to write with; other repositories than the user's and the organizations' it may read.
        read_token: the user's, to read with.
        repositories: by their names, which have an organization.
        requests: all that came in.
    """

    user = "tester"
    organizations = ("acme", "i2p-zoo")
    token = "hf_test"
    read_token = "hf_read"

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.requests: list[Request] = []
        self.faults: dict[str, tuple[str | int, float]] = {}
        self.lock = threading.RLock()  # held by whatever moves a branch
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

    def fail(self, where: str, fault: str | int, times: float = math.inf) -> None:
        """Makes requests fail.

        Args:
            where: the path of a file in its repository, for downloads; "create", "validate" (the README's metadata),
                "preupload", "batch" (which large files to upload), "lfs" (their upload), "verify", "commit", "tag", "branch",
                "paths_info", for what is posted or put; "api", for the rest.
            fault: an HTTP status; "drop" (closes without a reply), "hang", "portal" (200 and a page of HTML, as a hotel's
                network gives); for the body of a file "cut" (closes half-way), "short" (half a body, declared so), "flip"
                (a byte is changed) or "slow"; for what is posted or put "cut" (closes with half the body read); for
                "commit" also "lost" (the commit is made and the reply does not arrive).
            times: how often.
        """
        self.faults[where] = (fault, times)

    def take_fault(self, where: str, *faults: str | type) -> str | int | None:
        """Counts down a fault that is among these, or of one of these types, and returns it."""
        with self.lock:  # large files are uploaded by several threads
            fault, times = self.faults.get(where, (None, 0))
            if times < 1 or not (fault in faults or type(fault) in faults):
                return None
            self.faults[where] = (fault, times - 1)
            return fault

    def requested(self, ending: str = "", method: str = "GET") -> list[Request]:
        """The requests whose path ends so."""
        return [r for r in self.requests if r.method == method and r.path.endswith(ending)]


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False  # clients that are still connected do not hold up the end
    hub: Hub

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Closed connections are no news; anything else is a mistake of the server's."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


class _Handler(Uploads, BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # keeps connections open, as the Hub does
    timeout = 60
    server: _Server

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        self.hub = self.server.hub
        self.hub.requests.append(Request(self.command, unquote(path), dict(self.headers.items())))
        name, arguments = self.route(path)
        where = name if self.command in ("POST", "PUT") else arguments.get("path", "api")
        self.body = self.read_body(where)
        try:
            self.fail_at_once(where)
            getattr(self, name)(**arguments)
        except Refusal as refusal:
            body = b"" if refusal.body is None else json.dumps(refusal.body).encode()
            self.reply(refusal.status, body, refusal.headers)

    do_HEAD = do_POST = do_PUT = do_GET  # noqa: N815

    def route(self, path: str) -> tuple[str, dict[str, str]]:
        """The method that answers, and its arguments."""
        for pattern, name in _ROUTES.items():
            if match := re.fullmatch(pattern, f"{self.command} {path}"):
                return name, {key: unquote(value) for key, value in match.groupdict().items() if value}
        return "no_route", {}

    def no_route(self) -> None:
        raise Refusal(404, message="No such route")

    def read_body(self, where: str) -> bytes:
        """What the client sends, to its end even if it is refused: the connection stays open."""
        length = int(self.headers.get("Content-Length", 0))
        if length and self.hub.take_fault(where, "cut"):
            self.rfile.read(length // 2)
            raise ConnectionAbortedError
        return self.rfile.read(length)

    def model_info(self, repo: str, revision: str = "main") -> None:
        repository, commit = self.find(repo, revision)
        siblings = [{"rfilename": path} for path in repository.commits[commit]]
        if "blobs" in parse_qs(urlsplit(self.path).query):
            for sibling in siblings:
                entry = file_entry(sibling["rfilename"], repository.commits[commit][sibling["rfilename"]])
                lfs = {"lfs": {**entry["lfs"], "sha256": entry["lfs"]["oid"]}} if "lfs" in entry else {}
                sibling |= {"size": entry["size"], "blobId": entry["oid"], **lfs}
        info = {"id": repo, "sha": commit, "private": repository.private, "gated": repository.gated, "siblings": siblings}
        self.reply_json(info)

    def tree(self, repo: str, revision: str, folder: str = "") -> None:
        entries, commit = self.entries(repo, revision)
        inside = f"{folder}/" if folder else ""
        below = [entry for entry in entries if entry["path"].startswith(inside)]
        if folder and not below:
            raise Refusal(404, "EntryNotFound", f"{folder} does not exist", commit)
        if parse_qs(urlsplit(self.path).query).get("recursive", ["false"])[0].lower() != "true":
            below = [entry for entry in below if "/" not in entry["path"].removeprefix(inside)]
        self.reply_json(below)

    def paths_info(self, repo: str, revision: str) -> None:
        paths = parse_qs(self.body.decode()).get("paths", [])
        self.reply_json([entry for entry in self.entries(repo, revision)[0] if entry["path"] in paths])

    def entries(self, repo: str, revision: str) -> tuple[list[dict[str, Any]], str]:
        """The folders and files of a commit, and the commit."""
        repository, commit = self.find(repo, revision)
        files = repository.commits[commit]
        return folder_entries(files) + [file_entry(path, data) for path, data in files.items()], commit

    def references(self, repo: str) -> None:
        repository, _ = self.find(repo, "main")
        named = {"branches": [], "tags": [], "converts": []}
        for name, commit in repository.refs.items():
            group, folder = ("tags", "tags") if name in repository.tags else ("branches", "heads")
            named[group].append({"name": name, "ref": f"refs/{folder}/{name}", "targetCommit": commit})
        self.reply_json(named)

    def resolve(self, repo: str, revision: str, path: str) -> None:
        repository, commit = self.find(repo, revision)
        if repository.gated and not self.has_token(repository):
            raise Refusal(401, "GatedRepo", f"Access to model {repo} is restricted.")
        data = repository.commits[commit].get(path)
        if data is None:
            raise Refusal(404, "EntryNotFound", "Entry not found", commit)
        entry = file_entry(path, data)
        if "lfs" not in entry:
            return self.reply_file(path, data, {"ETag": f'"{entry["oid"]}"', "X-Repo-Commit": commit})
        headers = {
            # As the Hub's storage is, on another origin: within one the client follows a redirect as an API call.
            "Location": f"http://localhost:{self.hub.port}/cdn/{repo}/{commit}/{path}",
            "X-Linked-Etag": f'"{entry["lfs"]["oid"]}"',
            "X-Linked-Size": str(len(data)),
            "X-Repo-Commit": commit,
        }
        return self.reply(302, b"", headers)

    def content(self, repo: str, revision: str, path: str) -> None:
        self.reply_file(path, self.hub.repositories[repo].commits[revision][path], {})

    def has_token(self, repository: Repository) -> bool:
        return self.given_token() in (repository.token, self.hub.read_token)

    def given_token(self) -> str | None:
        header = self.headers.get("Authorization")
        return header.removeprefix("Bearer ") if header else None

    def find(self, name: str, revision: str) -> tuple[Repository, str]:
        repository = self.hub.repositories.get(name)
        if repository is not None and repository.dataset != ("/datasets/" in self.path):
            repository = None
        if repository is None or (repository.private and not self.has_token(repository)):
            # Without a token the Hub says 401 and no code; the client takes that for a missing repository over https only.
            raise Refusal(404 if "Authorization" in self.headers else 401, "RepoNotFound", "Repository not found")
        commit = repository.find(revision)
        if commit is None:
            raise Refusal(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return repository, commit

    def fail_at_once(self, where: str) -> None:
        fault = self.hub.take_fault(where, int, "drop", "hang", "portal")
        if isinstance(fault, int):
            raise Refusal(fault, message="Told to fail")
        if fault == "hang":
            self.hub.stopping.wait(30)
        if fault == "portal":
            self.reply(200, b"<html>Please log in.</html>", {"Content-Type": "text/html"})
        if fault:
            raise ConnectionAbortedError

    def reply_json(self, data: Any) -> None:
        self.reply(200, json.dumps(data).encode(), {"Content-Type": "application/json"})

    def reply_file(self, path: str, data: bytes, headers: dict[str, str]) -> None:
        fault = self.hub.take_fault(path, "cut", "short", "flip", "slow") if self.command == "GET" else None
        half = len(data) // 2
        if fault == "flip":
            data = data[:half] + bytes([data[half] ^ 1]) + data[half + 1 :]
        elif fault == "short":
            data = data[:half]
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(asked.group(1)) if asked else 0
        if asked:
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        end = half - start if fault == "cut" else None
        self.reply(206 if asked else 200, data[start:], headers, end=end, slow=fault == "slow")

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
