"""The container's files: what Dockerfile, compose.yaml and .dockerignore say, held without building anything.

What a build does is tried by tools/container.sh; docs/container.md has what it found.
"""

import http.server
import json
import re
import subprocess
import sys
import threading
from pathlib import Path, PurePosixPath

import pytest
import yaml

import app
from support.dockerfile import INSTRUCTIONS, healthy, place_of, rest_of
from support.source_tree import ROOMS, ROOT, project_files

ENVIRONMENT = dict(re.findall(r"(\w+)=(\S+)", " ".join(rest for word, rest in INSTRUCTIONS if word == "ENV")))
SERVICES = yaml.safe_load((ROOT / "compose.yaml").read_text("utf-8"))["services"]
SECRET = re.compile(r"PASSWORD|TOKEN|SECRET|KEY|NO_AUTH")


def step(part: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Carries out the RUN with this text, on a PATH that holds nothing but what the folder does."""
    [command] = [re.sub(r"^(--\S+\s+)*", "", rest) for rest in rest_of("RUN") if part in rest]
    return subprocess.run(
        ["/bin/sh", "-c", command], env=environment | {"PATH": str(folder)}, text=True, capture_output=True
    )


def program(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{text}\n")
    (folder / name).chmod(0o755)


def test_the_page_runs_as_uid_1000_and_owns_its_volume_alone():
    assert rest_of("USER") == ["1000"]
    assert place_of("USER", "1000") < place_of("CMD", "app.py")
    # What is done to a folder behind its VOLUME is dropped.
    made = place_of("RUN", "--owner=lens --group=lens /workspace")
    assert place_of("RUN", "--uid 1000 lens") <= made < place_of("VOLUME", "/workspace")
    assert [rest for rest in rest_of("COPY") if "--chown" in rest] == []
    assert [rest for rest in rest_of("RUN") if "chown" in rest or "chmod" in rest] == []


def test_all_that_must_last_lies_in_the_volume():
    assert rest_of("VOLUME") == ["/workspace"]
    assert ENVIRONMENT["LORA_LENS_WORKSPACE"] == "/workspace"
    assert ENVIRONMENT["HF_HOME"].startswith("/workspace/")
    assert {service["volumes"][0].split(":")[1] for service in SERVICES.values()} == {"/workspace"}


def test_a_change_of_the_code_fetches_no_package_again():
    assert place_of("COPY", "requirements.txt .") < place_of("RUN", "pip install") < place_of("COPY", ". .")


def test_the_files_of_the_container_hold_no_secret():
    baked = [rest for word in ("ENV", "ARG", "LABEL") for rest in rest_of(word) if SECRET.search(rest)]
    assert baked == []
    given = {
        name: value
        for service in SERVICES.values()
        for name, value in service["environment"].items()
        if SECRET.search(name) and value is not None
    }
    assert [*given] == ["LORA_LENS_PASSWORD"]
    assert re.fullmatch(r"\$\{LORA_LENS_PASSWORD:\?[^}]+\}", given["LORA_LENS_PASSWORD"])


def test_a_container_without_a_password_does_not_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("LORA_LENS_PASSWORD", "LORA_LENS_NO_AUTH", "SPACE_ID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in (ENVIRONMENT | {"LORA_LENS_WORKSPACE": str(tmp_path / "new")}).items():
        monkeypatch.setenv(name, value)
    started = json.loads(rest_of("CMD")[0])
    assert started == ["python", "app.py", "--host", "0.0.0.0"]
    with pytest.raises(SystemExit, match="Set LORA_LENS_PASSWORD"):
        app.main(started[2:])
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("service", SERVICES.values(), ids=SERVICES)
def test_compose_waits_longer_than_the_page_does_for_its_runs(service: dict):
    assert ENVIRONMENT["LORA_LENS_STOP_RUNS"] == "1"
    assert float(service["stop_grace_period"].removesuffix("s")) > app.HOST_GRACE_S
    assert service["init"] is True


@pytest.mark.parametrize("service", SERVICES.values(), ids=SERVICES)
def test_compose_opens_the_port_of_the_page_to_its_own_machine_alone(service: dict):
    assert service["ports"] == [f"127.0.0.1:{ENVIRONMENT['PORT']}:{ENVIRONMENT['PORT']}"]
    assert rest_of("EXPOSE") == [ENVIRONMENT["PORT"]]
    assert service["cap_drop"] == ["ALL"]
    assert "privileged" not in service


def test_cards_are_asked_for_by_one_service_that_does_not_start_by_itself():
    assert [name for name, service in SERVICES.items() if "profiles" not in service] == ["lens"]
    cuda = SERVICES["lens-cuda"]
    assert cuda["build"]["args"] == {"DEVICE": "cuda"}
    [device] = cuda["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["capabilities"]) == ("nvidia", ["gpu"])
    assert "deploy" not in SERVICES["lens"]
    assert cuda["image"] != SERVICES["lens"]["image"]


@pytest.mark.parametrize(
    ("device", "code", "said"),
    [
        ("cpu", 0, ""),
        ("cuda", 7, "update\n"),
        ("gpu", 1, "DEVICE is cpu or cuda, not gpu.\n"),
        ("", 1, "DEVICE is"),
    ],
)
def test_a_c_compiler_is_for_cuda_and_another_device_is_refused(
    tmp_path: Path, device: str, code: int, said: str
):
    program(tmp_path, "apt-get", "echo $*; exit 7")
    ended = step("apt-get", tmp_path, DEVICE=device)
    assert ended.returncode == code
    assert (ended.stdout + ended.stderr).startswith(said)
    assert bool(ended.stdout) == (device == "cuda")


@pytest.mark.parametrize(
    ("device", "cuda", "code"), [("cpu", None, 0), ("cpu", "13.0", 1), ("cuda", "13.0", 0)]
)
def test_an_image_for_cpus_takes_torch_from_its_index_and_none_with_cuda(
    tmp_path: Path, device: str, cuda: str | None, code: int
):
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "version.py").write_text(f"cuda = {cuda!r}\n")
    (tmp_path / "torch" / "__init__.py").write_text("from torch import version\n")
    program(tmp_path, "pip", 'echo "$PIP_EXTRA_INDEX_URL" "$@"')
    program(tmp_path, "python", f'exec {sys.executable} "$@"')
    ended = step("pip install", tmp_path, DEVICE=device, TORCH_INDEX="the index", PYTHONPATH=str(tmp_path))
    index = "the index" if device == "cpu" else ""
    assert ended.stdout == f"{index} install --cache-dir /tmp/.cache/pip -r requirements.txt\n"
    assert ended.returncode == code
    assert ("This torch has CUDA: is the index reached?" in ended.stderr) == bool(code)


def goes_in(path: str) -> bool:
    """Whether `COPY . .` takes a file: the last line decides that names it or a folder of it."""
    taken = True
    named = [path, *map(str, PurePosixPath(path).parents)][:-1]
    for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines():
        pattern = re.escape(line.removeprefix("!")).replace(r"\*\*/", "(?:.*/)?").replace(r"\*", "[^/]*")
        if not line.startswith("#") and any(re.fullmatch(pattern, each) for each in named):
            taken = line.startswith("!")
    return taken


def test_the_image_holds_what_the_page_needs_and_nothing_else():
    beside = {"LICENSE", "app.py", "requirements.txt"}
    needed = {
        path
        for path in project_files()
        if path in beside or path.startswith(tuple(f"{room}/" for room in ROOMS))
    }
    assert {path for path in project_files() if goes_in(path)} == needed
    kept_out = [".git/config", ".venv/bin/python", "workspace/runs/demo/status.json", ".env", "training/.env"]
    kept_out += [
        "vlm/__pycache__/errors.pyc",
        "ui/.gradio/a",
        "build/lib/app.py",
        "lora_lens.egg-info/PKG-INFO",
    ]
    assert [path for path in kept_out if goes_in(path)] == []


def test_the_healthcheck_sees_an_answer_that_is_none():
    class Broken(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(500)

        def log_message(self, *_: object) -> None: ...

    with http.server.HTTPServer(("127.0.0.1", 0), Broken) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        assert not healthy(server.server_port)
