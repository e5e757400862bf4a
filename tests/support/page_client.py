"""A page without a browser: it asks the server's functions over HTTP, as the page's own scripts do."""

import json
import re
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ui.page import build_page
from ui.security import guarded

STATE = re.compile(r'class="state (\w+)"')


@contextmanager
def launched(
    workspace: Path, *, can_train: bool = True, public_hosts: Sequence[str] = (), **options: Any
) -> Iterator[tuple[str, int]]:
    """The page over this workspace, in this process: its address, and the number of the strip's HTML."""
    page = build_page(workspace, can_train=can_train)
    door = guarded(public_hosts=public_hosts, visitors=not can_train)
    kept = {"app_kwargs": door, "ssr_mode": False, "quiet": True}
    page.launch(prevent_thread_lock=True, server_name="127.0.0.1", **kept, **options)
    try:
        strip = next(block._id for block in page.blocks.values() if block.elem_id == "strip")
        yield f"http://127.0.0.1:{page.server_port}", strip
    finally:
        page.close(verbose=False)


def called(url: str, component: int, function: str, asked: Any, **headers: str) -> tuple[int, Any]:
    """The status and the answer of a server function, asked for as Gradio's own frontend does."""
    body = {"session_hash": "visitor", "component_id": component, "fn_name": function, "data": asked}
    request = urllib.request.Request(
        f"{url}/gradio_api/component_server",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"} | headers,
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as refused:
        return refused.code, None


@dataclass
class PageClient:
    """One page that was opened at this address, in a session of its own."""

    url: str
    session: str = field(default_factory=lambda: uuid.uuid4().hex)
    owners: dict[str, int] = field(default_factory=dict)
    events: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        with urllib.request.urlopen(f"{self.url}/config", timeout=60) as response:
            config = json.load(response)
        self.events = {event["api_name"]: event for event in config["dependencies"]}
        for component in config["components"]:
            for name in component["props"].get("server_fns") or component.get("server_fns") or ():
                self.owners.setdefault(name, component["id"])

    def ask(self, function: str, **asked: Any) -> dict[str, Any]:
        """Returns what the server's function answers."""
        body = {"component_id": self.owners[function], "fn_name": function, "data": asked}
        return self._post("component_server", body)

    def fire(self, event: str, *data: Any) -> None:
        """Fires an event, and waits until it is done."""
        known = self.events[event]
        body = {"fn_index": known["id"], "data": data or [None] * len(known["inputs"])}
        if not known["queue"]:
            self._post("run/predict", body)
            return
        self._post("queue/join", body)
        with urllib.request.urlopen(
            f"{self.url}/gradio_api/queue/data?session_hash={self.session}", timeout=120
        ) as response:
            for line in response:
                if b"process_completed" in line:
                    return

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        request = urllib.request.Request(
            f"{self.url}/gradio_api/{path}",
            json.dumps(body | {"session_hash": self.session}).encode(),
            {"Content-Type": "application/json", "Origin": self.url},
        )
        with urllib.request.urlopen(request, timeout=120) as response:
            return json.load(response)

    def state(self, run: str) -> str:
        """Returns the state that the page shows of a run."""
        return STATE.search(self.ask("look", viewer=self.session, opened=run)["parts"]["head"]["html"])[1]
