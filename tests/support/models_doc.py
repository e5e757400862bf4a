"""docs/models.md, made from what `tests/vlm/test_families.py` saw pass."""

import inspect
from dataclasses import dataclass

import torch

from vlm.methods import METHODS, Method
from vlm.models.loading import LoadedModel
from vlm.models.towers import EXCEPTIONS as TOWER_EXCEPTIONS
from vlm.models.towers import Towers
from vlm.prompting import EXCEPTIONS as PROMPT_EXCEPTIONS
from vlm.prompting import PromptStyle

NOT_IMAGES = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids", "labels")

INTRODUCTION = """# Models

What `tests/vlm/test_families.py` passed, on tiny random models built from each family's own configuration:
LoRA on vision, on text, and on both with separate ranks; three steps with a falling loss; only adapter
weights moved; saved, loaded in a fresh process to the same logits; generated; merged to the same logits;
labels that are exactly the answers and their ends. This file is made by the test: `UPDATE_DOCS=1
.venv/bin/python -m pytest tests/vlm/test_families.py`.

*Methods*: with which of PEFT's methods one step made the loss fall; prefix and prompt tuning had to answer
as well. *Cache*: whether the model takes image features that were computed before (`mm_encoder_outputs`):
proved by its loss, which is the same as without, and another with another image's features. *4-bit*: LoRA
on a base in 4 bits (NF4), three steps with a falling loss. *Entry*: what can't be read off the model and
stands in a table.

| family | prompt | vision tower | connector | several images | methods | cache | 4-bit | entry |
|---|---|---|---|---|---|---|---|---|
"""


@dataclass(frozen=True, slots=True)
class FamilyResult:
    """One family that passed."""

    family: str
    model_type: str
    prompt: str
    vision: tuple[str, ...]
    connector: tuple[str, ...]
    several_images: bool
    cache: bool
    methods: tuple[Method, ...] = ()
    four_bit: bool = False

    @classmethod
    def of(
        cls, family: str, loaded: LoadedModel, prompt: PromptStyle, towers: Towers, cache: bool
    ) -> "FamilyResult":
        style = type(prompt).__name__.removesuffix("Prompt")
        return cls(
            family,
            loaded.model.config.model_type,
            style,
            towers.vision,
            towers.connector,
            not prompt.takes_one_image,
            cache,
        )

    def row(self) -> str:
        connector = ", ".join(f"`{name}`" for name in self.connector) or "none"
        entries = [
            what
            for what, table in (("towers", TOWER_EXCEPTIONS), ("prompt", PROMPT_EXCEPTIONS))
            if self.model_type in table
        ]
        vision = ", ".join(f"`{name}`" for name in self.vision)
        failed = [info.label for method, info in METHODS.items() if method not in self.methods]
        methods = "all" + (f" but {', '.join(failed)}" if failed else "")
        yes = {True: "yes", False: "no"}
        return (
            f"| {self.family} | {self.prompt} | {vision} | {connector} | {yes[self.several_images]} "
            f"| {methods} | {yes[self.cache]} | {yes[self.four_bit]} | {', '.join(entries) or 'none'} |"
        )


def document(results: dict[str, FamilyResult]) -> str:
    return INTRODUCTION + "\n".join(results[family].row() for family in sorted(results)) + "\n"


@torch.no_grad()
def cache_works(loaded: LoadedModel, prompt: PromptStyle, examples: list) -> bool:
    """Whether features computed before give the same loss, and another image's another."""
    model = loaded.model
    if "mm_encoder_outputs" not in inspect.signature(model.forward).parameters:
        return False
    model.eval()
    conversations, images = [turns for turns, _ in examples], [pictures for _, pictures in examples]
    batch = prompt.training_batch(conversations, images)
    swapped = prompt.training_batch(conversations, images[::-1])
    encode = getattr(model, "get_image_features", None) or model.base_model.get_image_features
    taken = inspect.signature(encode).parameters
    losses: list[torch.Tensor] = []
    for source in (batch, swapped):
        of_images = {
            name: value for name, value in source.items() if name in taken and name not in NOT_IMAGES
        }
        features = encode(**of_images, return_dict=True)
        rest = {name: value for name, value in batch.items() if name not in of_images or name.endswith("thw")}
        try:
            losses.append(model(**rest, mm_encoder_outputs={"image": features}).loss)
        except TypeError:  # it names the argument, and wants the pixels all the same
            return False
    whole = model(**batch).loss
    return bool(
        torch.allclose(losses[0], whole, atol=1e-6) and not torch.allclose(losses[1], whole, atol=1e-6)
    )
