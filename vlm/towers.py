"""Which modules are vision, connector and text in a model, read off its module names."""

from dataclasses import dataclass
from typing import Literal

from torch import nn

from vlm.errors import UserError

Tower = Literal["vision", "connector", "text"]
TOWERS: tuple[Tower, ...] = ("vision", "connector", "text")

VISION_NAMES = ("vision_tower", "vision_model", "vision_encoder", "visual", "image_encoder")
CONNECTOR_NAMES = ("connector", "multi_modal_projector", "mm_projector", "projector", "aligner")
ATTENTION_NAMES = ("q_proj", "k_proj", "v_proj", "out_proj", "o_proj", "query", "key", "value", "qkv")
MLP_NAMES = ("fc1", "fc2", "gate_proj", "up_proj", "down_proj", "gate_up_proj")
TARGET_NAMES = {"attention": ATTENTION_NAMES, "attention_mlp": ATTENTION_NAMES + MLP_NAMES}


@dataclass(frozen=True, slots=True)
class Towers:
    """Full names of the vision tower's and the connector's module; every other parameter is text."""

    vision: str
    connector: str | None

    def of(self, name: str) -> Tower:
        """The tower that a module or parameter belongs to, by its full name in the base model."""
        if _lies_in(name, self.vision):
            return "vision"
        if self.connector is not None and _lies_in(name, self.connector):
            return "connector"
        return "text"


def find_towers(model: nn.Module) -> Towers:
    """The towers of a base model. Raises `UserError` where no image encoder is found."""
    names = [name for name, _ in model.named_modules()]
    vision = _outermost(names, VISION_NAMES)
    if vision is None:
        raise UserError(
            f"No image encoder was found in {type(model).__name__}.", "Choose a vision-language model."
        )
    return Towers(vision, _outermost(names, CONNECTOR_NAMES))


def target_modules(
    model: nn.Module,
    towers: Towers,
    tower: Tower,
    targets: Literal["attention", "attention_mlp"],
    part: Literal["all", "encoder", "decoder"] = "all",
) -> list[str]:
    """Full names of the linear layers of a tower that get a LoRA, in the model's order.

    `part` narrows an encoder-decoder text tower. Raises `UserError` where nothing is left.
    """
    wanted = TARGET_NAMES[targets]
    found = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
        and name.rpartition(".")[2] in wanted
        and towers.of(name) == tower
        and (part == "all" or part in name.split("."))
    ]
    if not found:
        where = "" if part == "all" else f" in its {part}"
        raise UserError(
            f"The {tower} tower of {type(model).__name__} has no layers for {targets}{where}.",
            f"Choose other targets (--{tower}_lora_targets)"
            + ("." if part == "all" else ", or --text_lora_part all."),
        )
    return found


def _outermost(names: list[str], wanted: tuple[str, ...]) -> str | None:
    """The module with one of these names that lies least deep."""
    found = [name for name in names if name.rpartition(".")[2] in wanted]
    return min(found, key=lambda name: name.count("."), default=None)


def _lies_in(name: str, module: str) -> bool:
    return name == module or name.startswith(f"{module}.")
