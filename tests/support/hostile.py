"""Calls that no page makes: every function, event and route of a page, with values of the wrong kind."""

import json
import random
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ui.data.tab import ACTS
from ui.train import form_values

ODD: tuple[Any, ...] = (
    *(
        None,
        True,
        -1,
        0,
        2**63,
        1.5,
        1e308,
        float("nan"),
        float("inf"),
        "",
        " ",
        "de",
        "\ud800",
        "\0",
        "%s{}",
    ),
    *(
        "../../etc/passwd",
        "/etc/passwd",
        "C:\\x",
        "http://127.0.0.1:1/x",
        "<script>broken=1</script>",
        "a" * 3000,
    ),
    *([], [1], ["a"] * 50, [None], {}, {"a": 1}, {"path": "/etc/passwd", "name": "x"}, [[[[[]]]]]),
)
BIG = "ă" * 1_000_000
PATHS = (
    "run/predict",
    "queue/join",
    "queue/data",
    "queue/status",
    "component_server",
    "cancel",
    "reset",
    "upload",
    "info",
)


@dataclass(frozen=True)
class Answered:
    """`bare` is why an answer says nothing to the one who asked; empty where it says something."""

    what: str
    status: int
    text: str
    bare: str = ""


class Hostile:
    """Asks a page at `url` what its own scripts never ask; `seed` makes the same calls again."""

    def __init__(self, url: str, config: dict[str, Any], seed: int) -> None:
        self.url, self.random = url, random.Random(seed)
        self.session = uuid.uuid4().hex
        self.functions = [
            (component["id"], name)
            for component in config["components"]
            for name in component["props"].get("server_fns") or ()
        ]
        self.events = [each for each in config["dependencies"] if each["backend_fn"]]

    def calls(self, count: int) -> Iterator[Answered]:
        kinds = (self.function, self.function, self.event, self.route)
        for number in range(count):
            yield kinds[number % len(kinds)]()

    def odd(self) -> Any:
        return BIG if self.random.random() < 0.01 else self.random.choice(ODD)

    def asked(self) -> Any:
        """What a script of the page sends, with some of it odd; now and then nothing is as it should be."""
        if self.random.random() < 0.1:
            return self.odd()
        settings = {
            name: form_values.shown(name, form_values.default_of(name)) for name in form_values.FIELDS
        }
        now: dict[str, Any] = {"visitor": "v", "at": {"row": "0"}, "opened": [], "query": "", "first": 0}
        now |= {
            "view": "gallery",
            "row": "0",
            "action": "on",
            "fields": {},
            "files": [],
            "value": "shapes-vi",
        }
        now |= {"kind": 0, "issue": 0, "name": "x", "who": "base", "columns": {}, "run": "no-run"}
        asked: dict[str, Any] = {"settings": settings, "now": now, "act": self.random.choice([*ACTS])}
        asked |= {"run": "no-run", "key": "no-run", "do": "stop", "named": "no-run", "model": "starter"}
        asked |= {"name": "x", "note": "x", "base": "starter", "who": ["base"], "added": [], "of": ""}
        asked |= {"index": 0, "viewer": "v", "seen": {}, "opened": None, "token": "t", "folder": "x"}
        for part in (asked, settings, now):
            for name in self.random.sample([*part], self.random.choice((0, 0, 1, 1, 3))):
                if self.random.random() < 0.2:
                    del part[name]
                else:
                    part[name] = self.odd()
        return asked

    def function(self) -> Answered:
        component, name = self.random.choice(self.functions)
        body: dict[str, Any] = {"component_id": component, "fn_name": name, "session_hash": self.session}
        body["data"] = self.asked()
        if name in ("start", "add_dataset"):
            body["data"] = self.odd()  # no real run
        if self.random.random() < 0.1:
            body[self.random.choice([*body])] = self.odd()
        return self.post("component_server", body, name)

    def event(self) -> Answered:
        event = self.random.choice(self.events)
        body: dict[str, Any] = {"fn_index": event["id"], "session_hash": uuid.uuid4().hex, "event_data": None}
        body |= {"trigger_id": None, "data": [self.odd() for _ in event["inputs"]]}
        for name in self.random.sample([*body], self.random.choice((0, 0, 1, 1, 2))):
            body[name] = self.odd()
        if self.random.random() < 0.5:
            return self.post("run/predict", body, f"event {event['id']} at once")
        joined = self.post("queue/join", body, f"event {event['id']}")
        if joined.bare or joined.status != 200:
            return joined
        return self.heard(str(body["session_hash"]), joined.what)

    def heard(self, session: str, what: str) -> Answered:
        """What the queue says at last."""
        url = (
            f"{self.url}/gradio_api/queue/data?session_hash={urllib.request.quote(session, errors='replace')}"
        )
        try:
            with urllib.request.urlopen(url, timeout=120) as response:
                for line in response:
                    said = json.loads(line[6:]) if line.startswith(b"data: ") else {}
                    if said.get("msg") == "process_completed":
                        silent = not said["success"] and not (said["output"] or {}).get("error")
                        return Answered(what, 200, line.decode(), "error: null" if silent else "")
                    if said.get("msg") in ("unexpected_error", "close_stream"):
                        return Answered(what, 200, line.decode(), "" if said.get("message") else said["msg"])
        except urllib.error.HTTPError as refused:
            return judged(what, refused.code, refused.read().decode(errors="replace"))
        return Answered(what, 200, "", "the stream ended without an answer")

    def route(self) -> Answered:
        path = self.random.choice(PATHS)
        body = self.random.choice(
            (b"", b"{", b"[]", b"\xff\xfe", b"[" * 5000, json.dumps(self.odd()).encode())
        )
        return self.post(path, body, f"route {path}")

    def post(self, path: str, body: Any, what: str) -> Answered:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        request = urllib.request.Request(
            f"{self.url}/gradio_api/{path}", data, {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=120) as response:
                return Answered(what, response.status, response.read().decode(errors="replace"))
        except urllib.error.HTTPError as refused:
            return judged(what, refused.code, refused.read().decode(errors="replace"))


def judged(what: str, status: int, text: str) -> Answered:
    """An answer that refuses, and whether it says why."""
    try:
        said = json.loads(text)
        words = said.get("detail") or said.get("error") if isinstance(said, dict) else said
    except ValueError:
        words = text.strip()
    bare = not words or words in ("Internal Server Error", "Bad Request")
    return Answered(what, status, text, f"{status} without a word" if bare else "")
