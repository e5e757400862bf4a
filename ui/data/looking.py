"""What the model sees, on the page: one example through the processor of the model that is chosen on Train.

Torch comes with the first look. A model's processor is kept while examples are looked at one after the other.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from training.config import TrainingConfig, build
from training.data.dataset import Dataset
from training.data.images import load_image
from ui.data import eye_html
from ui.i18n import Language
from ui.train.model_card import model_name
from vlm.example import Example
from vlm.lazy_torch import import_torch

if TYPE_CHECKING:
    from training.data.validate.token_counter import TokenCounter

OF_MODEL = ("model", "revision", "max_length")


def eye(language: Language, values: Mapping[str, Any], dataset: Dataset, example: Example) -> str:
    """What the model gets of the example. Raises `UserError` where it can't be asked, or refuses."""
    import_torch()
    from vlm.meta_model import architecture
    from vlm.model_view import view_example

    settings = build({name: values[name] for name in OF_MODEL if values[name] is not None})
    counter = _counter(settings)
    images = [load_image(path, name=path.relative_to(dataset.root).as_posix()) for path in example.images]
    seen = view_example(
        counter.prompt, architecture(settings.model, settings.revision), example.messages, images
    )
    sizes = [image.size for image in images]
    return eye_html.eye(language, seen, sizes, counter.limit, model_name(settings.model))


@lru_cache(maxsize=2)
def _counter(settings: TrainingConfig) -> "TokenCounter":
    from training.data.validate.token_counter import token_counter

    return token_counter(settings)
