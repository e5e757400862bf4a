"""Training and Try load a picture alike: the same file gives the model the same tensor, whatever it is."""

import struct
from pathlib import Path

import gradio as gr
import pytest
import torch
from gradio.data_classes import ImageData
from PIL import Image

from training.batching.collator import Collator
from training.data.images import load_image
from training.data.open import open_dataset
from training.data.validate.dataset_check import check_dataset
from ui.ask.tab import image_input
from vlm.example import IMAGE, Message
from vlm.models.loading import load_processor, read_config
from vlm.prompting import PromptStyle, prompt_style
from vlm.settings import ModelSettings


def gradient(mode: str = "RGB") -> Image.Image:
    return Image.merge(
        "RGB", [Image.linear_gradient("L").rotate(angle).resize((40, 24)) for angle in (0, 90, 180)]
    ).convert(mode)


def turned() -> dict[str, object]:
    exif = Image.Exif()
    exif[0x0112] = 6
    return {"exif": exif}


def with_a_hole() -> Image.Image:
    image = gradient("RGBA")
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    return image


def deep() -> Image.Image:
    return Image.frombytes("I;16", (40, 24), struct.pack("<960H", *range(0, 960 * 60, 60)))


PICTURES = {
    "turned.jpg": lambda path: gradient().save(path, **turned()),
    "cmyk.jpg": lambda path: gradient("CMYK").save(path),
    "grey.jpg": lambda path: gradient("L").save(path),
    "alpha.png": lambda path: with_a_hole().save(path),
    "grey-alpha.png": lambda path: with_a_hole().convert("LA").save(path),
    "palette.png": lambda path: gradient().quantize(16).save(path, transparency=3),
    "deep.png": lambda path: deep().save(path),
    "bits.png": lambda path: gradient("1").save(path),
    "turned.webp": lambda path: gradient().save(path, lossless=True, **turned()),
    "moving.gif": lambda path: gradient("P").save(
        path, save_all=True, append_images=[Image.new("P", (40, 24))]
    ),
    "plain.bmp": lambda path: gradient().save(path),
    "deep.tiff": lambda path: deep().save(path),
}


@pytest.fixture(scope="module")
def prompt(tiny_base: Path) -> PromptStyle:
    settings = ModelSettings(model=str(tiny_base))
    return prompt_style(read_config(settings.model), load_processor(settings), 64)


@pytest.fixture(scope="module")
def component() -> gr.Image:
    """The image box of Try itself."""
    with gr.Blocks():
        return image_input("en")


def trained_on(prompt: PromptStyle, folder: Path) -> torch.Tensor:
    """What training makes of the one picture of a dataset."""
    (example,) = open_dataset(str(folder), folder / "workspace").examples
    return Collator(prompt, None)([example])["pixel_values"]


def asked_about(prompt: PromptStyle, box: gr.Image, data: ImageData) -> torch.Tensor:
    """What the engine makes of a picture that lies in the box of Try."""
    image = load_image(Path(box.preprocess(data)))
    messages = (Message("user", f"{IMAGE}?"), Message("assistant", ""))
    return prompt.inputs([messages], [[image]])["pixel_values"]


@pytest.mark.parametrize("name", PICTURES)
def test_the_same_file_gives_the_same_tensor_in_training_and_in_try(
    name: str, tmp_path: Path, prompt: PromptStyle, component: gr.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    PICTURES[name](tmp_path / name)
    (tmp_path / "metadata.csv").write_text(f"file_name,text\n{name},x\n")
    expected = trained_on(prompt, tmp_path)
    uploaded = ImageData(path=str(tmp_path / name), orig_name=name)
    assert torch.equal(asked_about(prompt, component, uploaded), expected)

    # A sample that was picked: Gradio keeps a copy of what the loader made, and gives that back.
    monkeypatch.setattr(component, "GRADIO_CACHE", str(tmp_path / "cache"))
    kept = component.postprocess(load_image(tmp_path / name))
    assert torch.equal(asked_about(prompt, component, kept), expected)


def test_the_loader_gives_what_the_check_has_seen(tmp_path: Path) -> None:
    PICTURES["turned.jpg"](tmp_path / "turned.jpg")
    (tmp_path / "metadata.csv").write_text("file_name,text\nturned.jpg,x\n")
    report = check_dataset(open_dataset(str(tmp_path), tmp_path / "workspace"))
    (facts,) = report.facts.values()
    assert (facts.width, facts.height) == load_image(tmp_path / "turned.jpg").size == (24, 40)
