"""The image-feature cache: each distinct image encoded once, where nothing below the connector trains.

Features are kept by the content of an example's images, in memory where they fit, and on disk in the
workspace, where other runs on the same base find them.
"""

import hashlib
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path

import psutil
import torch
import transformers
from PIL import Image

from training.cache.tensor_store import TensorStore, evict
from training.data.images import load_image
from training.data.splits import digest_of
from training.distributed import ALONE, Ranks
from vlm.adapters import PeftModel
from vlm.example import Example
from vlm.image_features import Features, ImageEncoder, image_encoder, takes_features
from vlm.models import hub
from vlm.models.loading import LoadedModel
from vlm.models.towers import find_towers
from vlm.oom import with_less
from vlm.prompting import PromptStyle
from vlm.settings import ModelSettings

logger = logging.getLogger(__name__)

BATCH_SIZE = 32
MEMORY_SHARE = 0.25
"""Of the memory that is free: what features may take before they stay on disk."""

Pictures = tuple[Path, ...]
Inputs = Mapping[str, torch.Tensor]


class ImageFeatures:
    """The features of examples' images, by the files of each example; as many keys as distinct contents."""

    def __init__(self, store: TensorStore, keys: dict[Pictures, str], processes: int = 1) -> None:
        self.store = store
        self.keys = keys
        self.memory: dict[str, Features] | None = self._in_memory(processes)

    def of(self, example: Example) -> Features:
        """What an encoder gave for this example's images."""
        key = self.keys[example.images]
        return self.store[key] if self.memory is None else self.memory[key]

    def __len__(self) -> int:
        return len({*self.keys.values()})

    def _in_memory(self, processes: int) -> dict[str, Features] | None:
        room, memory = MEMORY_SHARE * psutil.virtual_memory().available / processes, {}
        for key in dict.fromkeys(self.keys.values()):
            memory[key] = self.store[key]
            room -= sum(tensor.nbytes for tensor in memory[key].values())
            if room < 0:
                logger.info("the image features do not fit in memory and are read from disk")
                return None
        return memory


def encoder_of(loaded: LoadedModel) -> ImageEncoder | None:
    """The encoder whose features stay the same during this run; None where something below them trains."""
    model = loaded.model
    towers = find_towers(model)
    if any(p.requires_grad and towers.of(name) != "text" for name, p in model.named_parameters()):
        return None
    return image_encoder(model)


def proved(
    model: PeftModel,
    encoder: ImageEncoder,
    prompt: PromptStyle,
    examples: Sequence[Example],
    store: TensorStore,
    ranks: Ranks = ALONE,
) -> bool:
    """Whether the model takes features of these examples' images as it takes the images themselves.

    What one run has proved, the next of its base and method believes: it stands in the store, beside the
    features that it took to prove it.
    """
    proof = f"proof {model.peft_config['default'].peft_type}"
    if proof in store:
        return True
    pair = different(examples)
    if pair is None:
        return False
    images = [pictures_of(example) for example in pair]
    one_by_one = [prompt.training_batch([e.messages], [i]) for e, i in zip(pair, images, strict=True)]
    features = encoder([encoder.inputs(example) for example in one_by_one])
    whole = prompt.training_batch([example.messages for example in pair], images)
    if not takes_features(model, encoder, features, whole):
        return False
    if ranks.first:
        for key, found in zip(_keys(pair, digest_of).values(), features, strict=True):
            store.add(key, found)
        store.add(proof, {"yes": torch.ones(1)})
    return True


def encode_images(
    loaded: LoadedModel,
    encoder: ImageEncoder,
    prompt: PromptStyle,
    examples: Sequence[Example],
    store: TensorStore,
    progress: Callable[[int, int], None],
    ranks: Ranks = ALONE,
    content: Callable[[Path], bytes] = digest_of,
) -> ImageFeatures:
    """Encode each distinct set of images, by content, that the store has not. `progress(done, total)`.

    `content` gives the sha256 of a file. Of several ranks each encodes its share, and reads from disk what
    the others encoded.
    """
    keys = ranks.of_first(lambda: _keys(examples, content))
    wanted = {keys[example.images]: example for example in reversed(examples) if example.images}
    lacking = ranks.of_first(lambda: [key for key in wanted if key not in store])
    missing = [(key, wanted[key]) for key in ranks.share(lacking)]
    for start in range(0, len(missing), BATCH_SIZE):
        progress(len(wanted) - len(lacking) + start * ranks.world, len(wanted))
        part = missing[start : start + BATCH_SIZE]
        batches = [prompt.training_batch([example.messages], [pictures_of(example)]) for _, example in part]
        inputs = [encoder.inputs(batch) for batch in batches]
        encoded = with_less(len(inputs), lambda size, inputs=inputs: _in_parts(encoder, inputs, size))
        for (key, _), features in zip(part, encoded, strict=True):
            store.add(key, features)
    store.flush()
    progress(len(wanted), len(wanted))
    ranks.wait()
    if ranks.world > 1:
        store = TensorStore(store.folder)
    for gone in evict(store.folder.parent, keep=store.folder) if ranks.first else ():
        logger.info("made room: %s of the image-feature cache was out of use for longest", gone.name)
    return ImageFeatures(store, keys, ranks.world)


def _in_parts(encoder: ImageEncoder, inputs: Sequence[Inputs], size: int) -> list[Features]:
    parts = [inputs[start : start + size] for start in range(0, len(inputs), size)]
    return [features for part in parts for features in encoder(part)]


def open_store(workspace: Path, settings: ModelSettings, loaded: LoadedModel) -> TensorStore:
    """This base's features in the workspace: another model, revision, precision or processor has others."""
    identity = hashlib.sha256()
    for part in _identity(settings, loaded):
        identity.update(part.encode() + b"\0")
    return TensorStore(workspace / "cache" / "image-features" / identity.hexdigest()[:24])


def pictures_of(example: Example) -> list[Image.Image]:
    return [load_image(file) for file in example.images]


def _identity(settings: ModelSettings, loaded: LoadedModel) -> Iterable[str]:
    yield from (settings.model, str(loaded.model.dtype), loaded.device.type, transformers.__version__)
    yield from (settings.quantization, str(settings.quantize_vision), settings.attn_implementation)
    yield loaded.processor.image_processor.to_json_string()
    yield str(loaded.model.config.to_dict())
    for name in hub.parts(settings.model):
        folder = hub.model_folder(name, settings.revision, half=hub.is_composed(settings.model))
        for file in sorted(folder.glob("*.safetensors")):
            status = file.stat()
            yield f"{file.resolve()} {status.st_size} {status.st_mtime_ns}"


def _keys(examples: Iterable[Example], content: Callable[[Path], bytes]) -> dict[Pictures, str]:
    once = cache(content)
    return {images: _key(images, once) for images in dict.fromkeys(e.images for e in examples) if images}


def _key(images: Pictures, content: Callable[[Path], bytes]) -> str:
    return hashlib.sha256(" ".join(content(file).hex() for file in images).encode()).hexdigest()


def different(examples: Sequence[Example]) -> tuple[Example, Example] | None:
    """Two examples whose images differ, as many each: they tell a model that looks from one that doesn't.

    Their texts differ too where any do: of one text, features exchanged would give the same sum of losses.
    """
    first, content = next((example for example in examples if example.images), None), cache(digest_of)
    if first is None:
        return None
    others = [e for e in examples if len(e.images) == len(first.images) and e.images != first.images]
    for other in sorted(others, key=lambda example: example.messages == first.messages):
        if _key(other.images, content) != _key(first.images, content):
            return first, other
    return None
