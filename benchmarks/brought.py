"""From what people bring to a verdict, no setting touched: `python -m benchmarks.brought`.

Three kinds of folders, drawn here: pictures in class folders, receipts with JSON answers in a table, and
Vietnamese captions in a `.txt` beside each picture; each once as it is and once with its answers shuffled.
The command line trains on each folder as it lies there, on the starter and on a tiny chat model with random
weights; with `--page` the folder is dropped on the page in Chromium, and its Start is clicked. Prints a table
of the verdicts, then one line of JSON.
"""

import argparse
import json
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from PIL import Image, ImageDraw
from playwright.sync_api import Page, sync_playwright

from benchmarks.gpu_models import make_smolvlm
from benchmarks.page import served, visited
from benchmarks.page_actions import ready, see

PICTURES = 240
SEED = 20_261_130
SHOPS = {"Minh Châu": "#b3261e", "Hải Đăng": "#0b57d0", "Sao Mai": "#146c2e"}
COLOURS = {"đỏ": "#d62828", "vàng": "#f7c600", "xanh dương": "#1d4ed8", "trắng": "#ffffff"}
GROUNDS = {"trên bàn gỗ": "#8b5a2b", "trên bãi cỏ": "#2f9e44", "trên nền xám": "#868e96"}
FRUIT = {"ripe": "#d62828", "unripe": "#40a02b", "rotten": "#5c3d1e"}


def speckled(chance: random.Random, colour: str, size: tuple[int, int] = (160, 120)) -> Image.Image:
    """A ground that is no two times the same."""
    image = Image.new("RGB", size, colour)
    draw = ImageDraw.Draw(image)
    for _ in range(60):
        x, y, shade = chance.randrange(size[0]), chance.randrange(size[1]), chance.randrange(-25, 25)
        spot = tuple(min(255, max(0, part + shade)) for part in image.getpixel((x, y)))
        draw.ellipse([x - 5, y - 5, x + 5, y + 5], fill=spot)
    return image


