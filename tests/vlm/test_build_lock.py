"""Models built by several threads at once, as on the page: each is whole, and shares the weights it ties."""

import copy
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from vlm import adapters
from vlm.models.loading import blueprint_model, load_base
from vlm.settings import AdapterSettings, ModelSettings


@contextmanager
def meanwhile(work: Callable[[], object]) -> Iterator[None]:
    """Another thread does this again and again."""
    over = threading.Event()

    def keep_working() -> None:
        while not over.is_set():
            work()

    thread = threading.Thread(target=keep_working)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def test_weights_stay_tied_and_in_memory_while_another_thread_counts_an_adapter(tiny_base):
    settings = ModelSettings(model=str(tiny_base), device="cpu")
    base = blueprint_model(settings)
    wanted = sum(weight.numel() for weight in base.parameters())

    def attach() -> None:
        adapters.attach(copy.deepcopy(base), AdapterSettings(), "tiny", meta=True)

    with meanwhile(attach):
        for _ in range(8):
            assert sum(weight.numel() for weight in blueprint_model(settings).parameters()) == wanted
            loaded = load_base(settings).model
            assert sum(weight.numel() for weight in loaded.parameters()) == wanted
            assert not any(weight.is_meta for weight in loaded.parameters())
