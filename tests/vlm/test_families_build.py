"""The tiny families' folders: each loads offline and whole, sees its picture, has gradients, generates."""

import inspect
import time
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import (
    AutoImageProcessor,
    AutoModelForImageTextToText,
    AutoProcessor,
    BatchFeature,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    ProcessorMixin,
)

from support.families import FAMILIES, OTHER_TEXT_MODELS
from support.slow import FAMILIES_BY_DEFAULT, slow_but

BUILDERS = {**FAMILIES, **OTHER_TEXT_MODELS}
QUESTION = "what colour is this?"
ANSWER = " a red picture"

GOT_OCR_PROMPT = "<|im_start|>user\n<img><imgpad></img>\n{}<|im_end|><|im_start|>assistant\n"
"""GOT-OCR has no chat template: its processor writes this only where no text is given."""

every_family = pytest.mark.parametrize("name", slow_but(FAMILIES_BY_DEFAULT, BUILDERS))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root, built = tmp_path_factory.mktemp("families"), {}
    for number, (name, build) in enumerate(BUILDERS.items()):
        built[name] = root / str(number)
        build(built[name])
    return built


def picture(colour: str, size: tuple[int, int] = (40, 40)) -> Image.Image:
    image = Image.new("RGB", size, "white")
    image.paste(colour, (5, 5, 25, 30))
    return image


def load(folder: Path) -> tuple[PreTrainedModel, ProcessorMixin | PreTrainedTokenizerBase]:
    return AutoModelForImageTextToText.from_pretrained(folder).eval(), AutoProcessor.from_pretrained(folder)


def prompt(processor: ProcessorMixin) -> str:
    if getattr(processor, "chat_template", None):
        content = [{"type": "image"}, {"type": "text", "text": QUESTION}]
        messages = [{"role": "user", "content": content}]
        return processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    if type(processor).__name__ == "GotOcr2Processor":
        return GOT_OCR_PROMPT.format(QUESTION)
    return QUESTION


def inputs(processor: ProcessorMixin, folder: Path, text: str, image: Image.Image) -> BatchFeature:
    """What `forward` takes. A folder without a processor class has a tokenizer and an image processor."""
    if isinstance(processor, PreTrainedTokenizerBase):
        return AutoImageProcessor.from_pretrained(folder)(image, return_tensors="pt")
    return processor(text=[text], images=image, return_tensors="pt")


def reads_in_encoder(model: PreTrainedModel) -> bool:
    """Whether the answer alone is the decoder's. InstructBLIP says so only in its text config."""
    return model.config.is_encoder_decoder or model.config.get_text_config().is_encoder_decoder


def loss(model: PreTrainedModel, processor: ProcessorMixin, folder: Path, image: Image.Image) -> torch.Tensor:
    question = prompt(processor)
    tokenizer = getattr(processor, "tokenizer", processor)
    if reads_in_encoder(model):
        batch = inputs(processor, folder, question, image)
        labels = tokenizer(ANSWER, return_tensors="pt").input_ids
    else:
        batch = inputs(processor, folder, question + ANSWER, image)
        batch.pop("labels", None)  # PaliGemma's processor gives them, and ignores every token here
        labels = batch["input_ids"].clone()
        labels[:, :-4] = -100
    return model(**batch, labels=labels).loss


@every_family
def test_a_family_is_built_quickly_and_small(name: str, tmp_path: Path) -> None:
    started = time.monotonic()
    BUILDERS[name](tmp_path)
    assert time.monotonic() - started < 3
    assert sum(file.stat().st_size for file in tmp_path.rglob("*")) < 3_000_000
    assert (tmp_path / "config.json").is_file()
    assert (tmp_path / "generation_config.json").is_file()


@every_family
def test_weights_are_the_same_each_time(name: str, folders: dict[str, Path], tmp_path: Path) -> None:
    BUILDERS[name](tmp_path)
    file = "model.safetensors"
    assert (tmp_path / file).read_bytes() == (folders[name] / file).read_bytes()


@every_family
def test_a_folder_loads_complete(name: str, folders: dict[str, Path]) -> None:
    _, report = AutoModelForImageTextToText.from_pretrained(folders[name], output_loading_info=True)
    assert not any(report.values()), report


@every_family
def test_the_loss_is_finite_and_depends_on_the_picture(name: str, folders: dict[str, Path]) -> None:
    model, processor = load(folders[name])
    red, blue = (loss(model, processor, folders[name], picture(colour)) for colour in ("red", "blue"))
    assert torch.isfinite(red)
    assert abs(red - blue) > 1e-4
    red.backward()
    parameters = [p for p in model.parameters() if p.grad is not None]
    assert all(torch.isfinite(p.grad).all() for p in parameters)


@every_family
def test_a_picture_of_another_shape_is_read_too(name: str, folders: dict[str, Path]) -> None:
    model, processor = load(folders[name])
    assert torch.isfinite(loss(model, processor, folders[name], picture("red", (90, 40))))


@every_family
def test_it_generates(name: str, folders: dict[str, Path]) -> None:
    model, processor = load(folders[name])
    batch = inputs(processor, folders[name], prompt(processor), picture("red"))
    if "token_type_ids" not in inspect.signature(model.forward).parameters:
        batch.pop("token_type_ids", None)  # GIT's tokenizer gives them, its `generate` refuses them
    given = 1 if reads_in_encoder(model) else batch["input_ids"].shape[1]
    if name == "blip":
        given -= 1  # `generate` takes off the end that the tokenizer wrote
    tokens = model.generate(**batch, max_new_tokens=3, min_new_tokens=3, do_sample=False)
    assert tokens.shape == (1, given + 3)
