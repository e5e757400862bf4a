"""Lazy import of torch, transformers and PEFT, by one thread. Nothing is imported before it is needed."""

import threading

# transformers replaces its own module while it is imported: a second thread that imports a name from it
# meanwhile fails with an ImportError.
_import_lock = threading.Lock()


def import_torch() -> None:
    """Imports torch, transformers and PEFT once; other threads wait until they are complete.

    To be called before anything that imports them, wherever threads of the page may come.
    """
    with _import_lock:
        import transformers  # noqa: F401

        import vlm.adapters  # noqa: F401
