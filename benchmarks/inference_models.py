"""What benchmarks.inference asks: bases with random weights or the starter, their adapters, and pictures."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image

from benchmarks import training_model
from benchmarks.gpu_models import make_smolvlm
from training.data.synthetic.scenes import Difficulty, draw_scene, make_scene
from vlm import adapters
from vlm.models.loading import load_base
from vlm.settings import AdapterSettings, ModelSettings

ADAPTERS = 3
# So that answers differ from the base's and from each other's; with 0.1 the starter's end after a word.
B_STD = 0.05


@dataclass(frozen=True, slots=True)
class Subject:
    """A base, its adapters' folders, what it is asked, and the side of the pictures, in pixels."""

    name: str
    settings: ModelSettings
    adapters: tuple[Path, ...]
    side: int
    question: str

    @property
    def is_starter(self) -> bool:
        return self.settings.model == "starter"


def smolvlm(folder: Path, *, tiny: bool) -> Subject:
    """SmolVLM-256M's shapes with random weights in fp32; tiny, the same kind with two layers a tower."""
    base = folder / ("SmolVLM, tiny" if tiny else "SmolVLM's shapes")
    if not base.exists():
        torch.manual_seed(0)
        if tiny:
            make_smolvlm(base, "cpu", tiny=True)
        else:
            training_model.make_model(base)
    side = 64 if tiny else training_model.SIDE
    return subject(str(base), folder / "adapters-of-smolvlm", side, "What is in this picture?")


def starter(folder: Path, *, tiny: bool) -> Subject:
    """The model that comes along; it is tiny as it is."""
    # Without a question it describes the scene; it answers most questions with a word.
    return subject("starter", folder / "adapters-of-starter", 96, "")


def subject(model: str, folder: Path, side: int, question: str) -> Subject:
    """The base of this name with text LoRAs of the default ranks, whose B is drawn."""
    settings = ModelSettings(model=model, device="cpu", precision="fp32")
    for number in range(ADAPTERS):
        if (folder / str(number)).exists():
            continue
        torch.manual_seed(number + 1)
        adapted = adapters.attach(load_base(settings).model, AdapterSettings(lora_dropout=0.0), model).eval()
        with torch.no_grad():
            for name, parameter in adapted.named_parameters():
                if ".lora_B." in name:
                    parameter.normal_(std=B_STD)
        adapters.save(adapted, folder / str(number))
    found = tuple(folder / str(number) for number in range(ADAPTERS))
    return Subject(Path(model).name, settings, found, side, question)


def pictures(side: int, seed: int = 0) -> Iterator[Image.Image]:
    """Scenes of the starter's kind without end, no two alike: what is kept of one is no use for the next."""
    draw = random.Random(seed)
    while True:
        yield draw_scene(make_scene(draw, Difficulty()), "shapes").resize((side, side))


SUBJECTS = {"smolvlm": smolvlm, "starter": starter}
