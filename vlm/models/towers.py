"""Vision tower, connector and text tower of a model, read off its modules, and the layers to adapt."""

import re
from dataclasses import dataclass
from typing import Literal

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from vlm.errors import Phrase, UserError

Tower = Literal["vision", "connector", "text"]
TOWERS: tuple[Tower, ...] = ("vision", "connector", "text")
TOWER_NAMES: dict[Tower, Phrase] = {
    "vision": Phrase("vision tower", "tower-vision"),
    "connector": Phrase("connector tower", "tower-connector"),
    "text": Phrase("text tower", "tower-text"),
}

# By model type, what can't be read off the modules: git's text encoder and Janus' image generator lie beside
# the vision tower, where connectors lie.
EXCEPTIONS: dict[str, dict[str, tuple[str, ...]]] = {
    "git": {"vision": ("git.image_encoder",), "connector": ("git.visual_projection",)},
    "janus": {"connector": ("model.aligner",)},
}

# A connector that lies inside the vision tower, as in Qwen2-VL (arXiv:2409.12191).
MERGER = re.compile(r"(^|_)merger(_list)?$")
# Modules of models that hear as well: they get no gradient from images and text.
OTHER_SENSES = re.compile(r"audio|speech|sound|video")
ATTENTION = re.compile(r"attention|attn")
ROUTER = re.compile(r"^(router|gate)$")


@dataclass(frozen=True, slots=True)
class Towers:
    """Full names of the vision tower's and the connector's modules; every other parameter is text."""

    vision: tuple[str, ...]
    connector: tuple[str, ...]

    def of(self, name: str) -> Tower:
        """Returns the tower of a module or parameter, by its full name in the base model."""
        # The connector first: a merger lies inside the vision tower.
        if any(_lies_in(name, module) for module in self.connector):
            return "connector"
        return "vision" if any(_lies_in(name, module) for module in self.vision) else "text"


def find_towers(model: PreTrainedModel) -> Towers:
    """Returns the towers of a base model.

    The vision tower is what transformers calls the encoder of images. The connector is what lies beside it
    and is not the language model (the module that holds the token embeddings), or a merger inside it.

    Raises:
        UserError: no image encoder is found.
    """
    known = EXCEPTIONS.get(model.config.model_type, {})
    modules = dict(model.named_modules())
    names = {id(module): name for name, module in modules.items()}
    if "vision" in known:
        vision = known["vision"][0]
    else:
        # `get_encoder` returns the model itself where it finds none of images. A model that reads nothing but
        # images calls its image encoder plainly its encoder; one that reads text as well wraps it in another.
        encoder = model.get_encoder(modality="image")
        if encoder is model and model.main_input_name != "input_ids":
            encoder = model.get_encoder()
        elif encoder not in (None, model) and model.get_input_embeddings() in encoder.modules():
            encoder = encoder.get_encoder(modality="image")
        vision = names.get(id(encoder))
    if not vision:
        raise UserError(
            "No image encoder was found in {model}.",
            "Choose a vision-language model.",
            "no-image-encoder",
            model=type(model).__name__,
        )
    if "connector" in known:
        return Towers((vision,), known["connector"])
    heads = {
        names[id(m)] for m in (model.get_input_embeddings(), model.get_output_embeddings()) if m is not None
    }
    parent, _, own_name = vision.rpartition(".")
    beside = [f"{parent}.{name}".lstrip(".") for name, _ in modules[parent].named_children()]
    beside = [
        name
        for name in beside
        if not any(_lies_in(head, name) for head in heads)
        and not OTHER_SENSES.search(name)
        and any(True for _ in modules[name].parameters())
    ]
    # DeepSeek-VL's larger model has a second encoder, high_res_vision_model.
    encoders = [name for name in beside if name == vision or name.endswith(f"_{own_name}")]
    connector = [name for name in beside if name not in encoders]
    connector += [f"{vision}.{name}" for name, _ in modules[vision].named_children() if MERGER.search(name)]
    return Towers(tuple(encoders), tuple(connector))


