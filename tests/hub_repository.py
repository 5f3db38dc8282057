"""What the Hub on loopback keeps: repositories, their commits and their files as the protocol describes them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

LFS = (".safetensors", ".bin", ".png")
GITATTRIBUTES = "".join(f"*{ending} filter=lfs diff=lfs merge=lfs -text\n" for ending in LFS).encode()


@dataclass
class Repository:
    """A repository of a model or of a data set: commits, and branches and tags that name them.

    Attributes:
        dataset: whether it is one of data, which other addresses have.
        gated: anybody reads the metadata, only the token the files.
        private: everything needs the token.
        token: the one that opens the repository.
        commits: the files of each commit, by its 40 hex digits.
        titles: the first line of each commit's message.
        refs: the commit that each branch or tag names.
        tags: those of the refs that no commit moves.
        objects: the content of large files by their sha256, also of those that no commit has yet.
    """

    dataset: bool = False
    gated: bool = False
    private: bool = False
    token: str = "hf_test"
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    titles: dict[str, str] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    tags: set[str] = field(default_factory=set)
    objects: dict[str, bytes] = field(default_factory=dict)

    def commit(self, files: Mapping[str, bytes | None], branch: str = "main", title: str = "") -> str:
        """Changes files on a branch (None deletes one) and returns the new commit."""
        parent = self.refs.get(branch, "")
        changed = {**self.commits.get(parent, {}), **files}
        kept = {path: data for path, data in changed.items() if data is not None}
        self.objects |= {sha256(data): data for path, data in files.items() if data is not None and path.endswith(LFS)}
        name = hashlib.sha1(f"{parent} {len(self.commits)} {sorted(kept)}".encode()).hexdigest()
        self.commits[name], self.titles[name], self.refs[branch] = kept, title, name
        return name

    def find(self, revision: str) -> str | None:
        """The commit that a branch, tag or commit names."""
        return revision if revision in self.commits else self.refs.get(revision)


class Refusal(Exception):  # noqa: N818  (a reply, no error of ours)
    """A reply that is no success; the client reads code and message from its headers.

    Args:
        status: of HTTP.
        code: names an exception of the client.
        message: for people.
        commit: where the repository stands.
        body: what some calls read besides, as JSON.
    """

    def __init__(self, status: int, code: str = "", message: str = "", commit: str = "", body: Any = None) -> None:
        super().__init__(message)
        self.status, self.body = status, body
        headers = {"X-Error-Code": code, "X-Error-Message": message, "X-Repo-Commit": commit}
        self.headers = {name: value for name, value in headers.items() if value}


def sha256(data: bytes) -> str:
    """What names a large file's content."""
    return hashlib.sha256(data).hexdigest()


def file_entry(path: str, data: bytes) -> dict[str, Any]:
    """A file as listings have it; git holds a pointer in place of a large one."""
    entry = {"type": "file", "path": path, "size": len(data)}
    if not path.endswith(LFS):
        return {**entry, "oid": _git_hash("blob", data)}
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256(data)}\nsize {len(data)}\n".encode()
    lfs = {"oid": sha256(data), "size": len(data), "pointerSize": len(pointer)}
    return {**entry, "oid": _git_hash("blob", pointer), "lfs": lfs}


def folder_entries(files: Mapping[str, bytes]) -> list[dict[str, Any]]:
    """The folders, at every depth, of a commit's files."""
    parts = [path.split("/") for path in files]
    folders = sorted({"/".join(names[:depth]) for names in parts for depth in range(1, len(names))})
    return [{"type": "directory", "path": folder, "size": 0, "oid": _tree_hash(files, folder)} for folder in folders]


def _tree_hash(files: Mapping[str, bytes], folder: str) -> str:
    """Not git's, whose trees have bytes in place of hex digits; it changes when the folder does, too."""
    lines = [f"{path} {sha256(data)}" for path, data in sorted(files.items()) if path.startswith(f"{folder}/")]
    return _git_hash("tree", "\n".join(lines).encode())


def _git_hash(object_type: str, data: bytes) -> str:
    return hashlib.sha1(b"%s %d\0" % (object_type.encode(), len(data)) + data).hexdigest()
