"""Who may call the functions behind the page: the login holds for them, and the path of a proxy does too."""

import json
import os
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from email.message import Message
from typing import Any
from urllib.parse import urlsplit

import pytest

from support.dockerfile import healthy
from support.page_client import called, launched
from training import runs
from training.config import TrainingConfig
from ui import security


def test_without_the_login_nothing_is_told_of_a_run_and_nothing_stopped(tmp_path):
    run = runs.prepare(TrainingConfig(name="demo", workspace=tmp_path))
    with launched(tmp_path, auth=("owner", "open sesame")) as (url, strip), runs.hold_lock(run):
        assert called(url, strip, "look", {}) == (401, None)
        assert called(url, strip, "act", {"do": "stop", "run": "demo"}) == (401, None)
        assert not runs.stop_requested(run)


@pytest.mark.parametrize("root_path", [None, "/lens"])
def test_the_run_under_way_is_told_also_under_the_path_of_a_proxy(tmp_path, root_path):
    run = runs.prepare(TrainingConfig(name="demo", workspace=tmp_path))
    with launched(tmp_path, root_path=root_path) as (url, strip), runs.hold_lock(run):
        status, answer = called(url, strip, "look", {"viewer": "a"})
        assert (status, answer["live"], answer["again_s"]) == (200, "demo", 1.0)
        with urllib.request.urlopen(f"{url}/config", timeout=30) as response:
            assert json.load(response)["root"].endswith(root_path or url)


def test_a_post_from_another_page_is_refused_and_one_from_this_page_is_not(tmp_path):
    with launched(tmp_path) as (url, strip):
        assert called(url, strip, "look", {}, Origin="http://evil.example") == (403, None)
        assert called(url, strip, "look", {}, Origin=f"{url}0") == (403, None)
        assert called(url, strip, "look", {}, Origin=url)[0] == 200


def test_where_nobody_may_train_a_run_can_be_looked_at_and_not_stopped(tmp_path):
    run = runs.prepare(TrainingConfig(name="demo", workspace=tmp_path))
    with launched(tmp_path, can_train=False) as (url, strip), runs.hold_lock(run):
        assert called(url, strip, "look", {})[1]["run"] == "demo"
        assert called(url, strip, "act", {"do": "stop", "run": "demo"}) == (404, None)
        assert not runs.stop_requested(run)


def answered(url: str, method: str = "GET", data: Any = None, **headers: str) -> tuple[int, Message]:
    """Status and headers of an answer; `_` in a header's name stands for a hyphen."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(url, data, named, method=method)
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return response.status, response.headers
    except urllib.error.HTTPError as refused:
        return refused.code, refused.headers


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a page that no proxy stands before."""
    with launched(tmp_path_factory.mktemp("workspace")) as (url, _):
        yield url


FOREIGN = ("http://localhost:3000", "http://127.0.0.1:1", "https://evil.example", "null", "http://[::1]:3000")


@pytest.mark.parametrize("origin", FOREIGN)
@pytest.mark.parametrize("forwarded", [None, "own"])
def test_a_foreign_page_changes_nothing_whatever_it_says_was_forwarded(local, origin, forwarded):
    join = f"{local}/gradio_api/queue/join"
    sent = {"X_Forwarded_Host": urlsplit(origin).netloc or "null"} if forwarded else {}
    assert answered(join, "POST", b"{}", Origin=origin, **sent)[0] == 403
    asked = {"Access_Control_Request_Method": "POST", "Access_Control_Request_Headers": "x-forwarded-host"}
    status, headers = answered(join, "OPTIONS", Origin=origin, **asked, **sent)
    assert status == 403
    assert [name for name in headers if name.lower().startswith("access-control-")] == []


@pytest.mark.parametrize("origin", FOREIGN)
@pytest.mark.parametrize("path", ["token", "info", "../config", "../", "startup-events"])
def test_a_foreign_page_may_read_nothing(local, origin, path):
    _, headers = answered(f"{local}/gradio_api/{path}", Origin=origin)
    assert [name for name in headers if name.lower().startswith("access-control-")] == []


def test_the_page_itself_is_let_in(local):
    own = local.replace("127.0.0.1", "localhost")
    for url in (local, own):
        assert answered(f"{url}/gradio_api/queue/join", "POST", b"{}", Origin=url)[0] not in (400, 403)
        assert answered(f"{url}/config", Origin=url)[0] == 200
    assert answered(f"{local}/config", Host="evil.example")[0] == 400


def test_browsers_are_told_what_to_keep_to(local):
    _, headers = answered(local)
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "same-origin"
    frames = "frame-ancestors 'self' https://huggingface.co https://*.hf.space"
    assert headers["Content-Security-Policy"] == frames


@pytest.mark.parametrize("public_host", ["lens.example.org", "lens.example.org:8443"])
def test_behind_a_proxy_its_own_name_is_let_in_and_no_other(tmp_path, public_host):
    with launched(tmp_path, public_hosts=[public_host]) as (url, _):
        join = f"{url}/gradio_api/queue/join"
        own = f"https://{public_host}"
        # nginx's default: the host that it asks; else the one that it was asked.
        for host in (urlsplit(url).netloc, public_host):
            assert answered(join, "POST", b"{}", Origin=own, Host=host)[0] not in (400, 403)
        status, headers = answered(join, "POST", b"{}", Origin="https://evil.example")
        assert (status, headers["X-Lora-Lens-Refused"]) == (403, "origin")
        forged = {"X_Forwarded_Host": "evil.example"}
        assert answered(join, "POST", b"{}", Origin="https://evil.example", **forged)[0] == 403