def target_modules(
    model: PreTrainedModel,
    towers: Towers,
    tower: Tower,
    targets: str,
    part: Literal["all", "encoder", "decoder"] = "all",
) -> list[str]:
    """Returns full names of the linear layers of a tower that get an adapter, in the model's order.

    `targets` is "attention", "attention_mlp" (all that lies in the tower's layers, routers aside),
    "all_linear", or layer names with commas between them, as `layer_names` returns them. `part` narrows an
    encoder-decoder text tower.

    Raises:
        UserError: no layer is left, or a name does not exist.
    """
    linear = _linear_layers(model, towers, tower)
    if part != "all":
        linear = {name: module for name, module in linear.items() if part in name.split(".")}
    modules = dict(model.named_modules())
    if targets == "all_linear":
        found = list(linear)
    elif targets == "attention":
        found = [name for name in linear if in_stack(name) and is_attention(name, modules)]
    elif targets == "attention_mlp":
        found = [name for name in linear if in_stack(name) and not ROUTER.match(name.rpartition(".")[2])]
    else:
        wanted = [name.strip() for name in targets.split(",") if name.strip()]
        there = {name.rpartition(".")[2] for name in linear}
        if missing := [name for name in wanted if name not in there]:
            raise UserError(
                "The {tower} of {model} has no layers named {names}.",
                "Choose among {there}.",
                "no-layers-named",
                tower=TOWER_NAMES[tower],
                model=type(model).__name__,
                names=missing,
                there=sorted(there),
            )
        found = [name for name in linear if name.rpartition(".")[2] in wanted]
    if not found:
        there, way = layer_names(model, towers, tower), Phrase("Leave this tower off", "leave-tower-off")
        if there:
            way = Phrase(
                "Choose among {there} (--{tower}_lora_targets)", "choose-layers", there=there, tower=tower
            )
        values = {"tower": TOWER_NAMES[tower], "model": type(model).__name__, "targets": targets, "way": way}
        if part == "all":
            raise UserError(
                "The {tower} of {model} has no layers for {targets}.", "{way}.", "no-layers-for", **values
            )
        raise UserError(
            "The {tower} of {model} has no layers for {targets} in its {part}.",
            "{way}, or --text_lora_part all.",
            "no-layers-in-part",
            change={"text_lora_part": "all"},
            part=part,
            **values,
        )
    return found


def layer_names(model: PreTrainedModel, towers: Towers, tower: Tower) -> list[str]:
    """Returns the names that a tower's linear layers have, each once: "q_proj", "fc1", …"""
    return sorted({name.rpartition(".")[2] for name in _linear_layers(model, towers, tower)})


def _linear_layers(model: PreTrainedModel, towers: Towers, tower: Tower) -> dict[str, nn.Module]:
    """Returns the tower's linear layers by full name, without the output head."""
    head = model.get_output_embeddings()
    modules = {
        name: module
        for name, module in model.named_modules()
        if module is not head and towers.of(name) == tower and not OTHER_SENSES.search(name)
    }
    linear = {name: module for name, module in modules.items() if isinstance(module, nn.Linear | Conv1D)}
    # A convolution over one pixel is a linear layer as well, and all that MobileNet's attention is made of.
    return linear or {
        name: module
        for name, module in modules.items()
        if isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1) and module.groups == 1
    }


def is_attention(name: str, modules: dict[str, nn.Module]) -> bool:
    """Whether a module around this layer is an attention, by its name or its class."""
    steps = name.split(".")[:-1]
    around = (".".join(steps[: end + 1]) for end in range(len(steps)))
    return any(
        ATTENTION.search(parent.rpartition(".")[2]) or "Attention" in type(modules[parent]).__name__
        for parent in around
    )


def in_stack(name: str) -> bool:
    """Whether the layer lies in one of a stack of layers: a pooling head beside them gets no gradient."""
    return any(step.isdecimal() for step in name.split(".")[:-1])


def _lies_in(name: str, module: str) -> bool:
    return name == module or name.startswith(f"{module}.")
