"""A stand-in for the Hugging Face hub, so far as `huggingface_hub` asks it to upload and download models.

It keeps commits and branches, takes large files through LFS, checks tokens and the header of cards, and can fail.
"""

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import yaml

OWNER, TOKEN, READER = "acme", "hf_writes", "hf_reads"
LICENCES = ("apache-2.0", "mit", "cc-by-4.0")
_LARGE = (".onnx", ".safetensors")
"""Files that go through LFS, as in a new repository's `.gitattributes`."""


@dataclass
class Repository:
    private: bool
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)

    def commit(self, branch: str, files: dict[str, bytes], message: str) -> str:
        name = hashlib.sha1(f"{message} {len(self.commits)}".encode()).hexdigest()
        self.commits[name] = self.files(branch) | files
        self.branches[branch] = name
        self.messages.append(message)
        return name

    def find(self, revision: str) -> str | None:
        return self.branches.get(revision, revision if revision in self.commits else None)

    def files(self, revision: str) -> dict[str, bytes]:
        return self.commits[self.branches.get(revision, revision)]


class Hub(ThreadingHTTPServer):
    """`url` is its address. `status` is what it answers to every request, 0: what is right."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.repositories: dict[str, Repository] = {}
        self.large: dict[str, bytes] = {}
        self.requests: list[tuple[str, str]] = []
        self.status = 0


@contextmanager
def hub_server() -> Iterator[Hub]:
    with Hub() as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


class RefusedError(Exception):
    def __init__(self, status: int, code: str = "", message: str = "") -> None:
        self.status, self.code, self.message = status, code, message


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self):
        path, _, _ = self.path.partition("?")
        self.server.requests.append((self.command, path))
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            while size := int(self.rfile.readline(), 16):
                self.body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        try:
            if self.server.status:
                raise RefusedError(self.server.status, message="This stand-in fails")
            for pattern, method in _ROUTES:
                if found := re.fullmatch(pattern, f"{self.command} {path}"):
                    return method(self, **found.groupdict())
            raise RefusedError(404, message=f"no {self.command} {path}")
        except RefusedError as refused:
            names = {"X-Error-Code": refused.code, "X-Error-Message": refused.message}
            headers = {name: value for name, value in names.items() if value}
            self.send(json.dumps({"error": refused.message}).encode(), refused.status, **headers)

    do_GET = do_HEAD = do_POST = do_PUT = answer  # noqa: N815 - the names of http.server

    def send(self, content=b"", status=200, **headers):
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(content))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def json(self, value, status=200):
        self.send(json.dumps(value).encode(), status, **{"Content-Type": "application/json"})

    def token(self):
        return self.headers.get("Authorization", "").removeprefix("Bearer ")

    def may_write(self, repo):
        if self.token() not in (TOKEN, READER):
            raise RefusedError(401, message="Invalid credentials in Authorization header")
        if self.token() != TOKEN or repo.partition("/")[0] != OWNER:
            raise RefusedError(
                403, message=f"You don't have the rights to create a model under {repo.partition('/')[0]}"
            )

    def repository(self, repo):
        """Find a repository; one that is not there, or private, is not told from the other."""
        found = self.server.repositories.get(repo)
        if found is None or (found.private and self.token() != TOKEN):
            raise RefusedError(404 if self.token() else 401, "RepoNotFound", "Repository not found")
        return found

    def at(self, repo, revision):
        found = self.repository(repo)
        if (commit := found.find(revision)) is None:
            raise RefusedError(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return commit, found.files(commit)

    def validate_yaml(self):
        content = json.loads(self.body)["content"]
        header = yaml.safe_load(content.split("---\n")[1])
        if header.get("license", LICENCES[0]) in LICENCES:
            return self.json({"errors": [], "warnings": []})
        problem = f'"license" must be one of {", ".join(LICENCES)}'
        if self.headers["Accept"] == "text/plain":
            return self.send(problem.encode(), 400)
        return self.json({"errors": [{"message": problem}], "warnings": []}, 400)

    def create(self):
        asked = json.loads(self.body)
        repo = f"{asked['organization']}/{asked['name']}"
        self.may_write(repo)
        if repo in self.server.repositories:
            return self.json({"url": f"{self.server.url}/{repo}", "error": "You already created this model repo"}, 409)
        made = self.server.repositories[repo] = Repository(
            private=asked.get("visibility") == "private" or bool(asked.get("private")), commits={"0" * 40: {}}
        )
        made.branches["main"] = "0" * 40
        return self.json({"url": f"{self.server.url}/{repo}", "name": repo})

    def branch(self, repo, revision):
        self.may_write(repo)
        branches = self.repository(repo).branches
        if revision in branches:
            raise RefusedError(409, message="Reference already exists")
        branches[revision] = branches["main"]
        self.json({})

    def preupload(self, repo, revision):
        self.may_write(repo)
        self.at(repo, revision)
        files = json.loads(self.body)["files"]
        modes = {file["path"]: "lfs" if file["path"].endswith(_LARGE) else "regular" for file in files}
        self.json({"files": [{"path": p, "uploadMode": mode, "shouldIgnore": False} for p, mode in modes.items()]})

    def lfs_batch(self, repo):
        self.may_write(repo)
        self.json(
            {
                "transfer": "basic",
                "objects": [
                    one | {"actions": {"upload": {"href": f"{self.server.url}/lfs/{one['oid']}", "header": {}}}}
                    for one in json.loads(self.body)["objects"]
                ],
            }
        )

    def lfs_upload(self, oid):
        assert hashlib.sha256(self.body).hexdigest() == oid
        self.server.large[oid] = self.body
        self.send()

    def commit(self, repo, revision):
        self.may_write(repo)
        self.at(repo, revision)
        lines = [json.loads(line) for line in self.body.splitlines()]
        files = {
            line["value"]["path"]: base64.b64decode(line["value"]["content"])
            if line["key"] == "file"
            else self.server.large[line["value"]["oid"]]
            for line in lines
            if line["key"] in ("file", "lfsFile")
        }
        oid = self.repository(repo).commit(revision, files, lines[0]["value"]["summary"])
        self.json({"success": True, "commitOid": oid, "commitUrl": f"{self.server.url}/{repo}/commit/{oid}"})

    def info(self, repo, revision="main"):
        commit, files = self.at(repo, revision)
        siblings = [{"rfilename": name} for name in files]
        self.json({"id": repo, "modelId": repo, "sha": commit, "private": False, "tags": [], "siblings": siblings})

    def tree(self, repo, revision):
        _, files = self.at(repo, revision)
        self.json(
            [
                {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                for name, content in files.items()
            ]
        )

    def resolve(self, repo, revision, name):
        commit, files = self.at(repo, revision)
        if name not in files:
            raise RefusedError(404, "EntryNotFound", "Entry not found")
        etag = hashlib.sha1(files[name]).hexdigest()
        self.send(files[name], **{"ETag": f'"{etag}"', "X-Repo-Commit": commit})


_REPO = r"(?P<repo>[^/]+/[^/]+)"
_ROUTES = [
    (r"POST /api/validate-yaml", _Handler.validate_yaml),
    (r"POST /api/repos/create", _Handler.create),
    (rf"POST /api/models/{_REPO}/branch/(?P<revision>[^/]+)", _Handler.branch),
    (rf"POST /api/models/{_REPO}/preupload/(?P<revision>[^/]+)", _Handler.preupload),
    (rf"POST /{_REPO}\.git/info/lfs/objects/batch", _Handler.lfs_batch),
    (r"PUT /lfs/(?P<oid>[0-9a-f]{64})", _Handler.lfs_upload),
    (rf"POST /api/models/{_REPO}/commit/(?P<revision>[^/]+)", _Handler.commit),
    (rf"GET /api/models/{_REPO}", _Handler.info),
    (rf"GET /api/models/{_REPO}/revision/(?P<revision>[^/]+)", _Handler.info),
    (rf"GET /api/models/{_REPO}/tree/(?P<revision>[^/]+)", _Handler.tree),
    (rf"(?:GET|HEAD) /{_REPO}/resolve/(?P<revision>[^/]+)/(?P<name>[^/]+)", _Handler.resolve),
]