def test_an_unknown_host_is_told_what_to_start_the_server_with(local):
    request = urllib.request.Request(f"{local}/lens/", headers={"Host": "lens.example.org"})
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=30)
    assert refused.value.code == 400
    assert "--public_host lens.example.org" in refused.value.read().decode()


@pytest.mark.parametrize(
    "path", ["/login%0a", "/gradio_api/upload%0a", "/gradio_api/run/a%0aFORGED%1b%5b31m"]
)
def test_a_line_break_makes_no_other_spelling_of_a_route(local, path):
    assert answered(local + path, "POST", b"{}", **{"Content-Type": "application/json"})[0] == 404


@pytest.mark.parametrize("sent", [{"Origin": "http://["}, {"Origin": "http://a", "Referer": "http://["}])
def test_what_is_no_address_is_foreign(local, sent):
    status, headers = answered(local + "/gradio_api/queue/join", "POST", b"{}", **sent)
    assert (status, headers["x-lora-lens-refused"]) == (403, "origin")


def test_another_page_logs_nobody_out(local):
    # A picture of another page asks without an origin, with Gradio's cookie of SameSite=None.
    assert answered(local + "/logout", **{"Sec-Fetch-Site": "cross-site"})[0] == 403
    assert answered(local + "/logout/", **{"Sec-Fetch-Site": "same-site"})[0] == 403
    assert answered(local + "/logout", **{"Sec-Fetch-Site": "same-origin"})[0] != 403


def uploaded(url: str, size: int, named: str = "; filename=a.png") -> int:
    body = f"--x\r\nContent-Disposition: form-data; name=files{named}\r\n\r\n".encode() + b"a" * size
    request = urllib.request.Request(
        f"{url}/gradio_api/upload",
        body + b"\r\n--x--\r\n",
        {"Content-Type": "multipart/form-data; boundary=x"},
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return response.status
    except urllib.error.HTTPError as refused:
        return refused.code


def test_a_file_without_a_name_is_no_error_of_the_server(local):
    names = (
        "",
        '; filename=""',
        '; filename="../../a.png"',
        f"; filename={'a' * 300}",
        "; filename=" + "a" * 5000,
    )
    assert [uploaded(local, 10, named) for named in names] == [400, 200, 200, 200, 413]


def test_a_body_of_unknown_length_is_read_to_its_bound_and_no_further(local, monkeypatch):
    monkeypatch.setattr(security, "LONGEST_BODY", 1000)

    def join(size: int) -> int:
        body = iter([b"{}", b" " * (size - 2)])  # no length is said: it comes in chunks
        return answered(f"{local}/gradio_api/queue/join", "POST", body, Content_Type="application/json")[0]

    assert (join(1000), join(1001)) == (422, 413)


def test_all_visitors_together_send_so_much_in_an_hour_and_no_more(tmp_path, monkeypatch):
    monkeypatch.setattr(security, "VISITORS_UPLOADS", 10_000)
    with launched(tmp_path, can_train=False) as (url, _):
        assert [uploaded(url, 4000) for _ in range(4)] == [200, 200, 413, 413]
    with launched(tmp_path) as (url, _):
        assert [uploaded(url, 4000) for _ in range(4)] == [200] * 4


def test_uploads_under_way_count_together(tmp_path, monkeypatch):
    monkeypatch.setattr(security, "VISITORS_UPLOADS", 6000)
    with launched(tmp_path, can_train=False) as (url, _):
        host, port = url.removeprefix("http://").split(":")
        kinds = ["Content-Type: multipart/form-data; boundary=x", "Transfer-Encoding: chunked"]
        head = "\r\n".join(["POST /gradio_api/upload HTTP/1.1", f"Host: {host}:{port}", *kinds, "", ""])
        part = b"--x\r\nContent-Disposition: form-data; name=files; filename=a.png\r\n\r\n" + b"a" * 4000
        both = [socket.create_connection((host, int(port)), timeout=30) for _ in range(2)]
        for each in both:
            each.sendall(head.encode() + b"%x\r\n%b\r\n" % (len(part), part))
        end = b"\r\n--x--\r\n"
        answers = []
        for each in both:
            with suppress(OSError):  # answered already
                each.sendall(b"%x\r\n%b\r\n0\r\n\r\n" % (len(end), end))
            answers.append(each.recv(100).split()[1])
            each.close()
        assert sorted(answers) in ([b"200", b"413"], [b"413", b"413"])


def test_the_containers_healthcheck_needs_no_login_and_misses_a_page_that_is_gone(tmp_path):
    with launched(tmp_path, auth=("owner", "open sesame"), root_path="/lens") as (url, _):
        port = urlsplit(url).port
        assert healthy(port)
    assert not healthy(port)


def test_uploads_that_broke_off_are_removed_after_an_hour(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    broken_off, new = tmp_path / "tmpabc", tmp_path / "tmpdef"
    broken_off.write_bytes(b"a")
    new.write_bytes(b"a")
    os.utime(broken_off, (0, 0))
    with launched(tmp_path / "workspace", can_train=False) as (url, _):
        answered(
            url + "/gradio_api/upload", "POST", b"no form", Content_Type="multipart/form-data; boundary=x"
        )
    assert not broken_off.exists()
    assert new.exists()
