"""The work behind the actions that compute, without the page: what a click takes beyond it is the page's."""

from collections import deque
from collections.abc import Callable
from functools import cache
from pathlib import Path

from training.config import TrainingConfig
from training.data.dataset import Dataset
from training.data.edit.thumbnails import thumbnail_uri
from training.data.images import load_image
from training.data.open import open_dataset
from training.data.splits import split_dataset
from training.data.validate.token_counter import token_counter
from vlm.errors import UserError
from vlm.inference import Engine
from vlm.meta_model import architecture
from vlm.model_view import view_example


def works(workspace: Path, adapter: Path) -> dict[str, Callable[[], object]]:
    """By the action's name, what it has to do; what the page keeps between clicks is kept here too.

    `adapter` is the folder of the adapter that is asked beside the base.
    """
    settings, engine = TrainingConfig(), Engine()
    counter = cache(lambda: token_counter(settings))

    @cache
    def read(source: str) -> Dataset:
        return open_dataset(source, workspace)

    def sees(index: int) -> None:
        example = read(settings.dataset).examples[index]
        images = [load_image(path) for path in example.images]
        model = architecture(settings.model, settings.revision)
        view_example(counter().prompt, model, example.messages, images)

    def asks(index: int) -> None:
        _, held_out = split_dataset(read(settings.dataset), settings.held_out, settings.seed)
        example = held_out[index]
        picture = load_image(example.images[0])
        deque(engine.ask(settings.model, picture, example.question, [None, adapter]), maxlen=0)

    def draws(source: str) -> None:
        pictured = read(source).examples
        for example in pictured[:: len(pictured) // 5]:
            thumbnail_uri(example.images[0])

    def refused() -> None:
        try:
            architecture("HuggingFaceTB/SmolVLM-256M-Instruct", None)
        except UserError:
            return
        raise SystemExit("a model that is not here was not refused")

    return {
        "dataset blueprints": lambda: draws("blueprints"),
        "what the model sees": lambda: sees(1),
        "its next row": lambda: sees(2),
        "try it": lambda: asks(0),
        "pick a picture": lambda: asks(2),
        "ask": lambda: asks(2),
        "model, refused": refused,
    }
