"""The upload half of the Hub on loopback: what `create_repo`, `upload_folder` and the like ask of it.

A push asks how each file is to come, uploads the large ones to a storage of their own, and then sends one request that has
the small ones in it and makes the commit. Before that request nothing shows.
"""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

from tests.hub_cards import check_card
from tests.hub_repository import GITATTRIBUTES, LFS, Refusal, Repository, file_entry, sha256

if TYPE_CHECKING:
    from tests.hub_server import Hub

REPO = r"(?P<repo>[^/]+/[^/]+)"
AT = r"(?P<revision>[^/]+)"  # a slash in a branch's name comes quoted
UPLOAD_ROUTES = {  # method and path: the method of `Uploads` that answers
    "GET /api/whoami-v2": "whoami",
    "POST /api/repos/create": "create",
    "POST /api/validate-yaml": "validate",
    rf"POST /api/models/{REPO}/preupload/{AT}": "preupload",
    rf"POST /{REPO}\.git/info/lfs/objects/batch": "batch",
    rf"PUT /lfs/{REPO}/(?P<oid>[0-9a-f]+)": "lfs",
    rf"POST /{REPO}\.git/info/lfs/verify": "verify",
    rf"POST /api/models/{REPO}/commit/{AT}": "commit",
    rf"POST /api/models/{REPO}/tag/{AT}": "tag",
    rf"POST /api/models/{REPO}/branch/(?P<branch>[^/]+)": "branch",
}


