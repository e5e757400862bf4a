"""A family's tiny model: loaded with its prompt style, two examples, a few steps, losses and logits."""

from pathlib import Path

import torch
from PIL import Image, ImageDraw
from transformers import BatchFeature

from vlm import adapters
from vlm.example import IMAGE, Message
from vlm.models.loading import LoadedModel, load_base
from vlm.prompting import IGNORED, PromptStyle, prompt_style
from vlm.settings import AdapterSettings, ModelSettings


def load(folder: Path) -> tuple[LoadedModel, PromptStyle, ModelSettings]:
    settings = ModelSettings(model=str(folder), device="cpu")
    loaded = load_base(settings)
    return loaded, prompt_style(loaded.model.config, loaded.processor, 4096), settings


BOTH = AdapterSettings(
    use_vision_lora=True, vision_lora_r=2, text_lora_r=3, lora_dropout=0.0, text_lora_targets="attention"
)


ANSWERS = ("a red circle", "two blue shapes")


Batch = list[tuple[tuple[Message, ...], list[Image.Image]]]


def picture(colour: str) -> Image.Image:
    image = Image.new("RGB", (56, 56), "white")
    ImageDraw.Draw(image).ellipse((8, 8, 40, 40), fill=colour)
    return image


def asked(question: str, answer: str) -> tuple[Message, ...]:
    return Message("user", IMAGE + question), Message("assistant", answer)


EXAMPLES: Batch = [
    (asked("what is this?", ANSWERS[0]), [picture("red")]),
    (asked("how many?", ANSWERS[1]), [picture("blue")]),
]


def training_batch(prompt: PromptStyle, examples: Batch = EXAMPLES) -> BatchFeature:
    return prompt.training_batch([turns for turns, _ in examples], [images for _, images in examples])


def trained_texts(prompt: PromptStyle, batch: BatchFeature) -> list[str]:
    texts = [prompt.tokenizer.decode(row[row != IGNORED]).strip() for row in batch["labels"]]
    bos = prompt.tokenizer.bos_token  # BART's decoder writes it first
    return [text.removeprefix(bos).strip() if bos else text for text in texts]


def train(model: adapters.PeftModel, batch: BatchFeature, steps: int = 3) -> tuple[float, float]:
    """Loss before and after a few steps on one batch, dropout aside."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=5e-3)
    before = loss(model, batch)
    for module in model.train().modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    for _ in range(steps):
        optimizer.zero_grad()
        model(**batch).loss.backward()
        optimizer.step()
    return before, loss(model, batch)


@torch.no_grad()
def loss(model: torch.nn.Module, batch: BatchFeature) -> float:
    return model.eval()(**batch).loss.item()


@torch.no_grad()
def logits(model: torch.nn.Module, batch: BatchFeature) -> torch.Tensor:
    model.eval()
    return model(**batch).logits
