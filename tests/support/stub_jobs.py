"""Hugging Face Jobs on 127.0.0.1, beside the stub Hub: repositories are written, jobs are real processes."""

import base64
import json
import os
import re
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from support.stub_hub import TOKEN, Handler, Repo

FLAVORS = ("cpu-basic", "t4-small", "a10g-large")
USER = "tester"


@dataclass
class Jobs:
    """What was asked for, the process at work, and where both keep their files.

    A `script` for the shell is run in the place of a job's own command. Each commit takes the first of
    `refusals` for its answer: a status, or 0 for a connection that breaks off.
    """

    folder: Path
    script: str | None = None
    specs: list[dict] = field(default_factory=list)
    process: subprocess.Popen[bytes] | None = None
    cancelled: bool = False
    refusals: list[int] = field(default_factory=list)
    # The same for the next large files; what has arrived, by its SHA-256; and what the token may.
    broken: list[int] = field(default_factory=list)
    objects: dict[str, bytes] = field(default_factory=dict)
    role: str = "write"

    @property
    def log(self) -> Path:
        return self.folder / "job.log"

    def start(self, spec: dict, hub) -> None:
        """Mount the repository and run the command, as the platform does with the image's own Python."""
        self.specs.append(spec)
        [volume] = spec["volumes"]
        mount, tools = self.folder / "mounted", self.folder / "tools"
        for name, content in hub.repos[volume["source"]].branches["main"].items():
            (mount / name).parent.mkdir(parents=True, exist_ok=True)
            (mount / name).write_bytes(content)
        tools.mkdir()
        for name, does in (("pip", "true"), ("python", f'exec {sys.executable} "$@"')):
            (tools / name).write_text(f"#!/bin/sh\n{does}\n")
            (tools / name).chmod(0o755)
        script = self.script or spec["command"][2]
        script = script.replace(volume["mountPath"] + "/", f"{mount}/").replace(
            "/tmp/lora-lens", f"{tools}/code"
        )
        script = re.sub(rf"{volume['mountPath']}$", str(mount), script)
        ours = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(self.folder / "home"), "HF_HUB_OFFLINE": "0"}
        theirs = spec["environment"] | spec["secrets"] | {"LORA_LENS_WORKSPACE": str(self.folder / "away")}
        path = f"{tools}:{os.environ['PATH']}"
        environment = os.environ | theirs | ours | {"HF_HUB_DISABLE_XET": "1", "PATH": path}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                ["sh", "-c", script], env=environment, stdout=log, stderr=log, start_new_session=True
            )

    def facts(self) -> dict:
        code = None if self.process is None else self.process.poll()
        stage = "RUNNING" if code is None else "COMPLETED" if code == 0 else "ERROR"
        message = f"Job failed with exit code: {code}" if code else None
        status = {"stage": "CANCELED" if self.cancelled else stage, "message": message}
        return {"id": "job1", "status": status, "owner": {"id": "1", "name": USER, "type": "user"}}

    def cancel(self) -> None:
        self.cancelled = True
        os.killpg(self.process.pid, 9)
        self.process.wait()


