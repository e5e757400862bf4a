"""From what people bring to a verdict, no setting touched: `python -m benchmarks.brought [--only starter]`.

Three kinds of folders, drawn here: pictures in class folders, receipts with JSON answers in a table, and
Vietnamese captions in a `.txt` beside each picture; each once as it is and once with its answers shuffled.
The command line trains on each folder as it lies there, on the starter and on a tiny chat model with random
weights. Prints a table of the verdicts, then one line of JSON.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw

from benchmarks.gpu_models import make_smolvlm

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


def told(workspace: Path, name: str, dataset: Path, model: str) -> dict[str, object]:
    """What the command line says of a run on this folder: its verdict, and how long all of it took."""
    program, began = [sys.executable, "-m", "training"], time.perf_counter()
    where = ["--workspace", str(workspace)]
    command = [*program, "run", *where, "--dataset", str(dataset), "--name", name, "--model", model]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    run_s = time.perf_counter() - began
    shown = subprocess.run([*program, "show", name, *where, "--json"], check=True, capture_output=True)
    facts = json.loads(shown.stdout)
    verdict, evaluated = facts["verdict"], facts["evaluated"][-1]
    result = {"verdict": verdict["verdict"], "metric": verdict["metric"], "rows": verdict["examples"]}
    result |= {side: verdict[side] for side in ("before", "after")}
    return result | {"commonest": evaluated["commonest"]["score"], "run_s": run_s}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=("starter", "chat"), help="one of the two models")
    given, results = parser.parse_args(), []
    with tempfile.TemporaryDirectory() as room:
        folder = Path(room)
        make_smolvlm(folder / "chat", "cpu", tiny=True)
        models = {"starter": "starter", "chat": str(folder / "chat")}
        for kind in KINDS:
            for shuffled in (False, True):
                named = f"{kind}{', shuffled' if shuffled else ''}"
                dataset = brought(kind, folder / named.replace(",", "").replace(" ", "-"), shuffled=shuffled)
                for model in (given.only,) if given.only else models:
                    name = f"{dataset.name}-{model}"
                    row = told(folder / "workspace", name, dataset, models[model])
                    results.append({"data": named, "model": model, **row})
                    print(results[-1], file=sys.stderr, flush=True)
    print("| data | model | verdict | metric | base | adapter | always the commonest | rows | s |")
    print("|---|---|---|---|---|---|---|---|---|")
    for r in results:
        rates = " | ".join(f"{r[rate]:.1%}" for rate in ("before", "after", "commonest"))
        facts = f"{r['data']} | {r['model']} | {r['verdict']} | {r['metric']}"
        print(f"| {facts} | {rates} | {r['rows']} | {r['run_s']:.0f} |")
    print(json.dumps({"pictures": PICTURES, "results": results}))


if __name__ == "__main__":
    main()
