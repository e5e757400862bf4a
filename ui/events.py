"""How the page's events are wired: the options that quick and slow ones share."""

from collections.abc import Callable
from typing import Any

Trigger = Callable[..., Any]
"""What `gr.on` waits for: `button.click`, `tab.select`, …"""

QUIET: dict[str, Any] = {"show_progress": "hidden", "queue": False, "api_visibility": "private"}
"""Quick events: answered at once, beside the queue."""

QUEUED: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
"""Events that read a dataset, count a model or ask one; each kind has its own `concurrency_id`."""
