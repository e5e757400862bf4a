"""torch, transformers and peft, imported once and by one thread. Nothing is imported before it is asked for.

transformers puts another module in its own place while it is imported: a second thread that asks it for a
name meanwhile is told that there is none.
"""

import threading

_importing = threading.Lock()


def import_heavy() -> None:
    """Call this before what imports torch, wherever a page's threads may come: they wait for one another."""
    with _importing:
        import transformers  # noqa: F401

        import vlm.adapters  # noqa: F401
