"""The image-feature cache: each distinct image encoded once, where nothing below the connector trains.

Features are found by the content of an example's images: in memory where they fit, and on disk in the
workspace, where other runs of the same base find them.
"""

import hashlib
import logging
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path

import psutil
import transformers
from PIL import Image

from training.cache.tensor_store import TensorStore, evict
from training.data.images import load_image
from training.data.safe_paths import digest_of
from training.distributed import ALONE, ProcessGroup
from vlm.example import Example
from vlm.image_features import Features, ImageEncoder, image_encoder
from vlm.models import hub
from vlm.models.loading import LoadedModel
from vlm.models.towers import find_towers
from vlm.oom import with_less
from vlm.prompting import PromptStyle
from vlm.settings import ModelSettings

logger = logging.getLogger(__name__)

# Examples whose images are opened and encoded together. `training.memory.estimate` counts with it.
BATCH_SIZE = 32

# Of the memory that is free: what features may take before they stay on disk.
MEMORY_SHARE = 0.25

ImagePaths = tuple[Path, ...]


class ImageFeatures:
    """The features of examples' images. `keys` gives the content key of each example's image files.

    An example's images have one key together: some processors cut several images otherwise than one.
    """

    def __init__(self, store: TensorStore, keys: dict[ImagePaths, str], processes: int = 1) -> None:
        self.store = store
        self.keys = keys
        # None where the features don't fit into memory: they are read from disk then.
        self.memory: dict[str, Features] | None = {}
        # Each of a run's processes holds all features: an epoch deals the examples out to them anew.
        room = MEMORY_SHARE * psutil.virtual_memory().available / processes
        for key in dict.fromkeys(keys.values()):
            self.memory[key] = store[key]
            room -= sum(tensor.nbytes for tensor in self.memory[key].values())
            if room < 0:
                logger.info("the image features do not fit in memory and are read from disk")
                self.memory = None
                break

    def of(self, example: Example) -> Features:
        """What the encoder gave for this example's images."""
        key = self.keys[example.images]
        return self.store[key] if self.memory is None else self.memory[key]

    def __len__(self) -> int:
        return len({*self.keys.values()})


def encoder_of(loaded: LoadedModel) -> ImageEncoder | None:
    """The encoder whose features stay the same during this run; None where something below them trains."""
    model = loaded.model
    towers = find_towers(model)
    if any(p.requires_grad and towers.of(name) != "text" for name, p in model.named_parameters()):
        return None
    return image_encoder(model)


def encode_images(
    loaded: LoadedModel,
    encoder: ImageEncoder,
    prompt: PromptStyle,
    examples: Sequence[Example],
    store: TensorStore,
    progress: Callable[[int, int], None],
    ranks: ProcessGroup = ALONE,
    content: Callable[[Path], bytes] = digest_of,
) -> ImageFeatures:
    """Encode each distinct set of images, by content, that the store lacks. `progress(done, total)`.

    `content` gives the sha256 of a file. Of several ranks each encodes its share, and reads from disk what
    the others encoded.
    """
    keys = ranks.from_first(lambda: content_keys(examples, content))
    # Reversed, so that of several examples with one content the first is the one that is encoded.
    wanted = {keys[example.images]: example for example in reversed(examples) if example.images}
    lacking = ranks.from_first(lambda: [key for key in wanted if key not in store])
    missing = [(key, wanted[key]) for key in ranks.share(lacking)]
    for start in range(0, len(missing), BATCH_SIZE):
        progress(len(wanted) - len(lacking) + start * ranks.world, len(wanted))
        part = missing[start : start + BATCH_SIZE]
        # One by one: a processor may pad a batch's images to the largest of them (LLaVA-NeXT's tiles), and
        # features are cached without padding.
        batches = [prompt.training_batch([example.messages], [pictures_of(example)]) for _, example in part]
        inputs = [encoder.inputs(batch) for batch in batches]
        encoded = with_less(
            len(inputs),
            lambda size, inputs=inputs: [
                features for at in range(0, len(inputs), size) for features in encoder(inputs[at : at + size])
            ],
        )
        for (key, _), features in zip(part, encoded, strict=True):
            store.add(key, features)
    store.flush()
    progress(len(wanted), len(wanted))
    ranks.wait()
    if ranks.world > 1:  # the others' shards were not there when this one was opened
        store = TensorStore(store.folder)
    for deleted in evict(store.folder.parent, keep=store.folder) if ranks.first else ():
        logger.info("made room: %s of the image-feature cache was out of use for longest", deleted.name)
    return ImageFeatures(store, keys, ranks.world)


def open_store(workspace: Path, settings: ModelSettings, loaded: LoadedModel) -> TensorStore:
    """This base's features: another model, revision, precision or processor has a folder of its own."""
    parts = [settings.model, str(loaded.model.dtype), loaded.device.type, transformers.__version__]
    parts += [settings.quantization, str(settings.quantize_vision), settings.attn_implementation]
    parts += [loaded.processor.image_processor.to_json_string(), str(loaded.model.config.to_dict())]
    for name in hub.parts(settings.model):
        folder = hub.model_folder(name, settings.revision, half=hub.is_composed(settings.model))
        for file in sorted(folder.glob("*.safetensors")):
            # Size and time in place of a digest, which would read gigabytes before step 1.
            status = file.stat()
            parts.append(f"{file.resolve()} {status.st_size} {status.st_mtime_ns}")
    identity = hashlib.sha256(b"".join(part.encode() + b"\0" for part in parts))
    return TensorStore(workspace / "cache" / "image-features" / identity.hexdigest()[:24])


def pictures_of(example: Example) -> list[Image.Image]:
    """An example's images, decoded."""
    return [load_image(file) for file in example.images]


def content_keys(
    examples: Iterable[Example], content: Callable[[Path], bytes] = digest_of
) -> dict[ImagePaths, str]:
    """The key of each distinct set of images: a digest of its files' digests. Each file is read once."""
    digest = cache(content)
    return {
        images: hashlib.sha256(" ".join(digest(file).hex() for file in images).encode()).hexdigest()
        for images in dict.fromkeys(example.images for example in examples)
        if images
    }


def different(examples: Sequence[Example]) -> tuple[Example, Example] | None:
    """Two examples whose images differ, as many each; None where there are none.

    They distinguish a model that reads its images from one that does not.
    """
    first, content = next((example for example in examples if example.images), None), cache(digest_of)
    if first is None:
        return None
    others = [e for e in examples if len(e.images) == len(first.images) and e.images != first.images]
    # Different texts first: with one text, exchanged features give the same sum of losses, and no model could
    # be seen to read them.
    for other in sorted(others, key=lambda example: example.messages == first.messages):
        keys = content_keys((first, other), content)
        if keys[first.images] != keys[other.images]:
            return first, other
    return None