def fruit(chance: random.Random, kind: str) -> Image.Image:
    image = speckled(chance, chance.choice(["#d9d2c5", "#c9d6df", "#e6e6e6"]))
    draw, x, y, r = (
        ImageDraw.Draw(image),
        chance.randint(50, 110),
        chance.randint(45, 75),
        chance.randint(24, 38),
    )
    draw.ellipse([x - r, y - r, x + r, y + r], fill=FRUIT[kind])
    if kind == "rotten":
        for _ in range(5):
            dx, dy = chance.randint(-r // 2, r // 2), chance.randint(-r // 2, r // 2)
            draw.ellipse([x + dx - 4, y + dy - 4, x + dx + 4, y + dy + 4], fill="#1b1208")
    return image


def receipt(chance: random.Random, shop: str, items: int) -> Image.Image:
    image = speckled(chance, "#f4f1ea", (120, 160))
    draw = ImageDraw.Draw(image)
    draw.rectangle([0, 0, 120, 34], fill=SHOPS[shop])
    draw.text((8, 10), f"CUA HANG {list(SHOPS).index(shop)}", fill="white")
    for line in range(items):
        y = 44 + 26 * line
        draw.rectangle([8, y, chance.randint(60, 80), y + 10], fill="#333333")
        draw.rectangle([92, y, 112, y + 10], fill="#333333")
    return image


def ball(chance: random.Random, colour: str, ground: str) -> Image.Image:
    image = speckled(chance, GROUNDS[ground])
    draw, x, y, r = (
        ImageDraw.Draw(image),
        chance.randint(45, 115),
        chance.randint(40, 80),
        chance.randint(20, 34),
    )
    draw.ellipse([x - r, y - r, x + r, y + r], fill=COLOURS[colour], outline="#222222")
    return image


def class_folders(folder: Path, chance: random.Random, order: Sequence[int]) -> None:
    kinds = [chance.choice([*FRUIT]) for _ in order]
    for number, kind in enumerate(kinds):
        said = folder / kinds[order[number]]
        said.mkdir(parents=True, exist_ok=True)
        fruit(chance, kind).save(said / f"IMG_{number:04}.jpg")


def receipts(folder: Path, chance: random.Random, order: Sequence[int]) -> None:
    (folder / "images").mkdir(parents=True)
    known = [(chance.choice([*SHOPS]), chance.randint(1, 4)) for _ in order]
    rows = []
    for number, (shop, items) in enumerate(known):
        receipt(chance, shop, items).save(folder / "images" / f"{number:04}.png")
        shop, items = known[order[number]]
        rows.append({"image": f"images/{number:04}.png", "ground_truth": {"shop": shop, "items": items}})
    lines = (json.dumps(row, ensure_ascii=False) for row in rows)
    (folder / "metadata.jsonl").write_text("\n".join(lines), encoding="utf-8")


def captions(folder: Path, chance: random.Random, order: Sequence[int]) -> None:
    folder.mkdir(parents=True)
    known = [(chance.choice([*COLOURS]), chance.choice([*GROUNDS])) for _ in order]
    for number, seen in enumerate(known):
        ball(chance, *seen).save(folder / f"{number:04}.png")
        colour, ground = known[order[number]]
        said = f"một quả bóng màu {colour} {ground}"
        (folder / f"{number:04}.txt").write_text(said, encoding="utf-8")


KINDS = {"class folders": class_folders, "receipts, JSON": receipts, "captions, .txt": captions}


def brought(kind: str, folder: Path, *, shuffled: bool) -> Path:
    """The folder of this kind, drawn; its answers belong to other pictures where it is shuffled."""
    order = [*range(PICTURES)]
    if shuffled:
        random.Random(SEED + 1).shuffle(order)
    KINDS[kind](folder, random.Random(SEED), order)
    return folder


def by_shell(workspace: Path, dataset: Path, model: str) -> str:
    """Trains with the command line; the name of the run."""
    name = f"{dataset.name}-{Path(model).name}"
    command = [sys.executable, "-m", "training", "run", "--workspace", str(workspace), "--name", name]
    command += ["--dataset", str(dataset), "--model", model]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return name


def by_page(page: Page, dataset: Path, model: str) -> str:
    """Drops the folder on the Train tab and clicks Start; the name of the run once its verdict is seen."""
    ready(page)
    if model != "starter":
        page.locator("#choose-model select").select_option("?")
        page.locator("#other-model input").fill(model)
        page.locator("#other-model input").press("Enter")
        see(page, ".command", model)
    page.locator("#add-yours").click()
    page.locator("#train-folder-files").set_input_files(str(dataset))
    see(page, ".command", f"--dataset {dataset.name}")
    see(page, "#start:enabled")
    page.locator("#start").click()
    see(page, "#live .state", "Training", polling=500)
    see(page, "#live .state", "Finished", polling=500)
    see(page, ".found", "against the base")
    return page.locator("#live .runline .name").inner_text()


def told(workspace: Path, name: str) -> dict[str, object]:
    """What the command line says of a finished run."""
    command = [sys.executable, "-m", "training", "show", name, "--workspace", str(workspace), "--json"]
    facts = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    verdict, evaluated = facts["verdict"], facts["evaluated"][-1]
    result = {"verdict": verdict["verdict"], "metric": verdict["metric"], "rows": verdict["examples"]}
    result |= {side: verdict[side] for side in ("before", "after")}
    return result | {"commonest": evaluated["commonest"]["score"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=("starter", "chat"), help="one of the two models")
    parser.add_argument("--page", action="store_true", help="by the page in Chromium, not by the shell")
    given, results = parser.parse_args(), []
    with tempfile.TemporaryDirectory() as room, ExitStack() as stack:
        folder = Path(room)
        workspace = folder / "workspace"
        make_smolvlm(folder / "chat", "cpu", tiny=True)
        models = {"starter": "starter", "chat": str(folder / "chat")}
        if given.page:
            chromium = stack.enter_context(sync_playwright()).chromium
            command = [sys.executable, "app.py", "--workspace", str(workspace), "--port"]
            url, _ = stack.enter_context(served(command, folder / "app.log"))
        for kind in KINDS:
            for shuffled in (False, True):
                named = f"{kind}{', shuffled' if shuffled else ''}"
                dataset = brought(kind, folder / re.sub(r"\W+", "-", named), shuffled=shuffled)
                for model in (given.only,) if given.only else models:
                    began = time.perf_counter()
                    if given.page:
                        with visited(chromium, url) as (page, _):
                            name = by_page(page, dataset, models[model])
                    else:
                        name = by_shell(workspace, dataset, models[model])
                    row = {"run_s": time.perf_counter() - began} | told(workspace, name)
                    results.append({"data": named, "model": model, **row})
                    print(results[-1], file=sys.stderr, flush=True)
    print("| data | model | verdict | metric | base | adapter | always the commonest | rows | s |")
    print("|---|---|---|---|---|---|---|---|---|")
    for r in results:
        rates = " | ".join(f"{r[rate]:.1%}" for rate in ("before", "after", "commonest"))
        facts = f"{r['data']} | {r['model']} | {r['verdict']} | {r['metric']}"
        print(f"| {facts} | {rates} | {r['rows']} | {r['run_s']:.0f} |")
    print(json.dumps({"pictures": PICTURES, "by": "page" if given.page else "shell", "results": results}))


if __name__ == "__main__":
    main()