class Uploads:
    """A part of the server's handler; `find`, `reply` and `reply_json` are in the other."""

    hub: Hub
    body: bytes

    def whoami(self) -> None:
        role = "read" if self.given_token() == self.hub.read_token else "write"
        if self.given_token() not in (self.hub.token, self.hub.read_token):
            raise self.no_such_token()
        organizations = [{"type": "org", "name": name} for name in self.hub.organizations]
        access = {"accessToken": {"displayName": "test", "role": role}}
        self.reply_json({"type": "user", "name": self.hub.user, "orgs": organizations, "auth": access})

    def create(self) -> None:
        request = json.loads(self.body)
        namespace = request.get("organization") or self.hub.user
        name = f"{namespace}/{request['name']}"
        if request.get("type") not in (None, "model"):
            raise Refusal(400, message="This Hub has models only")
        self.check_token()
        self.check_namespace(namespace, f'You don\'t have the rights to create a model under the namespace "{namespace}"')
        url = {"url": f"{self.hub.url}/{name}", "name": name}
        with self.hub.lock:
            if name in self.hub.repositories:
                raise Refusal(409, message="You already created this model repo", body=url)
            repository = Repository(private=request.get("visibility") == "private", token=self.hub.token)
            repository.commit({".gitattributes": GITATTRIBUTES}, title="initial commit")
            self.hub.repositories[name] = repository
        self.reply_json(url)

    def validate(self) -> None:
        self.reply_json(self.check_readme(json.loads(self.body)["content"]))

    def check_readme(self, content: str) -> dict[str, list[dict[str, str]]]:
        """What the client reads about a README; errors in its metadata are a refusal."""
        errors, warnings = ([{"message": message} for message in messages] for messages in check_card(content))
        report = {"errors": errors, "warnings": warnings}
        if errors:
            raise Refusal(400, message="Invalid metadata in README.md", body=report)
        return report

    def preupload(self, repo: str, revision: str) -> None:
        repository, commit = self.find_to_write(repo, revision)
        present = {path: file_entry(path, data) for path, data in repository.commits[commit].items()}
        files = []
        for path in (file["path"] for file in json.loads(self.body)["files"]):
            file = {"path": path, "uploadMode": "lfs" if path.endswith(LFS) else "regular", "shouldIgnore": False}
            if entry := present.get(path):  # the client leaves out a file that is the same
                file["oid"] = entry.get("lfs", entry)["oid"]
            files.append(file)
        self.reply_json({"files": files})

    def batch(self, repo: str) -> None:
        repository, _ = self.find_to_write(repo)
        objects = [{"oid": file["oid"], "size": file["size"]} for file in json.loads(self.body)["objects"]]
        for file in objects:
            if file["oid"] not in repository.objects:
                file["actions"] = {
                    # The Hub's storage is on another origin, which takes no token: the address is the secret.
                    "upload": {"href": f"http://localhost:{self.hub.port}/lfs/{repo}/{file['oid']}"},
                    "verify": {"href": f"{self.hub.url}/{repo}.git/info/lfs/verify"},
                }
        self.reply_json({"transfer": "basic", "objects": objects})

    def lfs(self, repo: str, oid: str) -> None:
        if sha256(self.body) != oid:
            raise Refusal(400, message="The content is not what its name says")
        self.hub.repositories[repo].objects[oid] = self.body
        self.reply_json({})

    def verify(self, repo: str) -> None:
        repository, _ = self.find_to_write(repo)
        file = json.loads(self.body)
        self.stored(repository, file["oid"], file["size"])
        self.reply_json({})

    def commit(self, repo: str, revision: str) -> None:
        with self.hub.lock:
            repository, head = self.find_to_write(repo, revision)
            if revision not in repository.refs or revision in repository.tags:
                raise Refusal(404, "RevisionNotFound", f"Not a branch: {revision}")
            header, *operations = (json.loads(line) for line in self.body.splitlines())
            if not head.startswith(header["value"].get("parentCommit", "").lower()):
                raise Refusal(412, message="A commit has happened since. Please refresh and try again.")
            changes: dict[str, bytes | None] = {}
            for operation in operations:
                files = {**repository.commits[head], **changes}
                changes |= self.change(repository, files, operation["key"], operation["value"])
            if readme := changes.get("README.md"):
                self.check_readme(readme.decode())
            commit = repository.commit(changes, revision, header["value"]["summary"])
        if self.hub.take_fault("commit", "lost"):
            raise ConnectionAbortedError
        self.reply_json({"success": True, "commitOid": commit, "commitUrl": f"{self.hub.url}/{repo}/commit/{commit}"})

    def change(
        self, repository: Repository, files: dict[str, bytes | None], key: str, value: dict[str, Any]
    ) -> dict[str, bytes | None]:
        """What one line of a commit changes in files; None deletes."""
        path = value["path"]
        if key == "file":
            return {path: base64.b64decode(value["content"])}
        if key == "lfsFile":
            return {path: self.stored(repository, value["oid"], value.get("size"))}
        folder = f"{path.rstrip('/')}/" if key == "deletedFolder" else None
        gone = [name for name in files if files[name] is not None and (name == path or (folder and name.startswith(folder)))]
        if not gone:
            raise Refusal(404, "EntryNotFound", "A file with this name doesn't exist")
        return dict.fromkeys(gone)

    def stored(self, repository: Repository, oid: str, size: int | None) -> bytes:
        """The content of a large file that was uploaded."""
        data = repository.objects.get(oid)
        if data is None or size not in (None, len(data)):
            raise Refusal(404, message=f"No object {oid} of {size} bytes was uploaded")
        return data

    def tag(self, repo: str, revision: str) -> None:
        self.name_commit(repo, revision, json.loads(self.body)["tag"], moves=False)

    def branch(self, repo: str, branch: str) -> None:
        self.name_commit(repo, json.loads(self.body).get("startingPoint", "main"), branch, moves=True)

    def name_commit(self, repo: str, revision: str, name: str, *, moves: bool) -> None:
        """Lets a new name stand for a commit."""
        with self.hub.lock:
            repository, commit = self.find_to_write(repo, revision)
            if name in repository.refs:
                raise Refusal(409, message=f"Reference already exists: {name}")
            repository.refs[name] = commit
            repository.tags |= set() if moves else {name}
        self.reply_json({})

    def find_to_write(self, repo: str, revision: str = "main") -> tuple[Repository, str]:
        """The repository and a commit of it, for one who may write there."""
        # Over https the client takes a 401 on a repository's address for a missing one; over http it needs the code.
        self.check_token("RepoNotFound")
        repository, commit = self.find(repo, revision)
        self.check_namespace(repo.split("/")[0], "Forbidden: pass `create_pr=1` as a query parameter to create a Pull Request")
        return repository, commit

    def check_token(self, code: str = "") -> None:
        """Refuses one who comes without the token to write with."""
        if self.given_token() == self.hub.read_token:
            raise Refusal(403, message="you must use a write token to upload to a repository.")
        if self.given_token() != self.hub.token:
            raise self.no_such_token(code)

    def no_such_token(self, code: str = "") -> Refusal:
        if self.given_token() is None:
            return Refusal(401, code, "Invalid username or password.")
        return Refusal(401, message="Invalid credentials in Authorization header")

    def check_namespace(self, namespace: str, message: str) -> None:
        """Refuses the namespaces that are not the user's."""
        if namespace not in (self.hub.user, *self.hub.organizations):
            raise Refusal(403, message=message)
