"""A Hub on 127.0.0.1: enough of huggingface.co for the real client to find, list and download models."""

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from urllib.parse import unquote, urlsplit

TOKEN = "hf_thetokenofthisstub"


@dataclass
class Repo:
    """A repository: `branches` of files, and who may see it."""

    branches: dict[str, dict[str, bytes]]
    kind: str = "models"
    gated: bool = False
    private: bool = False

    def find(self, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """The commit and files of a branch or commit."""
        commits = {name: hashlib.sha1(name.encode()).hexdigest() for name in self.branches}
        return next(((sha, self.branches[n]) for n, sha in commits.items() if revision in (n, sha)), None)


@dataclass
class StubHub:
    """What the Hub holds, and what it was asked.

    `cut` breaks the next download of a file after so many bytes; a `held` file is sent when its event is set.
    Until they are taken out, a file in `dead` breaks off before its first byte, one in `answers` is refused
    with a status, and one in `damaged` has a bit turned.
    """

    repos: dict[str, Repo] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    cut: dict[str, int] = field(default_factory=dict)
    held: dict[str, Event] = field(default_factory=dict)
    dead: set[str] = field(default_factory=set)
    answers: dict[str, int] = field(default_factory=dict)
    damaged: set[str] = field(default_factory=set)
    status: int = 200
    endpoint: str = ""

    def add(self, name: str, files: dict[str, bytes] | Path, **values) -> None:
        if isinstance(files, Path):
            files = {path.name: path.read_bytes() for path in files.iterdir() if path.is_file()}
        self.repos[name] = Repo({"main": files}, **values)


@contextmanager
def serving(handler: type["Handler"] | None = None) -> Iterator[StubHub]:
    """A stub Hub that answers until the block ends."""
    hub = StubHub()
    bound = type("Bound", (handler or Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), bound)
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    Thread(target=server.serve_forever, daemon=True).start()
    yield hub
    server.shutdown()
    server.server_close()


class Handler(BaseHTTPRequestHandler):
    hub: StubHub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append(f"{self.command} {path}")
        if self.hub.status != 200:
            return self._send(self.hub.status)
        if found := re.fullmatch(r"/api/(\w+)/([^/]+/[^/]+)(?:/(revision|tree)/(.+)|/(discussions))?", path):
            return self._api(*found.groups())
        if found := re.fullmatch(r"/(datasets/)?([^/]+/[^/]+)/resolve/(refs/pr/\d+|[^/]+)/(.+)", path):
            return self._file("datasets" if found[1] else "models", *found.groups()[1:])
        return self._send(404)

    do_HEAD = do_GET

    def _api(self, kind: str, name: str, what: str | None, revision: str | None, talk: str | None) -> None:
        repo = self._allowed(name, kind)
        if repo is None:
            return None
        if talk:
            pulls = [branch for branch in repo.branches if branch.startswith("refs/pr/")]
            rows = [self._pull(name, branch.rpartition("/")[2]) for branch in pulls]
            return self._json({"discussions": rows, "count": len(rows), "start": 0})
        branch, folder = re.fullmatch(r"(refs/pr/\d+|[^/]+)/?(.*)", revision or "main").groups()
        found = repo.find(branch)
        if found is None:
            return self._send(404, {"X-Error-Code": "RevisionNotFound"})
        sha, files = found
        if what == "tree":
            entries = _entries(files, f"{folder}/" if folder else "", "recursive=true" in self.path.lower())
            return self._json(entries) if entries else self._send(404, {"X-Error-Code": "EntryNotFound"})
        siblings = [_sibling(path, content) for path, content in files.items()]
        return self._json({"id": name, "sha": sha, "siblings": siblings, "private": repo.private, "tags": []})

    def _pull(self, name: str, number: str) -> dict:
        author, date = {"name": "SFconvertbot"}, "2024-01-01T00:00:00.000Z"
        state = {
            "status": "open",
            "isPullRequest": True,
            "createdAt": date,
            "repo": {"name": name, "type": "model"},
        }
        return {"num": int(number), "title": "Adding `safetensors`", "author": author, **state}

    def _file(self, kind: str, name: str, revision: str, path: str) -> None:
        repo = self._allowed(name, kind)
        if repo is None:
            return None
        if repo.gated and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._send(403, {"X-Error-Code": "GatedRepo"})
        found = repo.find(revision)
        if found is None or path not in found[1]:
            return self._send(404, {"X-Error-Code": "EntryNotFound" if found else "RevisionNotFound"})
        if path in self.hub.answers:
            return self._send(self.hub.answers[path])
        sha, content = found[0], found[1][path]
        # A large file is named by its sha256, as the Hub does.
        etag = (hashlib.sha256 if path.endswith(".safetensors") else hashlib.sha1)(content).hexdigest()
        if path in self.hub.damaged:
            content = content[:-1] + bytes([content[-1] ^ 1])
        start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").split("-")[0])
        headers = {"ETag": f'"{etag}"', "X-Repo-Commit": sha}
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            self.hub.requests[-1] += f" from {start}"
        return self._send(206 if start else 200, headers, content[start:], cut=path)

    def _allowed(self, name: str, kind: str) -> Repo | None:
        repo, token = self.hub.repos.get(name), self.headers.get("Authorization")
        if token not in (None, f"Bearer {TOKEN}"):
            self._send(401, {"X-Error-Message": "Invalid credentials in Authorization header"})
        elif repo is None or repo.kind != kind or (repo.private and token is None):
            self._send(404 if token else 401, {"X-Error-Code": "RepoNotFound"})
        else:
            return repo
        return None

    def _json(self, content: object) -> None:
        self._send(200, {"Content-Type": "application/json"}, json.dumps(content).encode())

    def _send(
        self, status: int, headers: dict[str, str] | None = None, body: bytes = b"", cut: str = ""
    ) -> None:
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            if cut in self.hub.held:
                self.hub.held[cut].wait(timeout=60)
            part = self.hub.cut.pop(cut, 0 if cut in self.hub.dead else None)
            self.wfile.write(body[:part])
            self.close_connection = part is not None

    def log_message(self, *args: object) -> None:
        """Nothing: what was asked is in `requests`."""


def _sibling(path: str, content: bytes) -> dict:
    told = {"rfilename": path, "size": len(content)}
    if path.endswith(".safetensors"):
        large = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
        told |= {"lfs": large}
    return told


def _entries(files: dict[str, bytes], folder: str, recursive: bool) -> list[dict]:
    """Files in a folder, those below it too or the folders they lie in."""
    below = {path: content for path, content in files.items() if path.startswith(folder)}
    direct = [_entry(path, content) for path, content in below.items() if "/" not in path[len(folder) :]]
    deeper = [path for path in below if "/" in path[len(folder) :]]
    if recursive:
        return [_entry(path, content) for path, content in below.items()]
    folders = dict.fromkeys(folder + path[len(folder) :].split("/")[0] for path in deeper)
    return direct + [{"type": "directory", "path": path, "size": 0, "oid": "0" * 40} for path in folders]


def _entry(path: str, content: bytes) -> dict:
    return {"type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