class JobsHandler(Handler):
    """The stub Hub's, and what a job needs of the Hub besides."""

    jobs: Jobs

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/auth-check(/write)?", path):
            return self._json({}) if self._allowed(found[1], "models") else None
        if not path.startswith(("/api/jobs", "/api/whoami")):
            return super().do_GET()
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._send(401, {"X-Error-Message": "Invalid credentials in Authorization header"})
        if path == "/api/whoami-v2":
            token = {"accessToken": {"displayName": "t", "role": self.jobs.role}}
            return self._json({"name": USER, "type": "user", "orgs": [{"name": "team"}], "auth": token})
        if path == "/api/jobs/hardware":
            price = {"cpu": "", "ram": "", "unitCostMicroUSD": 1, "unitCostUSD": 1e-6, "unitLabel": "minute"}
            return self._json([{"name": name, "prettyName": name, **price} for name in FLAVORS])
        return self._logs() if path.endswith("/logs") else self._json(self.jobs.facts())

    do_HEAD = Handler.do_GET

    def do_POST(self) -> None:
        path = self.path.split("?")[0]
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if path == "/api/validate-yaml":
            return self._json({"errors": [], "warnings": []})
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._send(401)
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked.get('organization') or USER}/{asked['name']}"
            kind = "datasets" if asked.get("type") == "dataset" else "models"
            if name in self.hub.repos:
                return self._send(409, {"X-Error-Message": f"You already created {name}"})
            private = asked.get("visibility") == "private" or asked.get("private", False)
            self.hub.repos[name] = Repo({"main": {}}, kind=kind, private=private)
            return self._json({"url": f"{self.hub.endpoint}/{'datasets/' * (kind == 'datasets')}{name}"})
        if found := re.fullmatch(r"/api/(?:datasets|models)/([^/]+/[^/]+)/(preupload|commit)/main", path):
            return self._write(*found.groups(), body)
        if path.endswith("/info/lfs/objects/batch"):
            return self._batch(json.loads(body)["objects"])
        if path.endswith("/cancel"):
            self.jobs.cancel()
        else:
            self.jobs.start(json.loads(body), self.hub)
        return self._json(self.jobs.facts())

    def do_DELETE(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)))
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._send(401)
        del self.hub.repos[f"{asked.get('organization') or USER}/{asked['name']}"]
        return self._json({})

    def _batch(self, objects: list[dict]) -> None:
        """Where each large file is to be sent; one that is here needs no sending."""
        told = []
        for one in objects:
            upload = {"upload": {"href": f"{self.hub.endpoint}/lfs/{one['oid']}", "header": {}}}
            known = one["oid"] in self.jobs.objects
            told.append({"oid": one["oid"], "size": one["size"]} | ({} if known else {"actions": upload}))
        self._json({"transfer": "basic", "objects": told})

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.hub.requests.append(f"PUT {self.path}")
        if self.jobs.broken:
            return self._break(self.jobs.broken.pop(0))
        self.jobs.objects[self.path.rpartition("/")[2]] = body
        return self._send(200)

    def _break(self, status: int) -> None:
        if status:
            return self._send(status)
        self.connection.shutdown(socket.SHUT_RDWR)
        self.close_connection = True
        return None

    def _write(self, name: str, what: str, body: bytes) -> None:
        if what == "preupload":
            files = [file["path"] for file in json.loads(body)["files"]]
            # As the Hub does by .gitattributes: weights and pictures are large files.
            modes = {path: "lfs" if path.endswith((".safetensors", ".png")) else "regular" for path in files}
            told = [{"path": path, "uploadMode": mode, "shouldIgnore": False} for path, mode in modes.items()]
            return self._json({"files": told})
        if self.jobs.refusals:
            return self._break(self.jobs.refusals.pop(0))
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                content = base64.b64decode(line["value"]["content"])
                self.hub.repos[name].branches["main"][line["value"]["path"]] = content
            elif line["key"] == "lfsFile":
                content = self.jobs.objects[line["value"]["oid"]]
                self.hub.repos[name].branches["main"][line["value"]["path"]] = content
        url = f"{self.hub.endpoint}/{name}/commit/{'0' * 40}"
        return self._json({"commitUrl": url, "commitOid": "0" * 40, "hookOutput": ""})

    def _logs(self) -> None:
        """Every line of the log as an event of its own, and those to come, until the job ends."""
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        self.close_connection = True
        with self.jobs.log.open(encoding="utf-8") as log:
            while True:
                ended = self.jobs.process.poll() is not None
                for line in log.readlines():
                    event = {"data": line, "timestamp": "2026-01-01T00:00:00.000Z"}
                    self.wfile.write(f"data: {json.dumps(event)}\n\n".encode())
                self.wfile.flush()
                if ended:
                    return
                time.sleep(0.05)
