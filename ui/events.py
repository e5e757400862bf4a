"""How the page's events are wired: the options that quick and slow ones share."""

from collections.abc import Callable
from typing import Any

Trigger = Callable[..., Any]
"""What `gr.on` waits for: `button.click`, `tab.select`, …"""

# Gradio's frontend sends the state of every event to each component that was ever a target of progress, by a
# search of the whole tree for each (docs/decisions/page.md): with no target there is none to search.
_LIGHT: dict[str, Any] = {"show_progress": "hidden", "show_progress_on": [], "api_visibility": "private"}

QUIET: dict[str, Any] = {"queue": False, **_LIGHT}
"""Quick events: answered at once, beside the queue."""

QUEUED: dict[str, Any] = {**_LIGHT}
"""Events that read a dataset, count a model or ask one; each kind has its own `concurrency_id`."""
