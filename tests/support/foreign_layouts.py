"""Datasets as LLaMA-Factory, ms-swift and LLaVA have them, in zips as somebody would drop them."""

import io
import json
import zipfile
from pathlib import Path

from PIL import Image

COLOURS = ("red", "green", "blue", "yellow", "black", "white", "orange", "purple", "gray", "pink")
QUESTION = "Which colour is it?"

Files = dict[str, object]


def llama_factory() -> Files:
    """`data/` with its dataset_info.json, sharegpt turns with `<image>` in them."""
    entry = {
        "file_name": "mllm_demo.json",
        "formatting": "sharegpt",
        "columns": {"messages": "messages", "images": "images"},
        "tags": {
            "role_tag": "role",
            "content_tag": "content",
            "user_tag": "user",
            "assistant_tag": "assistant",
        },
    }
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"<image>{QUESTION}"},
                {"role": "assistant", "content": colour},
            ],
            "images": [f"mllm_demo_data/{colour}.png"],
        }
        for colour in COLOURS
    ]
    return {
        "data/dataset_info.json": {"mllm_demo": entry},
        "data/mllm_demo.json": rows,
        **{f"data/mllm_demo_data/{colour}.png": colour for colour in COLOURS},
    }


def ms_swift() -> Files:
    """JSON Lines of query and response, `<image>` in the query, images as paths."""
    rows = [
        {"query": f"<image>{QUESTION}", "response": colour, "images": [f"images/{colour}.png"]}
        for colour in COLOURS
    ]
    return {"train.jsonl": rows, **{f"images/{colour}.png": colour for colour in COLOURS}}


def llava() -> Files:
    """One JSON of conversations between human and gpt, one image each."""
    rows = [
        {
            "id": f"0000{number}",
            "image": f"coco/{colour}.png",
            "conversations": [
                {"from": "human", "value": f"<image>\n{QUESTION}"},
                {"from": "gpt", "value": colour},
            ],
        }
        for number, colour in enumerate(COLOURS)
    ]
    return {"llava_instruct.json": rows, **{f"coco/{colour}.png": colour for colour in COLOURS}}


LAYOUTS = {"llama_factory": llama_factory, "ms_swift": ms_swift, "llava": llava}


def packed(layout: str, folder: Path) -> Path:
    """The zip of a layout."""
    archive = folder / f"{layout}.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for name, content in LAYOUTS[layout]().items():
            file.writestr(name, _written(name, content))
    return archive


def _written(name: str, content: object) -> bytes:
    if isinstance(content, str):
        picture = io.BytesIO()
        Image.new("RGB", (64, 48), content).save(picture, "PNG")
        return picture.getvalue()
    if name.endswith(".jsonl"):
        return "\n".join(map(json.dumps, content)).encode()
    return json.dumps(content, indent=2).encode()
