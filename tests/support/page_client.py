"""A page without a browser: it asks the server's functions over HTTP, as the page's own scripts do."""

import json
import re
import urllib.request
import uuid
from dataclasses import dataclass, field
from typing import Any

STATE = re.compile(r'class="state (\w+)"')


@dataclass
class PageClient:
    """One page that was opened at this address, in a session of its own."""

    url: str
    session: str = field(default_factory=lambda: uuid.uuid4().hex)
    owners: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        with urllib.request.urlopen(f"{self.url}/config", timeout=60) as response:
            components = json.load(response)["components"]
        for component in components:
            for name in component["props"].get("server_fns") or component.get("server_fns") or ():
                self.owners.setdefault(name, component["id"])

    def ask(self, function: str, **asked: Any) -> dict[str, Any]:
        """Returns what the server's function answers."""
        body = {"component_id": self.owners[function], "fn_name": function, "data": asked}
        request = urllib.request.Request(
            f"{self.url}/gradio_api/component_server",
            json.dumps(body | {"session_hash": self.session}).encode(),
            {"Content-Type": "application/json", "Origin": self.url},
        )
        with urllib.request.urlopen(request, timeout=120) as response:
            return json.load(response)

    def state(self, run: str) -> str:
        """Returns the state that the page shows of a run."""
        return STATE.search(self.ask("look", viewer=self.session, opened=run)["parts"]["head"]["html"])[1]
